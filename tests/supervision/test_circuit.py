"""One circuit in many threads."""

import random
import threading
from collections.abc import Callable

import pytest

from tinker_actors.supervision.breaker import (
    Closed,
    Disabled,
    ForcedOpen,
    HalfOpen,
    Open,
    Outcome,
    Permit,
    Refusal,
)
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.circuit import Circuit

CALLERS = 1_000
THREADS = 20
TTL_S = 30.0


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


def circuit(clock: Clock, **fields: object) -> Circuit:
    return Circuit(BreakerSettings(jitter=0.0, **fields), clock.now, random.Random(0))  # type: ignore[arg-type]


def half_open(clock: Clock, **fields: object) -> Circuit:
    """A circuit that tripped, whose open time is over."""
    made = circuit(clock, **fields)
    trip(made)
    clock.seconds += made.settings.open_s
    return made


def permit(made: Circuit) -> Permit:
    answer = made.admit(TTL_S)
    assert isinstance(answer, Permit)
    return answer


def trip(made: Circuit) -> None:
    while not isinstance(made.state, Open):
        made.settle(permit(made), Outcome.FAILURE)


def at_once(act: Callable[[], None]) -> None:
    """Run `act` once for each caller, from many threads that begin together."""
    gate = threading.Barrier(THREADS)

    def run() -> None:
        gate.wait(30)
        for _ in range(CALLERS // THREADS):
            act()

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check_concurrent_probes(rounds: int) -> None:
    for number in range(rounds):
        permits = number % 7 + 1
        made = half_open(Clock(), half_open_permits=permits)
        answers: list[Permit | Refusal] = []
        at_once(lambda made=made, answers=answers: answers.append(made.admit(TTL_S)))  # type: ignore[misc]
        admitted = [answer for answer in answers if isinstance(answer, Permit)]
        assert (len(admitted), len(answers)) == (permits, CALLERS)
        assert made.refused == CALLERS - permits
        for probe in admitted:
            made.settle(probe, Outcome.SUCCESS)
        assert isinstance(made.state, Closed)


def test_half_open_circuit_admits_exactly_its_permits_of_a_thousand_concurrent_callers() -> None:
    """BRK-06."""
    check_concurrent_probes(20)


@pytest.mark.slow
def test_half_open_circuit_admits_exactly_its_permits_in_a_thousand_rounds() -> None:
    """BRK-06."""
    check_concurrent_probes(1_000)


def test_concurrent_failures_lose_no_count() -> None:
    made = circuit(Clock(), consecutive_failures=CALLERS + 1, min_calls=2 * CALLERS, window_calls=2 * CALLERS)
    at_once(lambda: made.settle(permit(made), Outcome.FAILURE))
    assert isinstance(made.state, Closed)
    assert made.state.failures_in_a_row == CALLERS
    assert made.state.outcomes.counts(0.0) == (CALLERS, CALLERS)


def test_concurrent_failures_trip_a_circuit_once() -> None:
    made = circuit(Clock(), consecutive_failures=5)
    permits = [permit(made) for _ in range(CALLERS)]
    at_once(lambda: made.settle(permits.pop(), Outcome.FAILURE))
    assert [type(state) for state in made.take_changes()] == [Open]


def test_changes_wait_until_somebody_takes_them() -> None:
    clock = Clock()
    made = half_open(clock)
    made.settle(permit(made), Outcome.SUCCESS)
    assert [type(state) for state in made.take_changes()] == [Open, HalfOpen, Closed]
    assert made.take_changes() == []


def test_time_moves_a_circuit_on_when_it_is_looked_at() -> None:
    clock = Clock()
    made = half_open(clock)
    assert isinstance(made.state, Open)
    assert isinstance(made.advance(), HalfOpen)


def test_reset_closes_a_circuit_and_outcomes_from_before_do_not_count() -> None:
    made = circuit(Clock(), consecutive_failures=1)
    late = permit(made)
    trip(made)
    made.reset()
    made.settle(late, Outcome.FAILURE)
    assert isinstance(made.state, Closed)


def test_watcher_is_told_of_every_change_and_of_a_probe_that_was_given_back() -> None:
    clock = Clock()
    made = circuit(clock)
    told: list[str] = []
    give_up = made.watch(lambda: told.append(type(made.state).__name__))
    made.settle(permit(made), Outcome.SUCCESS)
    assert told == []
    trip(made)
    made.admit(TTL_S)
    assert told == ["Open"]
    clock.seconds += made.settings.open_s
    probe = permit(made)
    made.admit(TTL_S)
    made.settle(probe, Outcome.IGNORED)
    assert told == ["Open", "HalfOpen", "HalfOpen"]
    give_up()
    made.settle(permit(made), Outcome.SUCCESS)
    assert len(told) == 3


def test_watcher_that_raises_hurts_nobody() -> None:
    """BRK-11."""
    made = circuit(Clock())
    told: list[None] = []
    made.watch(lambda: 1 / 0)
    made.watch(lambda: told.append(None))
    trip(made)
    assert (isinstance(made.state, Open), len(told)) == (True, 1)


def test_watcher_may_ask_the_circuit_itself() -> None:
    made = circuit(Clock())
    answers: list[Permit | Refusal] = []
    made.watch(lambda: answers.append(made.admit(TTL_S)))
    trip(made)
    assert answers == [Refusal(5.0)]


def test_watcher_that_blocks_holds_up_nobody_but_the_thread_that_brought_the_change() -> None:
    """BRK-11."""
    made = circuit(Clock())
    is_told, may_go_on = threading.Event(), threading.Event()

    def block() -> None:
        is_told.set()
        assert may_go_on.wait(30)

    made.watch(block)
    tripping = threading.Thread(target=trip, args=(made,))
    tripping.start()
    assert is_told.wait(30)
    assert made.admit(TTL_S) == Refusal(5.0)
    may_go_on.set()
    tripping.join()


def test_open_time_from_before_a_reset_moves_nothing_afterwards() -> None:
    """BRK-10."""
    clock = Clock()
    made = circuit(clock, open_s=5.0)
    trip(made)
    clock.seconds = 2.0
    made.reset()
    trip(made)
    clock.seconds = 5.0
    assert isinstance(made.advance(), Open)
    clock.seconds = 7.0
    assert isinstance(made.advance(), HalfOpen)


def test_probe_from_before_a_reset_decides_nothing_afterwards() -> None:
    """BRK-10."""
    clock = Clock()
    made = half_open(clock)
    probe = permit(made)
    made.reset()
    made.settle(probe, Outcome.FAILURE)
    assert isinstance(made.state, Closed)
    assert made.state.outcomes.counts(clock.seconds) == (0, 0)


def test_slow_success_is_counted_though_none_before_failed_or_was_slow() -> None:
    """BRK-03: also where a success that is fast would change nothing."""
    made = circuit(Clock(), slow_call_s=2.0, slow_call_rate=0.5, window_calls=4, min_calls=4)
    for _ in range(4):
        made.settle(permit(made), Outcome.SUCCESS, duration_s=0.1)
    settled = made.state
    assert isinstance(settled, Closed)
    assert settled.is_settled
    made.settle(permit(made), Outcome.SUCCESS, duration_s=0.1)
    assert made.state is settled
    made.settle(permit(made), Outcome.SUCCESS, duration_s=2.0)
    assert made.state is not settled
    made.note_slow(permit(made))
    assert [type(state) for state in made.take_changes()] == [Open]


def test_mode_that_is_set_is_told_once_and_takes_effect_at_once() -> None:
    """BRK-09."""
    made = circuit(Clock())
    told: list[str] = []
    made.watch(lambda: told.append(type(made.state).__name__))
    for mode in ("forced_open", "forced_open", "disabled", "automatic", "automatic"):
        made.force(BreakerMode(mode))
    assert told == ["ForcedOpen", "Disabled", "Closed"]
    assert [type(state) for state in made.take_changes()] == [ForcedOpen, Disabled, Closed]
    made.force(BreakerMode.FORCED_OPEN)
    assert made.admit(TTL_S) == Refusal(5.0, is_forced=True)
    assert made.refused == 1
