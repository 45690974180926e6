"""What a tree says about itself: frozen events, and the stream that carries them.

Listeners run on threads of their own behind a bounded queue, so none of them delays supervision.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinker_actors.supervision.callbacks import run_callback
from tinker_actors.supervision.exits import ExitReason

__all__ = [
    "ChildAbandoned",
    "ChildDeleted",
    "ChildExited",
    "ChildRestarting",
    "ChildStartFailed",
    "ChildStarted",
    "DeadLetter",
    "Detail",
    "ErrorContained",
    "Escalated",
    "Event",
    "EventStream",
    "Poisoned",
    "ShutdownBegan",
    "ShutdownEnded",
    "StallWarning",
    "ZombieEnded",
]


class Detail:
    """Mixed into events that are too many for whoever wants to hear of everything: only who names them is told.

    They are best made only where `EventStream.wants` says so.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in the tree."""

    seq: int = field(default=0, compare=False)
    """Its place in the stream, from 1; foreign events take a place too."""
    at: float = field(default=0.0, compare=False)
    """When it was published, in seconds of the tree's clock."""
    path: str
    """Whom it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """An incarnation acknowledged its start; messages reach it from here on."""

    epoch: int
    """Which incarnation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStartFailed(Event):
    """An incarnation never came up."""

    epoch: int
    """Which incarnation."""
    error: BaseException
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildExited(Event):
    """An incarnation that had started ended."""

    epoch: int
    """Which incarnation."""
    reason: ExitReason
    """Why."""
    expected: bool
    """Whether its supervisor had asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRestarting(Event):
    """A child will be started again."""

    epoch: int
    """The incarnation that ended."""
    delay_s: float
    """Seconds until then; infinite while a gate is closed."""
    restarts: int
    """Restarts of this child so far, this one included."""
    in_window: int
    """Restarts of its supervisor's children that count against the limit, this one included unless it is free."""
    reason: ExitReason
    """What ended the incarnation before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildAbandoned(Event):
    """An incarnation did not start, return or end in its time; it is fenced and its thread left to itself."""

    epoch: int
    """Which incarnation."""
    after_s: float
    """The seconds it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StallWarning(Event):
    """A handler has run for longer than its deadline; at twice that its incarnation is given up."""

    epoch: int
    """Which incarnation."""
    message: str
    """The type of the message it handles."""
    after_s: float
    """How long it has run, in seconds in which the watchdog was awake."""
    stack: str
    """Where its thread is, as Python prints it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisoned(Event):
    """A message was refused because others with its key brought the actor down too often."""

    epoch: int
    """The incarnation that refused it."""
    key: Hashable
    """The key its sender gave it."""
    attempts: int
    """How many incarnations it cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZombieEnded(Event):
    """The thread of an abandoned incarnation ended after all."""

    epoch: int
    """Which incarnation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildDeleted(Event):
    """A child's spec is gone; handles to it are closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalated(Event):
    """A supervisor spent its restarts and gives up."""

    reason: ExitReason
    """What it will exit with; keeps the first exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Event):
    """A tell that no handler will see, or an answer that came too late; an ask that is not handled fails instead."""

    epoch: int
    """The incarnation it was meant for; 0 when none was chosen."""
    message: str
    """The type of the message; never its contents."""
    age_s: float
    """Seconds since it was sent; nan when that is not known."""
    why: str
    """What became of its receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContained(Event):
    """An exception that ended nobody: from a hook, a done-callback, or a tell with a declared error."""

    epoch: int
    """Which incarnation."""
    where: str
    """The hook or handler."""
    error: BaseException
    """What it raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownBegan(Event):
    """The tree is being stopped in order."""

    timeout_s: float
    """Seconds it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownEnded(Event):
    """The tree is down."""

    abandoned: tuple[str, ...]
    """Paths of children whose threads had to be left behind."""
    first_cause: BaseException | None
    """The failure that began it; None after an orderly stop."""


class _Listener:
    """One callback, its queue and its thread."""

    def __init__(
        self, callback: Callable[[Any], object], kinds: tuple[type[object], ...], limit: int
    ) -> None:
        self._callback = callback
        self._kinds = kinds
        self._queue: deque[object] = deque()
        self._limit = limit
        self._ready = threading.Condition()
        self._closed = False
        self.dropped = 0
        self.thread = threading.Thread(target=self._run, name="actor-events", daemon=True)
        self.thread.start()

    def asks_for(self, kind: type[object]) -> bool:
        if issubclass(kind, Detail):
            return any(issubclass(kind, one) and issubclass(one, Detail) for one in self._kinds)
        return issubclass(kind, self._kinds)

    def offer(self, event: object) -> None:
        if not self.asks_for(type(event)):
            return
        with self._ready:
            if self._closed:
                return
            if len(self._queue) >= self._limit:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            self._ready.notify()

    def close(self) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue:
                    if self._closed:
                        return
                    self._ready.wait()
                event = self._queue.popleft()
            run_callback(partial(self._callback, event), "supervision.listener_failed")


class EventStream:
    """Publishes events to listeners, in one order for all of them."""

    def __init__(self, now: Callable[[], float], *, max_queued: int = 10_000) -> None:
        self._now = now
        self._max_queued = max_queued
        self._lock = threading.RLock()
        self._listeners: tuple[_Listener, ...] = ()
        self._wanted: dict[tuple[type[object], ...], bool] = {}
        """What `wants` found out, while the listeners are the same."""
        self._seq = 0
        self._dropped = 0
        self._closed = False

    def publish(self, event: object) -> None:
        """Hand `event` to every listener; never blocks on one. Events of the kit get `seq` and `at`."""
        with self._lock:
            seq = self._seq = self._seq + 1
            if isinstance(event, Event):
                # The event was made for this call: nobody has seen it without its number.
                object.__setattr__(event, "seq", seq)
                object.__setattr__(event, "at", self._now())
            for listener in self._listeners:
                listener.offer(event)

    def wants(self, *kinds: type[object]) -> bool:
        """Whether anybody would hear of an event of one of these kinds."""
        known = self._wanted.get(kinds)
        if known is None:
            with self._lock:
                known = any(listener.asks_for(kind) for listener in self._listeners for kind in kinds)
                self._wanted[kinds] = known
        return known

    def subscribe(self, callback: Callable[[Any], object], *kinds: type[object]) -> Callable[[], None]:
        """Call `callback` with every later event, on a thread of its own; returns the way to end that.

        When the callback falls more than the queue's bound behind, the oldest events are dropped and counted.

        Args:
            callback: told of the events, one after another.
            kinds: of the events that it is told of; by default all that are no `Detail`. Others do not wake its
                thread.
        """
        listener = _Listener(callback, kinds or (object,), self._max_queued)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners = tuple(one for one in self._listeners if one is not listener)
                    self._wanted = {}
                    self._dropped += listener.dropped
            listener.close()

        with self._lock:
            self._listeners = (*self._listeners, listener)
            self._wanted = {}
            if self._closed:
                listener.close()
        return unsubscribe

    @property
    def dropped(self) -> int:
        """How many events slow listeners missed."""
        with self._lock:
            return self._dropped + sum(listener.dropped for listener in self._listeners)

    def close(self, timeout_s: float) -> None:
        """Let the listeners see what is queued, for at most `timeout_s` real seconds, and end them."""
        with self._lock:
            self._closed = True
            listeners = self._listeners
        for listener in listeners:
            listener.close()
        give_up_at = time.monotonic() + timeout_s
        for listener in listeners:
            if listener.thread is not threading.current_thread():
                listener.thread.join(max(0.0, give_up_at - time.monotonic()))
