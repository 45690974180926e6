"""A stage on which everything may happen at any time, with a judge who knows what must never happen."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from stage import Puppet, Stage

from tinker_actors.supervision import (
    ChildSpec,
    CountChildren,
    Reply,
    RestartChild,
    Shutdown,
    StartChild,
    Strategy,
    SupervisorFlags,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.exits import cause_of
from tinker_actors.supervision.mailbox import Envelope
from tinker_actors.supervision.names import State
from tinker_actors.supervision.signals import Exited, StallDetected, Started, StopRequest, StopTimedOut

__all__ = ["JudgedStage"]

_OF_ONE = (Started, Exited, StallDetected)
_HAS_ONE = {State.STARTING, State.RUNNING, State.STOPPING}


class JudgedStage(Stage):
    """Handles only what it is told to; timers and gates may be late with what they have to say."""

    def __init__(self, flags: SupervisorFlags) -> None:
        super().__init__(flags)
        self.late: deque[Envelope] = deque()
        """What timers and gates have to say, and have not said yet."""
        self.replies: list[Reply] = []
        self.has_threads = True
        self._speaks_late = False
        self._known: dict[tuple[str, int], Puppet] = {}
        self._since: dict[Puppet, float] = {}
        """When the present time limit of each began: that of its start or that of its stop."""
        self._by_command: set[Puppet] = set()
        self._terminated: set[str] = set()
        self._at_gate: set[str] = set()
        self._forget()

    def begin(self, specs: Sequence[ChildSpec]) -> None:
        self._forget()
        super().begin(specs)

    def _forget(self) -> None:
        """What was known of an earlier life is no help in the next one."""
        self.late.clear()
        self.deadline = math.inf
        self._by_command.clear()
        self._terminated.clear()
        self._at_gate.clear()
        self._pauses: dict[str, float] = {}
        self._down: set[str] = set()
        self._restarts: dict[str, int] = {}
        self._message: Any = None

    @property
    def is_grouped(self) -> bool:
        """Whether one child's failure may concern others."""
        return not self.flags.is_dynamic and self.flags.strategy is not Strategy.ONE_FOR_ONE

    # What the test does.

    def on_post(self, envelope: Envelope) -> None:
        (self.late if self._speaks_late else self.signals).append(envelope)

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due then is late."""
        self._speaks_late = True
        self.clock.advance(seconds)
        self._speaks_late = False

    def arrive(self, count: int) -> None:
        """Let what was late reach the desk."""
        for _ in range(min(count, len(self.late))):
            self.signals.append(self.late.popleft())

    def deliver(self, count: int) -> None:
        """Let the supervisor handle what lies on its desk."""
        for _ in range(count):
            if self.signals:
                self.handle(self.signals.popleft())

    def go_on(self, steps: int) -> bool:
        """Let the children do what they are asked for, so many times; False when nothing is left but to wait."""
        for _ in range(steps):
            if self.late or self.signals:
                self.arrive(1)
                self.deliver(1)
            elif not any(self._go_on(puppet) for puppet in self.puppets if puppet.is_live):
                return False
        return True

    def come_to_rest(self) -> None:
        """Go on until nothing is left to do, also later."""
        for _ in range(1_000):
            if self.go_on(1_000):
                break
            due = self.clock._heap.next_due()
            if due == math.inf:
                return
            self.advance(max(0.0, due - self.clock.now()))
        raise AssertionError("it does not come to rest")

    def only_wait(self, until: float) -> None:
        """Let the children do nothing more, for so long."""
        while True:
            self.arrive(len(self.late))
            self.deliver(len(self.signals))
            if not self.late and not self.signals:
                due = self.clock._heap.next_due()
                if due > until:
                    return
                self.advance(max(0.0, due - self.clock.now()))

    def _go_on(self, puppet: Puppet) -> bool:
        if not puppet.is_acknowledged:
            puppet.acknowledge()
        elif puppet.is_asked_to_stop:
            self.end(puppet, Shutdown())
        else:
            return False
        return True

    # What must never happen.

    def handle(self, envelope: Envelope) -> None:
        message = self._message = envelope.message
        table = self.children.table
        match message:
            case StartChild(spec):
                self._release(spec.id)
            case RestartChild(name):
                self._release(name)
            case TerminateChild(name) if name in table:
                self._release(name)
                self._terminated.add(name)
            case StopRequest(deadline):
                self.deadline = min(self.deadline, deadline)
        slots = {name: child.slot for name, child in table.items()}
        self._pauses = {name: slot.due for name, slot in slots.items() if slot.state is State.BACKING_OFF}
        self._down = {name for name, slot in slots.items() if slot.state is State.DOWN}
        self._restarts = {name: slot.restarts for name, slot in slots.items()}
        before = self._picture() if self._is_stale(message) else None
        super().handle(envelope)
        assert before is None or before == self._picture(), f"{message} changed something"
        restarted = self._restarted()
        if restarted:
            self._let_go_along()
        for name in restarted:
            if isinstance(message, Exited) and isinstance(
                cause_of(message.reason), table[name].spec.free_causes
            ):
                self._at_gate.add(name)
        self._check_table()

    def _restarted(self) -> list[str]:
        """Those that this message made the supervisor restart, for their own sake."""
        children = self.children.table.items()
        return [name for name, child in children if child.slot.restarts > self._restarts.get(name, 0)]

    def _let_go_along(self) -> None:
        """A group restart takes those along that were down before."""
        if self.is_grouped:
            self._terminated -= self._down

    def _release(self, name: str) -> None:
        """A command is about this child: what held it before does not hold it any more."""
        self._terminated.discard(name)
        self._at_gate.discard(name)

    def on_launch(self, puppet: Puppet) -> None:
        message, table, name = self._message, self.children.table, puppet.id
        is_asked_for = (isinstance(message, StartChild) and message.spec.id == name) or (
            isinstance(message, RestartChild) and message.id == name
        )
        others = list(table.values())
        earlier = others[: list(table).index(name)]
        assert not self.children.is_stopping, "started during the shutdown"
        assert not any(one.id == name and one.is_live for one in self.puppets), "two of one child"
        known = [epoch for one, epoch in self._known if one == name]
        assert puppet.epoch > max(known, default=0), "an epoch was given twice"
        if self._restarted():
            self._let_go_along()
        assert name not in self._terminated, "restarted after it was terminated"
        gate = puppet.spec.gate
        assert name not in self._at_gate or gate is None or gate.is_open, "started before a closed gate"
        self._at_gate.discard(name)
        if is_asked_for:
            self._by_command.add(puppet)
        else:
            assert not any(one.slot.state is State.PENDING for one in earlier), "started out of turn"
            if self.is_grouped:
                starting = [one.incarnation for one in others if one.slot.state is State.STARTING]
                assert set(starting) - self._by_command <= {puppet}, "started before the one before was up"
            else:
                due = self._pauses.get(name, -math.inf)
                assert due <= self.clock.now() or due == math.inf, "started before its pause was over"
        self._known[name, puppet.epoch] = puppet
        self._since[puppet] = self.clock.now()
        if not self.has_threads:
            self.has_threads = True
            raise RuntimeError("can't start new thread")
        super().on_launch(puppet)

    def on_stop_request(self, puppet: Puppet) -> None:
        super().on_stop_request(puppet)
        message, table = self._message, self.children.table
        if table[puppet.id].is_up:
            self._since[puppet] = self.clock.now()
        if self.flags.is_dynamic or (isinstance(message, TerminateChild) and message.id == puppet.id):
            return
        assert self.children.is_stopping or self.is_grouped, "stopped although nothing concerned it"
        later = list(table.values())[list(table).index(puppet.id) + 1 :]
        alive = {child.incarnation for child in later} - {None}
        if not self.children.is_stopping:
            alive -= self._by_command
        assert not alive, "stopped before a later one had ended"

    def on_abandon(self, puppet: Puppet) -> None:
        if isinstance(self._message, StallDetected):
            return
        assert isinstance(self._message, StopTimedOut) == puppet.is_asked_to_stop, "given up while it ran"
        is_up = self.children.table[puppet.id].is_up
        limit_s = puppet.spec.shutdown_limit_s if is_up else puppet.spec.start_limit_s
        until = min(self._since[puppet] + limit_s, self.deadline)
        assert self.clock.now() >= until, "given up before its time was over"

    def _is_stale(self, message: Any) -> bool:
        if not isinstance(message, _OF_ONE):
            return False
        puppet = self._known[message.id, message.epoch]
        return puppet.is_fenced

    def _picture(self) -> object:
        children = [
            (name, child.slot.state, child.slot.epoch, child.slot.restarts, child.slot.last_exit, child.due)
            for name, child in self.children.table.items()
        ]
        return children, len(self.log), [reply.done() for reply in self.replies]

    def _check_table(self) -> None:
        table = self.children.table
        incarnations = {child.incarnation for child in table.values()} - {None}
        assert len(incarnations) == self.children.lifecycle.incarnations
        assert {puppet for puppet in self.puppets if puppet.is_live} <= incarnations, "nobody minds a child"
        for child in table.values():
            assert (child.incarnation is not None) == (child.slot.state in _HAS_ONE)
            assert child.slot.state is not State.RUNNING or child.is_up
        if self.is_over:
            assert not self.deferred, "a command has no answer although the supervisor ended"
            assert not incarnations
            assert {child.slot.state for child in table.values()} <= {State.STOPPED}

    def check_answers(self) -> None:
        """Ask the supervisor, past its desk, for what it always answers at once."""
        which, counts = Reply(), Reply()
        super().handle(Envelope(WhichChildren(), which))
        super().handle(Envelope(CountChildren(), counts))
        states = [child.state for child in which.result()]
        count = counts.result()
        assert count.specs == len(states) == count.workers + count.supervisors
        running, stopping = states.count("running"), states.count("stopping")
        assert running <= count.active <= running + stopping
