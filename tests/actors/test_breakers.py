"""Breakers on the path of real requests: who goes, who waits, who fails, and what the tree tells of it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import WAIT_S
from network import JSON, Bench, Script, answers

from tinker_actors.actors import admission
from tinker_actors.actors.admission import outcome_of
from tinker_actors.actors.breaker import Reset
from tinker_actors.actors.circuits import Circuits
from tinker_actors.actors.published import BREAKERS, TRANSPORT
from tinker_actors.actors.transport import Answered, Cancel, Failed, Fetch
from tinker_actors.api.futures import follow, output_result
from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    CircuitOpenError,
    ConfigError,
    TinkerActorsError,
    TLSError,
)
from tinker_actors.events import CircuitClosed, CircuitForced, CircuitHalfOpened, CircuitOpened
from tinker_actors.supervision import BreakerMode, BreakerSettings, ChildRestarting, ChildStarted, Outcome
from tinker_actors.supervision.breaker import Closed, HalfOpen, Open
from tinker_actors.supervision.testing import VirtualClock, crash, expect
from tinker_actors.wire.calls import Answer, Call, Pool, WhenOpen
from tinker_actors.wire.retry import PATIENT, RetryRule

MakeBench = Callable[..., Bench]

DOWN, GOOD = Answer(503, {}, b""), Answer(200, JSON, b"{}")
QUICK: dict[str, Any] = {"breaker": BreakerSettings(consecutive_failures=2, jitter=0.0)}


def call(operation: str = "asample", **fields: Any) -> Call[Any]:
    """One that is not repeated, and fails at once where its circuit is open."""
    fields = {"when_open": WhenOpen.FAIL, "read": lambda answer: answer.status, **fields}
    return Call(operation=operation, path=operation, **fields)


def poll() -> Call[Any]:
    step = next(follow("7", output_result, lambda: 0.0, random.Random(0)))
    assert isinstance(step, Call)
    return step


def fetch(bench: Bench, one: Call[Any]) -> Any:
    """The status it was answered with, or the error that came in its place."""
    reply = bench.address.ask(Fetch(one), timeout_s=WAIT_S)
    error = reply.exception()
    return reply.result() if error is None else error


def trip(bench: Bench, operation: str = "asample") -> None:
    with expect(bench.tree, CircuitOpened, operation=operation):
        for _ in range(2):
            fetch(bench, call(operation))


def state(bench: Bench, operation: str = "asample") -> Any:
    circuit = bench.published.circuits.find(operation)
    assert circuit is not None
    return circuit.state


def sent(bench: Bench, operation: str = "asample") -> int:
    return sum(path == operation for path, _ in bench.transport.seen)


def by_path(**scripts: Script) -> Script:
    return lambda one, url: scripts[one.operation](one, url)


def always(outcome: Answer | TinkerActorsError | None) -> Script:
    def script(_call: Call[Any], _url: str) -> Answer | None:
        if isinstance(outcome, TinkerActorsError):
            raise outcome
        return outcome

    return script


def test_every_operation_that_is_called_has_a_breaker_in_the_tree(bench: MakeBench) -> None:
    one = bench(always(GOOD))
    with expect(one.tree, ChildStarted, path=f"{BREAKERS}/asample"):
        fetch(one, call("asample"))
    with expect(one.tree, ChildStarted, path=f"{BREAKERS}/forward"):
        fetch(one, call("forward"))
    node = one.tree.snapshot().find(BREAKERS)
    assert node is not None
    assert [child.id for child in node.children] == ["asample", "forward"]


def test_open_breaker_refuses_without_sending(bench: MakeBench) -> None:
    """BRK-05."""
    one = bench(always(DOWN), **QUICK, clock=VirtualClock())
    trip(one)
    error = fetch(one, call())
    assert isinstance(error, CircuitOpenError)
    assert (error.endpoint, error.retry_after_s, sent(one)) == ("asample", 5.0, 2)


def test_each_operation_has_a_breaker_of_its_own(bench: MakeBench) -> None:
    """BRK-13."""
    one = bench(by_path(asample=always(DOWN), forward=always(GOOD)), **QUICK)
    trip(one)
    assert fetch(one, call("forward")) == 200


def test_call_that_waits_goes_once_the_breaker_lets_it(bench: MakeBench) -> None:
    clock = VirtualClock()
    one = bench(answers(DOWN, DOWN, GOOD), **QUICK, clock=clock)
    trip(one)
    reply = one.address.ask(Fetch(call(when_open=WhenOpen.WAIT, retry=PATIENT)), timeout_s=WAIT_S)
    assert isinstance(fetch(one, call()), CircuitOpenError)  # by now the other one waits, too
    assert sent(one) == 2
    with expect(one.tree, CircuitHalfOpened), expect(one.tree, CircuitClosed) as got:
        clock.advance(5.0)
        assert reply.result() == 200
    assert got.event == CircuitClosed(operation="asample", refused=2)


def test_call_waits_no_longer_than_it_would_be_repeated(bench: MakeBench) -> None:
    one = bench(always(DOWN), **QUICK)
    trip(one)
    error = fetch(one, call(when_open=WhenOpen.WAIT, retry=RetryRule(max_elapsed_s=0.01)))
    assert isinstance(error, CircuitOpenError)
    assert sent(one) == 2


def test_all_that_wait_go_after_one_probe(bench: MakeBench) -> None:
    clock = VirtualClock()
    one = bench(by_path(asample=answers(DOWN, DOWN, *[GOOD] * 50)), **QUICK, clock=clock)
    trip(one)
    waiting = [
        one.address.ask(Fetch(call(when_open=WhenOpen.WAIT, retry=PATIENT)), timeout_s=WAIT_S)
        for _ in range(50)
    ]
    fetch(one, call())
    clock.advance(5.0)
    assert [reply.result() for reply in waiting] == [200] * 50


def test_beat_is_sent_though_the_breaker_is_open(bench: MakeBench) -> None:
    one = bench(answers(DOWN, DOWN, GOOD), **QUICK)
    trip(one, "session_heartbeat")
    beat = call("session_heartbeat", when_open=WhenOpen.SEND)
    assert fetch(one, beat) == 200
    assert isinstance(state(one, "session_heartbeat"), Open)


def test_breaker_stays_open_for_as_long_as_the_service_asked(bench: MakeBench) -> None:
    """BRK-05."""
    wish = Answer(503, {"retry-after": "40"}, b"")
    one = bench(always(wish), **QUICK, clock=VirtualClock())
    with expect(one.tree, CircuitOpened) as got:
        fetch(one, call())
        fetch(one, call())
    assert got.event == CircuitOpened(operation="asample", open_s=40.0, trips=1)


def test_attempts_of_the_retry_layer_count_one_by_one(bench: MakeBench) -> None:
    """BRK-13: one call that is repeated trips the circuit for all."""
    one = bench(always(DOWN), **QUICK)
    with expect(one.tree, CircuitOpened):
        reply = one.address.ask(Fetch(call("save_weights", retry=PATIENT)), timeout_s=WAIT_S)
        assert isinstance(reply.exception(), CircuitOpenError)
    assert sent(one, "save_weights") == 2


@pytest.mark.parametrize(
    ("pool", "result", "outcome"),
    [
        (Pool.TRAIN, 200, Outcome.SUCCESS),
        (Pool.TRAIN, 302, Outcome.SUCCESS),
        *[(Pool.TRAIN, status, Outcome.IGNORED) for status in (400, 401, 402, 403, 404, 408, 409, 422, 429)],
        *[(Pool.TRAIN, status, Outcome.FAILURE) for status in (500, 502, 503, 504, 529)],
        (Pool.FUTURE, 408, Outcome.SUCCESS),
        (Pool.FUTURE, 410, Outcome.IGNORED),
        (Pool.FUTURE, 503, Outcome.FAILURE),
        (Pool.TRAIN, APIConnectionError("reset"), Outcome.FAILURE),
        (Pool.FUTURE, APIConnectionError("reset"), Outcome.FAILURE),
        (Pool.TRAIN, APITimeoutError("late"), Outcome.FAILURE),
        (Pool.FUTURE, APITimeoutError("late"), Outcome.IGNORED),
        (Pool.TRAIN, TLSError("no certificate"), Outcome.IGNORED),
        (Pool.TRAIN, APIResponseValidationError("too large"), Outcome.IGNORED),
    ],
)
def test_what_counts(pool: Pool, result: Any, outcome: Outcome) -> None:
    """BRK-17, as the breakers of this project read it: a limit and a bad request are no failures."""
    ended = Answer(result, {}, b"") if isinstance(result, int) else result
    assert outcome_of(call(pool=pool), ended) is outcome


def test_answers_that_are_about_the_caller_never_open_a_breaker(bench: MakeBench) -> None:
    one = bench(always(Answer(429, {}, b"")), **QUICK)
    for _ in range(20):
        fetch(one, call("forward"))
    assert isinstance(state(one, "forward"), Closed)


def test_death_of_an_embedded_server_opens_no_breaker(bench: MakeBench) -> None:
    """Its process is watched by an actor of its own."""
    one = bench(always(APIConnectionError("reset")), **QUICK, base_url="local")
    for _ in range(20):
        fetch(one, call())
    assert isinstance(state(one), Closed)


def test_cancelled_probe_gives_its_permit_back(bench: MakeBench) -> None:
    """BRK-14."""
    clock = VirtualClock()
    one = bench(answers(DOWN, DOWN, None, GOOD), **QUICK, clock=clock)
    trip(one)
    clock.advance(5.0)
    one.send("probe", "me", call(), None)
    assert one.transport.is_hanging.wait(WAIT_S)
    assert isinstance(fetch(one, call()), CircuitOpenError)
    one.address.call(Cancel("me"))
    one.send("waits", "you", call(when_open=WhenOpen.WAIT, retry=PATIENT), None)
    assert one.next() == Answered("waits", GOOD)


def test_probe_that_ends_in_an_error_of_no_network_gives_its_permit_back(bench: MakeBench) -> None:
    """BRK-14: it says nothing about the endpoint."""
    outcomes: Iterator[Answer | ValueError] = iter([DOWN, DOWN, ValueError("not the network's"), GOOD])

    def script(_call: Call[Any], _url: str) -> Answer:
        outcome = next(outcomes)
        if isinstance(outcome, ValueError):
            raise outcome
        return outcome

    clock = VirtualClock()
    one = bench(script, **QUICK, clock=clock)
    trip(one)
    clock.advance(5.0)
    assert isinstance(fetch(one, call()), Exception)
    assert isinstance(state(one), HalfOpen)
    assert fetch(one, call(when_open=WhenOpen.WAIT, retry=PATIENT)) == 200


def test_probe_of_a_transport_that_crashes_gives_its_permit_back(bench: MakeBench) -> None:
    """BRK-07."""
    clock = VirtualClock()
    one = bench(answers(DOWN, DOWN, None, GOOD), **QUICK, clock=clock)
    trip(one)
    clock.advance(5.0)
    one.send("probe", "", call(), None)
    assert one.transport.is_hanging.wait(WAIT_S)
    with expect(one.tree, ChildStarted, path=TRANSPORT):
        crash(one.address)
    assert isinstance(one.next(), Failed)
    assert fetch(one, call(when_open=WhenOpen.WAIT, retry=PATIENT)) == 200


def test_breaker_that_crashes_goes_on_refusing_and_keeps_its_time(bench: MakeBench) -> None:
    """BRK-12."""
    clock = VirtualClock()
    one = bench(always(DOWN), **QUICK, clock=clock)
    trip(one)
    with expect(one.tree, ChildRestarting):
        crash(one.tree.address(f"{BREAKERS}/asample"))
    assert isinstance(fetch(one, call()), CircuitOpenError)
    with expect(one.tree, ChildStarted, path=f"{BREAKERS}/asample"):
        clock.advance(1.0)
    one.tree.address(f"{BREAKERS}/asample").call(None)
    with expect(one.tree, CircuitHalfOpened, operation="asample"):
        clock.advance(4.0)
    assert isinstance(state(one), HalfOpen)


def test_breakers_come_back_with_their_supervisor(bench: MakeBench) -> None:
    one = bench(always(DOWN), **QUICK)
    trip(one)
    with expect(one.tree, ChildStarted, path=f"{BREAKERS}/asample"):
        crash(one.tree.address(BREAKERS))
    assert isinstance(fetch(one, call()), CircuitOpenError)


def test_what_happened_while_a_breaker_was_away_is_told_later(bench: MakeBench) -> None:
    clock = VirtualClock()
    one = bench(answers(GOOD, DOWN, DOWN), **QUICK, clock=clock)
    with expect(one.tree, ChildStarted, path=f"{BREAKERS}/asample"):
        fetch(one, call())
    with expect(one.tree, ChildRestarting):
        crash(one.tree.address(f"{BREAKERS}/asample"))
    with expect(one.tree, CircuitOpened, operation="asample"):
        fetch(one, call())
        fetch(one, call())
        clock.advance(1.0)


def test_timer_of_an_open_time_that_was_cut_short_changes_nothing(bench: MakeBench) -> None:
    """BRK-10."""
    clock = VirtualClock()
    one = bench(always(DOWN), **QUICK, clock=clock)
    breaker = f"{BREAKERS}/asample"
    trip(one)
    clock.advance(2.0)
    with expect(one.tree, CircuitClosed):
        one.tree.address(breaker).tell(Reset())
    trip(one)
    one.tree.address(breaker).call(None)
    clock.advance(3.0)  # when the first open time would have been over
    one.tree.address(breaker).call(None)
    assert isinstance(state(one), Open)
    with expect(one.tree, CircuitHalfOpened):
        clock.advance(2.0)


@pytest.mark.parametrize("pool", [Pool.FUTURE, Pool.STREAM])
def test_call_that_still_runs_opens_a_breaker_by_being_slow_unless_it_lasts_on_purpose(
    bench: MakeBench, pool: Pool
) -> None:
    """BRK-03."""
    slow = BreakerSettings(slow_call_s=0.01, min_calls=1)
    one = bench(by_path(asample=always(None), forward=always(None)), breaker=slow)
    with expect(one.tree, CircuitOpened, operation="forward"):
        one.send("held", "", call("asample", pool=pool), None)
        assert one.transport.is_hanging.wait(WAIT_S)
        one.send("slow", "", call("forward"), None)
    assert isinstance(state(one, "asample"), Closed)


def test_calls_that_are_answered_in_time_are_not_slow(bench: MakeBench) -> None:
    """BRK-03."""
    one = bench(always(GOOD), breaker=BreakerSettings(slow_call_s=1e6, min_calls=1))
    for _ in range(3):
        fetch(one, call())
    closed = state(one)
    assert isinstance(closed, Closed)
    assert closed.slowness is not None
    assert closed.slowness.counts(0.0) == (3, 0)


def test_breaker_that_is_forced_open_refuses_and_lets_those_who_wait_go_afterwards(bench: MakeBench) -> None:
    """BRK-09."""
    one = bench(always(GOOD), **QUICK)
    circuits = one.published.circuits
    circuits.force("asample", BreakerMode.FORCED_OPEN)  # before anybody calls it
    with expect(one.tree, CircuitForced) as got:
        error = fetch(one, call())
    assert isinstance(error, CircuitOpenError)
    assert error.is_forced
    assert got.event == CircuitForced(operation="asample", mode="forced_open")
    reply = one.address.ask(Fetch(call(when_open=WhenOpen.WAIT, retry=PATIENT)), timeout_s=WAIT_S)
    fetch(one, call())  # by now the other one waits
    assert sent(one) == 0
    with expect(one.tree, CircuitClosed, operation="asample"):
        circuits.force("asample", BreakerMode.AUTOMATIC)
    assert reply.result() == 200


@pytest.mark.parametrize("mode", ["forced_closed", "disabled"])
def test_breaker_that_is_held_closed_sends_all_there_is(bench: MakeBench, mode: str) -> None:
    """BRK-09."""
    one = bench(always(DOWN), breaker=BreakerSettings(consecutive_failures=2, mode=mode))
    for _ in range(5):
        fetch(one, call())
    assert sent(one) == 5
    with expect(one.tree, CircuitClosed):
        one.published.circuits.force("asample", BreakerMode.AUTOMATIC)
    with expect(one.tree, CircuitOpened):
        fetch(one, call())
        fetch(one, call())


def test_fifty_actors_that_share_a_breaker_are_admitted_alike(bench: MakeBench) -> None:
    """BRK-13."""
    one = bench(by_path(asample=always(DOWN), forward=always(GOOD)), **QUICK, clock=VirtualClock())
    trip(one)
    for number in range(50):
        one.send(f"sample {number}", f"actor {number}", call("asample"), None)
        one.send(f"forward {number}", f"actor {number}", call("forward"), None)
    outcomes = [one.next() for _ in range(100)]
    assert sum(isinstance(outcome, Failed) for outcome in outcomes) == 50
    assert sum(isinstance(outcome, Answered) for outcome in outcomes) == 50
    assert (sent(one, "asample"), sent(one, "forward")) == (2, 50)


def test_reset_closes_a_breaker(bench: MakeBench) -> None:
    one = bench(answers(DOWN, DOWN, GOOD), **QUICK)
    trip(one)
    with expect(one.tree, CircuitClosed, operation="asample"):
        one.tree.address(f"{BREAKERS}/asample").tell(Reset())
    assert fetch(one, call()) == 200


def test_poll_that_the_service_holds_lets_the_others_go(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "HELD_S", 0.01)
    clock = VirtualClock()
    one = bench(answers(DOWN, DOWN, None, GOOD), **QUICK, clock=clock)
    trip(one, "retrieve_future")
    clock.advance(5.0)
    with expect(one.tree, CircuitClosed, operation="retrieve_future"):
        one.send("held", "", poll(), None)
    assert one.transport.is_hanging.wait(WAIT_S)
    one.send("other", "", poll(), None)
    assert one.next() == Answered("other", GOOD)


def test_settings_may_differ_by_operation(bench: MakeBench) -> None:
    one = bench(always(DOWN), breaker={"asample": BreakerSettings(consecutive_failures=1)})
    fetch(one, call("asample"))
    fetch(one, call("forward"))
    assert (type(state(one, "asample")), type(state(one, "forward"))) == (Open, Closed)


@pytest.mark.parametrize("wrong", [5, {"asample": 5}, {1: BreakerSettings()}, "default"])
def test_what_are_no_settings_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="circuit_breaker must be"):
        Circuits(wrong)


def test_error_says_which_endpoint_and_when_to_try_again() -> None:
    error = CircuitOpenError("asample", 12.44)
    assert isinstance(error, ConnectionError)
    assert str(error) == (
        "too many calls of asample failed or took too long: nothing was sent; try again in 12.4 s"
    )
    held = CircuitOpenError("asample", 5.0, is_forced=True)
    assert str(held) == (
        "the circuit of asample is held open: nothing was sent; ServiceClient.set_circuit_mode lets it go"
    )
