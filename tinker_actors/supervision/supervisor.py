"""The supervisor actor: static children, commands, and the way it ends."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.actor import SupervisedActor
from tinker_actors.supervision.administration import execute
from tinker_actors.supervision.children import Children
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.exits import ExitReason
from tinker_actors.supervision.flags import SupervisorFlags, check_specs
from tinker_actors.supervision.lifecycle import Lifecycle
from tinker_actors.supervision.loop import Loop
from tinker_actors.supervision.mailbox import Envelope
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.signals import (
    Exited,
    RetryDue,
    StallDetected,
    Started,
    StartTimedOut,
    StopRequest,
    StopTimedOut,
)
from tinker_actors.supervision.specs import AutoShutdown, ChildSpec, Kind, Strategy

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["Supervisor"]


class Supervisor(SupervisedActor):
    """An actor with children.

    It starts them in order, each after the one before has come up, and is up itself when the last one is. A
    subclass handles messages of its own in `on_receive`; `on_start` runs before the first child starts. When it
    ends, however it ends, its children end before it, in reverse order.

    Args:
        children: their specs, in start order.
        strategy: who is restarted when one child is.
        max_restarts: restarts of all children together within `within_s` seconds; one more, and it gives up.
        within_s: that window.
        auto_shutdown: whether it ends, as if asked to, with its significant children.
        max_zombies: how many threads of its children may be left behind; one more, and it gives up.

    Raises:
        ConfigError: a limit is wrong, an id stands there twice, or a child is significant without auto_shutdown.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within_s: float = 60.0,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        max_zombies: int = 8,
    ) -> None:
        super().__init__()
        flags = SupervisorFlags(
            strategy=strategy,
            max_restarts=max_restarts,
            within_s=within_s,
            auto_shutdown=auto_shutdown,
            max_zombies=max_zombies,
        )
        self._kit_configure(flags, children)

    def _kit_configure(self, flags: SupervisorFlags, children: Sequence[ChildSpec]) -> None:
        # Mangled, so that no attribute of a subclass can replace them.
        self.__flags = flags
        self.__specs = check_specs(children, flags)

    @property
    def flags(self) -> SupervisorFlags:
        """How it behaves as a whole."""
        return self.__flags

    @property
    def specs(self) -> tuple[ChildSpec, ...]:
        """Those it begins with, in start order."""
        return self.__specs

    def on_child_deleted(self, spec: ChildSpec) -> None:
        """Hook: the child made from `spec` ended for good and is forgotten. Nobody was told of that yet."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("flags", "specs"):
            if name in vars(cls):
                raise ConfigError(
                    f"{cls.__qualname__}.{name} would replace what the kit reads; give it another name"
                )

    def _kit_loop(self, incarnation: "Incarnation") -> Loop:
        return SupervisorLoop(self, incarnation, self.flags, self.specs)


class SupervisorLoop(Loop):
    """Serves a supervisor's mailbox: signals of its children and commands, then its own messages."""

    kind: ClassVar[Kind] = Kind.SUPERVISOR

    def __init__(
        self,
        actor: Supervisor,
        incarnation: "Incarnation",
        flags: SupervisorFlags,
        specs: Sequence[ChildSpec],
    ) -> None:
        super().__init__(actor, incarnation)
        self._flags, self._specs = flags, specs
        self._note_deleted = actor.on_child_deleted
        self._children: Children | None = None
        self._has_acknowledged = False
        self._deadline = math.inf

    def begin(self) -> None:
        """Start the static children; the last one's start is this supervisor's own."""
        here = self.here
        self._children = Children(
            Lifecycle(here.runtime, here.mailbox), here.slot, self._flags, self._note_deleted
        )
        self._children.begin(self._specs)
        self._acknowledge_once()

    def _acknowledge_once(self) -> None:
        if not self._has_acknowledged and self._children is not None and self._children.is_up:
            self._has_acknowledged = True
            self.here.acknowledge()

    def wind_down(self, reason: ExitReason) -> ExitReason:
        """End the children, and serve their signals meanwhile."""
        children, here = self._children, self.here
        if children is None or here.is_fenced:
            return reason
        here.retire(f"{here.path} is ending", close=False)
        children.shut_down(self._deadline)
        while not children.is_empty:
            envelope = here.mailbox.take()
            if envelope is None:
                break
            obey(children, envelope, here.commands)
        return reason

    def on_control(self, envelope: Envelope) -> ExitReason | None:
        """Act on a signal or command; the reason to end, if it is one."""
        children = self._children
        if isinstance(envelope.message, StopRequest):
            self._deadline = envelope.message.deadline
            return super().on_control(envelope)
        if children is None or not obey(children, envelope, self.here.commands):
            return super().on_control(envelope)
        self._acknowledge_once()
        return children.verdict


def obey(children: Children, envelope: Envelope, under_way: set[Reply]) -> bool:
    """Act on what concerns the children; False when the message does not. Commands stay in `under_way` till answered."""
    match envelope.message:
        case Started() as signal:
            children.on_started(signal)
        case Exited() as signal:
            children.on_exited(signal)
        case StartTimedOut() as signal:
            children.on_start_timed_out(signal)
        case StopTimedOut() as signal:
            children.on_stop_timed_out(signal)
        case StallDetected() as signal:
            children.on_stall_detected(signal)
        case RetryDue() as signal:
            children.on_retry_due(signal)
        case StopRequest(deadline):
            children.shut_down(deadline)
        case Command() as command:
            reply = envelope.reply or Reply()
            if reply.begin():
                under_way.add(reply)
                reply.add_done_callback(under_way.discard)
                execute(children, command, reply)
        case _:
            return False
    return True
