"""The loop of one incarnation: takes messages, calls the actor's handlers, says why it ended.

Runs in the incarnation's thread. What a handler raises becomes an answer, an exit reason, or both.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Final

from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from tinker_actors.errors import CommandRefusedError, OutcomeUnknownError, PoisonedError
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.events import Poisoned
from tinker_actors.supervision.exits import NORMAL, Error, ExitReason, Killed, Shutdown, Stop
from tinker_actors.supervision.mailbox import Envelope, Lane
from tinker_actors.supervision.monitors import Down
from tinker_actors.supervision.proxy import OF_PROXY, UndeclaredError, perform
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.signals import Crash, StopRequest
from tinker_actors.supervision.specs import Kind

if TYPE_CHECKING:
    from tinker_actors.supervision.actor import SupervisedActor
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["Loop"]

_OF_PYKKA: Final = frozenset({ProxyCall, ProxyGetAttr, ProxySetAttr})


class Loop:
    """Serves one actor's mailbox."""

    kind: ClassVar[Kind] = Kind.WORKER

    def __init__(self, actor: "SupervisedActor", incarnation: "Incarnation") -> None:
        self.actor = actor
        self.here = incarnation
        self._answers: tuple[type[Exception], ...] = (*actor.reply_errors, UndeclaredError)

    def begin(self) -> None:
        """Acknowledge the start; supervisors start their children first."""
        self.here.acknowledge()

    def wind_down(self, reason: ExitReason) -> ExitReason:
        """Do what must be done before the mailbox closes; supervisors end their children."""
        return reason

    def serve(self) -> ExitReason:
        """Handle messages until one of them ends the incarnation."""
        take = self.here.mailbox.take
        while True:
            envelope = take()
            if envelope is None:
                return Killed(0.0)  # abandoned: the supervisor closed the mailbox
            try:
                reason = self._dispatch(envelope)
            except Stop as stop:
                self._settle_attempt(envelope)
                return stop.reason
            except BaseException as error:  # noqa: BLE001 - the actor's edge: this becomes the exit reason
                return Error(error)
            if reason is not None:
                return reason

    def on_control(self, envelope: Envelope) -> ExitReason | None:
        """Act on a signal or command; the reason to end, if it is one."""
        match envelope.message:
            case StopRequest():
                return Shutdown()
            case Crash(error):
                raise error
            case Command() if envelope.reply is not None:
                envelope.reply.fail(
                    CommandRefusedError(f"{self.here.path} is no supervisor", answer="not_a_supervisor")
                )
        return None

    def _dispatch(self, envelope: Envelope) -> ExitReason | None:
        if envelope.lane is Lane.CONTROL:
            return self.on_control(envelope)
        message = envelope.message
        if isinstance(message, _ActorStop):
            if envelope.reply is not None:
                self.here.stop_replies.append(envelope.reply)
            return NORMAL
        if isinstance(message, Down) and not self.here.take_monitor(message.id):
            return None  # given up between the end and its delivery
        self._on_message(envelope)
        return None

    # Handlers.

    def _on_message(self, envelope: Envelope) -> None:
        here, reply = self.here, envelope.reply
        here.current = reply  # from here on whoever gives the incarnation up settles it
        try:
            if here.is_fenced:
                here.refuse(envelope, f"{here.path} was given up before it handled the message")
            elif reply is not None and not reply.begin():
                here.dead_letter(envelope, "its asker had stopped waiting")
            elif envelope.key is None or self._begin_attempt(envelope):
                if reply is None:
                    self._on_tell(envelope.message)
                else:
                    self._on_ask(envelope, reply)
                self._settle_attempt(envelope)
        except BaseException as error:
            if reply is not None:
                reply.lose(f"{here.path} ended by {type(error).__name__} while it handled the message")
            raise
        finally:
            here.current = None

    def _on_tell(self, message: Any) -> None:
        try:
            self._handle(message)
        except self._answers as error:
            self.here.contain("on_receive", error)

    def _on_ask(self, envelope: Envelope, reply: Reply) -> None:
        here = self.here
        settled = True
        try:
            value = self._handle(envelope.message)
            if isinstance(value, Reply):
                self._defer(envelope, reply, value)
            else:
                settled = reply.set(value)
        except self._answers as error:
            settled = reply.fail(error)
        except Exception as error:
            settled = reply.fail(error)
            if self.actor.crash_on_ask_error:
                raise
            here.contain("on_receive", error)
        except BaseException as error:
            self._answer_last(reply, error)
            raise
        finally:
            if not settled:
                here.dead_letter(envelope, "the answer came too late")

    def _handle(self, message: Any) -> Any:
        here = self.here
        here.beat(type(message).__qualname__)
        try:
            kind = type(message)
            if kind in OF_PROXY:
                return perform(message, self.actor)
            if kind in _OF_PYKKA:
                return self.actor._handle_receive(message)  # noqa: SLF001 - Pykka's own way in
            return self.actor.on_receive(message)
        finally:
            here.handling = None

    def _answer_last(self, reply: Reply, error: BaseException) -> None:
        """Settle the ask whose handler ended the actor."""
        if isinstance(error, Stop) and error.reply is not ...:
            reply.set(error.reply)
            return
        unknown = OutcomeUnknownError(
            f"{self.here.path} ended by {type(error).__name__} while it handled the message"
        )
        unknown.__cause__ = error
        reply.fail(unknown)

    def _defer(self, envelope: Envelope, reply: Reply, later: Reply) -> None:
        """Let `reply` take the outcome of `later`, and be lost with this incarnation if that is sooner."""
        here = self.here
        here.deferred.add(reply)
        reply.add_done_callback(here.deferred.discard)

        def take(_later: Reply) -> None:
            if not reply.take(later):
                here.dead_letter(envelope, "the answer came too late")

        later.add_done_callback(take)

    # Attempts of messages with a key.

    def _begin_attempt(self, envelope: Envelope) -> bool:
        """Count an attempt; False, and the message is settled, when there were too many."""
        here, key = self.here, envelope.key
        quarantine = here.slot.quarantine
        attempts = quarantine.attempts(key)
        if attempts < here.spec.max_poison_attempts:
            quarantine.begin(key)
            return True
        error = PoisonedError(f"{here.path} was brought down {attempts} times by {key!r}", attempts=attempts)
        here.runtime.events.publish(Poisoned(path=here.path, epoch=here.epoch, key=key, attempts=attempts))
        if envelope.reply is None:
            here.dead_letter(envelope, str(error))
        else:
            envelope.reply.fail(error)
        return False

    def _settle_attempt(self, envelope: Envelope) -> None:
        here = self.here
        if envelope.key is None:
            return
        with here.send_guard:  # one that was given up cost its incarnation, even if it returns after all
            if not here.is_fenced:
                here.slot.quarantine.returned(envelope.key)
