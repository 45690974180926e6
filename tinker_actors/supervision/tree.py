"""The root: starts a tree of actors, names them, shows them, stops them."""

import itertools
import math
import os
import threading
from dataclasses import dataclass
from typing import Any, Self

from tinker_actors.errors import ConfigError, NotDeliveredError, RuntimeStoppedError, StartFailedError
from tinker_actors.supervision.address import Address
from tinker_actors.supervision.checks import check_path, check_seconds
from tinker_actors.supervision.children import start_failure
from tinker_actors.supervision.clock import Clock, MonotonicClock
from tinker_actors.supervision.current import current_incarnation
from tinker_actors.supervision.events import (
    ChildAbandoned,
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    DeadLetter,
    EventStream,
    ShutdownBegan,
    ShutdownEnded,
)
from tinker_actors.supervision.exits import ExitReason, Ignored, Killed, Shutdown, StartFailed, cause_of
from tinker_actors.supervision.incarnation import Incarnation
from tinker_actors.supervision.mailbox import Depths
from tinker_actors.supervision.names import Slot, State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime, Zombie
from tinker_actors.supervision.signals import Exited, StallDetected, Started, StopRequest
from tinker_actors.supervision.specs import ChildSpec, Kind

__all__ = ["ActorTree", "TreeNode"]

_GRACE_S = 1.0
_STOP_S = 30.0
_INTERRUPT_STOP_S = 30.0
_FAILED_START_STOP_S = 5.0
_seeds = itertools.count(1)


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One actor in a picture of the tree."""

    path: str
    id: str
    kind: Kind
    state: str
    """pending, starting, running, stopping, backing_off, down or stopped."""
    epoch: int
    """The latest incarnation; 0 before the first."""
    restarts: int
    """Restarts so far."""
    last_exit: ExitReason | None
    """How the incarnation before ended."""
    restarts_in_window: int
    """Of a supervisor: the restarts that counted against its limit at the latest one."""
    due_in_s: float | None
    """Seconds until its restart; None when none is due, or a gate decides."""
    waiting: Depths
    """Messages that wait in its lanes; those that wait for its start count as user messages."""
    handling: str | None
    """Type of the message that is being handled."""
    handling_s: float
    """Seconds since its handler began, or last said that it makes progress."""
    zombies: tuple[int, ...]
    """Epochs of incarnations that were given up and whose threads still run."""
    children: tuple["TreeNode", ...] = ()
    """In start order."""

    def find(self, path: str) -> "TreeNode | None":
        """The node at `path` in this picture."""
        if self.path == path:
            return self
        return next((found for child in self.children if (found := child.find(path))), None)


class ActorTree:
    """A tree of supervised actors under one root supervisor; in a `with` statement it starts and stops itself.

    Args:
        root: the root's spec; its restart type does not matter, for nobody restarts a root.
        clock: all time of the tree; a monotonic clock of its own when None.
        seed: what the actors' generators and the backoff's jitter depend on.
    """

    def __init__(self, root: ChildSpec, *, clock: Clock | None = None, seed: int | None = None) -> None:
        if not isinstance(root, ChildSpec):
            raise ConfigError(f"the root must be a ChildSpec, got {root!r}")
        if root.kind is not Kind.SUPERVISOR:
            raise ConfigError(f"the root must be of kind supervisor, got {root.kind} for {root.id!r}")
        self._runtime = Runtime(clock or MonotonicClock(), next(_seeds) if seed is None else seed)
        self._runtime.on_interrupt = lambda: self._request_stop(_INTERRUPT_STOP_S)
        self._slot: Slot = self._runtime.names.declare(root.id, root, None)
        self._incarnation: Incarnation | None = None
        self._lock = threading.RLock()
        self._answered = threading.Event()
        self._is_stopping = False
        self._exit: ExitReason | None = None
        self.stopped = threading.Event()
        """Set once the tree is down."""
        self.first_cause: BaseException | None = None
        """The failure that brought the tree down; None while it stands and after an orderly stop."""

    @property
    def events(self) -> EventStream:
        """What happens in the tree."""
        return self._runtime.events

    @property
    def clock(self) -> Clock:
        """The tree's clock."""
        return self._runtime.clock

    @property
    def is_ending(self) -> bool:
        """Whether the root ends, or has ended: what is down stays down."""
        return self._runtime.names.is_ending or self.stopped.is_set()

    def start(self, timeout_s: float = 30.0) -> None:
        """Start the root and wait until every static child is up.

        Raises:
            StartFailedError: one of them is not; nothing is left running, and `__cause__` says why.
            RuntimeStoppedError: the tree was started before.
            ConfigError: `timeout_s` is no time.
        """
        self._runtime.check_process()
        check_seconds("timeout_s", timeout_s, above_zero=False)
        with self._lock:
            if self._incarnation is not None or self.stopped.is_set():
                raise RuntimeStoppedError(
                    "an actor tree starts once; make another", first_cause=self.first_cause
                )
            self._incarnation = Incarnation(self._runtime, self._slot, _RootParent(self))
        try:
            if self.clock.is_real:
                self.clock.schedule(0.0, _nothing)  # so that its thread is there when threads run out
            self._incarnation.launch()
        except RuntimeError as error:
            self._root_ended(StartFailed(error))
        in_time = self._answered.wait(min(timeout_s, threading.TIMEOUT_MAX))
        if in_time and self._slot.state is State.RUNNING:
            return
        if not in_time:
            self.stop(_FAILED_START_STOP_S)
        self.stopped.wait(_GRACE_S)
        raise self._start_failure(None if in_time else timeout_s)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also a Ctrl-C: nothing is left running
            self.stop(_FAILED_START_STOP_S)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(_STOP_S)

    def _start_failure(self, waited_s: float | None) -> StartFailedError:
        reason = self._exit
        if waited_s is not None:
            failure = StartFailedError(f"{self._slot.path} did not start within {waited_s:g} s")
        elif isinstance(reason, Ignored):
            failure = StartFailedError(f"{self._slot.path} had nothing to run: its factory said so")
        elif isinstance(reason, Shutdown) and reason.cause is not None:
            failure = StartFailedError(f"{self._slot.path} gave up before it was up: {reason.detail}")
        elif isinstance(reason, StartFailed):
            failure = StartFailedError(str(start_failure(self._slot.path, reason.error)))
        else:
            failure = StartFailedError(f"{self._slot.path} was stopped before it was up")
        failure.__cause__ = self.first_cause
        return failure

    def address(self, path: str) -> Address:
        """The address of the actor at `path`, which need not exist yet.

        Raises:
            ConfigError: `path` is no path.
        """
        self._runtime.check_process()
        check_path(path)
        return Address(self._runtime, path)

    def stop(self, timeout_s: float) -> None:
        """End the tree in order within `timeout_s` seconds; what does not end in time is abandoned and reported.

        Never raises because of a child. Called again, the earlier of both limits holds. Called by an actor it only
        asks for the end, since waiting there would block it. In a forked process it does nothing.
        """
        check_seconds("timeout_s", timeout_s, above_zero=False)
        if os.getpid() != self._runtime.pid or self.stopped.is_set():
            return
        self._request_stop(timeout_s)
        here = current_incarnation()
        if here is not None and here.runtime is self._runtime:
            return
        if not self.stopped.wait(min(timeout_s + _GRACE_S, threading.TIMEOUT_MAX)):
            self._abandon_root(timeout_s)

    def snapshot(self) -> TreeNode:
        """The tree as its supervisors see it now; asks no actor."""
        return _node(self._slot, self._runtime)

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The latest messages that nobody handled, at most a hundred."""
        return tuple(self._runtime.dead_letters)

    @property
    def dead_letter_count(self) -> int:
        """How many there were in all."""
        return self._runtime.dead_letter_count

    @property
    def zombies(self) -> tuple[Zombie, ...]:
        """Incarnations that were given up and whose threads still run."""
        return tuple(self._runtime.zombies.values())

    # The root's life.

    def _request_stop(self, timeout_s: float) -> None:
        with self._lock:
            incarnation = self._incarnation
            first, self._is_stopping = not self._is_stopping, True
        if first:
            self.events.publish(ShutdownBegan(path=self._slot.path, timeout_s=timeout_s))
        if incarnation is None:
            self._root_ended(None)
            return
        if first:
            self._slot.shut(State.STOPPING, parks=False)
        incarnation.mailbox.post(StopRequest(self.clock.now() + timeout_s))

    def _abandon_root(self, after_s: float, reason: ExitReason | None = None) -> None:
        incarnation = self._incarnation
        if incarnation is not None:
            why = f"the actor tree was abandoned after {after_s:g} s"
            incarnation.abandon(why)
            self._runtime.names.abandon_below(self._slot, why)
            self.events.publish(
                ChildAbandoned(path=self._slot.path, epoch=incarnation.epoch, after_s=after_s)
            )
        self._root_ended(reason or Killed(after_s))

    def _root_started(self, epoch: int) -> None:
        with self._lock:
            if self._is_stopping or self._incarnation is None:
                return
            self._slot.open(self._incarnation.mailbox)
        self.events.publish(ChildStarted(path=self._slot.path, epoch=epoch))
        self._answered.set()

    def _root_ended(self, reason: ExitReason | None) -> None:
        with self._lock:
            if self._runtime.names.stopped is not None:
                return
            self._exit = reason
            cause = None if reason is None else cause_of(reason)
            self.first_cause = cause.__cause__ or cause if isinstance(cause, StartFailedError) else cause
            self._runtime.names.stopped = RuntimeStoppedError(
                "the actor tree is down", first_cause=self.first_cause
            )
        path, epoch = self._slot.path, self._slot.epoch
        self._slot.last_exit = reason
        self._slot.shut(State.STOPPED, parks=False)
        self._runtime.names.refuse_all()
        if isinstance(reason, StartFailed):
            self.events.publish(ChildStartFailed(path=path, epoch=epoch, error=reason.error))
        elif reason is not None:
            self.events.publish(
                ChildExited(path=path, epoch=epoch, reason=reason, expected=self._is_stopping)
            )
        abandoned = tuple(path for path, _ in list(self._runtime.zombies))
        self.events.publish(ShutdownEnded(path=path, abandoned=abandoned, first_cause=self.first_cause))
        self.clock.close()
        self.events.close(_GRACE_S)
        self.stopped.set()
        self._answered.set()


class _RootParent:
    """Receives the root's signals in the place of a supervisor; they are handled in the thread that sends them."""

    def __init__(self, tree: ActorTree) -> None:
        self._tree = tree

    def post(self, message: Any, reply: Reply | None = None) -> bool:
        if reply is not None:
            reply.fail(NotDeliveredError("the root has no supervisor"))
        match message:
            case Started(epoch=epoch):
                self._tree._root_started(epoch)  # noqa: SLF001 - the tree's own other half
            case Exited(reason=reason):
                self._tree._root_ended(reason)  # noqa: SLF001
            case StallDetected(after_s=after_s, reason=reason):
                # Nobody can restart a root: with it the tree is given up.
                self._tree._abandon_root(after_s, reason)  # noqa: SLF001
        return True


def _nothing() -> None:
    pass


def _node(slot: Slot, runtime: Runtime) -> TreeNode:
    now, incarnation = runtime.clock.now(), slot.incarnation
    handling = None if incarnation is None else incarnation.handling
    if handling is not None and handling.waits:
        handling = None  # it waits on purpose
    return TreeNode(
        path=slot.path,
        id=slot.spec.id,
        kind=slot.spec.kind,
        state=str(slot.state),
        epoch=slot.epoch,
        restarts=slot.restarts,
        last_exit=slot.last_exit,
        restarts_in_window=slot.restarts_in_window,
        due_in_s=slot.due - now if slot.due < math.inf else None,
        waiting=slot.depths(),
        handling=None if handling is None else handling.message,
        handling_s=0.0 if handling is None else now - handling.since,
        zombies=tuple(epoch for path, epoch in tuple(runtime.zombies) if path == slot.path),
        children=tuple(_node(child, runtime) for child in list(slot.children.values())),
    )
