"""The supervisor under random commands: beside a naive model, and in any order of what happens at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from judged_stage import JudgedStage
from stage import PromptStage, Puppet, word_of
from supervisor_model import Answer, SupervisorModel

from tinker_actors.supervision import (
    IGNORED,
    NORMAL,
    AutoShutdown,
    Backoff,
    ChildCounts,
    ChildSpec,
    CountChildren,
    DeleteChild,
    Error,
    ExitReason,
    Gate,
    GetChildSpec,
    Kind,
    Reply,
    Restart,
    RestartChild,
    Shutdown,
    ShutdownWith,
    Stalled,
    StartChild,
    StartFailed,
    Strategy,
    SupervisorFlags,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.signals import (
    Exited,
    RetryDue,
    StallDetected,
    Started,
    StartTimedOut,
    StopRequest,
    StopTimedOut,
)

IDS = "cabed"  # not sorted: start order is not the order of the alphabet
FREE = (ConnectionError,)

# Multiples of 1/2, so that sums are exact.
ids = st.sampled_from(IDS)
picks = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])
starts = st.sampled_from(["fail", "fail free", "hang", "ignore", "no thread", "die"])
stops = st.sampled_from(["obey", "crash", "hang"])
strategies = st.sampled_from([*Strategy, Strategy.REST_FOR_ONE, None])


@dataclass(frozen=True)
class Draft:
    """What is drawn of a child spec."""

    restart: Restart
    base_s: float
    cap_s: float
    is_gated: bool
    is_significant: bool
    shutdown_s: float
    start_timeout_s: float
    kind: Kind

    def spec(self, name: str, gate: Gate) -> ChildSpec:
        return ChildSpec(
            name,
            lambda: IGNORED,
            self.restart,
            shutdown_s=self.shutdown_s,
            start_timeout_s=self.start_timeout_s,
            backoff=Backoff(base_s=self.base_s, cap_s=self.cap_s, jitter=0.0, stable_after_s=6.0),
            kind=self.kind,
            free_causes=FREE if self.base_s > 0 else (),
            gate=gate if self.is_gated else None,
            significant=self.is_significant and self.restart is not Restart.PERMANENT,
        )


drafts = st.builds(
    Draft,
    restart=st.sampled_from([Restart.PERMANENT, *Restart]),
    base_s=st.sampled_from([0.0, 0.5, 1.0]),
    cap_s=st.sampled_from([1.0, 4.0]),
    is_gated=st.booleans(),
    is_significant=st.booleans(),
    shutdown_s=st.sampled_from([0.0, 1.0, 3.5]),
    start_timeout_s=st.sampled_from([0.5, 2.0]),
    kind=st.sampled_from(Kind),
)


def flags_of(
    strategy: Strategy | None, auto_shutdown: AutoShutdown, max_children: int | None, **limits: Any
) -> SupervisorFlags:
    """Those of a static supervisor, or of a dynamic one when there is no strategy."""
    if strategy is None:
        return SupervisorFlags(is_dynamic=True, max_children=max_children, **limits)
    return SupervisorFlags(strategy=strategy, auto_shutdown=auto_shutdown, **limits)


def specs_of(flags: SupervisorFlags, children: list[Draft], gate: Gate) -> list[ChildSpec]:
    """Those that a supervisor with these flags can begin with."""
    specs = [draft.spec(name, gate) for name, draft in zip(IDS, children, strict=False)]
    usable = [spec for spec in specs if not spec.significant or flags.auto_shutdown != "never"]
    return [] if flags.is_dynamic else usable


class ModelMachine(RuleBasedStateMachine):
    """One supervisor that comes to rest after each step, and its model."""

    @initialize(
        strategy=strategies,
        auto_shutdown=st.sampled_from(AutoShutdown),
        max_children=st.sampled_from([None, 2, 4]),
        max_restarts=st.sampled_from([0, 1, 2, 3, 5, 8]),
        within_s=st.sampled_from([2.0, 8.0, 60.0]),
        max_zombies=st.integers(0, 2),
        children=st.lists(drafts, min_size=1, max_size=4),
        first=st.lists(st.tuples(ids, starts), max_size=1),
    )
    def make(
        self,
        strategy: Strategy | None,
        auto_shutdown: AutoShutdown,
        max_children: int | None,
        children: list[Draft],
        first: list[tuple[str, str]],
        **limits: Any,
    ) -> None:
        self.gate = Gate()
        self.flags = flags_of(strategy, auto_shutdown, max_children, **limits)
        self.stage, self.model = PromptStage(self.flags), SupervisorModel(self.flags)
        self.asked: list[tuple[Reply, Answer]] = []
        for name, how in first:
            self.arm_start(name, how, 1)
        self.begin(children)

    def begin(self, children: list[Draft]) -> None:
        static = specs_of(self.flags, children, self.gate)
        self.stage.begin(static)
        self.stage.rest()
        self.model.begin(static)

    @property
    def is_over(self) -> bool:
        return self.model.is_over

    @property
    def states(self) -> set[str]:
        return {child.state for child in self.model.table.values()}

    @property
    def somebody_runs(self) -> bool:
        return not self.is_over and bool(self.model.running)

    # What the children will do.

    @rule(name=ids, how=starts, times=st.sampled_from([1, 1, 2, 4]))
    def arm_start(self, name: str, how: str, times: int) -> None:
        for told in (self.stage.starts, self.model.starts):
            told.setdefault(name, []).extend([how] * times)

    @rule(name=ids, how=stops)
    def arm_stop(self, name: str, how: str) -> None:
        for told in (self.stage.stops, self.model.stops):
            told.setdefault(name, []).append(how)

    # What happens to them.

    @precondition(lambda self: self.somebody_runs)
    @rule(pick=picks, is_free=st.booleans())
    def crash(self, pick: int, is_free: bool) -> None:
        error = ConnectionError("nobody there") if is_free else ValueError("crashed")
        self.end(pick, Error(error), error)

    @precondition(lambda self: self.somebody_runs)
    @rule(pick=picks, reason=st.sampled_from([NORMAL, Shutdown(), ShutdownWith("done"), IGNORED]))
    def leave(self, pick: int, reason: ExitReason) -> None:
        self.end(pick, reason, None)

    def end(self, pick: int, reason: ExitReason, error: Exception | None) -> None:
        child = self.model.running[pick % len(self.model.running)]
        puppet = self.live_puppet(child.spec.id)
        self.stage.end(puppet, reason)
        self.stage.rest()
        self.model.child_ends(child.spec.id, type(reason).__name__, error)

    @precondition(lambda self: self.somebody_runs)
    @rule(pick=picks)
    def stall(self, pick: int) -> None:
        child = self.model.running[pick % len(self.model.running)]
        error = TimeoutError("does not return")
        epoch = self.live_puppet(child.spec.id).epoch
        self.stage.desk.post(StallDetected(child.spec.id, epoch, 600.0, Stalled(error, "")))
        self.stage.rest()
        self.model.child_ends(child.spec.id, "Stalled", error)

    def live_puppet(self, name: str) -> Any:
        [puppet] = [one for one in self.stage.puppets if one.id == name and one.is_live]
        return puppet

    @precondition(lambda self: self.stage.zombies)
    @rule(pick=picks)
    def zombie_ends(self, pick: int) -> None:
        zombie = self.stage.zombies[pick % len(self.stage.zombies)]
        self.stage.end(zombie, Error(ValueError("late")))
        self.stage.rest()
        self.model.zombies.remove((zombie.id, zombie.epoch))

    @precondition(lambda self: not self.is_over)
    @rule(name=ids, age=st.integers(1, 3), ticket=st.integers(0, 3))
    def stale_signals(self, name: str, age: int, ticket: int) -> None:
        known = self.model.names.get(name)
        epoch = 0 if known is None else max(0, known.epoch - age)
        child = self.stage.children.table.get(name)
        for signal in (
            Started(name, epoch),
            Exited(name, epoch, Error(ValueError("late"))),
            StartTimedOut(name, epoch),
            StopTimedOut(name, epoch),
            StallDetected(name, epoch, 600.0, Stalled(TimeoutError(), "")),
            RetryDue(name, -1 - ticket if child is None else child.ticket - 1 - ticket),
        ):
            self.stage.desk.post(signal)
        self.stage.rest()

    @rule(opens=st.booleans())
    def turn_gate(self, opens: bool) -> None:
        if not opens:
            self.gate.close()
            return
        self.gate.open()
        self.stage.rest()
        if not self.is_over:
            self.model.open_gate(self.gate)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, 8.0]))
    def pass_time(self, seconds: float) -> None:
        self.stage.pass_time(seconds)
        self.model.pass_time(seconds)

    @precondition(lambda self: self.gate.is_open and any(child.gate for child in self.model.table.values()))
    @rule()
    def close_gate_before_a_pause_is_over(self) -> None:
        self.gate.close()
        self.pass_time(2.5)

    # Commands.

    def ask(self, command: Command) -> Reply:
        reply = self.stage.ask(command)
        self.stage.rest()
        return reply

    def aim(self, pick: int, *states: str) -> str:
        """An id; the first ones that can be picked are those of children in these states, or of none."""
        table = self.model.table
        order = sorted(
            IDS, key=lambda name: (table[name].state if name in table else "unknown") not in states
        )
        return order[pick]

    @precondition(lambda self: not self.is_over)
    @rule(pick=picks, draft=drafts, retries=st.booleans())
    def start_child(self, pick: int, draft: Draft, retries: bool) -> None:
        spec = draft.spec(self.aim(pick, "unknown"), self.gate)
        reply = self.ask(StartChild(spec, retries))
        self.asked.append((reply, self.model.start(spec, retries=retries)))

    @precondition(lambda self: not self.is_over)
    @rule(pick=picks)
    def terminate_child(self, pick: int) -> None:
        name = self.aim(pick, "running", "pending", "backing_off")
        self.asked.append((self.ask(TerminateChild(name)), self.model.terminate(name)))

    @precondition(lambda self: not self.is_over)
    @rule(pick=picks)
    def restart_child(self, pick: int) -> None:
        name = self.aim(pick, "down", "backing_off")
        self.asked.append((self.ask(RestartChild(name)), self.model.restart(name)))

    @precondition(lambda self: not self.is_over and "pending" in self.states)
    @rule(pick=picks)
    def jump_the_queue(self, pick: int) -> None:
        name = self.aim(pick, "pending")
        self.asked.append((self.ask(TerminateChild(name)), self.model.terminate(name)))
        if not self.is_over:
            self.asked.append((self.ask(RestartChild(name)), self.model.restart(name)))

    @precondition(lambda self: not self.is_over)
    @rule(pick=picks)
    def delete_child(self, pick: int) -> None:
        name = self.aim(pick, "down")
        self.asked.append((self.ask(DeleteChild(name)), self.model.delete(name)))

    @precondition(lambda self: not self.is_over)
    @rule(name=ids)
    def ask_about(self, name: str) -> None:
        counts = self.ask(CountChildren()).result()
        specs = [child.spec for child in self.model.table.values()]
        supervisors = sum(spec.kind == "supervisor" for spec in specs)
        assert counts == ChildCounts(
            specs=len(specs),
            active=len(self.model.running),
            supervisors=supervisors,
            workers=len(specs) - supervisors,
        )
        reply = self.ask(GetChildSpec(name))
        if name in self.model.table:
            spec = self.model.table[name].spec
            assert (reply.result().id, reply.result().backoff) == (name, spec.backoff)
        else:
            assert word_of(reply) == "not_found"

    # The supervisor's own life.

    @precondition(lambda self: not self.is_over)
    @rule(within_s=st.sampled_from([None, 0.0, 2.0, math.inf]), is_heard=st.booleans())
    def shut_down(self, within_s: float | None, is_heard: bool) -> None:
        if within_s is None:
            return
        for child in self.model.running if not is_heard else []:
            self.arm_stop(child.spec.id, "hang")
        deadline = self.model.now + within_s
        self.stage.desk.post(StopRequest(deadline))
        self.stage.rest()
        self.model.shut_down(deadline)

    @precondition(lambda self: self.is_over)
    @rule(children=st.lists(drafts, max_size=4))
    def begin_again(self, children: list[Draft]) -> None:
        self.begin(children)

    # What must be equal.

    @invariant()
    def the_children_stand_as_in_the_model(self) -> None:
        assert [
            (slot.spec.id, str(slot.state), slot.epoch, slot.restarts, word(slot.last_exit))
            for slot in (child.slot for child in self.stage.children.table.values())
        ] == [
            (name, child.state, child.name.epoch, child.name.restarts, child.name.last_exit)
            for name, child in self.model.table.items()
        ]
        assert list(self.stage.home.children) == list(self.model.table)

    @precondition(lambda self: not self.is_over)
    @invariant()
    def which_children_says_so(self) -> None:
        assert [(info.id, info.state, info.epoch) for info in self.ask(WhichChildren()).result()] == [
            (name, child.state, child.name.epoch) for name, child in self.model.table.items()
        ]

    @invariant()
    def they_were_started_and_stopped_in_the_order_of_the_model(self) -> None:
        assert self.stage.log == self.model.log

    @invariant()
    def every_command_has_the_answer_of_the_model(self) -> None:
        assert [word_of(reply) for reply, _ in self.asked] == [answer.word for _, answer in self.asked]

    @invariant()
    def the_supervisor_itself_fares_as_in_the_model(self) -> None:
        stage, model = self.stage, self.model
        assert stage.is_over == model.is_over
        assert verdict_word(stage.children.verdict) == model.verdict
        assert stage.clock.now() == model.now
        assert set(stage.runtime.zombies) == {(f"root/sup/{name}", epoch) for name, epoch in model.zombies}
        assert stage.home.restarts_in_window == model.in_window
        assert stage.children.lifecycle.incarnations == len(model.running)

    @precondition(lambda self: self.is_over)
    @invariant()
    def nothing_is_left_of_a_supervisor_that_ended(self) -> None:
        assert self.stage.children.is_empty
        assert not any(puppet.is_live for puppet in self.stage.puppets)
        assert not self.stage.deferred

    def teardown(self) -> None:
        if not hasattr(self, "model") or self.is_over:
            return
        self.shut_down(math.inf, is_heard=True)
        self.they_were_started_and_stopped_in_the_order_of_the_model()
        self.nothing_is_left_of_a_supervisor_that_ended()
        assert "open" not in [word_of(reply) for reply, _ in self.asked]


class OrderMachine(RuleBasedStateMachine):
    """One supervisor whose children, timers and commands come in any order, under the eyes of a judge."""

    @initialize(
        strategy=strategies,
        auto_shutdown=st.sampled_from(AutoShutdown),
        max_children=st.sampled_from([None, 4]),
        max_restarts=st.sampled_from([1, 3, 8, 100]),
        max_zombies=st.sampled_from([0, 2, 100]),
        children=st.lists(drafts, min_size=2, max_size=5),
        steps=st.sampled_from([0, 3, 100, 100]),
    )
    def make(
        self,
        strategy: Strategy | None,
        auto_shutdown: AutoShutdown,
        max_children: int | None,
        children: list[Draft],
        steps: int,
        **limits: Any,
    ) -> None:
        self.gate = Gate()
        self.flags = flags_of(strategy, auto_shutdown, max_children, **limits)
        self.stage = JudgedStage(self.flags)
        self.begin(children)
        self.stage.go_on(steps)

    def begin(self, children: list[Draft]) -> None:
        self.stage.begin(specs_of(self.flags, children, self.gate))

    @property
    def is_over(self) -> bool:
        return self.stage.is_over

    # What the children do.

    def pick(self, pick: int, puppets: list[Puppet]) -> Puppet:
        return puppets[-1 - pick % len(puppets)]

    @property
    def starting(self) -> list[Puppet]:
        return [puppet for puppet in self.stage.puppets if not puppet.is_acknowledged]

    @property
    def up(self) -> list[Puppet]:
        return [puppet for puppet in self.stage.puppets if puppet.is_acknowledged]

    @property
    def stopping(self) -> list[Puppet]:
        return [puppet for puppet in self.up if puppet.is_asked_to_stop]

    @precondition(lambda self: self.starting)
    @rule(pick=picks, then=st.booleans())
    def come_up(self, pick: int, then: bool) -> None:
        self.pick(pick, self.starting).acknowledge()
        if then:
            self.stage.deliver(100)

    @precondition(lambda self: self.starting)
    @rule(
        pick=picks, reason=st.sampled_from([StartFailed(ValueError()), IGNORED, NORMAL, Error(ValueError())])
    )
    def not_come_up(self, pick: int, reason: ExitReason) -> None:
        self.stage.end(self.pick(pick, self.starting), reason)

    @precondition(lambda self: self.up)
    @rule(pick=picks, reason=st.sampled_from([Error(ValueError()), Error(ConnectionError()), NORMAL]))
    def end(self, pick: int, reason: ExitReason) -> None:
        self.stage.end(self.pick(pick, self.up), reason)

    @precondition(lambda self: self.stopping)
    @rule(pick=picks, then=st.booleans())
    def stop(self, pick: int, then: bool) -> None:
        self.stage.end(self.pick(pick, self.stopping), Shutdown())
        if then:
            self.stage.deliver(100)

    @precondition(lambda self: self.up)
    @rule(pick=picks)
    def stall(self, pick: int) -> None:
        puppet = self.pick(pick, self.up)
        reason = Stalled(TimeoutError("does not return"), "")
        puppet.desk.post(StallDetected(puppet.id, puppet.epoch, 600.0, reason))

    @rule(steps=st.sampled_from([1, 2, 4, 100]))
    def go_on(self, steps: int) -> None:
        self.stage.go_on(steps)

    @rule()
    def run_out_of_threads(self) -> None:
        self.stage.has_threads = False

    # What time does.

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 8.0]))
    def pass_time(self, seconds: float) -> None:
        self.stage.advance(seconds)

    @precondition(lambda self: self.stage.late)
    @rule(count=st.sampled_from([1, 100]))
    def arrive(self, count: int) -> None:
        self.stage.arrive(count)

    @precondition(lambda self: self.stage.signals)
    @rule(count=st.sampled_from([1, 1, 2, 100]))
    def deliver(self, count: int) -> None:
        self.stage.deliver(count)

    @rule(opens=st.booleans())
    def turn_gate(self, opens: bool) -> None:
        (self.gate.open if opens else self.gate.close)()

    # What is asked.

    @precondition(lambda self: not self.is_over)
    @rule(name=ids, draft=drafts, retries=st.booleans(), then=st.booleans())
    def start_child(self, name: str, draft: Draft, retries: bool, then: bool) -> None:
        self.ask(StartChild(draft.spec(name, self.gate), retries), then=then)

    @precondition(lambda self: not self.is_over)
    @rule(
        name=ids,
        command=st.sampled_from([TerminateChild, RestartChild, RestartChild, DeleteChild]),
        then=st.booleans(),
    )
    def command(self, name: str, command: Callable[[str], Command], then: bool) -> None:
        self.ask(command(name), then=then)

    def ask(self, command: Command, *, then: bool) -> None:
        self.stage.replies.append(self.stage.ask(command))
        if then:
            self.stage.deliver(100)

    @precondition(lambda self: not self.is_over)
    @rule(within_s=st.sampled_from([None, None, 0.0, 2.0, math.inf]))
    def shut_down(self, within_s: float | None) -> None:
        if within_s is not None:
            self.stage.desk.post(StopRequest(self.stage.clock.now() + within_s))

    @precondition(lambda self: self.is_over)
    @rule(children=st.lists(drafts, max_size=5))
    def begin_again(self, children: list[Draft]) -> None:
        self.begin(children)

    # What always holds; the judge of the stage looks at the rest.

    @precondition(lambda self: not self.is_over)
    @invariant()
    def it_answers_at_once(self) -> None:
        self.stage.check_answers()

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        if stage.deadline < math.inf and not stage.is_over:
            stage.only_wait(max(stage.deadline, stage.clock.now()))
            assert stage.is_over, "it lived longer than its deadline"
        self.gate.open()
        stage.come_to_rest()
        assert all(reply.done() for reply in stage.replies)
        if not stage.is_over:
            states = {child.slot.state for child in stage.children.table.values()}
            assert states <= {"running", "down"}
            stage.desk.post(StopRequest(math.inf))
            stage.come_to_rest()
        assert stage.is_over
        assert stage.children.is_empty
        for puppet in list(stage.puppets):
            assert puppet.is_fenced
            stage.end(puppet, NORMAL)
        assert not stage.runtime.zombies


def word(reason: ExitReason | None) -> str | None:
    return None if reason is None else type(reason).__name__


def verdict_word(verdict: ExitReason | None) -> str | None:
    """Why the supervisor ends itself."""
    match verdict:
        case StartFailed():
            return "did not start"
        case Shutdown(detail) if detail.endswith("it was significant"):
            return "significant"
        case Shutdown(detail):
            return "zombies" if "threads" in detail else "restarts"
        case _:
            return None


def check(machine: type[RuleBasedStateMachine], sequences: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_sequence_of_commands_and_crashes_does_what_a_naive_supervisor_would() -> None:
    """SUP-02, SUP-03, SUP-06, SUP-08, SUP-09, SUP-12, SUP-14 to SUP-20, SUP-23 to SUP-26, SUP-29."""
    check(ModelMachine, 1_500)


def test_any_order_of_commands_crashes_and_timers_keeps_epochs_turns_and_answers() -> None:
    """SUP-06, SUP-09, SUP-16, SUP-17, SUP-20, SUP-25, SUP-27, SUP-28, SUP-29."""
    check(OrderMachine, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [ModelMachine, OrderMachine])
def test_any_of_very_many_sequences_passes_too(machine: type[RuleBasedStateMachine]) -> None:
    """The ids of both."""
    check(machine, 25_000)
