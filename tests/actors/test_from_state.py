"""Runs that begin in a checkpoint."""

import json
import threading
from pathlib import Path

import pytest
from harness import ADAM, NO_CHECKPOINTS, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors.exchange import Exchange
from tinker_actors.events import LineageStarted, StepDone
from tinker_actors.journal.story import explain
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect
from tinker_actors.tokenization import get_tokenizer


@pytest.fixture
def saved(server: Server) -> tuple[str, list[float]]:
    """A checkpoint after two steps, and the losses of the steps after it."""
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        for number in range(2):
            step(training, number)
        path = training.save_state("two").result(WAIT_S).path
        return path, [step(training, number)["loss:sum"] for number in range(2, 5)]


def losses(training: ta.TrainingClient) -> list[float]:
    return [step(training, number)["loss:sum"] for number in range(2, 5)]


def test_with_its_optimizer_it_goes_on_as_if_nothing_had_happened(
    server: Server, saved: tuple[str, list[float]]
) -> None:
    path, undisturbed = saved
    with client(server, None) as service:
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        assert losses(training) == undisturbed


def test_with_a_new_optimizer_it_begins_in_the_same_weights(
    server: Server, saved: tuple[str, list[float]]
) -> None:
    path, undisturbed = saved
    with client(server, None) as service:
        again = losses(service.create_training_client_from_state(path).result(WAIT_S))
    assert again[0] == undisturbed[0]
    assert again[1:] != undisturbed[1:]


def test_the_checkpoint_says_what_the_model_is(server: Server, saved: tuple[str, list[float]]) -> None:
    with client(server, None) as service:
        training = service.create_training_client_from_state(saved[0]).result(WAIT_S)
        assert training.get_info().lora_rank == 4
        assert training.get_tokenizer().encode("a") == get_tokenizer("local/tiny").encode("a")


def test_it_survives_its_actor_and_the_program(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    path, undisturbed = saved
    with client(server, run_dir) as service:
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        seen = [step(training, 2)["loss:sum"]]
        address = service.address("service/session/training/training:1")
        with expect(service._runtime.tree, ChildStarted, path=address.path, timeout_s=WAIT_S):
            crash(address)
        seen.append(step(training, 3)["loss:sum"])
    with client(server, run_dir) as service:
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        assert training.step == 2
        seen.append(step(training, 4)["loss:sum"])
    assert seen == undisturbed


def test_a_run_that_began_otherwise_is_not_resumed(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    with client(server, run_dir) as service:
        service.create_training_client_from_state(saved[0]).result(WAIT_S)
    with client(server, run_dir) as service, pytest.raises(ta.ConfigError, match="restores_optimizer"):
        service.create_training_client_from_state_with_optimizer(saved[0]).result(WAIT_S)
    with client(server, run_dir) as service, pytest.raises(ta.ConfigError, match="from_state was"):
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)


def test_another_checkpoint_begins_a_new_lineage_and_the_old_one_is_kept(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    path, undisturbed = saved
    with client(server, run_dir) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=9).result(WAIT_S)
        for number in range(3):
            step(training, number)
    with client(server, run_dir) as service:
        events = Events(service)
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        assert (training.run, training.step, next(training.steps(3))) == ("1", 0, 0)
        seen = [step(training, 2)["loss:sum"]]
    (started,) = events.of(LineageStarted)
    assert (started.run, started.lineage, started.from_state) == ("1", "1~2", path)
    assert [one.step for one in events.of(StepDone)] == [1]
    with client(server, run_dir) as service:  # the same checkpoint goes on with it
        events = Events(service)
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        assert training.step == 1
        seen += [step(training, number)["loss:sum"] for number in (3, 4)]
        assert events.of(LineageStarted) == []
        assert [one.step for one in training.history().result(WAIT_S)] == [0, 1, 2]
        old, new = service.history().result(WAIT_S)
    assert seen == undisturbed
    assert [(one.run, one.steps, one.successor) for one in (old, new)] == [("1", 3, "1~2"), ("1~2", 3, None)]
    assert "It is closed: run '1~2' took its place, from another checkpoint." in list(explain(old))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["run"], line["step"]) for line in lines] == [
        (run, number) for run in ("1", "1~2") for number in range(3)
    ]


def test_a_model_of_a_new_lineage_that_is_lost_begins_in_its_own_checkpoint(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    path, undisturbed = saved
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        step(service.create_lora_training_client("local/tiny", rank=4, seed=9).result(WAIT_S), 0)
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        seen = [step(training, 2)["loss:sum"]]
        server.unload(training.model_id)
        seen += [step(training, number)["loss:sum"] for number in (3, 4)]
    assert seen == undisturbed


def test_what_a_process_left_undone_of_an_old_lineage_stays_undone(
    server: Server, saved: tuple[str, list[float]], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service, monkeypatch.context() as patch:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=9).result(WAIT_S)
        posted = threading.Event()
        patch.setattr(Exchange, "post", lambda _: posted.set())  # committed to, and never sent
        update = training.optim_step(ADAM)
        assert posted.wait(WAIT_S)
        service._runtime.close("errored", timeout_s=0.1)
        with pytest.raises(ta.TinkerActorsError):
            update.result(WAIT_S)
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = service.create_training_client_from_state_with_optimizer(saved[0]).result(WAIT_S)
        step(training, 2)
        old, _ = service.history().result(WAIT_S)
    assert (old.steps, old.unsettled) == (0, 1)


def test_a_lineage_that_the_service_refuses_takes_nobodys_place(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    path, undisturbed = saved
    for number in range(2):
        with client(server, run_dir) as service:
            training = service.create_lora_training_client("local/tiny", rank=4, seed=9).result(WAIT_S)
            assert training.step == number
            step(training, number)
        nowhere = path.replace("two", f"nowhere-{number}")
        with client(server, run_dir) as service:
            with pytest.raises(ta.TinkerActorsError, match="nowhere"):
                service.create_training_client_from_state(nowhere).result(WAIT_S)
            old, refused = service.history().result(WAIT_S)
        assert (old.steps, old.successor, refused.run, refused.steps) == (number + 1, None, "1~2", 0)
    with client(server, run_dir) as service:  # its name is free for the one that begins
        training = service.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        assert losses(training) == undisturbed
        old, new = service.history().result(WAIT_S)
    assert [(one.run, one.steps, one.successor) for one in (old, new)] == [("1", 2, "1~2"), ("1~2", 3, None)]


def test_a_checkpoint_that_is_not_there_is_an_error(server: Server, saved: tuple[str, list[float]]) -> None:
    with client(server, None) as service, pytest.raises(ta.TinkerActorsError, match="nowhere"):
        service.create_training_client_from_state(saved[0].replace("two", "nowhere")).result(WAIT_S)


@pytest.mark.parametrize(
    "path", ["tinker://run/sampler_weights/x", "run/weights/x", "", "tinker://run/weights"]
)
def test_what_is_no_training_checkpoint_is_refused_before_anything_is_sent(server: Server, path: str) -> None:
    with client(server, None) as service, pytest.raises(ta.TinkerPathError):
        service.create_training_client_from_state(path)


def test_an_access_token_is_sent_and_kept_nowhere(
    server: Server, saved: tuple[str, list[float]], run_dir: Path
) -> None:
    with client(server, run_dir) as service:
        opens_it = "hidden-word"
        service.create_training_client_from_state(saved[0], weights_access_token=opens_it).result(WAIT_S)
    for file in run_dir.rglob("*"):
        if file.is_file():
            assert b"hidden-word" not in file.read_bytes()
