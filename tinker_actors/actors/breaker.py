"""The actor of one circuit: it tells what became of it, and watches its times. Calls are admitted without it."""

from functools import partial
from typing import Any

from tinker_actors.events import CircuitClosed, CircuitForced, CircuitHalfOpened, CircuitOpened
from tinker_actors.supervision import Backoff, ChildSpec, Circuit, ExitReason, SupervisedActor, Timer
from tinker_actors.supervision.breaker import Closed, HalfOpen, Open, State, mode_of, next_change

__all__ = ["CircuitBreakerActor", "Reset", "breaker_spec"]

_BACKOFF = Backoff(base_s=0.05, cap_s=5.0)


class Reset:
    """Have the circuit begin anew, as its settings say, with nothing remembered."""


class _Changed:
    """The circuit is in another state, or time may have put it there."""


class CircuitBreakerActor(SupervisedActor):
    """Looks after the circuit of one operation.

    The circuit is not its own: it admits and refuses as before while this actor is restarted, and what happened
    meanwhile is told by the next incarnation.
    """

    def __init__(self, operation: str, circuit: Circuit) -> None:
        super().__init__()
        self._operation = operation
        self._circuit = circuit
        self._timer: Timer | None = None

    def on_start(self) -> None:
        self._unwatch = self._circuit.watch(self._note_changed)
        self.context.me.tell(_Changed())  # what an earlier incarnation did not get to

    def on_receive(self, message: Any) -> None:
        match message:
            case Reset():
                self._circuit.reset()
            case _Changed():
                self._look()

    def on_exit(self, reason: ExitReason) -> None:  # noqa: ARG002 - the same for each reason
        if hasattr(self, "_unwatch"):
            self._unwatch()

    def _note_changed(self) -> None:
        """In the thread of whoever moved the circuit."""
        self.context.me.tell_if_there(_Changed())  # else the next incarnation looks

    def _look(self) -> None:
        state = self._circuit.advance()
        for change in self._circuit.take_changes():
            self.context.emit(self._told(change))
        if self._timer is not None:
            self._timer.cancel()
        due = next_change(state)
        if due is not None:
            self._timer = self.context.send_after(max(0.0, due - self.context.clock.now()), _Changed())

    def _told(self, state: State) -> CircuitOpened | CircuitHalfOpened | CircuitClosed | CircuitForced:
        operation = self._operation
        match state:
            case Open(until=until, trips=trips):
                open_s = max(0.0, until - self.context.clock.now())
                return CircuitOpened(operation=operation, open_s=open_s, trips=trips)
            case HalfOpen():
                return CircuitHalfOpened(operation=operation)
            case Closed(is_forced=False):
                return CircuitClosed(operation=operation, refused=self._circuit.refused)
            case _:
                return CircuitForced(operation=operation, mode=str(mode_of(state)))


def breaker_spec(operation: str, circuit: Circuit) -> ChildSpec:
    """The child that looks after `circuit`."""
    return ChildSpec(operation, partial(CircuitBreakerActor, operation, circuit), backoff=_BACKOFF)
