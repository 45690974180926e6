"""An actor's inbox: control, system and user lane, served in this order and closed atomically.

After `close` nothing gets in; what got in before is seen by the loop or handed out by `close`. So no message
and no reply is ever stranded.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum, auto
from typing import Any, NamedTuple

from pykka import ActorDeadError
from pykka.messages import _ActorStop

from tinker_actors.errors import MailboxFullError, NotDeliveredError
from tinker_actors.supervision.replies import Reply

__all__ = ["Depths", "Envelope", "Lane", "Mailbox", "Offer", "Waiters"]

_SYSTEM_IN_A_ROW = 16


class Lane(Enum):
    """Which messages go first."""

    CONTROL = auto()
    """What the tree is run by: stops, commands, signals of children."""
    SYSTEM = auto()
    """News about others, such as `Down`."""
    USER = auto()
    """What the actor is for. The only lane with a bound."""


class Envelope:
    """A message and how to answer it."""

    __slots__ = ("carries", "is_bounded", "key", "lane", "message", "reply", "sent_at")

    def __init__(
        self,
        message: Any,
        reply: Reply | None = None,
        *,
        lane: Lane = Lane.USER,
        carries: bool = False,
        key: Hashable = None,
        sent_at: float = math.nan,
        is_bounded: bool = True,
    ) -> None:
        self.message = message
        self.reply = reply
        self.lane = lane
        self.carries = carries
        """Whether it is meant for the name, so that a later incarnation may take it."""
        self.key = key
        """What tells a message from others if it brings its receiver down; None when nothing does."""
        self.sent_at = sent_at
        """When, in clock seconds; nan when that is not known."""
        self.is_bounded = is_bounded
        """Whether it must have room."""


class Offer(Enum):
    """What became of an envelope offered to a mailbox."""

    ACCEPTED = auto()
    FULL = auto()
    CLOSED = auto()


class Depths(NamedTuple):
    """How many messages wait in each lane."""

    control: int
    system: int
    user: int


class Waiters:
    """Callbacks of senders that wait for room; the owner's lock guards it."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[], object]) -> None:
        """Wake this one, too, once."""
        self._callbacks.append(callback)

    def wake_all(self) -> None:
        """Let everybody look again; the callbacks only set an event."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Mailbox:
    """The inbox of one incarnation; any thread puts, the actor's own thread takes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._user: deque[Envelope] = deque()
        self._system: deque[Envelope] = deque()
        self._control: deque[Envelope] = deque()
        self._system_in_a_row = 0
        self._sealed = False
        self._closed = False
        self._room = Waiters()
        # The one taker sleeps on this lock; whoever finds it waiting releases it once.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._is_waiting = False

    def offer(self, envelope: Envelope, *, bounded: bool = True) -> Offer:
        """Append to the user lane, unless it is full or closed; never blocks."""
        with self._lock:
            if self._sealed:
                return Offer.CLOSED
            if bounded and envelope.is_bounded and len(self._user) >= self._limit:
                return Offer.FULL
            self._user.append(envelope)
            self._wake()
        return Offer.ACCEPTED

    def post(self, message: Any, reply: Reply | None = None, *, lane: Lane = Lane.CONTROL) -> bool:
        """Append to the control or system lane, which have no bound; False when the mailbox is closed."""
        with self._lock:
            if self._closed:
                return False
            (self._control if lane is Lane.CONTROL else self._system).append(
                Envelope(message, reply, lane=lane)
            )
            self._wake()
        return True

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call `callback` once there is room in the user lane, or will never be; at once if that is now."""
        with self._lock:
            if not self._sealed and len(self._user) >= self._limit:
                self._room.add(callback)
                return
        callback()

    def wake_senders(self) -> None:
        """Let those who wait for room look again."""
        with self._lock:
            self._room.wake_all()

    @property
    def is_sealed(self) -> bool:
        """Whether the user lane takes nothing any more."""
        return self._sealed

    def take(self) -> Envelope | None:
        """The next envelope; waits for one; None once the mailbox is closed.

        The control lane goes first, then the system lane; but after 16 system messages in a row one of the
        user's is due.
        """
        while True:
            with self._lock:
                if self._control:
                    return self._control.popleft()
                if self._system and not (self._user and self._system_in_a_row >= _SYSTEM_IN_A_ROW):
                    self._system_in_a_row += 1
                    return self._system.popleft()
                if self._user:
                    self._system_in_a_row = 0
                    if self._room and len(self._user) <= self._limit:
                        self._room.wake_all()
                    return self._user.popleft()
                if self._closed:
                    return None
                self._is_waiting = True
            self._wakeup.acquire()

    def seal(self) -> list[Envelope]:
        """Close the user lane; returns what nobody took."""
        with self._lock:
            self._sealed = True
            self._room.wake_all()
            left = list(self._user)
            self._user.clear()
        return left

    def close(self) -> list[Envelope]:
        """Close all lanes and wake the taker; returns what nobody took."""
        with self._lock:
            self._sealed = self._closed = True
            self._room.wake_all()
            left = [*self._control, *self._system, *self._user]
            self._control.clear()
            self._system.clear()
            self._user.clear()
            self._wake()
        return left

    def depths(self) -> Depths:
        """How many messages wait now."""
        return Depths(len(self._control), len(self._system), len(self._user))

    def _wake(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._wakeup.release()

    # What Pykka's own refs and proxies need.

    def put(self, envelope: Any, /) -> None:
        """Take one of Pykka's envelopes; the bound holds for all but requests to stop."""
        future = envelope.reply_to
        reply = None
        if future is not None:
            reply = Reply()
            reply.add_done_callback(lambda done: _pass_on(done, future))
        is_stop = isinstance(envelope.message, _ActorStop)
        outcome = self.offer(Envelope(envelope.message, reply), bounded=not is_stop)
        if outcome is Offer.ACCEPTED:
            return
        error: Exception = (
            MailboxFullError(f"the mailbox is at its bound of {self._limit} messages")
            if outcome is Offer.FULL
            else ActorDeadError("the actor stopped before it could take the message")
        )
        if reply is None:
            raise error
        reply.fail(error)

    def get(self) -> Any:
        """Not used: the supervised loop takes."""
        raise NotImplementedError("a supervised actor's mailbox is read by its own loop only")

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not any(self.depths())


def _pass_on(reply: Reply, future: Any) -> None:
    error = reply.exception()
    if isinstance(error, NotDeliveredError) and not isinstance(error, MailboxFullError):
        dead = ActorDeadError(str(error))
        dead.__cause__ = error
        error = dead
    if error is None:
        future.set(reply.result())
    else:
        future.set_exception((type(error), error, error.__traceback__))
