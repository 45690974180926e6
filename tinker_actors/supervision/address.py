"""How to reach an actor: by its name, or by one incarnation of it."""

import contextlib
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias

from tinker_actors.errors import (
    ConfigError,
    FencedError,
    ForkedProcessError,
    HandleClosedError,
    MailboxFullError,
    NotDeliveredError,
    RuntimeStoppedError,
    TinkerActorsError,
    WouldDeadlockError,
)
from tinker_actors.supervision.checks import check_finite
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.current import current_incarnation
from tinker_actors.supervision.mailbox import Envelope, Mailbox, Offer
from tinker_actors.supervision.names import Slot
from tinker_actors.supervision.proxy import Proxy, check_exposed
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime
from tinker_actors.supervision.signals import Crash

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["Address", "IncarnationAddress", "Mode"]

_DEFAULT_TIMEOUT_S = 30.0
_CONTROL = (Command, Crash)

Mode: TypeAlias = Literal["wait", "fast"]
"""What to do while the actor starts or waits for its restart: wait for it, or fail at once."""


class Address:
    """The name of an actor, good for as long as the tree stands; thread-safe.

    Messages sent while the actor starts or waits for its restart are parked and delivered in order, unless they
    are sent with `mode="fast"`. Addresses of one path are equal. An address holds no actor.

    A message may carry a `key`, such as the id of a batch. When handlers of messages with one key have ended
    `ChildSpec.max_poison_attempts` incarnations, further ones fail with `PoisonedError`.
    """

    __slots__ = ("_block_s", "_runtime", "path")

    path: str
    """Names from the root down, joined by `/`."""

    def __init__(self, runtime: Runtime, path: str, *, block_s: float = 0.0) -> None:
        self._runtime = runtime
        self._block_s = block_s
        self.path = path

    def tell(self, message: Any, *, mode: Mode = "wait", key: Hashable = None) -> None:
        """Send `message` and expect no answer.

        Never blocks outside of actors. An actor waits for room in a full mailbox, for as long as it said when it
        asked for the address; then the message is a dead letter.

        Raises:
            NotDeliveredError: the actor is down or unknown; with `mode="fast"` also when it is not up yet.
            MailboxFullError: too many messages wait for it; not for an actor that waited.
            HandleClosedError: it was deleted.
            RuntimeStoppedError: the tree is down.
            ForkedProcessError: this process was forked from the tree's.
            FencedError: the actor that sends was given up.
            ConfigError: `mode` is none, or `key` cannot be compared.
        """
        runtime = self._runtime
        runtime.check_process()
        _check(mode, key)
        envelope = Envelope(message, carries=mode == "wait", key=key, sent_at=runtime.clock.now())
        here = current_incarnation()
        try:
            self._send(envelope, here, waits=mode == "wait")
        except MailboxFullError as error:
            if here is None or self._is_own(here) or self._block_s == 0:
                raise
            runtime.dead_letter(self.path, 0, envelope, str(error))

    def tell_if_there(self, message: Any) -> None:
        """Send what the actor itself asked to be told: there is always room, and it is no matter if nobody is there.

        Callable from callbacks, wherever they run: nothing happens where the actor is down for good or deleted, where
        the tree is down, and in a forked process.

        Raises:
            FencedError: the actor that sends was given up.
        """
        runtime = self._runtime
        envelope = Envelope(message, carries=True, sent_at=runtime.clock.now(), is_bounded=False)
        with contextlib.suppress(
            NotDeliveredError, HandleClosedError, RuntimeStoppedError, ForkedProcessError
        ):
            runtime.check_process()
            self._send(envelope, current_incarnation(), waits=True)

    def ask(
        self,
        message: Any,
        *,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
        mode: Mode = "wait",
        key: Hashable = None,
    ) -> Reply:
        """Send `message`; the answer, or why there is none, comes in the reply.

        Raises:
            ConfigError: `timeout_s` is not positive and finite, `mode` is none, or `key` cannot be compared.
            ForkedProcessError: this process was forked from the tree's.
            FencedError: the actor that sends was given up.
        """
        runtime = self._runtime
        runtime.check_process()
        _check(mode, key)
        check_finite("timeout_s", timeout_s, above_zero=True)
        reply = Reply(runtime.clock, timeout_s=timeout_s, target=self.path)
        envelope = Envelope(message, reply, carries=mode == "wait", key=key, sent_at=runtime.clock.now())
        try:
            self._send(envelope, current_incarnation(), waits=mode == "wait")
        except FencedError:
            raise
        except TinkerActorsError as error:
            reply.fail(error)
        return reply

    def call(
        self,
        message: Any,
        *,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
        mode: Mode = "wait",
        key: Hashable = None,
    ) -> Any:
        """Send `message` and wait for the answer.

        Raises:
            WouldDeadlockError: an actor calls itself; nothing was sent.
            OutcomeUnknownError: a handler had begun when the actor ended or the time was over.
            PoisonedError: messages with this key ended the actor too often; this one was not handled.
            TinkerActorsError: those of `tell`, and what the handler raised.
        """
        here = current_incarnation()
        if here is not None and self._is_own(here):
            raise WouldDeadlockError(f"{self.path} calls itself; use ask with a callback, or tell")
        return self.ask(message, timeout_s=timeout_s, mode=mode, key=key).result()

    def proxy(self, interface: type[Any] | None = None, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> Any:
        """A look-alike of the actor, with the methods and attributes that its class exposes.

        Args:
            interface: the actor's class, or another class with an `exposed` of its own; None asks what the actor
                was when it was last built.
            timeout_s: the time limit of each call.

        Raises:
            NotDeliveredError: no interface was given and the actor was never built.
            ConfigError: the interface exposes nothing, or what cannot be exposed.
        """
        check_finite("timeout_s", timeout_s, above_zero=True)
        if interface is None:
            slot = self._runtime.names.get(self.path)
            interface = None if slot is None else slot.interface
        if interface is None:
            raise NotDeliveredError(f"{self.path} was never built; give its class to proxy()")
        if not isinstance(interface, type):
            raise ConfigError(f"the interface of a proxy must be a class, got {interface!r}")
        if not getattr(interface, "exposed", ()):
            raise ConfigError(f"{interface.__qualname__}.exposed must name what a proxy offers, got none")
        check_exposed(interface)
        return Proxy(self, interface, timeout_s)

    # Sending.

    def _send(self, envelope: Envelope, here: "Incarnation | None", *, waits: bool) -> None:
        if here is None:
            self._put(envelope, waits=waits)
            return
        give_up_at = self._runtime.clock.now() + self._block_s
        while True:
            try:
                with here.send_guard:
                    here.check_fence()
                    self._put(envelope, waits=waits)
            except MailboxFullError:
                if self._is_own(here) or self._runtime.clock.now() >= give_up_at:
                    raise
            else:
                return
            self._wait_for_room(here, give_up_at)

    def _is_own(self, here: "Incarnation") -> bool:
        """Whether this is the name of the actor that sends; another tree may have the same names."""
        return here.runtime is self._runtime and here.path == self.path

    def _wait_for_room(self, here: "Incarnation", give_up_at: float) -> None:
        slot, clock = self._runtime.names.get(self.path), self._runtime.clock
        if slot is None:
            return
        changed = threading.Event()
        slot.when_room(changed.set)
        timer = clock.schedule(give_up_at - clock.now(), changed.set)
        with here.interrupts(changed.set):
            changed.wait()
        timer.cancel()

    def _put(self, envelope: Envelope, *, waits: bool) -> None:
        slot = self._runtime.names.get(self.path)
        if slot is None:
            if self._runtime.names.stopped is not None:
                raise self._runtime.names.stopped_error()
            raise NotDeliveredError(f"there is no actor {self.path}")
        if isinstance(envelope.message, _CONTROL):
            _put_control(slot, envelope)
        else:
            slot.send(envelope, waits=waits)

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

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self  # a name: what is copied along with it means the same actor

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} is good in this process only; send its path")


def _check(mode: str, key: Hashable) -> None:
    """Refuse here what would end the receiver."""
    if mode not in ("wait", "fast"):
        raise ConfigError(f"mode must be wait or fast, got {mode!r}")
    if key is not None:
        try:
            hash(key)
        except TypeError:
            raise ConfigError(f"key must be hashable, got {type(key).__qualname__}") from None


def _put_control(slot: Slot, envelope: Envelope) -> None:
    incarnation = slot.incarnation
    if incarnation is not None and incarnation.mailbox.post(envelope.message, envelope.reply):
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

    def _put(self, envelope: Envelope, *, waits: bool) -> None:  # noqa: ARG002 - an incarnation is there or it is not
        envelope.carries = False
        if isinstance(envelope.message, _CONTROL):
            delivered = self._mailbox.post(envelope.message, envelope.reply)
        else:
            delivered = self._mailbox.offer(envelope, bounded=False) is Offer.ACCEPTED
        if delivered:
            return
        why = f"incarnation {self.epoch} of {self.path} has ended"
        if envelope.reply is not None:
            raise NotDeliveredError(why)
        self._runtime.dead_letter(self.path, self.epoch, envelope, why)

    def _identity(self) -> tuple[object, ...]:
        return id(self._runtime), self.path, self.epoch
