"""A run whose model, session, process or step is lost goes on as if nothing had happened."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, example, step
from safetensors import safe_open

import tinker_actors as ta
from tinker_actors.actors.training import TrainingActor
from tinker_actors.actors.transport import Accepted
from tinker_actors.errors import BadRequestError, ConfigError, RunHaltedError, StepVoidError, ValidationError
from tinker_actors.events import GradientDropped, ModelAttached, ModelCreated, ModelRestored, SessionOpened
from tinker_actors.local.adapters import FACTS
from tinker_actors.supervision.testing import crash

STEPS = 6
EVERY_TWO = ta.RecoveryPolicy(checkpoint_every_steps=2)
NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)


def create(service: ta.ServiceClient, **arguments: object) -> ta.TrainingClient:
    defaults: dict[str, object] = {"rank": 4, "seed": 3}
    return service.create_lora_training_client("local/tiny", **(defaults | arguments)).result(WAIT_S)  # type: ignore[arg-type]  # a test's shorthand


def finish(training: ta.TrainingClient, *, total: int = STEPS) -> str:
    """Take the steps that are left, save, and give the path."""
    for number in training.steps(total):
        step(training, number)
    return training.save_state("final").result(WAIT_S).path


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> str:
    """Digest of the weights that every run must end with."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        return server.digest(finish(create(service)))


# A lost model ---------------------------------------------------------------------------------------


def test_a_lost_model_is_restored_from_its_checkpoint_and_what_followed_is_replayed(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    """REC-04."""
    with client(server, run_dir, recovery=EVERY_TWO) as service:
        events = Events(service)
        training = create(service)
        for number in range(3):
            step(training, number)
        server.unload(training.model_id)
        assert server.digest(finish(training)) == undisturbed
    (restored,) = events.of(ModelRestored)
    assert restored.checkpoint is not None
    assert "000002" in restored.checkpoint


def test_a_lost_model_without_a_checkpoint_is_made_again_from_its_seed(
    server: Server, undisturbed: str
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = create(service)
        for number in range(3):
            step(training, number)
        server.unload(training.model_id)
        assert server.digest(finish(training)) == undisturbed
    (restored,) = events.of(ModelRestored)
    assert (restored.checkpoint, restored.replayed) == (None, 8)


def test_futures_that_were_under_way_when_the_model_was_lost_get_their_results(server: Server) -> None:
    with client(server, None) as service:
        training = create(service)
        step(training, 0)
        server.unload(training.model_id)
        pairs = [
            (training.forward_backward(BATCHES[0], "cross_entropy"), training.optim_step(ADAM))
            for _ in range(3)
        ]
        losses = [forward.result(WAIT_S).metrics["loss:sum"] for forward, _ in pairs]
        assert losses == sorted(losses, reverse=True)
        assert [update.result(WAIT_S) is not None for _, update in pairs] == [True] * 3


def test_what_the_service_had_accepted_when_it_lost_the_model_is_no_failure(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted, receive = threading.Semaphore(0), TrainingActor.on_receive

    def on_receive(actor: TrainingActor, message: object) -> object:
        if isinstance(message, Accepted) and not isinstance(message.tag, str):
            accepted.release()
        return receive(actor, message)

    monkeypatch.setattr(TrainingActor, "on_receive", on_receive)
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        accepted = threading.Semaphore(0)
        long = training.forward([example("a" * 200, "b" * 200)] * 32, "cross_entropy")
        for number in range(2):  # these wait behind it on the service
            training.forward_backward(BATCHES[number], "cross_entropy")
            training.optim_step(ADAM)
        for _ in range(5):
            assert accepted.acquire(timeout=WAIT_S)
        server.unload(training.model_id)
        assert long.result(WAIT_S).metrics
        assert server.digest(finish(training)) == undisturbed
    assert "error" in [one.form for one in server.control.executed(training.model_id)]


def test_a_checkpoint_that_is_gone_is_passed_over_for_the_next_older_one(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    """REC-05."""
    with client(server, run_dir, recovery=EVERY_TWO) as service:
        events = Events(service)
        training = create(service)
        for number in range(5):
            step(training, number)
        newest = max(server.checkpoint(f"tinker://{training.model_id}/weights/x").parent.parent.iterdir())
        for file in newest.iterdir():
            file.unlink()
        newest.rmdir()
        server.unload(training.model_id)
        assert server.digest(finish(training)) == undisturbed
    assert newest.name not in events.of(ModelRestored)[0].checkpoint


def test_a_service_that_is_ahead_of_the_journal_halts_the_run(server: Server, run_dir: Path) -> None:
    """REC-03."""
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        someone_else = {"model_id": training.model_id, "seq_id": 3, "type": "optim_step"}
        server.post("optim_step", **someone_else, adam_params={"learning_rate": 1.0}).raise_for_status()
        with pytest.raises(RunHaltedError, match="another request") as caught:
            training.optim_step(ADAM).result(WAIT_S)
        assert caught.value.run == "1"
        with pytest.raises(RunHaltedError):
            training.optim_step(ADAM)


# A lost session -------------------------------------------------------------------------------------


def test_a_lost_session_is_replaced_and_the_run_restored_in_it(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    with client(server, run_dir) as service:
        events = Events(service)
        training = create(service)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        for number in range(3):
            step(training, number)
        server.finish_session(training.model_id.partition(":")[0])
        crash(service.address("service/session/heartbeat"))
        assert server.digest(finish(training)) == undisturbed
        prompt = ta.ModelInput.from_ints([65])
        assert sampler.sample(prompt, 1, ta.SamplingParams(max_tokens=2)).result(WAIT_S).sequences
    assert len({event.session_id for event in events.of(SessionOpened)}) == 2
    assert len(events.of(ModelRestored)) == 1


# A closed and a killed process ------------------------------------------------------------------------


def test_a_run_that_was_closed_goes_on_from_the_checkpoint_of_its_close(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        for number in range(3):
            step(training, number)
    with client(server, run_dir) as service:
        events = Events(service)
        training = create(service)
        assert (training.step, next(training.steps(4))) == (3, 3)
        assert server.digest(finish(training)) == undisturbed
    assert [event.replayed for event in events.of(ModelRestored)] == [0]


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from harness import ADAM, BATCHES, KEY, WAIT_S, step
import tinker_actors as ta
url, run_dir, moment = sys.argv[1:4]
service = ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir)
training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
step(training, 0)
step(training, 1)
forward = training.forward_backward(BATCHES[0], "cross_entropy")
if moment == "gradient":
    forward.result(WAIT_S)
elif moment == "update":
    training.optim_step(ADAM).result(WAIT_S)
elif moment == "save":
    training.optim_step(ADAM).result(WAIT_S)
    training.save_weights_for_sampler("kept").result(WAIT_S)
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(server: Server, run_dir: Path, moment: str) -> None:
    """A process takes two steps, begins a third, and is killed."""
    here = str(Path(__file__).parent.parent / "support")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url, str(run_dir), moment, here], check=False
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("moment", "steps"), [("submitted", 2), ("gradient", 2), ("update", 3), ("save", 3)])
def test_a_killed_process_is_continued_without_a_step_lost_or_doubled(
    server: Server, run_dir: Path, undisturbed: str, moment: str, steps: int
) -> None:
    """REC-02."""
    die(server, run_dir, moment)
    with client(server, run_dir) as service:
        events = Events(service)
        training = create(service)
        assert training.step == steps
        assert server.digest(finish(training)) == undisturbed
    assert len(events.of(ModelRestored)) == 0
    assert len(events.of(ModelAttached)) == 1


@pytest.mark.parametrize(("moment", "steps"), [("submitted", 2), ("gradient", 2), ("update", 3), ("save", 3)])
@pytest.mark.parametrize("is_lost", [False, True], ids=["attached", "restored"])
def test_the_cursor_of_the_data_and_the_step_of_the_model_are_one(
    server: Server, run_dir: Path, moment: str, steps: int, is_lost: bool
) -> None:
    """REC-13: each source names the same next batch."""
    die(server, run_dir, moment)
    with client(server, run_dir) as service:
        training, events = create(service), Events(service)
        if is_lost:
            server.unload(training.model_id)
        training.save_state("here").result(WAIT_S)
        restored = [event.model_id for event in events.of(ModelRestored)]
        assert len(restored) == is_lost
        lines = [json.loads(line) for line in (run_dir / "checkpoints.jsonl").read_text().splitlines()]
        checkpoint = next(line for line in lines if line["name"] == "here")
        with safe_open(server.checkpoint(checkpoint["state_path"]), "np") as file:
            in_the_model = json.loads(file.metadata()[FACTS])["step"]
        cursor, history = next(training.steps(9)), training.history().result(WAIT_S)
    assert {cursor, training.step, len(history), checkpoint["batch"], in_the_model} == {steps}


def test_gradients_of_a_dead_process_that_are_not_asked_for_again_are_undone(
    server: Server, run_dir: Path
) -> None:
    other = [example("quite another", "onething")]

    def third_step(training: ta.TrainingClient) -> str:
        training.forward_backward(other, "cross_entropy")
        training.optim_step(ADAM).result(WAIT_S)
        return server.digest(training.save_state("other").result(WAIT_S).path)

    with client(server, None) as service:
        training = create(service)
        step(training, 0)
        step(training, 1)
        wanted = third_step(training)
    die(server, run_dir, "gradient")
    with client(server, run_dir) as service:
        events = Events(service)
        assert third_step(create(service)) == wanted
    assert [event.operations for event in events.of(GradientDropped)] == [1]


def test_a_save_that_is_asked_for_again_gives_the_recorded_path(server: Server, run_dir: Path) -> None:
    die(server, run_dir, "save")
    with client(server, run_dir) as service:
        training = create(service)
        path = training.save_weights_for_sampler("kept").result(WAIT_S).path
    assert path is not None
    assert path.endswith("/sampler_weights/kept")


@pytest.mark.parametrize(
    ("argument", "shown"), [({"rank": 8}, "rank was 4, now 8"), ({"seed": 9}, "seed was 3, now 9")]
)
def test_a_run_is_not_resumed_with_other_arguments(
    server: Server, run_dir: Path, argument: dict[str, int], shown: str
) -> None:
    with client(server, run_dir) as service:
        create(service)
    with client(server, run_dir) as service, pytest.raises(ConfigError, match=shown):
        create(service, **argument)


def test_runs_of_one_directory_are_kept_apart_by_name(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        one, other = create(service, run="one"), create(service, run="other")
        step(one, 0)
    assert other.step == 0
    with client(server, run_dir) as service:
        assert (create(service, run="other").step, create(service, run="one").step) == (0, 1)


# A step that fails ------------------------------------------------------------------------------------


def fail_a_step(training: ta.TrainingClient, *, after_a_good_gradient: bool) -> None:
    if after_a_good_gradient:
        training.forward_backward(BATCHES[1], "cross_entropy").result(WAIT_S)
    forward = training.forward_backward(BATCHES[0], "no_such_loss")
    update = training.optim_step(ADAM)
    with pytest.raises(BadRequestError, match="no_such_loss"):
        forward.result(WAIT_S)
    with pytest.raises(StepVoidError):
        update.result(WAIT_S)


@pytest.mark.parametrize("after_a_good_gradient", [False, True])
def test_a_step_of_which_a_part_fails_is_not_taken_and_the_client_lives_on(
    server: Server, run_dir: Path, undisturbed: str, after_a_good_gradient: bool
) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        step(training, 0)
        fail_a_step(training, after_a_good_gradient=after_a_good_gradient)
        assert server.digest(finish(training)) == undisturbed
        assert training.step == STEPS


def test_the_update_of_a_failed_step_is_void_also_when_it_comes_later(
    server: Server, undisturbed: str
) -> None:
    with client(server, None) as service:
        training = create(service)
        step(training, 0)
        with pytest.raises(BadRequestError):
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
        with pytest.raises(BadRequestError):  # the same step
            training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed


def test_a_save_that_fails_leaves_the_step_alone(server: Server, undisturbed: str) -> None:
    with client(server, None) as service:
        training = create(service)
        training.save_state("taken").result(WAIT_S)
        with pytest.raises(ta.TinkerActorsError):
            training.save_state("taken").result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed


# Creating -------------------------------------------------------------------------------------------


def test_a_model_that_the_service_does_not_have_is_refused_by_name(server: Server) -> None:
    with client(server, None) as service, pytest.raises(ValidationError, match=r"local/tiny.*'local/none'"):
        service.create_lora_training_client("local/none").result(WAIT_S)


def test_metrics_and_checkpoints_are_written_for_other_programs(server: Server, run_dir: Path) -> None:
    with client(server, run_dir, recovery=EVERY_TWO) as service:
        events = Events(service)
        training = create(service)
        losses = [step(training, number)["loss:sum"] for number in range(2)]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss:sum"]) for line in lines] == list(enumerate(losses))
    saved = [json.loads(line) for line in (run_dir / "checkpoints.jsonl").read_text().splitlines()]
    assert [(one["batch"], one["state_path"].startswith("tinker://")) for one in saved] == [
        (0, True),
        (2, True),
    ]
    assert len(events.of(ModelCreated)) == 1


def test_torn_lines_are_written_again_from_the_journal(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        step(create(service), 0)
    whole = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(whole[:7])
    with client(server, run_dir):
        assert (run_dir / "metrics.jsonl").read_bytes() == whole
