"""Saves and samplers of a run whose model is lost, and saves whose replies are."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control import Control
from harness import NO_CHECKPOINTS, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.errors import ConflictError, ResultExpiredError, SamplerLostError
from tinker_actors.events import CheckpointSaved, ModelRestored
from tinker_actors.supervision import ChildExited
from tinker_actors.supervision.testing import expect

PROMPT = ta.ModelInput.from_ints([65, 66])
PARAMS = ta.SamplingParams(max_tokens=3, temperature=0.0)


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


@pytest.fixture
def control(server: Server) -> Iterator[Control]:
    yield server.control
    server.control.clear()


def conflict(model_id: str, operation: str, when: str) -> dict[str, Any]:
    return {"effect": "status", "status": 409, "operation": operation, "model_id": model_id, "when": when}


def save(training: ta.TrainingClient, operation: str, name: str) -> str | None:
    if operation == "save_weights":
        return training.save_state(name).result(WAIT_S).path
    return training.save_weights_for_sampler(name).result(WAIT_S).path


# Names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["save_weights", "save_weights_for_sampler"])
def test_a_conflict_about_a_name_of_our_own_is_looked_up_and_adopted(
    server: Server, control: Control, operation: str
) -> None:
    """REC-08."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(conflict(training.model_id, operation, "after"))
        path = save(training, operation, "mine")
        assert path is not None
        assert path.endswith("/mine")
        step(training, 1)
        assert training.step == 2
    saved = [event.path for event in events.of(CheckpointSaved)]
    assert saved == ([path] if operation == "save_weights" else [])


def test_a_checkpoint_that_was_adopted_serves(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(conflict(training.model_id, "save_weights", "after"))
        path = save(training, "save_weights", "mine")
        server.unload(training.model_id)
        step(training, 1)
    assert [event.checkpoint for event in events.of(ModelRestored)] == [path]


@pytest.mark.parametrize("operation", ["save_weights", "save_weights_for_sampler"])
def test_the_name_of_an_older_save_is_the_callers_conflict(
    server: Server, control: Control, operation: str
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        save(training, operation, "taken")
        step(training, 1)
        control.arm(conflict(training.model_id, operation, "before"))
        with pytest.raises(ConflictError):
            save(training, operation, "taken")
        step(training, 2)
        assert training.step == 3


def test_a_conflict_about_a_name_under_which_nothing_lies_is_the_callers(
    server: Server, control: Control
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        control.arm(conflict(training.model_id, "save_weights", "before"))
        with pytest.raises(ConflictError):
            save(training, "save_weights", "nothing")
        step(training, 0)


def test_a_save_whose_result_was_lost_is_found_by_its_name(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        lost = {"effect": "expire_result", "when": "after", "model_id": training.model_id}
        control.arm(lost | {"operation": "save_weights"}, lost | {"operation": "save_weights_for_sampler"})
        path = save(training, "save_weights", "mine")
        assert path is not None
        assert path.endswith("/weights/mine")
        with pytest.raises(ResultExpiredError):  # it has no name by which to find it
            training.save_weights_and_get_sampling_client().result(WAIT_S)
        step(training, 0)


# Inside a range that is replayed -----------------------------------------------------------------------


def test_saves_that_are_recorded_stand_and_are_not_repeated(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        sampler = save(training, "save_weights_for_sampler", "sampler")
        step(training, 1)
        server.unload(training.model_id)
        step(training, 2)
        (restored,) = events.of(ModelRestored)
        repeated = [entry.kind for entry in control.executed(restored.model_id)][1:]
        assert repeated == ["forward_backward", "optim_step"] * 3
        assert (
            service.create_sampling_client(model_path=sampler)
            .result(WAIT_S)
            .sample(PROMPT, 1, PARAMS)
            .result(WAIT_S)
            .sequences
        )


def test_a_save_that_has_no_result_is_sent_at_its_place(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        server.unload(training.model_id)
        path = training.save_state("between")
        step(training, 1)
        (restored,) = events.of(ModelRestored)
        assert path.result(WAIT_S).path.startswith(f"tinker://{restored.model_id}/")
        kinds = [entry.kind for entry in control.executed(restored.model_id)][1:]
    pair = ["forward_backward", "optim_step"]
    assert kinds == [*pair, "save_weights", *pair]


def test_a_sampler_with_a_name_gets_another_session_over_the_same_weights(
    server: Server, tmp_path: Path
) -> None:
    with client(server, tmp_path / "run") as service:
        training = create(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client("kept").result(WAIT_S)
        before = sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].tokens
        server.finish_session(training.model_id.partition(":")[0])
        step(training, 1)
        assert sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].tokens == before


def drawn(sampler: ta.SamplingClient) -> list[float]:
    """Figures that tell one set of weights from another."""
    (logprobs,) = [sampler.compute_logprobs(PROMPT).result(WAIT_S)]
    return [value for value in logprobs if value is not None]


FORGOTTEN = {"effect": "status", "status": 404, "operation": "asample"}


def lose_session(server: Server, service: ta.ServiceClient) -> None:
    server.finish_session(service._runtime.published.session_id or "")


@pytest.mark.parametrize("is_asked", [False, True], ids=["the program trains", "the sampler is asked"])
def test_a_sampler_without_a_name_is_saved_again_where_its_save_is_replayed(
    server: Server, control: Control, run_dir: Path, is_asked: bool
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        before = drawn(sampler)
        step(training, 1)
        for losses in (1, 2):
            lose_session(server, service)
            if is_asked:
                control.arm(FORGOTTEN)
            else:
                step(training, 1 + losses)
            assert drawn(sampler) == before
            assert len(events.of(ModelRestored)) == losses
        step(training, 4)
        assert drawn(training.save_weights_and_get_sampling_client().result(WAIT_S)) != before
        kinds = [one.kind for one in control.executed(events.of(ModelRestored)[-1].model_id)]
        assert kinds[1:4] == ["forward_backward", "optim_step", "save_weights_for_sampler"]


def test_a_sampler_without_a_name_from_before_the_checkpoint_is_lost_with_its_session(
    server: Server, run_dir: Path
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        step(training, 1)
        training.save_state("kept").result(WAIT_S)
        lose_session(server, service)
        step(training, 2)
        for _ in range(2):
            with pytest.raises(SamplerLostError, match="of step 1"):
                sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)


def test_a_sampler_without_a_name_is_lost_when_its_run_halts(server: Server, control: Control) -> None:
    only = ta.RecoveryPolicy(checkpoint_every_steps=0, checkpoint_strategy="tinker://nobody/weights/nothing")
    with client(server, None, recovery=only) as service:
        sampler = create(service).save_weights_and_get_sampling_client().result(WAIT_S)
        lose_session(server, service)
        control.arm(FORGOTTEN)
        with pytest.raises(SamplerLostError):
            sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)


def test_a_save_that_fails_when_it_is_repeated_costs_its_sampler_alone(
    server: Server, control: Control, run_dir: Path
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        step(training, 1)
        control.arm({"effect": "status", "status": 400, "operation": "save_weights_for_sampler"})
        lose_session(server, service)
        step(training, 2)
        with pytest.raises(SamplerLostError, match="of step 1"):
            sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)
        step(training, 3)
        assert training.step == 4


def test_a_sampler_that_nobody_holds_is_not_saved_again(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        path = "service/session/sampling/sampling:1"
        with expect(service._runtime.tree, ChildExited, path=path, timeout_s=WAIT_S):
            del sampler
            gc.collect()
        lose_session(server, service)
        step(training, 1)
        assert training._run.unnamed == []
        (restored,) = events.of(ModelRestored)
        kinds = [one.kind for one in control.executed(restored.model_id)][1:]
        assert kinds == ["forward_backward", "optim_step"] * 2


def test_a_sampler_without_a_name_that_the_service_forgot_says_of_which_step_it_was(
    server: Server, control: Control
) -> None:
    with client(server, None) as service:
        training = create(service)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        control.arm({"effect": "status", "status": 404, "operation": "asample"})
        with pytest.raises(SamplerLostError, match="of step 1") as caught:
            sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)
        assert caught.value.step == 1
