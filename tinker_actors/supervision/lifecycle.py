"""Starting and ending single children: incarnations, time limits and fences; no strategy.

All of it runs in the supervisor's thread.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal, NoReturn

from tinker_actors.supervision.clock import Timer
from tinker_actors.supervision.events import ChildAbandoned
from tinker_actors.supervision.exits import StartFailed
from tinker_actors.supervision.gates import Gate
from tinker_actors.supervision.incarnation import Incarnation
from tinker_actors.supervision.names import Slot, State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.runtime import Runtime
from tinker_actors.supervision.signals import (
    Exited,
    Parent,
    RetryDue,
    StartTimedOut,
    StopRequest,
    StopTimedOut,
)
from tinker_actors.supervision.specs import ChildSpec, Kind, Restart

__all__ = ["Child", "Lifecycle"]

_SUPERVISOR_MARGIN_S = 0.25
_SUPERVISOR_MARGIN_SHARE = 0.1
_tickets = count(1)


@dataclass(slots=True, eq=False)
class Child:
    """What a supervisor remembers of a child beside its slot."""

    spec: ChildSpec
    slot: Slot
    incarnation: Incarnation | None = None
    """The one that starts, runs or stops."""
    is_up: bool = False
    """Whether that one acknowledged its start."""
    due: float = math.inf
    """When its present time limit ends, in clock seconds."""
    timer: Timer | None = None
    """Start limit, stop limit or pause: there is one at a time."""
    gate: Gate | None = None
    """What must be open before it is started again."""
    leave_gate: Callable[[], object] | None = None
    """Gives up waiting at a gate."""
    ticket: int = 0
    """Tells pauses apart, also those of children that had the same id."""
    stopping_since: float = math.inf
    """When it was asked to end, or, if it still started then, came up."""
    running_since: float = math.inf
    """When the latest incarnation came up."""
    failures: int = 0
    """Failures in a row, for the backoff."""
    starter: Reply | None = None
    """Who waits for it to come up."""
    on_start_failure: Literal["decide", "delete", "down"] = "decide"
    """What follows when this start fails."""
    stoppers: list[Reply] = field(default_factory=list)
    """Who waits for it to end."""

    def cancel_timer(self) -> None:
        """Drop the present time limit or pause."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.leave_gate is not None:
            self.leave_gate()
            self.leave_gate = None
        self.ticket = next(_tickets)
        self.due = math.inf


class Lifecycle:
    """Takes one child through start, stop and abandonment; `parent` gets the signals."""

    def __init__(
        self, runtime: Runtime, parent: Parent, *, incarnation: type[Incarnation] = Incarnation
    ) -> None:
        self.runtime = runtime
        self.incarnations = 0
        """How many start, run or stop."""
        self._clock = runtime.clock
        self._parent = parent
        self._make = incarnation

    def launch(self, child: Child) -> None:
        """Begin a new incarnation; `Started`, `Exited` or `StartTimedOut` will follow."""
        if child.incarnation is not None:  # a bug here must not leave two of them running
            raise RuntimeError(f"{child.slot.path} has an incarnation already")
        child.cancel_timer()
        child.gate = None
        child.is_up = False
        child.incarnation = incarnation = self._make(self.runtime, child.slot, self._parent)
        self.incarnations += 1
        epoch = incarnation.epoch
        self._limit(child, child.spec.start_limit_s, StartTimedOut(child.spec.id, epoch))
        try:
            incarnation.launch()
        except RuntimeError as error:  # no thread to be had
            self._parent.post(Exited(child.spec.id, epoch, StartFailed(error)))

    def came_up(self, child: Child, incarnation: Incarnation) -> None:
        """Let messages through to an incarnation that acknowledged its start."""
        child.cancel_timer()
        child.is_up, child.on_start_failure = True, "decide"
        child.running_since = self._clock.now()
        if child.spec.restart is Restart.TEMPORARY:
            # It is never started again: what its factory holds need not live as long as it does.
            child.spec = child.slot.spec = incarnation.spec = replace(child.spec, start=_started)
        child.slot.open(incarnation.mailbox)

    def ask_to_stop(self, child: Child, incarnation: Incarnation, *, deadline: float, parks: bool) -> None:
        """Ask for the end; `Exited` or `StopTimedOut` will follow. While it starts, its start limit holds."""
        child.slot.shut(State.STOPPING, parks=parks)
        child.stopping_since = self._clock.now()
        limit_s = child.spec.shutdown_limit_s if child.is_up else child.due - self._clock.now()
        self.limit_stop(child, incarnation, limit_s, deadline)

    def limit_stop(self, child: Child, incarnation: Incarnation, limit_s: float, deadline: float) -> None:
        """Bound the time to stop by `limit_s` from now and by `deadline`."""
        now = self._clock.now()
        child.cancel_timer()
        self._limit(
            child, min(limit_s, max(0.0, deadline - now)), StopTimedOut(child.spec.id, incarnation.epoch)
        )
        if child.spec.kind is Kind.SUPERVISOR and deadline < math.inf:
            # It must have given up its own children before we give it up.
            deadline -= min(_SUPERVISOR_MARGIN_S, _SUPERVISOR_MARGIN_SHARE * max(0.0, deadline - now))
        incarnation.mailbox.post(StopRequest(deadline))

    def pause(self, child: Child, delay_s: float, gate: Gate | None) -> None:
        """Wait before a restart, for a time or while a gate is closed; `RetryDue` will follow."""
        child.cancel_timer()
        child.slot.shut(State.BACKING_OFF, parks=True)
        child.gate = gate
        signal, parent = RetryDue(child.spec.id, child.ticket), self._parent
        if gate is not None and not gate.is_open:
            child.leave_gate = gate.when_open(lambda: _post(parent, signal))
            return
        child.slot.due = self._clock.now() + delay_s
        self._limit(child, delay_s, signal)

    def abandon(self, child: Child, incarnation: Incarnation, after_s: float) -> None:
        """Fence the incarnation and what runs below it; its thread is left to itself, a zombie."""
        why = f"{child.slot.path} was abandoned after {after_s:g} s"
        incarnation.abandon(why)
        self.runtime.names.abandon_below(child.slot, why)
        self.runtime.events.publish(
            ChildAbandoned(path=child.slot.path, epoch=incarnation.epoch, after_s=after_s)
        )

    def ended(self, child: Child) -> None:
        """Forget an incarnation that ended or was abandoned."""
        child.cancel_timer()
        if child.is_up and self._clock.now() - child.running_since >= child.spec.backoff.stable_after_s:
            child.failures = 0
        if child.incarnation is not None:
            self.incarnations -= 1
        child.incarnation = None
        child.is_up = False

    def _limit(self, child: Child, delay_s: float, signal: object) -> None:
        if delay_s < math.inf:
            child.due = self._clock.now() + delay_s
            parent = self._parent
            child.timer = self._clock.schedule(delay_s, lambda: _post(parent, signal))


def _started() -> NoReturn:
    raise RuntimeError("a temporary child is started once")


def _post(parent: Parent, signal: object) -> None:
    parent.post(signal)
