"""What the recovery policy promises: when checkpoints are made, which stay, and what a restore begins in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors.recovery import Attached
from tinker_actors.actors.training import TrainingActor
from tinker_actors.actors.turns import Turns
from tinker_actors.errors import RunHaltedError
from tinker_actors.events import CheckpointSaved, ModelRestored, RunHalted, StepDone
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

NEVER = 10_000
TRAINING = "service/session/training/training:1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), "--control") as server:
        yield server


@pytest.fixture
def control(server: Server) -> Iterator[Control]:
    control = Control(server.url)
    yield control
    control.clear()


def create(service: ta.ServiceClient, **arguments: Any) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3, **arguments).result(WAIT_S)


def automatic(events: Events) -> list[int]:
    """The steps whose states the runtime saved by itself."""
    return [one.step for one in events.of(CheckpointSaved) if one.automatic]


def kept(service: ta.ServiceClient, training: ta.TrainingClient) -> list[str]:
    listed = service.create_rest_client().list_checkpoints(training.model_id).result(WAIT_S)
    return sorted(one.checkpoint_id for one in listed.checkpoints)


def big_batch() -> list[ta.Datum]:
    """About 50 KB."""
    tokens = np.full(255, 65)
    tensors: Any = {"target_tokens": tokens, "weights": np.ones(255, np.float32)}
    datum = ta.Datum(ta.ModelInput.from_ints(tokens.tolist()), tensors)
    return [datum] * 12


# When checkpoints are made


def test_fresh_model_of_a_service_that_may_lose_it_is_saved_at_once(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run") as service:
        with expect(service._runtime.tree, CheckpointSaved, step=0, automatic=True):
            training = create(service)
        events = Events(service)
        server.unload(training.model_id)
        step(training, 0)
        (restored,) = events.of(ModelRestored)
        assert restored.checkpoint is not None
        assert "000000" in restored.checkpoint


def test_policy_without_checkpoints_makes_none(server: Server, tmp_path: Path) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=0)
    with client(server, tmp_path / "run", recovery=policy) as service:
        events = Events(service)
        training = create(service)
        for number in range(3):
            step(training, number)
        assert automatic(events) == []


def test_steps_that_are_replayed_are_counted_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program submits ahead while the steps behind the checkpoint are taken again."""
    serve = TrainingActor._serve_model
    trained: list[Any] = []

    def submit_and_serve(actor: TrainingActor, attached: Attached) -> None:
        for number in range(6, 10) if attached.restored_because is not None else ():
            trained[0].forward_backward(BATCHES[number % 2], "cross_entropy")
            trained.append(trained[0].optim_step(ADAM))
        serve(actor, attached)

    monkeypatch.setattr(TrainingActor, "_serve_model", submit_and_serve)
    with client(server, tmp_path / "run", recovery=ta.RecoveryPolicy(checkpoint_every_steps=4)) as service:
        trained.append(training := create(service))
        for number in range(6):
            step(training, number)
        events = Events(service)
        server.unload(training.model_id)
        training.forward(BATCHES[0], "cross_entropy").result(WAIT_S)
        for update in trained[1:]:
            update.result(WAIT_S)
        training.save_state("last").result(WAIT_S)
        assert (training.step, automatic(events)) == (10, [8])


def test_checkpoint_is_due_after_a_time_too(server: Server, tmp_path: Path) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=NEVER, checkpoint_every_s=1.0)
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        events = Events(service)
        number = 0
        while not any(automatic(events)):
            step(training, number)
            number += 1
        assert number >= 1


def test_journal_that_grew_too_large_is_made_smaller_by_a_checkpoint(server: Server, tmp_path: Path) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=NEVER, max_journal_bytes=2**18)
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        events = Events(service)
        number = 0
        while len(automatic(events)) < 3:
            training.forward_backward(big_batch(), "cross_entropy")
            training.optim_step(ADAM).result(WAIT_S)
            number += 1
            assert number < 60
        assert number > 3  # not one after each step
        assert service._runtime._store.size() < 3 * 2**18


# Which checkpoints stay


def test_only_the_newest_checkpoints_of_the_runtime_stay_and_all_of_the_callers(
    server: Server, tmp_path: Path
) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=1, keep_checkpoints=2)
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        mine = training.save_state("mine").result(WAIT_S).path.rpartition("/")[2]
        for number in range(5):
            step(training, number)
        training.save_state("last").result(WAIT_S)
        names = [name.rpartition("/")[2] for name in kept(service, training)]
    assert [name for name in names if not name.startswith("auto-")] == ["last", mine]
    assert [name[:13] for name in names if name.startswith("auto-")] == ["auto-1-000004", "auto-1-000005"]


def test_checkpoint_that_an_actor_could_not_delete_is_deleted_by_the_next_one(
    server: Server, control: Control, tmp_path: Path
) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=1, keep_checkpoints=1)
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        (name,) = control.arm({"effect": "hang", "operation": "training_runs/*/checkpoints/*"})
        step(training, 0)
        step(training, 1)
        while not control.fired(name):
            step(training, 2)
        with expect(service._runtime.tree, ChildStarted, path=TRAINING):
            crash(service.address(TRAINING))
        step(training, 3)
        training.save_state("last").result(WAIT_S)
        names = [name.rpartition("/")[2] for name in kept(service, training)]
    assert len([name for name in names if name.startswith("auto-")]) == 1


# What a restore begins in


def test_corrupted_run_is_restored(server: Server, control: Control, tmp_path: Path) -> None:
    told: SimpleQueue[tuple[str, str, str | None]] = SimpleQueue()
    policy = ta.RecoveryPolicy(poll_interval_s=1.0, on_recovery=lambda *what: told.put(what))
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        first = step(training, 0)
        old = training.model_id
        with expect(service._runtime.tree, ModelRestored, timeout_s=WAIT_S) as restored:
            control.arm({"effect": "corrupt_run", "operation": "optim_step"})
            second = step(training, 1)
        assert restored.event.reason == "the service says that the run is corrupted"
        was, now, checkpoint = told.get(timeout=WAIT_S)
        assert (was, now != old, checkpoint) == (old, True, restored.event.checkpoint)
        assert second["loss:sum"] < first["loss:sum"] * 10
        step(training, 2)
        assert training.step == 3


def test_a_run_that_was_restored_is_watched_on(server: Server, control: Control, tmp_path: Path) -> None:
    told: SimpleQueue[tuple[str, str, str | None]] = SimpleQueue()
    policy = ta.RecoveryPolicy(poll_interval_s=1.0, on_recovery=lambda *what: told.put(what))
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        model = training.model_id
        for number in range(2):
            control.arm({"effect": "corrupt_run", "operation": "optim_step"})
            step(training, number)
            was, now, _ = told.get(timeout=WAIT_S)
            assert was == model != now
            model = now
        step(training, 2)
        assert training.step == 3


def test_restore_begins_in_the_checkpoint_that_the_policy_names(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run") as service:
        training = create(service)
        step(training, 0)
        wanted = training.save_state("wanted").result(WAIT_S).path
        step(training, 1)
        training.save_state("newer").result(WAIT_S)
    policy = ta.RecoveryPolicy(checkpoint_strategy=wanted)
    with client(server, tmp_path / "run", recovery=policy) as service:
        events = Events(service)
        training = create(service)
        server.unload(training.model_id)
        step(training, 2)
        assert [one.checkpoint for one in events.of(ModelRestored)][-1] == wanted


def test_run_whose_named_checkpoint_cannot_serve_is_halted_and_says_so(
    server: Server, tmp_path: Path
) -> None:
    """REC-06."""
    told: SimpleQueue[tuple[str, BaseException]] = SimpleQueue()
    policy = ta.RecoveryPolicy(
        checkpoint_strategy="tinker://nobody/weights/nothing", on_failure=lambda *what: told.put(what)
    )
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        with expect(service._runtime.tree, RunHalted):
            server.unload(training.model_id)
            failed = training.optim_step(ADAM)
        with pytest.raises(RunHaltedError, match="no checkpoint tinker://nobody/weights/nothing that can"):
            failed.result(WAIT_S)
        run, error = told.get(timeout=WAIT_S)
        assert (run, type(error)) == ("1", RunHaltedError)


def test_callback_that_raises_ends_nothing(server: Server, tmp_path: Path) -> None:
    def fail(*_what: object) -> None:
        raise ValueError("the caller's own")

    with client(server, tmp_path / "run", recovery=ta.RecoveryPolicy(on_recovery=fail)) as service:
        training = create(service)
        server.unload(training.model_id)
        step(training, 0)
        step(training, 1)
        assert training.step == 2


def test_restore_without_the_optimizer_goes_on_otherwise_and_is_not_taken_for_a_wrong_one(
    server: Server, tmp_path: Path
) -> None:
    policy = ta.RecoveryPolicy(restore_optimizer=False, checkpoint_every_steps=2)
    with client(server, tmp_path / "run", recovery=policy) as service:
        training = create(service)
        for number in range(3):
            step(training, number)
        server.unload(training.model_id)
        step(training, 3)
        assert training.step == 4


# Many at once


def test_runs_of_a_lost_session_are_all_restored(server: Server, tmp_path: Path) -> None:
    """REC-16."""
    with client(server, tmp_path / "run") as service:
        runs = [create(service, run=f"run-{number}") for number in range(6)]
        for training in runs:
            step(training, 0)
        with expect(service._runtime.tree, StepDone, step=2, count=len(runs), timeout_s=WAIT_S):
            pulse = service._runtime.published.pulse
            assert pulse is not None
            server.finish_session(pulse.session_id)
            for training in runs:
                step(training, 1)
        assert [training.step for training in runs] == [2] * len(runs)


def test_turns_let_so_many_in_at_a_time_in_the_order_in_which_they_came() -> None:
    turns, came = Turns(2), []

    def note(name: str) -> Callable[[], object]:
        return lambda: came.append(name)

    for name in "abcde":
        turns.enter(name, note(name))
    assert came == ["a", "b"]
    turns.leave("d")  # gives up its place in the line
    turns.leave("a")
    assert came == ["a", "b", "c"]
    turns.leave("c")
    turns.leave("b")
    assert came == ["a", "b", "c", "e"]
    turns.leave("nobody")


def test_who_is_in_already_has_its_turn_at_once() -> None:
    turns, came = Turns(1), []
    turns.enter("a", lambda: came.append(1))
    turns.enter("a", lambda: came.append(2))
    assert came == [1, 2]
