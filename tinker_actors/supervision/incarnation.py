"""One life of a child: its thread, its mailbox, its frame, its one exit.

The frame here is the outermost of the thread. Whatever happens inside, it closes the mailbox, settles what was
asked, and posts exactly one `Exited`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from pykka import ActorRegistry
from pykka.messages import _ActorStop

from tinker_actors.errors import ConfigError, FencedError
from tinker_actors.supervision.actor import SupervisedActor
from tinker_actors.supervision.address import IncarnationAddress
from tinker_actors.supervision.context import Context
from tinker_actors.supervision.current import enter, leave
from tinker_actors.supervision.endings import forget_locals, hooks_of
from tinker_actors.supervision.events import ChildAbandoned, ErrorContained, StallWarning
from tinker_actors.supervision.exits import (
    NORMAL,
    Error,
    ExitReason,
    Ignored,
    Stalled,
    StartFailed,
    Stop,
    cause_of,
)
from tinker_actors.supervision.loop import Loop
from tinker_actors.supervision.mailbox import Envelope, Lane, Mailbox
from tinker_actors.supervision.monitors import Down, Monitor, Scope
from tinker_actors.supervision.names import Slot, State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime, Zombie
from tinker_actors.supervision.signals import Exited, Parent, StallDetected, Started
from tinker_actors.supervision.watchdog import stack_of

__all__ = ["Handling", "Incarnation"]

_EXIT_HOOKS_S = 5.0


class _Fenced(BaseException):
    """The incarnation was abandoned before it came up."""


class Handling:
    """What a handler does now; a new one for each message."""

    __slots__ = ("_lock", "beats", "message", "since", "waits")

    def __init__(self, message: str, since: float) -> None:
        self.message = message
        """Type of the message."""
        self.since = since
        """When it began or last said that it makes progress, in clock seconds."""
        self.beats = 0
        """How often it said so."""
        self.waits = 0
        """Blocks in which it waits on purpose."""
        self._lock = threading.RLock()

    def beat(self, now: float) -> None:
        """Note progress."""
        with self._lock:
            self.since = now
            self.beats += 1

    def wait(self, more: int) -> None:
        """Note that it begins (1) or ends (-1) to wait on purpose."""
        with self._lock:
            self.waits += more


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
        self.handling: Handling | None = None
        """What its handler does; None between two messages, and while it waits on purpose."""
        self.deferred: set[Reply] = set()
        """Asks whose handlers returned without an answer yet."""
        self.commands: set[Reply] = set()
        """Commands under way: a supervisor that ends still carries them out."""
        self.stop_replies: list[Reply] = []
        """Requests to stop in Pykka's way, answered when the end is complete."""
        self.is_fenced = False
        self._parent = parent
        self._actor: SupervisedActor | None = None
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._mailbox_taken = False
        self._lock = threading.Lock()
        self.send_guard = threading.Lock()
        """Held around the check of the fence and each put into another mailbox, so that none comes after it."""
        self._interrupts: dict[object, Callable[[], object]] = {}
        self._monitors: dict[int, Monitor] = {}
        self._exit_posted = False
        slot.begin(self)

    # The supervisor's side.

    def launch(self) -> None:
        """Start the thread; the factory runs in it.

        Raises:
            RuntimeError: no thread could be started.
        """
        name = f"actor:{self.path}#{self.epoch}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.runtime.watchdog.watch(self)  # before it can end, and with it the clock
        try:
            thread.start()
        except RuntimeError:
            self.runtime.watchdog.forget(self)
            raise
        self._thread = thread  # not sooner: one that has not begun looks like one that vanished

    def abandon(self, why: str) -> None:
        """Fence the incarnation off: its mailbox is closed, its asks are settled, its thread left to itself.

        Nothing that it sends afterwards is delivered; what it sent before lies ahead of what a successor sends.
        """
        zombie = Zombie(self.path, self.epoch, self.runtime.clock.now(), stack_of(self._thread))
        with self.send_guard, self._lock:
            self.is_fenced = True
            actor = self._actor
            interrupts, self._interrupts = list(self._interrupts.values()), {}
            if not self._exit_posted:
                self.runtime.zombies[self.path, self.epoch] = zombie
        self._settle_all(self.slot.retire(self.mailbox, close=True), why)
        for reply in list(self.commands):
            reply.lose(why)
        for interrupt in interrupts:
            interrupt()
        if actor is not None:
            _unregister(actor)

    # The watchdog's side.

    @property
    def has_vanished(self) -> bool:
        """Whether the thread is gone without the exit that is the last thing it does."""
        thread = self._thread
        return thread is not None and not thread.is_alive() and not self._exit_posted

    def vanish(self) -> None:
        """Do in the thread's place what a thread that is gone can do no more."""
        reason = Error(RuntimeError(f"the thread of {self.path} vanished without an exit"))
        self._close()
        self._forget(reason)

    def warn(self, handling: Handling, after_s: float) -> None:
        """Report a handler that takes too long."""
        self.runtime.events.publish(
            StallWarning(
                path=self.path,
                epoch=self.epoch,
                message=handling.message,
                after_s=after_s,
                stack=stack_of(self._thread),
            )
        )

    def stalled(self, handling: Handling, after_s: float) -> None:
        """Tell the supervisor about a handler that does not return."""
        error = TimeoutError(f"{self.path} handled {handling.message} for {after_s:g} s")
        reason = Stalled(error, stack_of(self._thread))
        self._parent.post(StallDetected(self.spec.id, self.epoch, after_s, reason))

    # The child's side.

    def take_mailbox(self) -> Mailbox | None:
        """The mailbox, for the first actor that is constructed in this thread."""
        if self._mailbox_taken:
            return None
        self._mailbox_taken = True
        return self.mailbox

    def beat(self, message: str) -> None:
        """Note that a handler begins with a message of this type."""
        self.handling = Handling(message, self.runtime.clock.now())

    def check_fence(self) -> None:
        """Refuse what must not come from an incarnation that was given up.

        Raises:
            FencedError: it was.
        """
        if self.is_fenced:
            raise FencedError(
                f"incarnation {self.epoch} of {self.path} was given up; another may serve in its place"
            )

    @contextlib.contextmanager
    def interrupts(self, wake: Callable[[], object]) -> Iterator[None]:
        """Around a wait: `wake` is called when the incarnation is given up, at once if it was before."""
        token = object()
        with self._lock:
            is_fenced = self.is_fenced
            if not is_fenced:
                self._interrupts[token] = wake
        if is_fenced:
            wake()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.pop(token, None)

    def monitor(self, path: str, scope: Scope) -> Monitor:
        """Watch the actor at `path` for this one."""
        mailbox = self.mailbox

        def deliver(down: Down) -> None:
            mailbox.post(down, lane=Lane.SYSTEM)

        monitor = Monitor(path, scope, deliver)
        self._monitors[monitor.id] = monitor
        slot = self.runtime.names.get(path)
        monitor.bind(lambda: self._give_up_monitor(monitor, slot))
        if slot is None:
            monitor.fire(0, None)
        else:
            slot.monitor(monitor)
        return monitor

    def take_monitor(self, monitor_id: int) -> bool:
        """Whether that watch still stands; its `Down` is handled now."""
        return self._monitors.pop(monitor_id, None) is not None

    def _give_up_monitor(self, monitor: Monitor, slot: Slot | None) -> None:
        self._monitors.pop(monitor.id, None)
        if slot is not None:
            slot.unmonitor(monitor)

    def acknowledge(self) -> None:
        """Tell the supervisor that the child is up."""
        self._parent.post(Started(self.spec.id, self.epoch))

    def contain(self, where: str, error: BaseException) -> None:
        """Report an exception that must not end anybody."""
        self.runtime.events.publish(
            ErrorContained(path=self.path, epoch=self.epoch, where=where, error=error)
        )

    def dead_letter(self, envelope: Envelope, why: str) -> None:
        """Report a message that nobody handles."""
        self.runtime.dead_letter(self.path, self.epoch, envelope, why)

    def refuse(self, envelope: Envelope, why: str) -> None:
        """Settle or report a message that no handler of this incarnation will see."""
        if envelope.reply is not None:
            if isinstance(envelope.message, _ActorStop):
                envelope.reply.set(True)
            else:
                envelope.reply.lose(why)
        elif envelope.lane is Lane.USER:
            self.dead_letter(envelope, why)

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
            ignored = self._build()
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends this start, not the process
            return StartFailed(error)
        if ignored is not None:
            return ignored
        try:
            self._own_actor.on_start()
            self._own_loop.begin()
        except Stop as stop:
            reason = stop.reason if isinstance(stop.reason, Ignored) else StartFailed(stop)
            return self._own_loop.wind_down(reason)
        except BaseException as error:  # noqa: BLE001
            return self._own_loop.wind_down(StartFailed(error))
        return self._own_loop.wind_down(self._own_loop.serve())

    @property
    def _own_actor(self) -> SupervisedActor:
        if self._actor is None:
            raise _Fenced
        return self._actor

    @property
    def _own_loop(self) -> Loop:
        if self._loop is None:
            raise _Fenced
        return self._loop

    def _build(self) -> Ignored | None:
        actor = self.spec.start()
        if isinstance(actor, Ignored):
            return actor
        if not isinstance(actor, SupervisedActor):
            raise ConfigError(
                f"ChildSpec.start of {self.spec.id!r} must make a SupervisedActor, got {actor!r}"
            )
        if actor.actor_inbox is not self.mailbox:
            raise ConfigError(
                f"ChildSpec.start of {self.spec.id!r} must make a fresh actor each time, and make it first"
            )
        loop = actor._kit_loop(self)  # noqa: SLF001 - which loop serves it is the kit's business
        if loop.kind is not self.spec.kind:
            raise ConfigError(f"ChildSpec.kind of {self.spec.id!r} must be {loop.kind}, got {self.spec.kind}")
        me = IncarnationAddress(self.runtime, self.path, self.epoch, self.mailbox)
        actor.context = Context(self, me)
        with self._lock:
            self._actor, self._loop = actor, loop
            if self.is_fenced:
                raise _Fenced
            self.slot.interface = type(actor)
            ActorRegistry.register(actor.actor_ref)
        return None

    def _end(self, reason: ExitReason) -> None:
        self._close()
        actor = self._actor
        if actor is not None:
            self._guarded("hooks", lambda: self._run_hooks(actor, reason))
        self._forget(reason)

    def _close(self) -> None:
        """Let nothing in any more, settle what was asked, and leave no child behind."""
        self._guarded(
            "close", lambda: self.retire(f"{self.path} ended before it handled the message", close=True)
        )
        for reply in list(self.commands):
            reply.lose(f"{self.path} ended before it answered")
        if not self.is_fenced:  # else these names may belong to the next incarnation
            why = f"{self.path} ended without ending its children"
            self._guarded("children", lambda: self.runtime.names.abandon_below(self.slot, why))
        actor = self._actor
        if actor is not None:
            self._guarded("unregister", lambda: _unregister(actor))

    def _forget(self, reason: ExitReason) -> None:
        """Let go of the actor and say that it is over."""
        error = cause_of(reason)
        if error is not None:
            self._guarded("traceback", lambda: forget_locals(error))
        if isinstance(error, KeyboardInterrupt):
            self.runtime.on_interrupt()
        for reply in self.stop_replies:
            reply.set(True)
        for monitor in list(self._monitors.values()):
            monitor.cancel()
        self._actor = self._loop = self.current = self.handling = None
        self._post_exit(reason)

    def _run_hooks(self, actor: SupervisedActor, reason: ExitReason) -> None:
        """Run the hooks of the end; past their time limit the exit is posted without them."""
        hooks = hooks_of(actor, reason)
        if not hooks:
            return
        if self.slot.state is not State.STOPPING and not self.is_fenced:  # else it has its limit, or had it
            limit_s = max(_EXIT_HOOKS_S, self.spec.shutdown_s or 0.0)
            timer = self.runtime.clock.schedule(limit_s, lambda: self._give_up_hooks(reason, limit_s))
        else:
            timer = None
        for name, hook in hooks:
            self._guarded(name, hook)
        if timer is not None:
            timer.cancel()

    def _give_up_hooks(self, reason: ExitReason, after_s: float) -> None:
        """Go on without hooks that do not return; their thread is fenced like any other that is given up."""
        if self.is_fenced:  # its supervisor was sooner
            return
        self.abandon(f"{self.path} did not end within {after_s:g} s")
        with self._lock:
            has_ended = self._exit_posted  # in the last moment
        if not has_ended:
            self.runtime.events.publish(ChildAbandoned(path=self.path, epoch=self.epoch, after_s=after_s))
            self._parent.post(Exited(self.spec.id, self.epoch, reason))

    def _guarded(self, where: str, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - each step of the end is taken, whatever the one before did
            self.contain(where, error)

    def _post_exit(self, reason: ExitReason) -> None:
        with self._lock:
            first, self._exit_posted = not self._exit_posted, True
        if not first:
            return
        self.runtime.watchdog.forget(self)
        if self.is_fenced:
            self.runtime.zombie_ended(self.path, self.epoch)
        self._parent.post(Exited(self.spec.id, self.epoch, reason))

    def _settle_all(self, left: list[Envelope], why: str) -> None:
        for envelope in left:
            self.refuse(envelope, why)
        current = self.current
        if current is not None:
            current.lose(f"{self.path} ended while it handled the message")
        for reply in list(self.deferred):
            reply.lose(f"{self.path} ended before it answered")


def _unregister(actor: SupervisedActor) -> None:
    ActorRegistry.unregister(actor.actor_ref)
    actor.actor_stopped.set()
