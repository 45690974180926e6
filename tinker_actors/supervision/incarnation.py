"""One life of a child: its thread, its mailbox, its frame, its one exit.

The frame here is the outermost of the thread. Whatever happens inside, it closes the mailbox, settles what was
asked, and posts exactly one `Exited`.
"""

import contextlib
import inspect
import threading
import traceback
from collections.abc import Callable

from pykka import ActorRegistry
from pykka.messages import _ActorStop

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.actor import Context, SupervisedActor
from tinker_actors.supervision.address import IncarnationAddress
from tinker_actors.supervision.current import enter, leave
from tinker_actors.supervision.events import ErrorContained
from tinker_actors.supervision.exits import NORMAL, Error, ExitReason, StartFailed, cause_of, is_clean
from tinker_actors.supervision.mailbox import Envelope, Mailbox
from tinker_actors.supervision.names import Slot, State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime
from tinker_actors.supervision.signals import Exited, Parent, Started

__all__ = ["Incarnation"]

_EXIT_HOOKS_S = 5.0
_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Fenced(BaseException):
    """The incarnation was abandoned before it came up."""


class Incarnation:
    """What a supervisor holds of a child that is starting or running."""

    def __init__(self, runtime: Runtime, slot: Slot, parent: Parent) -> None:
        self.runtime = runtime
        self.slot = slot
        self.spec = slot.spec
        self.path = slot.path
        self.epoch = slot.reserve()
        self.mailbox = Mailbox(self.spec.max_mailbox)
        self.current: Reply | None = None
        """The ask being handled."""
        self.deferred: set[Reply] = set()
        """Asks whose handlers returned without an answer yet."""
        self.stop_replies: list[Reply] = []
        """Requests to stop in Pykka's way, answered when the end is complete."""
        self.is_fenced = False
        self._parent = parent
        self._actor: SupervisedActor | None = None
        self._mailbox_taken = False
        self._lock = threading.Lock()
        self._exit_posted = False
        slot.begin(self.mailbox, self.abandon)

    # The supervisor's side.

    def launch(self) -> None:
        """Start the thread; the factory runs in it.

        Raises:
            RuntimeError: no thread could be started.
        """
        name = f"actor:{self.path}#{self.epoch}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def abandon(self, why: str) -> None:
        """Fence the incarnation off: its mailbox is closed, its asks are settled, its thread left to itself."""
        with self._lock:
            self.is_fenced = True
            actor = self._actor
        self.runtime.abandoned[self.path, self.epoch] = None
        self._settle_all(self.slot.retire(self.mailbox, close=True), why)
        if actor is not None:
            _unregister(actor)

    # The child's side.

    def take_mailbox(self) -> Mailbox | None:
        """The mailbox, for the first actor that is constructed in this thread."""
        if self._mailbox_taken:
            return None
        self._mailbox_taken = True
        return self.mailbox

    def acknowledge(self) -> None:
        """Tell the supervisor that the child is up."""
        self._parent.post(Started(self.spec.id, self.epoch))

    def contain(self, where: str, error: BaseException) -> None:
        """Report an exception that must not end anybody."""
        self.runtime.events.publish(
            ErrorContained(path=self.path, epoch=self.epoch, where=where, error=error)
        )

    def dead_letter(self, message: object, why: str) -> None:
        """Report a message that nobody handles."""
        self.runtime.dead_letter(self.path, self.epoch, message, why)

    def retire(self, why: str, *, close: bool) -> None:
        """Close the user lane (or all), and settle what nobody will handle."""
        self._settle_all(self.slot.retire(self.mailbox, close=close), why)

    def _run(self) -> None:
        enter(self)
        reason: ExitReason = NORMAL
        try:
            reason = self._live()
        except BaseException as error:  # noqa: BLE001 - nothing may leave the thread
            reason = Error(error)
        finally:
            self._end(reason)
            leave()

    def _live(self) -> ExitReason:
        # A traceback keeps this frame, so no local of it may hold the actor.
        try:
            self._build()
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends this start, not the process
            return StartFailed(error)
        try:
            self._own_actor.on_start()
            self._own_actor._begin()  # noqa: SLF001 - frame and actor are two halves of one thing
        except BaseException as error:  # noqa: BLE001
            return self._own_actor._wind_down(StartFailed(error))  # noqa: SLF001
        return self._own_actor._wind_down(self._own_actor._serve())  # noqa: SLF001

    @property
    def _own_actor(self) -> SupervisedActor:
        if self._actor is None:
            raise _Fenced
        return self._actor

    def _build(self) -> None:
        actor = self.spec.start()
        if not isinstance(actor, SupervisedActor):
            raise ConfigError(
                f"ChildSpec.start of {self.spec.id!r} must make a SupervisedActor, got {actor!r}"
            )
        if actor.actor_inbox is not self.mailbox:
            raise ConfigError(
                f"ChildSpec.start of {self.spec.id!r} must make a fresh actor each time, and make it first"
            )
        me = IncarnationAddress(self.runtime, self.path, self.epoch, self.mailbox)
        actor._bind(self, Context(self, me))  # noqa: SLF001
        with self._lock:
            self._actor = actor
            if self.is_fenced:
                raise _Fenced
            ActorRegistry.register(actor.actor_ref)

    def _end(self, reason: ExitReason) -> None:
        self._guarded(
            "close", lambda: self.retire(f"{self.path} ended before it handled the message", close=True)
        )
        if not self.is_fenced:  # else these names may belong to the next incarnation
            why = f"{self.path} ended without ending its children"
            self._guarded("children", lambda: self.runtime.names.abandon_below(self.slot, why))
        actor = self._actor
        if actor is not None:
            self._guarded("unregister", lambda: _unregister(actor))
            self._guarded("hooks", lambda: self._run_hooks(actor, reason))
        error = cause_of(reason)
        if error is not None:
            self._guarded("traceback", lambda: _forget_locals(error))
        if isinstance(error, KeyboardInterrupt):
            self.runtime.on_interrupt()
        for reply in self.stop_replies:
            reply.set(True)
        self._actor = self.current = None
        self._post_exit(reason)

    def _run_hooks(self, actor: SupervisedActor, reason: ExitReason) -> None:
        """Run the hooks of the end; past their time limit the exit is posted without them."""
        hooks = _hooks_of(actor, reason)
        if not hooks:
            return
        if self.slot.state is not State.STOPPING:  # else the supervisor's own limit holds
            limit_s = max(_EXIT_HOOKS_S, self.spec.shutdown_s or 0.0)
            timer = self.runtime.clock.schedule(limit_s, lambda: self._post_exit(reason))
        else:
            timer = None
        for name, hook in hooks:
            self._guarded(name, hook)
        if timer is not None:
            timer.cancel()

    def _guarded(self, where: str, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - each step of the end is taken, whatever the one before did
            self.contain(where, error)

    def _post_exit(self, reason: ExitReason) -> None:
        with self._lock:
            first, self._exit_posted = not self._exit_posted, True
        if first:
            self._parent.post(Exited(self.spec.id, self.epoch, reason))

    def _settle_all(self, left: list[Envelope], why: str) -> None:
        for envelope in left:
            if envelope.reply is not None:
                if isinstance(envelope.message, _ActorStop):
                    envelope.reply.set(True)
                else:
                    envelope.reply.lose(why)
            elif not envelope.is_control:
                self.dead_letter(envelope.message, why)
        current = self.current
        if current is not None:
            current.lose(f"{self.path} ended while it handled the message")
        for reply in list(self.deferred):
            reply.lose(f"{self.path} ended before it answered")


def _unregister(actor: SupervisedActor) -> None:
    ActorRegistry.unregister(actor.actor_ref)
    actor.actor_stopped.set()


def _hooks_of(actor: SupervisedActor, reason: ExitReason) -> list[tuple[str, Callable[[], object]]]:
    """The hooks the class has of its own, in the order in which they run."""
    kind = type(actor)
    error = cause_of(reason)
    hooks: list[tuple[str, Callable[[], object]]] = []
    if is_clean(reason):
        if kind.on_stop is not SupervisedActor.on_stop:
            hooks.append(("on_stop", actor.on_stop))
    elif error is not None and kind.on_failure is not SupervisedActor.on_failure:
        hooks.append(("on_failure", lambda: actor.on_failure(type(error), error, error.__traceback__)))
    if kind.on_exit is not SupervisedActor.on_exit:
        hooks.append(("on_exit", lambda: actor.on_exit(reason)))
    return hooks


def _forget_locals(error: BaseException | None) -> None:
    """Let the tracebacks keep their lines but no locals, so that a remembered crash keeps no actor alive.

    Frames of generators and coroutines are left alone: clearing a suspended one would end it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_flags & _SUSPENDABLE:
                with contextlib.suppress(RuntimeError):  # still running
                    frame.clear()
        error = error.__cause__ or error.__context__
