"""The base class of supervised actors, and what it is told about its place in the tree."""

import random
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pykka import ActorRef, ThreadingActor
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from tinker_actors.errors import CommandRefusedError, ConfigError, OutcomeUnknownError
from tinker_actors.supervision.address import Address, IncarnationAddress
from tinker_actors.supervision.clock import Clock, Timer
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.current import current_incarnation
from tinker_actors.supervision.exits import NORMAL, Error, ExitReason, Killed, Shutdown, Stop
from tinker_actors.supervision.mailbox import Envelope, Mailbox
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.signals import Crash, StopRequest

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["Context", "SupervisedActor"]

_OF_PYKKA = frozenset({ProxyCall, ProxyGetAttr, ProxySetAttr})


class Context:
    """An incarnation's view of its tree; thread-safe but for `random`."""

    def __init__(self, incarnation: "Incarnation", me: IncarnationAddress) -> None:
        self.path: str = incarnation.path
        """Names from the root down, such as `service/session/training/training:1`."""
        self.id: str = incarnation.spec.id
        """The last of them."""
        self.epoch: int = incarnation.epoch
        """Which incarnation this is, from 1."""
        self.clock: Clock = incarnation.runtime.clock
        """The tree's clock."""
        self.random: random.Random = incarnation.runtime.random_for(self.path, self.epoch)
        """A generator seeded by the tree's seed, the path and the epoch; for the actor's thread only."""
        self.me: Address = me
        """This incarnation: what is told to it after its end is a dead letter and reaches no later one."""
        self._incarnation = incarnation

    @property
    def is_fenced(self) -> bool:
        """Whether the supervisor gave this incarnation up; what it does from here on must have no effect."""
        return self._incarnation.is_fenced

    def address(self, path: str) -> Address:
        """The address of the actor at `path`, which need not exist yet."""
        return Address(self._incarnation.runtime, path)

    def send_after(self, delay_s: float, message: Any) -> Timer:
        """Tell this incarnation `message` in `delay_s` seconds."""
        return self.clock.schedule(delay_s, lambda: self.me.tell(message))

    def emit(self, event: object) -> None:
        """Publish `event` on the tree's stream."""
        self._incarnation.runtime.events.publish(event)


class SupervisedActor(ThreadingActor):
    """An actor that a supervisor starts, watches and restarts.

    An exception in a handler ends the incarnation, also while it serves an ask: the asker gets the error, and
    the state that the error left behind is thrown away. `on_stop` runs after a clean end, `on_failure` after a
    crash, `on_exit` after each; by then the mailbox is closed.
    """

    use_daemon_thread: ClassVar[bool] = True
    reply_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors that are answers: they go to the asker and the actor lives on."""
    crash_on_ask_error: ClassVar[bool] = True
    """Whether any other error, answered to the asker, also ends the actor."""

    context: Context
    """Bound after `__init__`, before `on_start`."""
    _incarnation: "Incarnation"

    @classmethod
    def start(cls, *_args: Any, **_kwargs: Any) -> ActorRef[Self]:
        """Refuse: only supervisors start supervised actors.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{cls.__name__} is started by a supervisor; give it a ChildSpec")

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        here = current_incarnation()
        taken = None if here is None else here.take_mailbox()
        return Mailbox(1) if taken is None else taken

    def on_exit(self, reason: ExitReason) -> None:
        """Release what the incarnation holds. Runs once, however it ended, after the mailbox closed."""

    def _bind(self, incarnation: "Incarnation", context: Context) -> None:
        self._incarnation = incarnation
        self.context = context

    def _begin(self) -> None:
        """Acknowledge the start; supervisors start their children first."""
        self._incarnation.acknowledge()

    def _wind_down(self, reason: ExitReason) -> ExitReason:
        """Do what must be done before the mailbox closes; supervisors end their children."""
        return reason

    def _serve(self) -> ExitReason:
        """Handle messages until one of them ends the incarnation."""
        take = self._incarnation.mailbox.take
        while True:
            envelope = take()
            if envelope is None:
                return Killed(0.0)  # abandoned: the supervisor closed the mailbox
            try:
                if envelope.is_control:
                    reason = self._on_control(envelope)
                    if reason is not None:
                        return reason
                elif isinstance(envelope.message, _ActorStop):
                    if envelope.reply is not None:
                        self._incarnation.stop_replies.append(envelope.reply)
                    return NORMAL
                elif envelope.reply is None:
                    self._on_tell(envelope.message)
                else:
                    self._on_ask(envelope.message, envelope.reply)
            except Stop as stop:
                return stop.reason
            except BaseException as error:  # noqa: BLE001 - the actor's edge: this becomes the exit reason
                return Error(error)

    def _on_control(self, envelope: Envelope) -> ExitReason | None:
        """Act on a signal or command; the reason to end, if it is one."""
        match envelope.message:
            case StopRequest():
                return Shutdown()
            case Crash(error):
                raise error
            case Command() if envelope.reply is not None:
                envelope.reply.fail(
                    CommandRefusedError(f"{self.context.path} is no supervisor", answer="not_a_supervisor")
                )
        return None

    def _on_tell(self, message: Any) -> None:
        try:
            self._handle(message)
        except self.reply_errors as error:
            self._incarnation.contain("on_receive", error)

    def _on_ask(self, message: Any, reply: Reply) -> None:
        here = self._incarnation
        if not reply.begin():
            here.dead_letter(message, "its asker had stopped waiting")
            return
        here.current = reply
        settled = True
        try:
            value = self._handle(message)
            settled = self._defer(reply, value) if isinstance(value, Reply) else reply.set(value)
        except self.reply_errors as error:
            settled = reply.fail(error)
        except Exception as error:
            settled = reply.fail(error)
            if self.crash_on_ask_error:
                raise
            here.contain("on_receive", error)
        except BaseException as error:
            self._answer_last(reply, error)
            raise
        finally:
            here.current = None
            if not settled:
                here.dead_letter(message, "the answer came too late")

    def _answer_last(self, reply: Reply, error: BaseException) -> None:
        """Settle the ask whose handler ended the actor."""
        if isinstance(error, Stop) and error.reply is not ...:
            reply.set(error.reply)
            return
        unknown = OutcomeUnknownError(
            f"{self.context.path} ended by {type(error).__name__} while it handled the message"
        )
        unknown.__cause__ = error
        reply.fail(unknown)

    def _defer(self, reply: Reply, later: Reply) -> bool:
        """Let `reply` take the outcome of `later`, and be lost with this incarnation if that is sooner."""
        deferred = self._incarnation.deferred
        deferred.add(reply)
        reply.add_done_callback(deferred.discard)
        reply.follow(later)
        return True

    def _handle(self, message: Any) -> Any:
        return self._handle_receive(message) if type(message) in _OF_PYKKA else self.on_receive(message)
