"""One run ended while its client lives on: finished, saved, and its model freed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ADAM, BATCHES, NO_CHECKPOINTS, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.errors import HandleClosedError, RunHaltedError, RuntimeStoppedError
from tinker_actors.events import ModelRestored, SessionLeftOpen
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

TRAINING = "service/session/training/training:1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


def create(service: ta.ServiceClient, run: str | None = None) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=7, run=run).result(WAIT_S)


def is_loaded(server: Server, model_id: str) -> bool:
    return server.post("get_info", model_id=model_id, type="get_info").status_code == 200


def final(server: Server, training: ta.TrainingClient) -> str:
    return server.digest(training.save_state("final").result(WAIT_S).path)


def test_what_was_submitted_is_finished_before_the_model_is_freed(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        forward = training.forward_backward(BATCHES[0], "cross_entropy")
        update = training.optim_step(ADAM)
        training.unload_model().result(WAIT_S)
        assert forward.done()
        assert update.result(0).metrics is not None
        assert not is_loaded(server, training.model_id)
        (history,) = service.history().result(WAIT_S)
        assert [(saved.step, saved.is_automatic) for saved in history.checkpoints] == [(1, True)]


@pytest.mark.parametrize("is_on_disk", [True, False], ids=["disk", "memory"])
def test_a_run_that_is_created_again_goes_on_where_it_ended(
    server: Server, tmp_path: Path, is_on_disk: bool
) -> None:
    with client(server, None) as service:
        training = create(service)
        for number in range(4):
            step(training, number)
        undisturbed = final(server, training)
    with client(server, tmp_path / "run" if is_on_disk else None) as service:
        events = Events(service)
        training = create(service, "mine")
        step(training, 0), step(training, 1)
        training.unload_model().result(WAIT_S)
        again = create(service, "mine")
        assert again.step == 2
        step(again, 2), step(again, 3)
        assert final(server, again) == undisturbed
    assert events.of(SessionLeftOpen) == []


def test_other_runs_go_on(server: Server) -> None:
    with client(server, None) as service:
        one, other = create(service), create(service)
        one.unload_model().result(WAIT_S)
        step(other, 0)
        assert other.step == 1
        assert service.tree().find(TRAINING) is None
        assert service.tree().find(TRAINING.replace(":1", ":2")) is not None


def test_calls_of_a_client_that_was_unloaded_say_so(server: Server) -> None:
    with client(server, None) as service:
        training = create(service)
        training.unload_model().result(WAIT_S)
        training.unload_model().result(WAIT_S)
        with pytest.raises(HandleClosedError, match="create it again, by its name"):
            training.optim_step(ADAM)
        with pytest.raises(ta.ValidationError, match="already open"):
            create(service, "2"), create(service, "2")
        assert create(service, "1").run == "1"


def test_a_run_whose_actor_crashes_meanwhile_is_unloaded_all_the_same(server: Server) -> None:
    with client(server, None) as service:
        training = create(service)
        server.control.arm({"effect": "delay", "seconds": 30, "operation": "retrieve_future"})  # one poll
        update = training.optim_step(ADAM)
        with expect(service._runtime.tree, ChildStarted, path=TRAINING, epoch=2, timeout_s=WAIT_S):
            unloaded = training.unload_model()
            crash(service.address(TRAINING))
        unloaded.result(WAIT_S)
        assert update.result(WAIT_S).metrics is not None
        assert not is_loaded(server, training.model_id)
        server.control.clear()


def test_the_model_that_took_the_place_of_a_lost_one_is_freed(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run") as service:
        events, training = Events(service), create(service)
        step(training, 0)
        server.unload(training.model_id)
        step(training, 1)
        training.unload_model().result(WAIT_S)
        (restored,) = events.of(ModelRestored)
        (history,) = service.history().result(WAIT_S)
        model = history.models[-1].model_id
        assert model not in (None, training.model_id)
        assert not is_loaded(server, str(model))
        assert restored.run == "1"


def test_a_model_that_is_gone_already_is_no_error(server: Server) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        server.unload(training.model_id)
        training.unload_model().result(WAIT_S)


def test_a_halted_run_keeps_its_model_and_says_so(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        server.control.arm({"effect": "status", "status": 401, "operation": "optim_step", "count": "always"})
        with pytest.raises(RunHaltedError):
            training.optim_step(ADAM).result(WAIT_S)
        server.control.clear()
        with pytest.raises(RunHaltedError, match="its model stays"):
            training.unload_model().result(WAIT_S)
        assert is_loaded(server, training.model_id)


def test_a_client_that_was_closed_unloads_nothing(server: Server) -> None:
    with client(server, None) as service:
        training = create(service)
    with pytest.raises((RuntimeStoppedError, RunHaltedError)):
        training.unload_model().result(WAIT_S)


def test_it_can_be_awaited(server: Server) -> None:
    async def main(training: ta.TrainingClient) -> None:
        await training.unload_model_async()

    with client(server, None) as service:
        asyncio.run(main(create(service)))


@pytest.mark.parametrize("has_run_dir", [True, False])
def test_name_of_a_run_of_which_nothing_came_is_free_again(
    server: Server, run_dir: Path, has_run_dir: bool
) -> None:
    with client(server, run_dir if has_run_dir else None) as service:
        for _ in range(2):
            with pytest.raises(ta.BadRequestError):
                service.create_lora_training_client("local/tiny", rank=10**9, run="mine").result(WAIT_S)
            assert service.status().clients == ()
        training = service.create_lora_training_client("local/tiny", rank=4, run="mine").result(WAIT_S)
        step(training, 0)
        assert service.tree().find("service/session/training/training:mine") is not None
