"""The breaker beside a naive model, under any sequence of calls, outcomes and pauses."""

import math
import random
from dataclasses import dataclass, field
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

from tinker_actors.supervision.breaker import BreakerSettings, Closed, Outcome, Permit, Refusal
from tinker_actors.supervision.circuit import Circuit

TTL_S = 30.0


@dataclass
class Probe:
    """One call that a half-open circuit let through."""

    expires_at: float
    outcome: Outcome | None = None


@dataclass
class Model:
    """A breaker as one would tell it: it keeps every call it ever saw, and looks through all of them each time."""

    settings: BreakerSettings
    mode: str = "closed"
    calls: list[tuple[float, bool]] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    trips: int = 0
    until: float = 0.0
    life: int = 0
    """Counts changes of `mode`."""

    def become(self, mode: str) -> None:
        self.mode = mode
        self.life += 1
        self.calls, self.probes = [], []
        if mode == "closed":
            self.trips = 0

    def trip(self, now: float, wish_s: float | None) -> None:
        self.trips += 1
        open_s = min(self.settings.max_open_s, self.settings.open_s * 2 ** (self.trips - 1))
        self.until = now + max(open_s, wish_s or 0.0)
        self.become("open")

    def pass_time(self, now: float) -> None:
        if self.mode == "open" and now >= self.until:
            self.become("half open")
        if self.mode == "half open":
            for probe in list(self.probes):
                if self.mode == "half open" and probe.outcome is None and now >= probe.expires_at:
                    probe.outcome = Outcome.FAILURE
                    self.judge_probes(now, None)

    def judge_probes(self, now: float, wish_s: float | None) -> None:
        count = self.settings.half_open_permits
        failed = sum(probe.outcome is Outcome.FAILURE for probe in self.probes)
        ended = sum(probe.outcome in (Outcome.FAILURE, Outcome.SUCCESS) for probe in self.probes)
        if failed / count >= self.settings.failure_rate:
            self.trip(now, wish_s)
        elif ended == count:
            self.become("closed")

    def remembered(self, now: float) -> list[bool]:
        window_s = self.settings.window_s
        if window_s is None:
            return [failed for _, failed in self.calls[-self.settings.window_calls :]]
        tenth = math.floor(now * 10 / window_s)
        return [failed for at, failed in self.calls if math.floor(at * 10 / window_s) > tenth - 10]

    def ask(self, now: float) -> Probe | int | None:
        """A probe, the life of a call that no probe is, or None for a refusal."""
        self.pass_time(now)
        if self.mode == "open":
            return None
        if self.mode == "half open":
            taken = [probe for probe in self.probes if probe.outcome is not Outcome.IGNORED]
            if len(taken) >= self.settings.half_open_permits:
                return None
            self.probes.append(Probe(now + TTL_S))
            return self.probes[-1]
        return self.life

    def end(self, call: Probe | int, outcome: Outcome, now: float, wish_s: float | None) -> None:
        if isinstance(call, Probe):
            if call.outcome is None and any(probe is call for probe in self.probes):
                call.outcome = outcome
                self.judge_probes(now, wish_s)
        elif call == self.life and self.mode == "closed" and outcome is not Outcome.IGNORED:
            self.calls.append((now, outcome is Outcome.FAILURE))
            if outcome is Outcome.FAILURE and self.is_too_much(now):
                self.trip(now, wish_s)

    def is_too_much(self, now: float) -> bool:
        in_a_row = self.settings.consecutive_failures
        if in_a_row is not None and len(self.calls) >= in_a_row:
            latest = [failed for _, failed in self.calls[-in_a_row:]]
            if all(latest):
                return True
        remembered = self.remembered(now)
        enough = len(remembered) >= self.settings.min_calls
        return enough and sum(remembered) / len(remembered) >= self.settings.failure_rate


SETTINGS = st.fixed_dictionaries(
    {
        "consecutive_failures": st.none() | st.integers(1, 4),
        "failure_rate": st.sampled_from([0.25, 0.5, 2 / 3, 1.0]),
        "min_calls": st.integers(1, 4),
        "window_calls": st.integers(4, 6),
        "window_s": st.none() | st.sampled_from([1.0, 20.0]),
        "half_open_permits": st.integers(1, 3),
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
        self.under_way: list[tuple[Permit, Probe | int]] = []
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
        else:
            assert expected is not None
            self.under_way.append((answer, expected))

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        wish_s=st.none() | st.just(90.0),
        again=st.booleans(),
    )
    def end(self, data: st.DataObject, outcome: Outcome, wish_s: float | None, again: bool) -> None:
        which = data.draw(st.integers(0, len(self.under_way) - 1))
        permit, call = self.under_way.pop(which)
        for _ in range(2 if again and isinstance(call, Probe) else 1):
            self.circuit.settle(permit, outcome, wish_s)
            self.model.end(call, outcome, self.now, wish_s)

    @rule(outcomes=st.lists(st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]), min_size=1, max_size=5))
    def call_one_after_the_other(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            answer, expected = self.circuit.admit(TTL_S), self.model.ask(self.now)
            if isinstance(answer, Permit):
                assert expected is not None
                self.circuit.settle(answer, outcome)
                self.model.end(expected, outcome, self.now, None)

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
        self.model.become("closed")

    @invariant()
    def states_agree(self) -> None:
        if hasattr(self, "model"):
            state = type(self.circuit.state).__name__
            assert state == {"closed": "Closed", "open": "Open", "half open": "HalfOpen"}[self.model.mode]
            assert self.circuit.state.epoch == self.model.life
            assert self.told >= self.model.life
        if hasattr(self, "model") and isinstance(self.circuit.state, Closed):
            remembered = self.model.remembered(self.now)
            assert self.circuit.state.outcomes.counts(self.now) == (len(remembered), sum(remembered))


def check(sequences: int) -> None:
    run_state_machine_as_test(
        BreakerMachine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_sequence_of_calls_does_what_the_naive_breaker_would() -> None:
    """BRK-01, BRK-02, BRK-04 to BRK-08."""
    check(2_000)


@pytest.mark.slow
def test_any_of_very_many_sequences_of_calls_does_what_the_naive_breaker_would() -> None:
    """BRK-01, BRK-02, BRK-04 to BRK-08."""
    check(50_000)
