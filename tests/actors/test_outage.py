"""Runs under fire: endpoints that are down, that flap, that fail now and then, and beats that must not suffer."""

import ctypes
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors import liveness, session
from tinker_actors.errors import CircuitOpenError
from tinker_actors.events import (
    CircuitClosed,
    CircuitOpened,
    HeartbeatMissed,
    RequestRetried,
    SamplingPaused,
    SessionHealthChanged,
)
from tinker_actors.local.step_log import Beat
from tinker_actors.supervision import ChildSpec, SupervisedActor
from tinker_actors.supervision.testing import expect

BREAKER = ta.BreakerSettings(consecutive_failures=3, open_s=0.3, max_open_s=2.0)
NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
PROMPT = ta.ModelInput.from_ints([72, 101])
ONE = ta.SamplingParams(max_tokens=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server", "--control") as server:
        yield server


@pytest.fixture
def control(server: Server) -> Control:
    return Control(server.url)


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat every half second, so that a short test has several."""
    for module in (liveness, session):
        monkeypatch.setattr(module, "BEAT_S", 0.5)


def applied(control: Control, model_id: str) -> list[tuple[int | None, str]]:
    """What the service executed for a model, by its own log."""
    return [(one.seq_id, one.kind) for one in control.executed(model_id) if one.kind != "create_model"]


def steps(count: int) -> list[tuple[int, str]]:
    """What it executes for so many steps that are done once."""
    kinds = ["forward_backward", "optim_step"] * count
    return list(enumerate(kinds, start=1))


def train(training: ta.TrainingClient, count: int) -> list[float]:
    return [step(training, number)["loss:sum"] for number in range(count)]


def beats(control: Control) -> int:
    return sum(isinstance(entry, Beat) for entry in control.log())


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_training_goes_on_by_itself_after_an_outage_of_one_endpoint(
    server: Server, control: Control, tmp_path: Path, seconds: float
) -> None:
    with client(server, tmp_path / "run", circuit_breaker=BREAKER, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        control.arm(
            {
                "effect": "status",
                "status": 503,
                "operation": "optim_step",
                "count": "always",
                "until_s": seconds,
            }
        )
        losses = train(training, 3)
        assert losses[-1] < losses[0]
        assert applied(control, training.model_id) == steps(3)
        assert {one.operation for one in events.of(CircuitOpened)} == {"optim_step"}
        assert {one.operation for one in events.of(CircuitClosed)} == {"optim_step"}


def requests_in_an_outage(server: Server, breaker: ta.BreakerSettings) -> int:
    """How many samples are tried at an endpoint that is down for a while, once five have failed there."""
    control = Control(server.url)
    with client(server, None, circuit_breaker=breaker, sampling_waits=True) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        sampler.sample(PROMPT, 1, ONE).result(WAIT_S)
        (name,) = control.arm(
            {"effect": "status", "status": 503, "operation": "asample", "count": "always", "until_s": 4.0}
        )
        with expect(service._runtime.tree, RequestRetried, operation="asample", count=5):
            samples = [sampler.sample(PROMPT, 1, ONE) for _ in range(5)]
        samples += [sampler.sample(PROMPT, 1, ONE) for _ in range(300)]
        assert all(len(one.result(WAIT_S).sequences) == 1 for one in samples)
        fired = len(control.fired(name))
        control.clear()
    return fired


def test_endpoint_that_is_down_is_left_alone(server: Server) -> None:
    """By at least 95 in 100 of the requests that it would get without a breaker."""
    hammered = requests_in_an_outage(server, ta.BreakerSettings(mode="disabled"))
    spared = requests_in_an_outage(server, ta.BreakerSettings(consecutive_failures=5, open_s=1.0))
    assert spared <= 0.05 * hammered


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_service_that_flaps_every_second_does_nothing_twice(
    server: Server, control: Control, tmp_path: Path, times: int
) -> None:
    with client(server, tmp_path / "run", circuit_breaker=BREAKER, recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        down = {"effect": "status", "status": 503, "count": "always"}
        names = control.arm(
            *(
                {**down, "operation": operation, "from_s": 2.0 * n, "until_s": 2.0 * n + 1.0}
                for n in range(times)
                for operation in ("forward_backward", "optim_step", "retrieve_future")
            )
        )
        over, count = time.monotonic() + 2.0 * times, 0
        while time.monotonic() < over:
            step(training, count)
            count += 1
        assert any(control.fired(name) for name in names)
        assert applied(control, training.model_id) == steps(count)


@pytest.mark.usefixtures("quick_beats")
@pytest.mark.parametrize("count", [400, pytest.param(2_000, marks=pytest.mark.slow)])
def test_no_beat_is_lost_under_many_samples_that_fail_now_and_then(
    server: Server, control: Control, count: int
) -> None:
    with client(server, None, sampling_waits=True) as service:
        events = Events(service)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        trouble: list[dict[str, Any]] = [
            {"effect": "status", "status": 429, "retry_after_s": 1.0},
            {"effect": "status", "status": 500},
            {"effect": "reset"},
        ]
        names = control.arm(
            *(
                {**one, "operation": operation, "count": "always", "probability": 0.017}
                for one in trouble
                for operation in ("asample", "retrieve_future")
            ),
            seed=3,
        )
        samples = [sampler.sample(PROMPT, 1, ONE) for _ in range(count)]
        assert all(len(one.result(WAIT_S).sequences) == 1 for one in samples)
        assert all(control.fired(name) for name in names)
        assert beats(control) > 0
        assert events.of(HeartbeatMissed) == []
        assert events.of(SessionHealthChanged) == []


@pytest.mark.usefixtures("quick_beats")
def test_flood_of_samples_holds_up_neither_beats_nor_training_nor_another_sampler(
    server: Server, control: Control
) -> None:
    limits = ta.SamplingLimits(pause_s=0.5)
    with client(server, None, sampling_limits=limits) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        many, single = (
            service.create_sampling_client(base_model="local/tiny").result(WAIT_S) for _ in range(2)
        )
        with expect(service._runtime.tree, SamplingPaused, count=3):
            control.arm(
                {
                    "effect": "status",
                    "status": 429,
                    "operation": "asample",
                    "count": "always",
                    "probability": 0.5,
                }
            )
            flood = [many.sample(PROMPT, 1, ONE) for _ in range(2_000)]
        losses = train(training, 2)
        assert losses[1] < losses[0]
        waits = service.status().clients[1].waits_for
        assert waits.startswith(
            ("a shared pause after 429", "its turn to be sent", "the answer", "the result")
        )
        assert len(single.sample(PROMPT, 1, ONE).result(WAIT_S).sequences) == 1
        assert not all(one.done() for one in flood)
        before = beats(control)
        while beats(control) < before + 2:  # in the middle of it
            step(training, 0)
        assert events.of(HeartbeatMissed) == []
        assert events.of(SessionHealthChanged) == []
        for one in flood:
            one.cancel()
        control.clear()
        assert len(many.sample(PROMPT, 1, ONE).result(WAIT_S).sequences) == 1


@pytest.mark.usefixtures("quick_beats")
def test_no_beat_is_lost_beside_a_thread_that_computes_without_end(server: Server, control: Control) -> None:
    """HB-06."""
    enough = threading.Event()

    def compute() -> None:
        while not enough.is_set():
            sum(range(10_000))

    hog = threading.Thread(target=compute)
    with client(server, None) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        hog.start()
        try:
            count = 0
            while beats(control) < 4:
                step(training, count)
                count += 1
        finally:
            enough.set()
            hog.join()
        assert events.of(HeartbeatMissed) == []
        assert events.of(SessionHealthChanged) == []


@pytest.mark.usefixtures("quick_beats")
def test_beats_that_a_call_into_c_held_up_go_on_after_it(server: Server, control: Control) -> None:
    """HB-06: while it keeps the interpreter nothing beats; the session outlives what is shorter than its limit.

    HB-07 and HB-08 are about a helper process that beats, and there is none (`supervision.md`).
    """
    sleep_with_the_interpreter_held = ctypes.PyDLL(None).sleep
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sleep_with_the_interpreter_held(2)
        before, count = beats(control), 0
        while beats(control) < before + 2:
            step(training, count)
            count += 1
        assert events.of(SessionHealthChanged) == []
        assert applied(control, training.model_id) == steps(count)


class Stuck(SupervisedActor):
    """Does not come back from its message until it is let go."""

    def __init__(self, let_go: threading.Event) -> None:
        super().__init__()
        self._let_go = let_go

    def on_receive(self, _message: Any) -> None:
        assert self._let_go.wait(WAIT_S)


@pytest.mark.usefixtures("quick_beats")
def test_no_beat_is_lost_beside_an_actor_that_is_stuck(server: Server, control: Control) -> None:
    """HB-06."""
    let_go = threading.Event()
    with client(server, None) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        stuck = service.application.start(ChildSpec("stuck", partial(Stuck, let_go))).result(WAIT_S)
        answer = stuck.ask("anything", timeout_s=WAIT_S)
        before, count = beats(control), 0
        while beats(control) < before + 2:
            step(training, count)
            count += 1
        assert not answer.done()
        let_go.set()
        assert answer.result() is None
        assert events.of(HeartbeatMissed) == []
        assert events.of(SessionHealthChanged) == []


def test_session_that_expires_in_the_middle_of_a_run_costs_no_step(
    server: Server, control: Control, tmp_path: Path
) -> None:
    with client(server, tmp_path / "undisturbed") as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=7).result(WAIT_S)
        wanted = train(training, 4)
        undisturbed = training.save_state("end").result(WAIT_S)
    with client(server, tmp_path / "run") as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=7).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        (name,) = control.arm({"effect": "expire_session", "operation": "optim_step", "nth": 2})
        assert train(training, 4) == wanted
        assert control.fired(name)
        saved = training.save_state("end").result(WAIT_S)
        assert len(sampler.sample(PROMPT, 1, ONE).result(WAIT_S).sequences) == 1  # every handle works on
    assert server.digest(saved.path) == server.digest(undisturbed.path)


def test_training_that_is_parked_is_awaited_like_any_other(server: Server, control: Control) -> None:
    with client(server, None, circuit_breaker=BREAKER) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        events = Events(service)
        control.arm(
            {
                "effect": "reset",
                "operation": "forward_backward",
                "count": "always",
                "until_s": 2.0,
            }
        )
        forward = training.forward_backward(BATCHES[0], "cross_entropy")
        update = training.optim_step(ADAM)
        update.result(WAIT_S)
        assert forward.result(WAIT_S).metrics["loss:sum"] > 0
        assert {one.operation for one in events.of(CircuitOpened)} == {"forward_backward"}


def test_endpoint_that_is_held_back_by_hand_gets_nothing_until_it_is_let_go(
    server: Server, control: Control
) -> None:
    """BRK-09."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        for operation in ("asample", "optim_step"):
            service.set_circuit_mode(operation, "forced_open")
        with pytest.raises(CircuitOpenError, match="asample is held open"):
            sampler.sample(PROMPT, 1, ONE).result(WAIT_S)
        forward = training.forward_backward(BATCHES[0], "cross_entropy")
        update = training.optim_step(ADAM)
        forward.result(WAIT_S)
        assert applied(control, training.model_id) == steps(1)[:1]
        for operation in ("asample", "optim_step"):
            service.set_circuit_mode(operation, "automatic")
        update.result(WAIT_S)
        assert len(sampler.sample(PROMPT, 1, ONE).result(WAIT_S).sequences) == 1
        assert applied(control, training.model_id) == steps(1)


def test_mode_that_there_is_not_is_refused(server: Server) -> None:
    with client(server, None) as service:
        with pytest.raises(
            ta.ConfigError, match=r"mode must be one of automatic, forced_open, .* got 'open'"
        ):
            service.set_circuit_mode("asample", "open")
        with pytest.raises(ta.ValidationError, match="operation"):
            service.set_circuit_mode(5, "automatic")  # type: ignore[arg-type]


def test_sample_fails_at_once_while_its_breaker_is_open(server: Server, control: Control) -> None:
    breaker = ta.BreakerSettings(consecutive_failures=3, open_s=60.0, max_open_s=60.0)
    with client(server, None, circuit_breaker=breaker) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        (name,) = control.arm({"effect": "status", "status": 503, "operation": "asample", "count": "always"})
        with pytest.raises(CircuitOpenError, match="asample"):
            sampler.sample(PROMPT, 1, ONE).result(WAIT_S)
        tried = len(control.fired(name))
        with pytest.raises(CircuitOpenError, match="asample"):
            sampler.sample(PROMPT, 1, ONE).result(WAIT_S)
        assert len(control.fired(name)) == tried == 3
