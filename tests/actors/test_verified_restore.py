"""A restored model is believed when it repeats what the lost one gave, and not before."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control import Control
from harness import WAIT_S, Events, Server, client, step
from judge import verdict
from safetensors import safe_open
from safetensors.numpy import save_file

import tinker_actors as ta
from tinker_actors.actors.fingerprints import difference_nats, fingerprint_of
from tinker_actors.errors import RunHaltedError
from tinker_actors.events import (
    CheckpointPassedOver,
    ModelRestored,
    OptimizerUnverified,
    ReplayDiverged,
    StepDone,
)
from tinker_actors.local.engine.training import ADAPTER

STEPS = 6
POLICY: dict[str, Any] = {"checkpoint_every_steps": 0, "divergence_nats": 1e-3}


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


@pytest.fixture
def control(server: Server) -> Iterator[Control]:
    yield server.control
    server.control.clear()


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> str:
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training = create(service)
        for number in range(STEPS):
            step(training, number)
        return verdict(server, training.save_state("final").result(WAIT_S).path)[0]


def train(training: ta.TrainingClient, *, then: int) -> tuple[str, str]:
    """Two checkpoints with a step between them, and `then` steps behind; their paths."""
    step(training, 0)
    older = training.save_state("older").result(WAIT_S).path
    step(training, 1)
    newer = training.save_state("newer").result(WAIT_S).path
    for number in range(2, 2 + then):
        step(training, number)
    return older, newer


def cool(path: str) -> dict[str, Any]:
    return {"effect": "cool_optimizer", "path": path, "operation": "unload_model"}


def finish(server: Server, training: ta.TrainingClient) -> str:
    for number in training.steps(STEPS):
        step(training, number)
    return verdict(server, training.save_state("final").result(WAIT_S).path)[0]


def test_a_cold_optimizer_shows_in_the_replay_and_an_older_checkpoint_serves(
    server: Server, control: Control, undisturbed: str
) -> None:
    """REC-07."""
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        older, newer = train(training, then=2)
        control.arm(cool(newer))
        server.unload(training.model_id)
        assert finish(server, training) == undisturbed
    (diverged,) = events.of(ReplayDiverged)
    assert (diverged.operation, diverged.checkpoint) == ("forward_backward", newer)
    assert diverged.difference_nats > diverged.limit_nats == POLICY["divergence_nats"]
    assert [event.path for event in events.of(CheckpointPassedOver)] == [newer]
    assert [event.checkpoint for event in events.of(ModelRestored)] == [newer, older]


def test_a_wrong_checkpoint_is_detected_before_a_new_step_has_its_result(
    server: Server, undisturbed: str
) -> None:
    """REC-05."""
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        older, newer = train(training, then=1)
        shutil.copy(server.checkpoint(older), server.checkpoint(newer))
        server.unload(training.model_id)
        assert finish(server, training) == undisturbed
    seen = [event for event in events.seen if isinstance(event, ReplayDiverged | StepDone)]
    assert [type(event) for event in seen[:4]] == [StepDone] * 3 + [ReplayDiverged]
    assert [event.checkpoint for event in events.of(ModelRestored)] == [newer, older]


def test_a_run_without_another_checkpoint_halts_and_says_why(
    server: Server, control: Control, tmp_path: Path
) -> None:
    with client(server, tmp_path / "run", recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training = create(service)
        _, newer = train(training, then=2)
    only = ta.RecoveryPolicy(**POLICY, checkpoint_strategy=newer)
    control.arm(cool(newer) | {"operation": "create_session"})
    with (
        client(server, tmp_path / "run", recovery=only) as service,
        pytest.raises(RunHaltedError, match="gave another result"),
    ):
        create(service)


def test_policy_may_accept_a_model_that_differs(server: Server, control: Control, undisturbed: str) -> None:
    policy = ta.RecoveryPolicy(**POLICY, on_divergence="accept")
    with client(server, None, recovery=policy) as service:
        training, events = create(service), Events(service)
        _, newer = train(training, then=2)
        control.arm(cool(newer))
        server.unload(training.model_id)
        assert finish(server, training) != undisturbed
        assert training.step == STEPS
    assert {event.is_accepted for event in events.of(ReplayDiverged)} == {True}
    assert [event.checkpoint for event in events.of(ModelRestored)] == [newer]


@pytest.mark.parametrize(("then", "verified"), [(0, False), (1, True)])
def test_an_optimizer_that_nothing_would_show_is_told_of(server: Server, then: int, verified: bool) -> None:
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        _, newer = train(training, then=then)
        server.unload(training.model_id)
        step(training, 5)
    (told,) = events.of(OptimizerUnverified)
    assert (told.checkpoint, told.are_weights_verified) == (newer, verified)


def test_an_optimizer_that_was_shown_to_be_there_is_not_told_of(server: Server, undisturbed: str) -> None:
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        train(training, then=2)
        server.unload(training.model_id)
        assert finish(server, training) == undisturbed
    assert events.of(OptimizerUnverified) == events.of(ReplayDiverged) == []


# Figures ----------------------------------------------------------------------------------------------


def output(*logprobs: list[float] | None, loss: float = 1.0) -> ta.ForwardBackwardOutput:
    entries = [
        {} if one is None else {"logprobs": ta.TensorData.from_numpy(np.asarray(one, np.float32))}
        for one in logprobs
    ]
    return ta.ForwardBackwardOutput(loss_fn_outputs=entries, metrics={"loss:sum": loss})


@pytest.mark.parametrize(
    ("one", "other", "nats"),
    [
        (output([-1.0, -2.0]), output([-1.0, -2.0]), 0.0),
        (output([-1.0, -2.0]), output([-1.5, -2.0]), 0.25),
        (output([-1.0] * 16 + [-1.0] * 16), output([-1.0] * 16 + [-3.0] * 16), 1.0),
        (output([-1.0, -2.0]), output([-1.0]), math.inf),
        (output([-1.0]), output([-1.0], [-1.0]), math.inf),
        (output([-1.0]), output(None), math.inf),
        (output([-math.inf]), output([-math.inf]), 0.0),
        (output([-math.inf]), output([-1.0]), math.inf),
        (output(None, loss=4.0), output(None, loss=5.0), 0.25),
        (output(None, loss=0.0), output(None, loss=0.5), 0.5),
        (output([]), output([]), 0.0),
    ],
)
def test_the_difference_of_two_results(
    one: ta.ForwardBackwardOutput, other: ta.ForwardBackwardOutput, nats: float
) -> None:
    assert difference_nats(fingerprint_of(one), fingerprint_of(other)) == pytest.approx(nats)


# Checkpoints that cannot be loaded -----------------------------------------------------------------------


def without_its_optimizer(server: Server, _training: ta.TrainingClient, newer: str) -> None:
    """A checkpoint of weights alone."""
    file = server.checkpoint(newer)
    with safe_open(file, "np") as found:
        facts, names = found.metadata(), [name for name in found.keys() if name.startswith(ADAPTER)]  # noqa: SIM118 - no dictionary
        weights = {name: found.get_tensor(name) for name in names}
    save_file(weights, file, facts)


def of_a_sampler(server: Server, training: ta.TrainingClient, newer: str) -> None:
    """What a sampler needs, under the path of training state."""
    path = training.save_weights_for_sampler("other").result(WAIT_S).path or ""
    (adapter,) = server.checkpoint(path).parent.glob("*.safetensors")
    shutil.copy(adapter, server.checkpoint(newer))


def torn(server: Server, _training: ta.TrainingClient, newer: str) -> None:
    """Half a file."""
    file = server.checkpoint(newer)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [without_its_optimizer, of_a_sampler, torn])
def test_a_checkpoint_that_cannot_be_loaded_is_passed_over_for_the_next_older_one(
    server: Server, undisturbed: str, spoil: Callable[[Server, ta.TrainingClient, str], None]
) -> None:
    """REC-05."""
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        older, newer = train(training, then=1)
        spoil(server, training, newer)
        server.unload(training.model_id)
        assert finish(server, training) == undisturbed
    assert [event.path for event in events.of(CheckpointPassedOver)] == [newer]
    assert [event.checkpoint for event in events.of(ModelRestored)] == [older]


@pytest.mark.parametrize(
    ("status", "detail", "tries"),
    [
        (404, "the checkpoint has expired", 1),
        (410, "the checkpoint has expired", 1),
        (400, "a training checkpoint is wanted, got one for sampling", 1),
        (
            422,
            "the checkpoint has no optimizer",
            2,
        ),  # or no models from checkpoints: it is loaded into one, too
    ],
)
def test_a_checkpoint_that_a_service_refuses_is_passed_over_for_the_next_older_one(
    server: Server, control: Control, undisturbed: str, status: int, detail: str, tries: int
) -> None:
    """REC-05, as services may say it."""
    with client(server, None, recovery=ta.RecoveryPolicy(**POLICY)) as service:
        training, events = create(service), Events(service)
        older, newer = train(training, then=1)
        refused = {"effect": "status", "status": status, "detail": detail, "operation": "load_weights"}
        control.arm(refused | {"count": tries})
        server.unload(training.model_id)
        assert finish(server, training) == undisturbed
    assert [event.path for event in events.of(CheckpointPassedOver)] == [newer]
    assert [event.checkpoint for event in events.of(ModelRestored)] == [older]
