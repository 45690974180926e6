"""The breaker beside a naive model, under any sequence of calls, outcomes and pauses."""

import random
from typing import Any

import pytest
from breaker_model import TTL_S, Model, Probe
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinker_actors.supervision.breaker import Outcome, Permit, Refusal
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.circuit import Circuit

SETTINGS = st.fixed_dictionaries(
    {
        "consecutive_failures": st.none() | st.integers(1, 4),
        "failure_rate": st.sampled_from([0.25, 0.5, 2 / 3, 1.0]),
        "min_calls": st.integers(1, 4),
        "window_calls": st.integers(4, 6),
        "window_s": st.none() | st.sampled_from([1.0, 20.0]),
        "half_open_permits": st.integers(1, 3),
        "slow_call_s": st.none() | st.just(2.0),
        "slow_call_rate": st.sampled_from([0.5, 1.0]),
        "mode": st.sampled_from([*[BreakerMode.AUTOMATIC] * 5, *BreakerMode]),
    }
)


class BreakerMachine(RuleBasedStateMachine):
    """Calls that overlap in any way."""

    @initialize(fields=SETTINGS)
    def make(self, fields: dict[str, Any]) -> None:
        self.now = 0.0
        chosen = BreakerSettings(jitter=0.0, open_s=4.0, max_open_s=20.0, **fields)
        self.circuit = Circuit(chosen, lambda: self.now, random.Random(0))
        self.model = Model(chosen)
        self.under_way: list[tuple[Permit, Probe | int, bool]] = []
        """With whether it was told of each that it is slow."""
        self.told = 0
        self.circuit.watch(self.note_change)

    def note_change(self) -> None:
        self.told += 1

    @rule()
    def ask(self) -> None:
        answer, expected = self.circuit.admit(TTL_S), self.model.ask(self.now)
        if isinstance(answer, Refusal):
            assert expected is None
            assert 0 < answer.retry_after_s <= 90.0
            assert self.model.mode != "open" or answer.retry_after_s == self.model.until - self.now
            assert answer.is_forced == (self.model.mode == "forced open")
        else:
            assert expected is not None
            self.under_way.append((answer, expected, False))

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        wish_s=st.none() | st.just(90.0),
        duration_s=st.sampled_from([None, 0.5, 2.0]),
        again=st.booleans(),
    )
    def end(
        self,
        data: st.DataObject,
        outcome: Outcome,
        wish_s: float | None,
        duration_s: float | None,
        again: bool,
    ) -> None:
        which = data.draw(st.integers(0, len(self.under_way) - 1))
        permit, call, is_slow = self.under_way.pop(which)
        if is_slow:
            duration_s = None
        for _ in range(2 if again and isinstance(call, Probe) else 1):
            self.circuit.settle(permit, outcome, wish_s, duration_s)
            self.model.end(call, outcome, self.now, wish_s, duration_s)

    @precondition(lambda self: any(not is_slow for _, _, is_slow in self.under_way))
    @rule(data=st.data())
    def turn_out_slow(self, data: st.DataObject) -> None:
        waiting = [place for place, (_, _, is_slow) in enumerate(self.under_way) if not is_slow]
        which = data.draw(st.sampled_from(waiting))
        permit, call, _ = self.under_way[which]
        self.under_way[which] = permit, call, True
        self.circuit.note_slow(permit)
        self.model.overrun(call, self.now)

    @rule(
        outcomes=st.lists(st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]), min_size=1, max_size=5),
        duration_s=st.sampled_from([None, 0.5, 2.0]),
    )
    def call_one_after_the_other(self, outcomes: list[Outcome], duration_s: float | None) -> None:
        for outcome in outcomes:
            answer, expected = self.circuit.admit(TTL_S), self.model.ask(self.now)
            if isinstance(answer, Permit):
                assert expected is not None
                self.circuit.settle(answer, outcome, None, duration_s)
                self.model.end(expected, outcome, self.now, None, duration_s)

    @rule(seconds=st.sampled_from([0.0625, 0.125, 1.0, 3.875, 4.0, 8.0, TTL_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        self.circuit.advance()
        self.model.pass_time(self.now)

    @rule()
    def reset(self) -> None:
        self.circuit.reset()
        self.model.reset()

    @rule(mode=st.sampled_from([*[BreakerMode.AUTOMATIC] * 4, *BreakerMode]))
    def force(self, mode: BreakerMode) -> None:
        self.circuit.force(mode)
        self.model.force(mode)

    @invariant()
    def states_agree(self) -> None:
        if hasattr(self, "model"):
            assert self.model.agrees_with(self.circuit.state, self.now)
            assert self.told >= self.model.life


def check(sequences: int, part: int = 0) -> None:
    """Run that many sequences; each part has others."""

    @seed(part)
    class Machine(BreakerMachine):
        pass

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_sequence_of_calls_does_what_the_naive_breaker_would() -> None:
    """BRK-01, BRK-02, BRK-03, BRK-04, BRK-05, BRK-06, BRK-07, BRK-08, BRK-09, BRK-10."""
    check(2_000)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, 26))
def test_any_of_very_many_sequences_of_calls_does_what_the_naive_breaker_would(part: int) -> None:
    """The same for 50,000 sequences, in parts that each end in time."""
    check(2_000, part)
