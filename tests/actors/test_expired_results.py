"""A training operation whose result the service no longer has was executed all the same, and the run goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step
from judge import verdict

import tinker_actors as ta
from tinker_actors.errors import FutureExpiredError, ResultExpiredError
from tinker_actors.events import ModelRestored, ResultLost
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
STEPS = 4
TRAINING = "service/session/training/training:1"


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


@pytest.fixture
def control(server: Server) -> Iterator[Control]:
    yield server.control
    server.control.clear()


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> tuple[str, list[tuple[str, str]]]:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        for number in range(STEPS):
            step(training, number)
        return verdict(server, training.save_state("final").result(WAIT_S).path)


def expiring(operation: str, model_id: str) -> dict[str, Any]:
    return {"effect": "expire_result", "when": "after", "operation": operation, "model_id": model_id}


def finish(server: Server, training: ta.TrainingClient) -> tuple[str, list[tuple[str, str]]]:
    for number in training.steps(STEPS):
        step(training, number)
    return verdict(server, training.save_state("final").result(WAIT_S).path)


@pytest.mark.parametrize("operation", ["forward_backward", "optim_step"])
def test_a_lost_result_is_an_error_of_its_own_and_the_run_goes_on(
    server: Server, control: Control, undisturbed: Any, operation: str
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(expiring(operation, training.model_id))
        futures: dict[str, ta.APIFuture[Any]] = {
            "forward_backward": training.forward_backward(BATCHES[1], "cross_entropy"),
            "optim_step": training.optim_step(ADAM),
        }
        lost = futures.pop(operation)
        with pytest.raises(ResultExpiredError) as caught:
            lost.result(WAIT_S)
        assert caught.value.executed
        assert isinstance(caught.value, FutureExpiredError)
        (other,) = futures.values()
        other.result(WAIT_S)
        assert training.step == 2
        assert finish(server, training) == undisturbed
    assert events.of(ModelRestored) == []
    assert [event.operation for event in events.of(ResultLost)] == [operation]


def test_a_step_whose_result_was_lost_is_counted_and_replayed(
    server: Server, control: Control, undisturbed: Any, tmp_path: Path
) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        control.arm(expiring("optim_step", training.model_id))
        training.forward_backward(BATCHES[0], "cross_entropy")
        with pytest.raises(ResultExpiredError):
            training.optim_step(ADAM).result(WAIT_S)
        step(training, 1)
        server.unload(training.model_id)
        step(training, 2)
        assert training.step == 3
        assert [one.step for one in training.history().result(WAIT_S)] == [0, 1, 2]
        assert finish(server, training) == undisturbed


def test_what_comes_behind_a_lost_result_and_is_not_taken_brings_a_restore(
    server: Server, control: Control, undisturbed: Any
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(
            expiring("forward_backward", training.model_id),
            {"effect": "status", "status": 409, "operation": "optim_step", "model_id": training.model_id},
        )
        with pytest.raises(ResultExpiredError):
            training.forward_backward(BATCHES[1], "cross_entropy").result(WAIT_S)
        training.optim_step(ADAM).result(WAIT_S)
        assert finish(server, training) == undisturbed
    assert len(events.of(ModelRestored)) == 1


def test_a_result_that_was_lost_while_the_actor_was_down_is_told_to_whoever_waits(
    server: Server, control: Control, undisturbed: Any
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        (name,) = control.arm(
            {
                "effect": "hang",
                "operation": "retrieve_future",
                "of": "optim_step",
                "model_id": training.model_id,
            }
        )
        training.forward_backward(BATCHES[1], "cross_entropy").result(WAIT_S)
        update = training.optim_step(ADAM)
        while not control.fired(name):
            pass
        control.arm(expiring("optim_step", training.model_id))
        with expect(service._runtime.tree, ChildStarted, path=TRAINING, timeout_s=WAIT_S):
            crash(service.address(TRAINING))
        with pytest.raises(ResultExpiredError):
            update.result(WAIT_S)
        assert finish(server, training) == undisturbed


def test_a_lost_model_is_no_lost_result(server: Server, control: Control, undisturbed: Any) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(
            {
                "effect": "status",
                "status": 404,
                "operation": "retrieve_future",
                "model_id": training.model_id,
            },
            {"effect": "lose_model", "operation": "get_info", "model_id": training.model_id},
        )
        assert training.forward_backward(BATCHES[1], "cross_entropy").result(WAIT_S).metrics["loss:sum"] > 0
        training.optim_step(ADAM).result(WAIT_S)
        assert finish(server, training) == undisturbed
    assert (len(events.of(ModelRestored)), events.of(ResultLost)) == (1, [])
