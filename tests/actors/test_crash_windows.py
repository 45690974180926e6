"""A crash, a refusal or a full disk at the awkward moment: nothing is lost, doubled or left waiting."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors import sampling as sampling_module
from tinker_actors.actors import settlement as settlement_module
from tinker_actors.actors import training as training_module
from tinker_actors.actors.exchange import Exchange
from tinker_actors.actors.futures import Submissions
from tinker_actors.actors.recovery import Recovery
from tinker_actors.api.futures import sample_result
from tinker_actors.errors import (
    APIResponseValidationError,
    BadRequestError,
    ConfigError,
    JournalError,
    RunHaltedError,
    StepVoidError,
)
from tinker_actors.events import CheckpointSaved, JournalParked, ModelRestored, SessionOpened, StepVoided
from tinker_actors.journal import exports
from tinker_actors.journal.store import Store
from tinker_actors.supervision import ChildStarted, ShutdownEnded
from tinker_actors.supervision.testing import InjectedCrashError, crash, expect

TRAINING = "service/session/training/training:1"
STEPS = 4
NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)


def create(service: ta.ServiceClient, base_model: str = "local/tiny", rank: int = 4) -> ta.TrainingClient:
    return service.create_lora_training_client(base_model, rank=rank, seed=3).result(WAIT_S)


def finish(training: ta.TrainingClient) -> str:
    for number in training.steps(STEPS):
        step(training, number)
    return training.save_state("final").result(WAIT_S).path


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> str:
    """Digest of the weights that every run must end with."""
    with client(server, None) as service:
        return server.digest(finish(create(service)))


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception) -> None:
    """The next call of a method ends in `error`; later ones do their work."""
    original: Callable[..., Any] = getattr(owner, name)

    def failing(*_args: Any, **_kwargs: Any) -> None:
        monkeypatch.setattr(owner, name, original)
        raise error

    monkeypatch.setattr(owner, name, failing)


def restart(service: ta.ServiceClient) -> None:
    """Crash the training actor and wait for its next incarnation."""
    with expect(service._runtime.tree, ChildStarted, path=TRAINING, timeout_s=WAIT_S):
        crash(service.address(TRAINING))


# Between the journal and the caller -------------------------------------------------------------------


def test_results_that_were_journaled_but_not_handed_over_are_handed_over_by_the_next_incarnation(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_step = ta.RecoveryPolicy(checkpoint_every_steps=1)
    with client(server, None, recovery=every_step) as service:
        training = create(service)
        fail_once(monkeypatch, Submissions, "settle", InjectedCrashError())
        for number in range(STEPS):
            training.forward_backward(BATCHES[number % 2], "cross_entropy")
            training.optim_step(ADAM)
        assert server.digest(training.save_state("final").result(WAIT_S).path) == undisturbed
        assert training.step == STEPS


def test_the_step_is_counted_before_its_result_is_handed_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    with client(server, None) as service:
        training = create(service)
        original = Submissions.settle

        def settle(submissions: Submissions[Any], ticket: str | None, value: Any) -> None:
            seen.append(training.step)
            original(submissions, ticket, value)

        monkeypatch.setattr(Submissions, "settle", settle)
        step(training, 0)
    assert seen == [0, 1]


def test_a_step_is_counted_though_its_actor_crashed_before_it_could(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        step(training, 0)
        fail_once(monkeypatch, exports, "append", InjectedCrashError())  # the records are written
        step(training, 1)
        assert training.step == 2


def test_a_start_that_fails_is_repeated(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, None) as service:
        training = create(service)
        step(training, 0)
        fail_once(monkeypatch, training_module, "open_run", InjectedCrashError())
        crash(service.address("service/session/training"))
        assert server.digest(finish(training)) == undisturbed


# Failed steps -----------------------------------------------------------------------------------------


def test_a_step_that_is_over_stays_over_when_the_actor_crashes(server: Server, undisturbed: str) -> None:
    with client(server, None) as service:
        training = create(service)
        with pytest.raises(BadRequestError):
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        restart(service)
        assert server.digest(finish(training)) == undisturbed


@pytest.mark.parametrize("error", [InjectedCrashError(), JournalError("disk full")], ids=["crash", "disk"])
def test_void_gradients_are_undone_also_when_the_actor_ends_before_the_restore(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with client(server, None) as service:
        training = create(service)
        fail_once(monkeypatch, Recovery, "restore", error)
        training.forward_backward(BATCHES[1], "cross_entropy").result(WAIT_S)
        with pytest.raises(BadRequestError):
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed


def test_failed_steps_do_not_count_as_restores_without_progress(server: Server, undisturbed: str) -> None:
    with client(server, None, recovery=ta.RecoveryPolicy(max_attempts=1)) as service:
        training, events = create(service), Events(service)
        for _ in range(3):
            training.forward_backward(BATCHES[1], "cross_entropy")
            training.forward_backward(BATCHES[0], "no_such_loss")
            with pytest.raises(StepVoidError):
                training.optim_step(ADAM).result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed
    assert len(events.of(StepVoided)) == 3


def test_a_step_that_was_acknowledged_is_never_taken_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        server.unload(training.model_id)
        fail_once(
            monkeypatch,
            settlement_module,
            "conclude",
            APIResponseValidationError("garbage"),
        )
        with pytest.raises(RunHaltedError, match="failed this time"):
            training.optim_step(ADAM).result(WAIT_S)
        assert training.step == 1


def test_a_refused_save_leaves_no_hole_in_the_order_of_the_next_incarnation(
    server: Server, undisturbed: str
) -> None:
    with client(server, None) as service:
        training = create(service)
        training.save_state("taken").result(WAIT_S)
        with pytest.raises(ta.TinkerActorsError):
            training.save_state("taken").result(WAIT_S)
        restart(service)
        assert server.digest(finish(training)) == undisturbed


# Sessions, journals, clients ----------------------------------------------------------------------------


def test_a_session_that_ended_between_two_beats_is_replaced(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    with client(server, run_dir) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        server.finish_session(training.model_id.partition(":")[0])
        assert server.digest(finish(training)) == undisturbed
    assert (len(events.of(SessionOpened)), len(events.of(ModelRestored))) == (1, 1)


def test_a_full_disk_parks_the_run_until_it_can_be_written_again(
    server: Server, run_dir: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir) as service:
        training, events = create(service), Events(service)
        for number in training.steps(STEPS):
            fail_once(monkeypatch, Store, "write", JournalError("disk full"))
            step(training, number)
        assert server.digest(finish(training)) == undisturbed
        assert len(events.of(JournalParked)) == STEPS


def test_a_journal_that_cannot_be_written_at_the_beginning_is_an_error_at_once(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir) as service:
        fail_once(monkeypatch, Store, "write", JournalError("disk full"))
        with pytest.raises(JournalError, match="disk full"):
            create(service)


def test_what_a_dead_client_left_is_finished_before_the_next_one_in_the_same_process_begins(
    server: Server, run_dir: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = ta.ServiceClient(base_url=server.url, api_key=KEY, run_dir=str(run_dir))
    training, answered = create(service), threading.Event()
    with monkeypatch.context() as patch:  # the answer comes, and nobody lives to write it down
        patch.setattr(Exchange, "_note_answer", lambda *_: answered.set())
        training.forward_backward(BATCHES[0], "cross_entropy")
        assert answered.wait(WAIT_S)
        with expect(service._runtime.tree, ShutdownEnded, timeout_s=WAIT_S):
            crash(service.address("service"))
    service.close().result(WAIT_S)
    with client(server, run_dir) as service:
        assert server.digest(finish(create(service))) == undisturbed


@pytest.mark.parametrize(
    ("base_model", "rank"), [("local/none", 4), ("local/tiny", 100_000)], ids=["unknown model", "huge rank"]
)
def test_a_run_that_the_service_refused_may_be_created_otherwise(
    server: Server, run_dir: Path, undisturbed: str, base_model: str, rank: int
) -> None:
    with client(server, run_dir) as service, pytest.raises(ta.TinkerActorsError):
        create(service, base_model, rank)
    with client(server, run_dir) as service:
        assert server.digest(finish(create(service))) == undisturbed
    with client(server, run_dir) as service, pytest.raises(ConfigError):
        create(service, rank=8)


@pytest.mark.parametrize("rank", [4, 8], ids=["as before", "otherwise"])
def test_a_process_that_died_before_it_knew_its_model_is_followed_by_one_that_gets_it(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    created = threading.Event()
    with client(server, run_dir) as service, monkeypatch.context() as patch:
        patch.setattr(Recovery, "_note_created", lambda *_: created.set())
        service.create_lora_training_client("local/tiny", rank=4)  # with a seed that the runtime picks
        assert created.wait(WAIT_S)
    with client(server, run_dir) as service:
        step(service.create_lora_training_client("local/tiny", rank=rank).result(WAIT_S), 0)


def test_a_full_disk_uses_up_no_restart_of_the_session_and_of_samplers(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = Store.write, iter(range(5))

    def failing(*arguments: Any, **named: Any) -> None:
        if next(failures, None) is not None:
            raise JournalError("disk full")
        write(*arguments, **named)

    with client(server, run_dir) as service:
        monkeypatch.setattr(Store, "write", failing)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        assert sampler.sample([65], 1, ta.SamplingParams(max_tokens=1)).result(WAIT_S).sequences


# Checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"overwrite": True}, {"ttl_seconds": 3600}], ids=["overwrite", "ttl"])
def test_recovery_does_not_begin_in_a_checkpoint_that_may_change(
    server: Server, run_dir: Path, undisturbed: str, arguments: dict[str, Any]
) -> None:
    with client(server, run_dir, recovery=ta.RecoveryPolicy(checkpoint_every_steps=2)) as service:
        training, events = create(service), Events(service)
        for number in range(2):
            step(training, number)
        training.save_state("latest", **arguments).result(WAIT_S)
        step(training, 2)
        server.unload(training.model_id)
        assert server.digest(finish(training)) == undisturbed
    (automatic, *_) = [one.path for one in events.of(CheckpointSaved) if one.automatic]
    assert [event.checkpoint for event in events.of(ModelRestored)] == [automatic]


def test_recovery_does_not_begin_in_a_checkpoint_that_is_being_overwritten(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        training.save_state("latest").result(WAIT_S)
        step(training, 1)
        training.save_state("latest", overwrite=True).result(WAIT_S)
        server.unload(training.model_id)
        assert server.digest(finish(training)) == undisturbed
    assert [event.checkpoint for event in events.of(ModelRestored)] == [None]


# Files and answers ------------------------------------------------------------------------------------


def metrics(run_dir: Path) -> list[str]:
    return (run_dir / "metrics.jsonl").read_text().splitlines()


def test_metrics_that_cannot_be_written_fail_no_step_and_are_written_with_the_next(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        fail_once(monkeypatch, exports, "append", JournalError("disk full"))
        losses = [step(training, number)["loss:sum"] for number in range(2)]
        assert [json.loads(line)["loss:sum"] for line in metrics(run_dir)] == losses


def test_metrics_that_a_crash_kept_from_the_file_are_written_with_the_next(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        fail_once(monkeypatch, exports, "append", InjectedCrashError())
        losses = [step(training, number)["loss:sum"] for number in range(2)]
        assert [json.loads(line)["loss:sum"] for line in metrics(run_dir)] == losses


def test_a_sample_that_cannot_be_read_fails_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: object) -> None:
        raise APIResponseValidationError("garbage")

    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        with monkeypatch.context() as patch:
            broken = msgspec.structs.replace(sample_result, read=unreadable)
            patch.setattr(sampling_module, "sample_result", broken)
            with pytest.raises(APIResponseValidationError, match="garbage"):
                sampler.sample([65], 1, ta.SamplingParams(max_tokens=1)).result(WAIT_S)
        assert sampler.sample([65], 1, ta.SamplingParams(max_tokens=1)).result(WAIT_S).sequences
        node = service.tree().find("service/session/sampling/sampling:1")
    assert node is not None
    assert node.restarts == 0
