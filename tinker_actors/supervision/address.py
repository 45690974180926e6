"""How to reach an actor: by its name, or by one incarnation of it."""

import math
from typing import Any

from tinker_actors.errors import ConfigError, NotDeliveredError, TinkerActorsError, WouldDeadlockError
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.current import current_incarnation
from tinker_actors.supervision.mailbox import Envelope, Mailbox, Offer
from tinker_actors.supervision.names import Slot
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime
from tinker_actors.supervision.signals import Crash

__all__ = ["Address", "IncarnationAddress"]

_DEFAULT_TIMEOUT_S = 30.0
_CONTROL = (Command, Crash)


class Address:
    """The name of an actor, good for as long as the tree stands; thread-safe.

    Messages sent while the actor starts or waits for its restart are parked and delivered in order. Addresses
    of one path are equal.
    """

    __slots__ = ("_runtime", "path")

    path: str
    """Names from the root down, joined by `/`."""

    def __init__(self, runtime: Runtime, path: str) -> None:
        self._runtime = runtime
        self.path = path

    def tell(self, message: Any) -> None:
        """Send `message` and expect no answer; never blocks.

        Raises:
            NotDeliveredError: the actor is down or unknown.
            MailboxFullError: too many messages wait for it.
            HandleClosedError: it was deleted.
            RuntimeStoppedError: the tree is down.
            ForkedProcessError: this process was forked from the tree's.
        """
        self._runtime.check_process()
        self._send(message, None)

    def ask(self, message: Any, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> Reply:
        """Send `message`; the answer, or why there is none, comes in the reply. Raises only like a fork does."""
        runtime = self._runtime
        runtime.check_process()
        if not 0 < timeout_s < math.inf:
            raise ConfigError(f"timeout_s must be positive and finite, got {timeout_s}")
        reply = Reply(runtime.clock, timeout_s=timeout_s, target=self.path)
        try:
            self._send(message, reply)
        except TinkerActorsError as error:
            reply.fail(error)
        return reply

    def call(self, message: Any, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> Any:
        """Send `message` and wait for the answer.

        Raises:
            WouldDeadlockError: an actor calls itself; nothing was sent.
            OutcomeUnknownError: a handler had begun when the actor ended or the time was over.
            TinkerActorsError: those of `tell`, and what the handler raised.
        """
        here = current_incarnation()
        if here is not None and here.path == self.path:
            raise WouldDeadlockError(f"{self.path} calls itself; use ask with a callback, or tell")
        return self.ask(message, timeout_s=timeout_s).result()

    def _send(self, message: Any, reply: Reply | None) -> None:
        slot = self._runtime.names.get(self.path)
        if slot is None:
            if self._runtime.names.stopped is not None:
                raise self._runtime.names.stopped_error()
            raise NotDeliveredError(f"there is no actor {self.path}")
        if isinstance(message, _CONTROL):
            _send_control(slot, message, reply)
        else:
            slot.send(Envelope(message, reply, carries=True))

    def _identity(self) -> tuple[object, ...]:
        return id(self._runtime), self.path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


def _send_control(slot: Slot, message: Command | Crash, reply: Reply | None) -> None:
    control = slot.control
    if control is not None and control.post(message, reply):
        return
    raise slot.refusal() or NotDeliveredError(f"{slot.path} is {slot.state} and takes no commands now")


class IncarnationAddress(Address):
    """One incarnation of an actor; a tell after its end is a dead letter, not an error.

    Its tells do not count against the mailbox's bound: they are the answers to what the actor itself began.
    Equal to addresses of the same incarnation only.
    """

    __slots__ = ("_mailbox", "epoch")

    epoch: int
    """Which incarnation."""

    def __init__(self, runtime: Runtime, path: str, epoch: int, mailbox: Mailbox) -> None:
        super().__init__(runtime, path)
        self.epoch = epoch
        self._mailbox = mailbox

    def _send(self, message: Any, reply: Reply | None) -> None:
        if isinstance(message, _CONTROL):
            delivered = self._mailbox.post(message, reply)
        else:
            delivered = self._mailbox.offer(Envelope(message, reply), bounded=False) is Offer.ACCEPTED
        if delivered:
            return
        why = f"incarnation {self.epoch} of {self.path} has ended"
        if reply is not None:
            raise NotDeliveredError(why)
        self._runtime.dead_letter(self.path, self.epoch, message, why)

    def _identity(self) -> tuple[object, ...]:
        return id(self._runtime), self.path, self.epoch
