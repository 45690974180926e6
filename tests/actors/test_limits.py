"""What is held back, for how long, and who goes first: on the path of real requests."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from harness import WAIT_S
from network import CALL, EXPECTED, HANDLE, JSON, Bench, no_flags

from tinker_actors.actors.transport import Accepted, Answered, Cancel, CancelAll, Failed, Fetch, Send
from tinker_actors.api.futures import Expectation
from tinker_actors.config import SamplingLimits
from tinker_actors.errors import CircuitOpenError, RateLimitError
from tinker_actors.events import CircuitOpened, RequestRetried, SamplingPaused
from tinker_actors.supervision import BreakerSettings, ChildStarted
from tinker_actors.supervision.testing import VirtualClock, crash, expect
from tinker_actors.wire.calls import Answer, Call, WhenOpen
from tinker_actors.wire.retry import NEVER

MakeBench = Callable[..., Bench]

TOO_MANY = Answer(429, JSON, b'{"detail": "slow down"}')
TWO = SamplingLimits(max_submissions=2, throttled_submissions=1)


def sample(name: str, size: int = 1, **fields: Any) -> Call[Any]:
    fields = {"operation": "asample", "path": "asample", **fields}
    return msgspec.structs.replace(CALL, body=name.encode(), size=size, **fields)


class Gate:
    """Answers when told to."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.held: set[str] = set()
        self.refusal: Answer = TOO_MANY
        self.refused: list[str] = []
        """These are refused once each."""
        self.some = threading.Condition()

    def __call__(self, call: Call[Any], _url: str) -> Answer | None:
        name = call.body.decode()
        with self.some:
            self.arrived.append(name)
            self.some.notify_all()
        if name in self.refused:
            self.refused.remove(name)
            return self.refusal
        return None if name in self.held else HANDLE

    def wait(self, count: int) -> list[str]:
        """The first so many that arrived."""
        with self.some:
            assert self.some.wait_for(lambda: len(self.arrived) >= count, WAIT_S)
            return self.arrived[:count]


def submit(
    bench: Bench, name: str, client: str = "a", expected: Expectation | None = None, **fields: Any
) -> None:
    receiver = bench.tree.address({"a": "service/receiver", "b": "service/other"}[client])
    owner = f"{client}/{name}"
    bench.address.tell(Send(sample(name, **fields), name, receiver, owner, expected))


def pass_by(bench: Bench) -> None:
    """Return once everything that was told to the transport before is on its way, or held back."""
    bench.address.call(Fetch(msgspec.structs.replace(CALL, path="get_info", operation="get_info", body=b"-")))


@pytest.fixture
def greeted(bench: MakeBench) -> MakeBench:
    """Makes benches that have asked for the flags already, so that requests go in the order in which they came."""

    def make(*arguments: Any, **options: Any) -> Bench:
        one = bench(*arguments, **options)
        pass_by(one)
        return one

    return make


def samples(gate: Gate) -> list[str]:
    return [name for name in gate.arrived if name != "-"]


def test_so_many_are_submitted_at_a_time(greeted: MakeBench) -> None:
    gate = Gate()
    gate.held = {"1", "2"}
    one = greeted(gate, limits=TWO)
    for name in ("1", "2", "3"):
        submit(one, name)
    pass_by(one)
    assert samples(gate) == ["1", "2"]
    one.address.tell(Cancel("a/1"))
    assert one.next() == Answered("3", HANDLE)
    assert samples(gate) == ["1", "2", "3"]


def test_single_sample_does_not_wait_behind_those_of_another(greeted: MakeBench) -> None:
    gate = Gate()
    gate.held = {"many 0", "many 1"}
    one = greeted(gate, limits=TWO)
    for number in range(2_000):
        submit(one, f"many {number}", client="a")
        if number % 500 == 0:
            pass_by(one)  # a mailbox has a bound
    submit(one, "single", client="b")
    pass_by(one)
    one.address.tell(Cancel("a/many 0"))
    assert samples_until(gate, "single") <= 4


def samples_until(gate: Gate, name: str) -> int:
    """How many samples had arrived when this one did."""
    with gate.some:
        assert gate.some.wait_for(lambda: name in gate.arrived, WAIT_S)
        return samples(gate).index(name) + 1


def test_all_samples_keep_the_pause_that_one_was_told_of(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["1"]
    one = greeted(gate, clock=clock)
    with expect(one.tree, SamplingPaused) as paused, expect(one.tree, RequestRetried, operation="asample"):
        submit(one, "1")
    submit(one, "2", client="b")
    pass_by(one)
    assert samples(gate) == ["1"]
    assert paused.event.pause_s == 1.0
    clock.advance(1.0)
    assert {type(one.next()), type(one.next())} == {Answered}
    assert samples(gate) == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("size", "headers", "pause_s"),
    [
        (2**17, {}, 1.0),
        (2**17 + 1, {}, 5.0),
        (1, {"retry-after": "7"}, 7.0),
        (1, {"retry-after": "0.1"}, 1.0),
    ],
)
def test_pause_is_longer_after_a_large_one_and_where_the_service_says_so(
    greeted: MakeBench, size: int, headers: dict[str, str], pause_s: float
) -> None:
    gate = Gate()
    gate.refused, gate.refusal = ["1"], Answer(429, {**JSON, **headers}, b"{}")
    one = greeted(gate, clock=VirtualClock())
    with expect(one.tree, SamplingPaused, pause_s=pause_s):
        submit(one, "1", size=size)


def test_clients_of_one_key_share_the_pause(greeted: MakeBench) -> None:
    clock, gates = VirtualClock(), [Gate(), Gate(), Gate()]
    gates[0].refused = ["1"]
    first, second = greeted(gates[0], clock=clock), greeted(gates[1], clock=clock)
    other = greeted(gates[2], clock=clock, api_key="tml-other")
    with expect(first.tree, SamplingPaused):
        submit(first, "1")
    submit(second, "2")
    submit(other, "3")
    assert other.next() == Answered("3", HANDLE)
    pass_by(second)
    assert samples(gates[1]) == []
    clock.advance(1.0)
    second.next()
    assert samples(gates[1]) == ["2"]


def test_streams_keep_the_pause_and_bring_it_about(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["1"]
    one = greeted(gate, clock=clock)
    with expect(one.tree, SamplingPaused):
        submit(one, "1", operation="stream_sample")
    submit(one, "2")
    pass_by(one)
    assert samples(gate) == ["1"]
    clock.advance(1.0)
    assert {type(one.next()), type(one.next())} == {Answered}
    gate.refused = ["3"]
    with expect(one.tree, SamplingPaused):
        submit(one, "3")
    submit(one, "4", operation="stream_sample")
    pass_by(one)
    assert samples(gate)[3:] == ["3"]


def test_pause_outlives_the_transport(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["1"]
    one = greeted(gate, clock=clock)
    with expect(one.tree, SamplingPaused):
        submit(one, "1")
    with expect(one.tree, ChildStarted, path="service/transport"):
        crash(one.address)
    assert isinstance(one.next(), Failed)  # of the first one: the outcome is unknown
    submit(one, "2")
    pass_by(one)
    assert samples(gate) == ["1"]


def test_less_is_submitted_for_a_while_after_a_pause(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["0"]
    one = greeted(gate, clock=clock, limits=TWO)
    with expect(one.tree, SamplingPaused):
        submit(one, "0")
    gate.held = {"1"}
    clock.advance(1.0)
    one.next()
    submit(one, "1")
    submit(one, "2")
    pass_by(one)
    assert samples(gate) == ["0", "0", "1"]
    clock.advance(10.0)
    assert one.next() == Answered("2", HANDLE)


def test_second_pause_ends_in_time_though_one_waits_for_the_end_of_the_throttling(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["0"]
    one = greeted(gate, clock=clock, limits=TWO)
    with expect(one.tree, SamplingPaused):
        submit(one, "0")
    gate.held = {"0", "1"}
    clock.advance(1.0)
    gate.wait(3)  # "0" is there again, and takes the only place
    gate.refused = ["1"]
    submit(one, "1")  # waits for it, or for the end of the throttling in ten seconds
    pass_by(one)
    with expect(one.tree, SamplingPaused):
        one.address.tell(Cancel("a/0"))
    gate.held.clear()
    clock.advance(1.0)
    assert one.next() == Answered("1", HANDLE)


def test_bytes_count_many_times_after_a_pause(greeted: MakeBench) -> None:
    clock, gate = VirtualClock(), Gate()
    gate.refused = ["0"]
    gate.held = {"1"}
    one = greeted(gate, clock=clock, limits=SamplingLimits(max_bytes=1_000))
    with expect(one.tree, SamplingPaused):
        submit(one, "0")
    clock.advance(1.0)
    one.next()
    submit(one, "1", size=51)
    submit(one, "2")
    pass_by(one)
    assert samples(gate) == ["0", "0", "1"]


def test_one_sample_may_be_larger_than_all_that_there_is(greeted: MakeBench) -> None:
    one = greeted(Gate(), limits=SamplingLimits(max_bytes=10))
    for name in ("1", "2"):
        submit(one, name, size=1_000)
        assert one.next()


def test_the_service_says_how_many_bytes_there_are(greeted: MakeBench) -> None:
    gate = Gate()
    gate.held = {"1"}

    def flags(call: Call[Any]) -> Answer:
        if call.path == "client/config":
            return Answer(200, JSON, b'{"sample_dispatch_bytes_semaphore_size": 100}')
        return no_flags(call)

    one = greeted(gate, flags=flags)
    pass_by(one)
    submit(one, "1", size=101)
    submit(one, "2")
    pass_by(one)
    assert samples(gate) == ["1"]


def accepted(bench: Bench) -> Any:
    """The tag of the sample that the service works on next."""
    message = bench.next()
    assert isinstance(message, Accepted)
    return message.tag


def test_the_service_says_how_many_of_a_sampler_it_works_on(greeted: MakeBench) -> None:
    gate = Gate()

    def flags(call: Call[Any]) -> Answer:
        if call.path == "client/config":
            return Answer(200, JSON, b'{"sample_max_concurrent_requests": 1}')
        return no_flags(call)

    def give(call: Call[Any], url: str) -> Answer | None:
        return None if call.path == "retrieve_future" else gate(call, url)

    one = greeted(give, flags=flags)
    for name, client in (("1", "a"), ("2", "a"), ("3", "b")):
        submit(one, name, client=client, expected=EXPECTED)
    assert {accepted(one), accepted(one)} == {"1", "3"}
    pass_by(one)
    assert sorted(samples(gate)) == ["1", "3"]
    one.address.tell(Cancel("a/1"))
    assert accepted(one) == "2"


def test_refusal_for_good_is_told_to_the_caller(greeted: MakeBench) -> None:
    gate = Gate()
    gate.refused, gate.refusal = ["1"], Answer(429, {**JSON, "x-should-retry": "false"}, b"{}")
    one = greeted(gate)
    submit(one, "1")
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RateLimitError)


def test_without_limits_each_sample_is_repeated_by_itself(greeted: MakeBench) -> None:
    gate = Gate()
    gate.refused = ["1"]
    gate.held = {str(number) for number in range(2, 12)}
    one = greeted(gate, limits=SamplingLimits(is_enabled=False, max_submissions=1, throttled_submissions=1))
    with expect(one.tree, RequestRetried, operation="asample"):
        submit(one, "1")
    for name in sorted(gate.held):
        submit(one, name)
    assert set(gate.wait(12)) >= gate.held


def test_sample_whose_circuit_is_open_does_not_wait_to_be_refused(greeted: MakeBench) -> None:
    gate = Gate()
    gate.refused, gate.refusal, gate.held = ["1"], Answer(503, {}, b""), {"0"}
    limits = SamplingLimits(max_submissions=1, throttled_submissions=1)
    one = greeted(gate, limits=limits, breaker=BreakerSettings(consecutive_failures=1))
    with expect(one.tree, CircuitOpened):
        submit(one, "1", retry=NEVER)
    assert isinstance(one.next(), Failed)
    submit(one, "0", when_open=WhenOpen.SEND)  # takes the only place
    submit(one, "2", when_open=WhenOpen.FAIL)
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CircuitOpenError)


def test_cancelled_samples_take_nothing_along(greeted: MakeBench) -> None:
    gate = Gate()
    gate.held = {"1", "2", "3"}
    one = greeted(gate, limits=TWO)
    for name in ("1", "2", "3"):
        submit(one, name)
    pass_by(one)
    for name in ("1", "2", "3"):
        one.address.tell(Cancel(f"a/{name}"))
    for name in ("4", "5"):
        submit(one, name)
        assert one.next()


def test_what_an_actor_asked_for_that_is_gone_is_given_up(greeted: MakeBench) -> None:
    gate = Gate()
    gate.held = {"1", "2"}
    one = greeted(gate, limits=TWO)
    for name in ("1", "2", "3"):
        submit(one, name, client="b")
    pass_by(one)
    one.address.tell(CancelAll("service/other"))
    submit(one, "4")
    assert one.next() == Answered("4", HANDLE)
    assert samples(gate) == ["1", "2", "4"]


def test_polls_of_thousands_leave_room_for_those_of_others(greeted: MakeBench) -> None:
    def script(call: Call[Any], _url: str) -> Answer | None:
        match call.path:
            case "retrieve_future":
                with some:
                    polls.append(call.body)
                    some.notify_all()
                return None
            case "asample":
                return msgspec.structs.replace(HANDLE, body=b'{"request_id": "%s"}' % call.body)
        return HANDLE

    some, polls = threading.Condition(), list[bytes]()
    one = greeted(script)
    receivers = [one.tree.address(f"service/{name}") for name in ("receiver", "other")]
    for number in range(1_100):
        one.address.tell(Send(sample(str(number)), number, receivers[0], expected=EXPECTED))
        assert isinstance(one.next(), Accepted)
    one.address.tell(Send(sample("single"), "single", receivers[1], expected=EXPECTED))
    with some:
        assert some.wait_for(lambda: any(b"single" in body for body in polls), WAIT_S)
        assert len(polls) == 901
