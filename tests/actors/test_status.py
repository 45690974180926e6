"""Why one is waiting, at any time: told from what the actors publish."""

import random
from pathlib import Path
from typing import Any

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.circuits import Circuits
from tinker_actors.actors.futures import Settler, Submissions
from tinker_actors.actors.liveness import Health, Pulse
from tinker_actors.actors.requests import Request
from tinker_actors.actors.status import Hold, status_of
from tinker_actors.api.training import get_info
from tinker_actors.events import CircuitOpened, QueueStateChanged, RequestRetried
from tinker_actors.supervision import BreakerMode, BreakerSettings, Outcome, Permit
from tinker_actors.supervision.testing import expect
from tinker_actors.types import ClientStatus

PATH = "service/session/training/training:1"
BEATS = "service/session/heartbeat"


class Holder:
    """A client with two calls that have no result."""

    def __init__(self, hold: Hold | None = None) -> None:
        settler = Settler()
        self.submissions: Submissions[str] = Submissions(settler, cancellable=False)
        self.hold = hold
        self.busy: str | None = None
        for name in ("a", "b"):
            self.submissions.add(name)
        settler.close(timeout_s=5.0)

    def close(self, error: BaseException) -> None:
        self.submissions.close(error)


def request(since: float, client: str = PATH, **fields: Any) -> Request:
    one = Request(get_info("m"), client, client, since)
    for name, value in fields.items():
        setattr(one, name, value)
    return one


def status(
    client: Holder, *requests: Request, circuits: Circuits | None = None, paused_until: float = 0.0
) -> ClientStatus:
    circuits = circuits or Circuits()
    (one,) = status_of({PATH: client}, requests, circuits.all(), None, 20.0, paused_until).clients
    return one


def test_client_waits_for_its_oldest_request() -> None:
    one = status(Holder(), request(15.0), request(12.0, is_accepted=True), request(1.0, client="another"))
    assert one == ClientStatus(
        name="training:1",
        unanswered=2,
        waits_for="the result of get_info",
        since_s=8.0,
        operation="get_info",
        requests=2,
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "the answer to get_info"),
        ({"is_accepted": True}, "the result of get_info"),
        (
            {"is_accepted": True, "queue": ("paused_capacity", "short of GPUs")},
            "its turn on the service (paused_capacity: short of GPUs)",
        ),
        ({"is_accepted": True, "queue": ("unknown", "")}, "its turn on the service (unknown)"),
        ({"repeats": (22.5, "the service says 503")}, "another try of get_info in 2.5 s, after: the service"),
    ],
)
def test_what_a_request_hangs_on_is_said_in_words(fields: dict[str, Any], words: str) -> None:
    assert status(Holder(), request(12.0, **fields)).waits_for.startswith(words)


@pytest.mark.parametrize(
    ("operation", "is_accepted", "paused_until", "words"),
    [
        ("asample", False, 23.5, "a shared pause after 429, for another 3.5 s"),
        ("stream_sample", False, 23.5, "a shared pause after 429, for another 3.5 s"),
        ("asample", False, 19.0, "its turn to be sent"),
        ("asample", True, 23.5, "its turn to be sent"),
        ("forward_backward", False, 23.5, "its turn to be sent"),
    ],
)
def test_what_holds_a_request_back_here_is_said(
    operation: str, is_accepted: bool, paused_until: float, words: str
) -> None:
    one = request(12.0, operation=operation, is_accepted=is_accepted, is_queued=True)
    assert status(Holder(), one, paused_until=paused_until).waits_for == words


def test_queue_of_the_service_is_told_with_its_reason_and_age() -> None:
    """REC-11."""
    one = status(Holder(), request(12.0, is_accepted=True, queue=("paused_capacity", "short of GPUs")))
    assert (one.queue_state, one.queue_reason) == ("paused_capacity", "short of GPUs")
    assert one.since_s == 8.0


def test_open_circuit_is_what_its_operation_waits_for() -> None:
    circuits = Circuits(BreakerSettings(consecutive_failures=1, jitter=0.0, open_s=5.0))
    circuit = circuits.make("get_info", lambda: 19.0, random.Random(1))
    permit = circuit.admit(1.0)
    assert isinstance(permit, Permit)
    circuit.settle(permit, Outcome.FAILURE)
    assert status(Holder(), request(12.0), circuits=circuits).waits_for == (
        "the circuit of get_info, open for another 4.0 s"
    )


def test_circuit_that_is_held_open_is_what_its_operation_waits_for() -> None:
    """BRK-09."""
    circuits = Circuits()
    circuits.make("get_info", lambda: 19.0, random.Random(1)).force(BreakerMode.FORCED_OPEN)
    told = status(Holder(), request(12.0), circuits=circuits)
    assert told.waits_for == "the circuit of get_info, which is held open"


def test_breaker_is_told_with_its_mode_and_with_what_it_remembers() -> None:
    circuits = Circuits(BreakerSettings(slow_call_s=2.0))
    for number, mode in enumerate(BreakerMode):
        circuit = circuits.make(mode, lambda: 19.0, random.Random(1))
        circuit.force(mode)
        for _ in range(number):
            permit = circuit.admit(1.0)
            if isinstance(permit, Permit):
                circuit.settle(permit, Outcome.FAILURE, duration_s=2.0)
    told = status_of({}, [], circuits.all(), None, 20.0)
    assert {name: one.state for name, one in told.breakers.items()} == {
        "automatic": "closed",
        "forced_open": "forced_open",
        "forced_closed": "forced_closed",
        "disabled": "disabled",
    }
    counted = told.breakers["forced_closed"]
    assert (counted.calls, counted.failures, counted.slow) == (2, 2, 2)
    assert (
        str(told)
        == "breaker forced_open: forced_open, 1 refused\nbreaker forced_closed: forced_closed, 0 refused"
    )


def test_what_holds_a_client_back_goes_before_its_requests() -> None:
    held = Holder(Hold("its model", 4.0))
    assert (status(held).waits_for, status(held).since_s) == ("its model", 16.0)
    assert status(held, request(12.0)).waits_for == "its model: the answer to get_info"


def test_what_is_held_back_by_another_actor_is_explained_by_that_ones_requests() -> None:
    held = Holder(Hold("the session", 4.0, BEATS))
    beat = request(12.0, client=BEATS, repeats=(21.0, "the service says 503"))
    assert status(held, beat).waits_for.startswith("the session: another try of get_info in 1.0 s")


def test_session_is_told_with_the_age_of_its_last_good_beat() -> None:
    told = status_of({}, [], {}, Pulse("s1", Health.LATE, -5.0), 20.0)
    assert told.session is not None
    assert (told.session.session_id, told.session.health, told.session.last_good_beat_s) == ("s1", "late", 25)
    assert str(told) == "session s1: late, last good beat 25 s ago"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Server(tmp_path_factory.mktemp("server"), "--control") as server:
        yield server


def test_client_that_waits_for_a_service_that_is_down_says_so(server: Server, tmp_path: Path) -> None:
    control = Control(server.url)
    with client(server, tmp_path / "run") as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        assert service.status().clients[0].waits_for == "nothing"
        tree = service._runtime.tree
        with expect(tree, RequestRetried, operation="optim_step"), expect(tree, CircuitOpened) as opened:
            control.arm({"effect": "status", "status": 503, "operation": "optim_step", "count": "always"})
            training.forward_backward(BATCHES[0], "cross_entropy")
            update = training.optim_step(ADAM)
        one = service.status()
        assert opened.event.operation == "optim_step"
        assert one.breakers["optim_step"].state in ("open", "half_open")
        assert one.breakers["forward_backward"].state == "closed"
        assert one.clients[0].operation == "optim_step"
        assert one.clients[0].waits_for.startswith(("another try of optim_step", "the circuit of optim_step"))
        assert one.session is not None
        assert one.session.health == "ok"
        control.clear()
        update.result(WAIT_S)
        assert service.status().clients[0].unanswered == 0
    assert service.status().stopped == "the service client is closed"


def test_events_of_the_queue_say_whose_request_it_is() -> None:
    event = QueueStateChanged(operation="asample", client=PATH, request_id="7", state="active", reason="")
    assert event.client == PATH


def test_sampler_that_is_gone_is_not_listed(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        sampler.sample(ta.ModelInput.from_ints([72]), 1, ta.SamplingParams(max_tokens=2)).result(WAIT_S)
        assert [one.name for one in service.status().clients] == ["sampling:1"]
        gone = service._runtime.tree.address("service/session/sampling/sampling:1")
        assert gone.path in service._runtime.published.clients
        service._runtime._retire(sampler._sampler)
        assert service.status().clients == ()
