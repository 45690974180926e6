"""An actor's inbox: a control lane before a bounded user lane, closed atomically.

After `close` nothing gets in; what got in before is seen by the loop or handed out by `close`. So no message
and no reply is ever stranded.
"""

import threading
from collections import deque
from enum import Enum, auto
from typing import Any

from pykka import ActorDeadError
from pykka.messages import _ActorStop

from tinker_actors.errors import MailboxFullError, NotDeliveredError
from tinker_actors.supervision.replies import Reply

__all__ = ["Envelope", "Mailbox", "Offer"]


class Envelope:
    """A message and how to answer it."""

    __slots__ = ("carries", "is_control", "message", "reply")

    def __init__(
        self, message: Any, reply: Reply | None = None, *, carries: bool = False, is_control: bool = False
    ) -> None:
        self.message = message
        self.reply = reply
        self.carries = carries
        """Whether it is meant for the name, so that a later incarnation may take it."""
        self.is_control = is_control
        """Whether it goes before the user's messages."""


class Offer(Enum):
    """What became of an envelope offered to a mailbox."""

    ACCEPTED = auto()
    FULL = auto()
    CLOSED = auto()


class Mailbox:
    """The inbox of one incarnation; any thread puts, the actor's own thread takes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._user: deque[Envelope] = deque()
        self._control: deque[Envelope] = deque()
        self._sealed = False
        self._closed = False
        # The one taker sleeps on this lock; whoever finds it waiting releases it once.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._is_waiting = False

    def offer(self, envelope: Envelope, *, bounded: bool = True) -> Offer:
        """Append to the user lane, unless it is full or closed; never blocks."""
        with self._lock:
            if self._sealed:
                return Offer.CLOSED
            if bounded and len(self._user) >= self._limit:
                return Offer.FULL
            self._user.append(envelope)
            self._wake()
        return Offer.ACCEPTED

    def post(self, message: Any, reply: Reply | None = None) -> bool:
        """Append to the control lane, which has no bound; False when the mailbox is closed."""
        with self._lock:
            if self._closed:
                return False
            self._control.append(Envelope(message, reply, is_control=True))
            self._wake()
        return True

    def take(self) -> Envelope | None:
        """The next envelope, control lane first; waits for one; None once the mailbox is closed."""
        while True:
            with self._lock:
                if self._control:
                    return self._control.popleft()
                if self._user:
                    return self._user.popleft()
                if self._closed:
                    return None
                self._is_waiting = True
            self._wakeup.acquire()

    def seal(self) -> list[Envelope]:
        """Close the user lane; returns what nobody took."""
        with self._lock:
            self._sealed = True
            left = list(self._user)
            self._user.clear()
        return left

    def close(self) -> list[Envelope]:
        """Close both lanes and wake the taker; returns what nobody took."""
        with self._lock:
            self._sealed = self._closed = True
            left = [*self._control, *self._user]
            self._control.clear()
            self._user.clear()
            self._wake()
        return left

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
        return not self._user and not self._control


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
