import math
import random
from typing import Any

import pytest

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.breaker import (
    Closed,
    Disabled,
    ForcedOpen,
    HalfOpen,
    Open,
    Outcome,
    Permit,
    Refusal,
    State,
    admit,
    advance,
    first_state,
    force,
    mode_of,
    next_change,
    note_slow,
    settle,
)
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings

OK, BAD, NEITHER = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED
TTL_S = 100.0
RATE_ONLY: dict[str, Any] = {"consecutive_failures": None, "jitter": 0.0}


class Bench:
    """A circuit and its time, as a caller has them."""

    def __init__(self, **fields: Any) -> None:
        self.settings = BreakerSettings(**{"jitter": 0.0, **fields})
        self.now = 1000.0
        self.random = random.Random(1)
        self.state: State = first_state(self.settings)

    def ask(self) -> Permit | Refusal:
        self.state, answer = admit(self.state, self.now, TTL_S, self.settings, self.random)
        return answer

    def permit(self) -> Permit:
        answer = self.ask()
        assert isinstance(answer, Permit)
        return answer

    def refusal(self) -> Refusal:
        answer = self.ask()
        assert isinstance(answer, Refusal)
        return answer

    def end(
        self,
        permit: Permit,
        outcome: Outcome,
        retry_after_s: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        self.state = settle(
            self.state, permit, outcome, self.now, self.settings, self.random, retry_after_s, duration_s
        )

    def overrun(self, permit: Permit) -> None:
        self.state = note_slow(self.state, permit, self.now, self.settings, self.random)

    def force(self, mode: str) -> None:
        self.state = force(self.state, BreakerMode(mode), self.settings)

    def timed(self, seconds: float, *outcomes: Outcome) -> None:
        """Calls, one after another, that take so long."""
        for outcome in outcomes:
            self.end(self.permit(), outcome, duration_s=seconds)

    def calls(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.end(self.permit(), outcome)

    def open_s(self) -> float:
        assert isinstance(self.state, Open)
        return self.state.until - self.now

    def is_now(self, kind: type[State]) -> bool:
        return isinstance(self.state, kind)

    def counts(self) -> tuple[int, int]:
        assert isinstance(self.state, Closed)
        return self.state.outcomes.counts(self.now)

    def slow_counts(self) -> tuple[int, int]:
        assert isinstance(self.state, Closed)
        assert self.state.slowness is not None
        return self.state.slowness.counts(self.now)

    def pass_open_time(self) -> None:
        self.now += self.open_s()

    def trip(self) -> None:
        while not isinstance(self.state, Open):
            self.calls(BAD)


def test_circuit_opens_at_exactly_that_many_failures_in_a_row() -> None:
    """BRK-01."""
    bench = Bench(consecutive_failures=3)
    bench.calls(BAD, BAD, OK, BAD, BAD)
    assert bench.is_now(Closed)
    bench.calls(BAD)
    assert bench.is_now(Open)


def test_circuit_stays_closed_below_the_minimum_of_calls() -> None:
    """BRK-01."""
    bench = Bench(**RATE_ONLY, min_calls=10)
    bench.calls(*[BAD] * 9)
    assert bench.is_now(Closed)
    bench.calls(BAD)
    assert bench.is_now(Open)


def test_circuit_opens_at_exactly_the_rate() -> None:
    """BRK-01."""
    bench = Bench(**RATE_ONLY, min_calls=4, window_calls=100, failure_rate=0.07)
    bench.calls(*[OK] * 93, *[BAD] * 6)
    assert bench.is_now(Closed)
    bench.calls(BAD)
    assert bench.is_now(Open)


def test_success_never_opens_a_circuit() -> None:
    bench = Bench(**RATE_ONLY, min_calls=4)
    bench.calls(BAD, BAD, BAD, OK)
    assert bench.is_now(Closed)


def test_oldest_call_leaves_a_window_of_calls() -> None:
    """BRK-02."""
    bench = Bench(**RATE_ONLY, min_calls=4, window_calls=4, failure_rate=0.75)
    bench.calls(BAD, BAD, OK, OK, BAD)  # the first one is out
    assert bench.is_now(Closed)
    bench.calls(BAD, BAD)
    assert bench.is_now(Open)


def test_calls_leave_a_window_of_seconds_at_the_edge_of_their_tenth() -> None:
    """BRK-02."""
    bench = Bench(**RATE_ONLY, min_calls=2, window_s=10.0)
    bench.calls(BAD)
    bench.now += 9.5
    assert bench.counts() == (1, 1)
    bench.now += 0.5
    assert bench.counts() == (0, 0)
    bench.calls(BAD)
    assert bench.is_now(Closed)
    bench.calls(BAD)
    assert bench.is_now(Open)


def test_idle_time_empties_a_window_of_seconds() -> None:
    """BRK-02."""
    bench = Bench(**RATE_ONLY, min_calls=2, window_s=10.0)
    bench.calls(BAD, OK, OK)
    bench.now += 1e6
    bench.calls(OK)
    assert bench.counts() == (1, 0)


def test_caller_that_was_overtaken_counts_with_the_one_before_it() -> None:
    """BRK-02: a clock that steps back."""
    bench = Bench(**RATE_ONLY, min_calls=3, window_s=10.0)
    bench.calls(OK)
    bench.now -= 5.0
    bench.calls(BAD)
    bench.now += 5.0
    assert bench.counts() == (2, 1)


def test_open_circuit_refuses_and_says_for_how_long() -> None:
    """BRK-05."""
    bench = Bench(open_s=5.0)
    bench.trip()
    bench.now += 2.0
    assert bench.refusal() == Refusal(3.0)


def test_open_time_doubles_up_to_its_cap_and_begins_anew_after_closing() -> None:
    """BRK-05."""
    bench = Bench(open_s=5.0, max_open_s=18.0)
    bench.trip()
    times = [bench.open_s()]
    for _ in range(3):
        bench.pass_open_time()
        bench.calls(BAD)
        times.append(bench.open_s())
    assert times == [5.0, 10.0, 18.0, 18.0]
    bench.pass_open_time()
    bench.calls(OK)
    bench.trip()
    assert bench.open_s() == 5.0


def test_jitter_only_adds_and_stays_in_its_bounds() -> None:
    bench = Bench(open_s=5.0, jitter=0.2)
    times = set()
    for _ in range(1000):
        bench.state = first_state(bench.settings)
        bench.trip()
        times.add(bench.open_s())
    assert len(times) > 900
    assert 5.0 <= min(times) < 5.1
    assert 5.9 < max(times) <= 6.0


@pytest.mark.parametrize(("wish_s", "open_s"), [(None, 5.0), (1.0, 5.0), (40.0, 40.0), (90.0, 90.0)])
def test_circuit_opens_for_no_less_than_the_service_asked(wish_s: float | None, open_s: float) -> None:
    """BRK-05."""
    bench = Bench(open_s=5.0, max_open_s=60.0, consecutive_failures=1)
    bench.end(bench.permit(), BAD, wish_s)
    assert bench.open_s() == open_s


def test_half_open_circuit_admits_exactly_its_permits() -> None:
    """BRK-06."""
    bench = Bench(half_open_permits=3)
    bench.trip()
    bench.pass_open_time()
    probes = [bench.permit() for _ in range(3)]
    assert len(set(probes)) == 3
    assert bench.refusal() == Refusal(bench.settings.open_s)
    bench.end(probes[0], OK)
    bench.refusal()  # a probe that ended makes no room for another one


def test_circuit_closes_once_all_probes_succeeded() -> None:
    """BRK-06."""
    bench = Bench(half_open_permits=3)
    bench.trip()
    bench.pass_open_time()
    for probe in [bench.permit() for _ in range(3)]:
        assert bench.is_now(HalfOpen)
        bench.end(probe, OK)
    assert bench.counts() == (0, 0)


def test_circuit_opens_again_once_too_many_probes_failed() -> None:
    """BRK-06."""
    bench = Bench(half_open_permits=4, failure_rate=0.5)
    bench.trip()
    bench.pass_open_time()
    probes = [bench.permit() for _ in range(4)]
    bench.end(probes[0], BAD)
    assert bench.is_now(HalfOpen)
    bench.end(probes[1], BAD)
    assert bench.is_now(Open)
    bench.end(probes[2], OK)
    assert bench.is_now(Open)


def test_few_enough_failed_probes_close_the_circuit() -> None:
    bench = Bench(half_open_permits=4, failure_rate=0.5)
    bench.trip()
    bench.pass_open_time()
    for probe, outcome in zip([bench.permit() for _ in range(4)], [BAD, OK, OK, OK], strict=True):
        bench.end(probe, outcome)
    assert bench.is_now(Closed)


def test_ignored_call_counts_nowhere() -> None:
    """BRK-04."""
    bench = Bench(consecutive_failures=2, min_calls=2, window_calls=2)
    before = bench.state
    bench.calls(NEITHER, NEITHER)
    assert bench.state == before
    bench.calls(BAD, NEITHER, BAD)
    assert bench.is_now(Open)


def test_ignored_probe_gives_its_permit_back() -> None:
    """BRK-04."""
    bench = Bench()
    bench.trip()
    bench.pass_open_time()
    first = bench.permit()
    bench.refusal()
    bench.end(first, NEITHER)
    assert bench.permit() != first


def test_probe_that_is_never_settled_counts_as_failed_at_its_time() -> None:
    """BRK-07."""
    bench = Bench(open_s=5.0)
    bench.trip()
    bench.pass_open_time()
    lost = bench.permit()
    bench.now += TTL_S - 1.0
    assert bench.refusal() == Refusal(1.0)
    bench.now += 1.0
    assert bench.refusal() == Refusal(10.0)
    bench.end(lost, OK)
    assert bench.is_now(Open)


def test_probe_counts_once() -> None:
    bench = Bench(half_open_permits=2)
    bench.trip()
    bench.pass_open_time()
    probe = bench.permit()
    bench.end(probe, OK)
    bench.end(probe, OK)
    assert bench.is_now(HalfOpen)


@pytest.mark.parametrize("outcome", [OK, BAD])
def test_call_that_began_before_the_trip_does_not_move_a_half_open_circuit(outcome: Outcome) -> None:
    """BRK-08."""
    bench = Bench()
    late = bench.permit()
    bench.trip()
    bench.end(late, outcome)
    assert bench.is_now(Open)
    bench.pass_open_time()
    probe = bench.permit()
    half_open = bench.state
    bench.end(late, outcome)
    assert bench.state is half_open
    bench.end(probe, OK)
    bench.end(late, outcome)
    assert bench.counts() == (0, 0)


# Slow calls.


def test_circuit_opens_at_exactly_the_rate_of_slow_calls() -> None:
    """BRK-03."""
    bench = Bench(slow_call_s=2.0, slow_call_rate=0.75, min_calls=4)
    bench.timed(1.9, OK)
    bench.timed(2.0, OK, OK)
    assert bench.is_now(Closed)
    bench.timed(9.0, OK)
    assert bench.is_now(Open)


def test_slow_calls_open_nothing_below_the_minimum_of_calls() -> None:
    """BRK-03."""
    bench = Bench(slow_call_s=2.0, min_calls=4)
    bench.timed(9.0, OK, OK, OK)
    assert bench.is_now(Closed)
    bench.timed(9.0, OK)
    assert bench.is_now(Open)


def test_failure_that_is_fast_is_not_slow_and_fast_call_never_opens_a_circuit_for_slow_ones() -> None:
    """BRK-03."""
    bench = Bench(**RATE_ONLY, slow_call_s=2.0, slow_call_rate=0.5, min_calls=4, failure_rate=1.0)
    bench.timed(9.0, OK, OK)
    bench.timed(0.1, BAD, BAD)
    assert (bench.counts(), bench.slow_counts()) == ((4, 2), (4, 2))
    assert bench.is_now(Closed)
    bench.timed(9.0, OK)
    assert bench.is_now(Open)


def test_both_rates_are_counted_of_the_same_calls_and_each_opens_by_itself() -> None:
    """BRK-03."""
    rates = {**RATE_ONLY, "slow_call_s": 2.0, "slow_call_rate": 0.5, "failure_rate": 0.5, "min_calls": 4}
    by_failures, by_slowness = Bench(**rates), Bench(**rates)
    for bench in (by_failures, by_slowness):
        bench.timed(9.0, BAD)
        bench.timed(0.1, OK, OK)
        assert (bench.counts(), bench.slow_counts()) == ((3, 1), (3, 1))
    by_failures.timed(0.1, BAD)
    by_slowness.timed(9.0, OK)
    assert (by_failures.is_now(Open), by_slowness.is_now(Open)) == (True, True)


def test_call_counts_as_slow_while_it_is_still_running_and_once() -> None:
    """BRK-03."""
    bench = Bench(slow_call_s=2.0, min_calls=3)
    running = [bench.permit() for _ in range(3)]
    bench.overrun(running[0])
    assert (bench.counts(), bench.slow_counts()) == ((0, 0), (1, 1))
    bench.end(running[0], OK)
    assert (bench.counts(), bench.slow_counts()) == ((1, 0), (1, 1))
    bench.overrun(running[1])
    bench.overrun(running[2])
    assert bench.is_now(Open)
    bench.end(running[1], OK)
    assert bench.is_now(Open)


def test_ignored_call_that_was_slow_counts_as_slow_and_one_that_was_fast_counts_nowhere() -> None:
    """BRK-03, BRK-04."""
    bench = Bench(slow_call_s=2.0, min_calls=2)
    bench.timed(0.1, NEITHER)
    assert (bench.counts(), bench.slow_counts()) == ((0, 0), (0, 0))
    bench.timed(2.0, NEITHER)
    assert (bench.counts(), bench.slow_counts()) == ((0, 0), (1, 1))


def test_slow_calls_leave_a_window_of_seconds_like_all_others() -> None:
    """BRK-02, BRK-03."""
    bench = Bench(slow_call_s=2.0, min_calls=2, window_s=10.0)
    bench.timed(9.0, OK)
    bench.now += 10.0
    bench.timed(9.0, OK)
    assert (bench.is_now(Closed), bench.slow_counts()) == (True, (1, 1))


def test_without_a_limit_no_call_is_slow() -> None:
    bench = Bench(min_calls=1, slow_call_rate=0.01)
    bench.timed(1e9, OK)
    bench.overrun(bench.permit())
    assert bench.is_now(Closed)


@pytest.mark.parametrize("is_running", [True, False])
def test_too_many_slow_probes_open_the_circuit_again(is_running: bool) -> None:
    """BRK-03."""
    bench = Bench(half_open_permits=2, slow_call_s=2.0, slow_call_rate=1.0)
    bench.trip()
    bench.pass_open_time()
    probes = [bench.permit(), bench.permit()]
    bench.end(probes[0], OK, duration_s=2.5)
    assert bench.is_now(HalfOpen)
    if is_running:
        bench.overrun(probes[1])
    else:
        bench.end(probes[1], OK, duration_s=2.5)
    assert isinstance(bench.state, Open)
    assert bench.state.trips == 2


def test_few_enough_slow_probes_close_the_circuit() -> None:
    """BRK-03."""
    bench = Bench(half_open_permits=2, slow_call_s=2.0, slow_call_rate=1.0)
    bench.trip()
    bench.pass_open_time()
    probes = [bench.permit(), bench.permit()]
    bench.overrun(probes[0])
    bench.end(probes[0], OK)
    bench.end(probes[1], OK, duration_s=0.1)
    assert (bench.is_now(Closed), bench.slow_counts()) == (True, (0, 0))


# Modes that are set.

MODES = {
    "forced_open": ForcedOpen,
    "forced_closed": Closed,
    "disabled": Disabled,
    "automatic": Closed,
}


def in_state(name: str) -> Bench:
    """A circuit that came into a state in the ordinary way, or by force."""
    bench = Bench(consecutive_failures=2)
    if name in MODES:
        bench.force(name)
    elif name != "closed":
        bench.trip()
    if name == "half open":
        bench.pass_open_time()
        bench.permit()
    return bench


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "before", ["closed", "open", "half open", "forced_open", "forced_closed", "disabled"]
)
def test_each_mode_can_be_set_in_each_state(before: str, mode: str) -> None:
    """BRK-09."""
    bench = in_state(before)
    state = bench.state
    bench.force(mode)
    if mode == "automatic" and before in ("closed", "open", "half open"):
        assert bench.state is state  # it is nobody's: what its calls have made of it stands
        return
    assert (mode_of(bench.state), bench.is_now(MODES[mode])) == (mode, True)
    assert bench.state.epoch == state.epoch + (mode != before)


@pytest.mark.parametrize("mode", MODES)
def test_mode_that_is_there_already_changes_nothing(mode: str) -> None:
    """BRK-09."""
    bench = in_state(mode)
    state = bench.state
    bench.force(mode)
    assert bench.state is state


def test_circuit_that_is_forced_open_refuses_whatever_the_time_until_it_is_let_go() -> None:
    """BRK-09."""
    bench = Bench(open_s=5.0)
    late = bench.permit()
    bench.force("forced_open")
    assert next_change(bench.state) is None
    bench.now += 1e6
    assert bench.refusal() == Refusal(5.0, is_forced=True)
    bench.end(late, OK)
    bench.refusal()
    bench.force("automatic")
    assert (bench.counts(), bench.permit().epoch) == ((0, 0), 2)


def test_circuit_that_is_forced_closed_counts_and_keeps_what_it_counted_when_it_is_let_go() -> None:
    """BRK-09."""
    bench = Bench(**RATE_ONLY, slow_call_s=2.0, min_calls=4)
    bench.timed(9.0, BAD)
    bench.force("forced_closed")
    bench.timed(9.0, *[BAD] * 9)
    assert (bench.is_now(Closed), bench.counts(), bench.slow_counts()) == (True, (10, 10), (10, 10))
    bench.force("automatic")
    assert (bench.is_now(Closed), bench.counts()) == (True, (10, 10))
    bench.timed(0.1, BAD)
    assert bench.is_now(Open)


def test_circuit_that_was_disabled_begins_anew() -> None:
    """BRK-09."""
    bench = Bench(consecutive_failures=2)
    bench.calls(BAD)
    bench.force("disabled")
    bench.calls(BAD, BAD, BAD)
    assert bench.state == Disabled(1)
    bench.force("automatic")
    assert bench.counts() == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_outcome_of_a_call_from_before_another_mode_counts_nowhere(mode: str) -> None:
    """BRK-09, BRK-10."""
    bench = in_state("half open")
    assert isinstance(bench.state, HalfOpen)
    (probe,) = bench.state.probes
    bench.force("forced_open")
    bench.force(mode)
    state = bench.state
    bench.end(probe, BAD)
    bench.overrun(probe)
    assert bench.state is state


@pytest.mark.parametrize("mode", MODES)
def test_first_state_is_that_of_the_mode_in_the_settings(mode: str) -> None:
    bench = Bench(mode=mode)
    assert (mode_of(bench.state), bench.is_now(MODES[mode])) == (mode, True)


def test_circuit_whose_settings_force_it_recovers_like_any_other_once_it_is_let_go() -> None:
    bench = Bench(mode="disabled", consecutive_failures=1)
    bench.force("automatic")
    bench.trip()
    bench.pass_open_time()
    bench.calls(OK)
    assert (bench.is_now(Closed), mode_of(bench.state)) == (True, "automatic")


def test_disabled_circuit_admits_everything() -> None:
    bench = Bench(mode="disabled", consecutive_failures=1)
    bench.calls(*[BAD] * 100)
    assert bench.state == Disabled(0)


def test_time_alone_makes_an_open_circuit_half_open() -> None:
    bench = Bench()
    assert next_change(bench.state) is None
    bench.trip()
    due = next_change(bench.state)
    assert due is not None
    assert advance(bench.state, math.nextafter(due, 0.0), bench.settings, bench.random) is bench.state
    half_open = advance(bench.state, due, bench.settings, bench.random)
    assert isinstance(half_open, HalfOpen)
    assert next_change(half_open) is None


def test_half_open_circuit_changes_when_its_first_probe_expires() -> None:
    bench = Bench(half_open_permits=2)
    bench.trip()
    bench.pass_open_time()
    first = bench.permit()
    bench.now += 1.0
    bench.permit()
    assert next_change(bench.state) == first.expires_at


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("consecutive_failures", bad) for bad in (0, -1, 2.5, True, "5")],
        *[("failure_rate", bad) for bad in (0, 0.0, -0.1, 1.01, 50, math.nan, math.inf, None, True)],
        *[("min_calls", bad) for bad in (0, -3, 1.5, None)],
        *[("window_calls", bad) for bad in (0, -1, 9, 1.5, None)],  # 9 is below min_calls
        *[("window_s", bad) for bad in (0, 0.0, -1.0, math.nan, math.inf, "60")],
        *[("open_s", bad) for bad in (0, -5.0, math.nan, math.inf, None)],
        *[("max_open_s", bad) for bad in (0, -1.0, 4.9, math.nan, math.inf)],
        *[("jitter", bad) for bad in (-0.1, 1.1, math.nan, None)],
        *[("half_open_permits", bad) for bad in (0, -1, 0.5, None)],
        *[("slow_call_s", bad) for bad in (0, 0.0, -1.0, math.nan, math.inf, True, "9")],
        *[("slow_call_rate", bad) for bad in (0, 0.0, -0.1, 1.01, 50, math.nan, math.inf, None, True)],
        *[("mode", bad) for bad in (0, "open", "", None, True)],
    ],
)
def test_wrong_setting_is_refused_by_name(field: str, value: Any) -> None:
    """BRK-16."""
    with pytest.raises(ConfigError, match=rf"BreakerSettings\.{field} must be"):
        BreakerSettings(**{field: value})


def test_a_window_of_seconds_needs_no_window_of_calls() -> None:
    assert BreakerSettings(window_s=60.0, min_calls=1000).min_calls == 1000
