"""Crashes and kills between the two requests of a custom loss: nothing is lost, doubled or left waiting."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import ADAM, BATCHES, NO_CHECKPOINTS, WAIT_S, Events, Server, client
from own_losses import cross_entropy, custom_step

import tinker_actors as ta
from tinker_actors.actors.futures import Submissions
from tinker_actors.errors import CustomLossError, StepVoidError
from tinker_actors.events import CustomLossDropped, GradientDropped, ModelRestored
from tinker_actors.losses import Array, value_and_grad
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

STEPS = 4
TRAINING = "service/session/training/training:1"


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


def finish(training: ta.TrainingClient, loss_fn: Any = cross_entropy) -> str:
    for number in training.steps(STEPS):
        custom_step(training, BATCHES[number % 2], loss_fn)
    return training.save_state("final").result(WAIT_S).path


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> str:
    """Digest of the weights that every run must end with."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        return server.digest(finish(create(service)))


class Disturbed:
    """The loss, with something that happens in the middle of its second call."""

    name = "disturbed"

    def __init__(self, happens: Callable[[], object]) -> None:
        self.calls = 0
        self._happens = happens

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Any:
        self.calls += 1
        if self.calls == 2:
            self._happens()
        return cross_entropy(data, logprobs)


@pytest.mark.parametrize(
    "victim", ["journal", "transport", "session", "session/heartbeat", "session/training/training:1"]
)
def test_a_crash_while_a_loss_is_computed_changes_nothing(
    server: Server, undisturbed: str, victim: str
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:

        def crashes() -> None:
            with expect(service._runtime.tree, ChildStarted, path=f"service/{victim}", timeout_s=WAIT_S):
                crash(service.address(f"service/{victim}"))

        training, loss = create(service), Disturbed(crashes)
        assert server.digest(finish(training, loss)) == undisturbed
        assert loss.calls == STEPS


def test_a_model_that_is_lost_while_a_loss_is_computed_is_restored_first(
    server: Server, undisturbed: str
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = create(service)
        loss = Disturbed(lambda: server.unload(training.model_id))
        assert server.digest(finish(training, loss)) == undisturbed
        assert (loss.calls, len(events.of(ModelRestored))) == (STEPS, 1)


def test_an_outcome_that_no_actor_was_awake_for_is_taken_by_the_next(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        is_replaced = threading.Event()
        original = Submissions.replace

        def replace(submissions: Submissions[Any], ticket: str, request: Any) -> None:
            monkeypatch.setattr(Submissions, "_wake_up", lambda _: None)
            original(submissions, ticket, request)
            monkeypatch.undo()
            is_replaced.set()

        monkeypatch.setattr(Submissions, "replace", replace)
        forward = training.forward_backward_custom(BATCHES[0], cross_entropy)
        assert is_replaced.wait(WAIT_S)
        with expect(service._runtime.tree, ChildStarted, path=TRAINING, timeout_s=WAIT_S):
            crash(service.address(TRAINING))
        assert forward.result(WAIT_S).metrics["mine:sum"] > 0
        training.optim_step(ADAM).result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed


def test_a_step_that_a_loss_failed_stays_over_when_the_actor_crashes(
    server: Server, undisturbed: str
) -> None:
    @value_and_grad
    def broken(_data: Any, _logprobs: Any) -> Any:
        raise ZeroDivisionError

    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        with pytest.raises(CustomLossError):
            training.forward_backward_custom(BATCHES[0], broken).result(WAIT_S)
        with expect(service._runtime.tree, ChildStarted, path=TRAINING, timeout_s=WAIT_S):
            crash(service.address(TRAINING))
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        assert server.digest(finish(training)) == undisturbed


# Killed processes -------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from harness import ADAM, BATCHES, KEY, NO_CHECKPOINTS, WAIT_S
from own_losses import cross_entropy, custom_step
from tinker_actors.losses import value_and_grad
import tinker_actors as ta
url, run_dir, moment = sys.argv[1:4]

@value_and_grad
def killed(data, logprobs):
    os.kill(os.getpid(), signal.SIGKILL)

service = ta.ServiceClient(base_url=url, api_key=KEY, run_dir=run_dir, recovery=NO_CHECKPOINTS)
training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
custom_step(training, BATCHES[0])
loss = training.forward_backward_custom(BATCHES[1], killed if moment == "computing" else cross_entropy)
if moment == "gradient":
    loss.result(WAIT_S)
    os.kill(os.getpid(), signal.SIGKILL)
training.optim_step(ADAM)
training.save_state("behind").result(WAIT_S)
"""


def die(server: Server, run_dir: Path, moment: str) -> None:
    """A process takes a step, begins a second, and is killed."""
    here = str(Path(__file__).parent.parent / "support")
    command = [sys.executable, "-c", PROGRAM, server.url, str(run_dir), moment, here]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def kinds(server: Server, training: ta.TrainingClient) -> list[str]:
    """What was executed for the model, in order."""
    return [entry.kind for entry in server.control.executed(training.model_id)]


def test_a_process_that_died_in_a_loss_sent_nothing_behind_it_and_is_continued(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    die(server, run_dir, "computing")
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = create(service)
        assert kinds(server, training)[1:] == ["forward", "forward_backward", "optim_step", "forward"]
        assert (training.step, next(training.steps(STEPS))) == (1, 1)
        assert server.digest(finish(training)) == undisturbed
        # The recorded logprobs of the first request served the second process, too.
        assert kinds(server, training)[4:7] == ["forward", "forward_backward", "optim_step"]
    assert [event.losses for event in events.of(CustomLossDropped)] == [1]
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        create(service)
    assert events.of(CustomLossDropped) == []  # it was told of


def test_the_gradient_of_a_loss_is_adopted_where_the_loss_is_the_same(
    server: Server, run_dir: Path, undisturbed: str
) -> None:
    die(server, run_dir, "gradient")
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = create(service)
        metrics = training.forward_backward_custom(BATCHES[1], cross_entropy).result(WAIT_S).metrics
        assert metrics["mine:sum"] == metrics["loss:sum"] == pytest.approx(metrics["surrogate_loss:sum"])
        training.optim_step(ADAM).result(WAIT_S)
        assert kinds(server, training)[4:] == ["forward", "forward_backward", "optim_step"]
        assert server.digest(finish(training)) == undisturbed
    assert events.of(CustomLossDropped) == events.of(GradientDropped) == []


def test_the_gradient_of_another_loss_is_undone(server: Server, run_dir: Path) -> None:
    @value_and_grad
    def half(data: Any, logprobs: Sequence[Array]) -> Any:
        value, gradients, metrics = cross_entropy(data, logprobs)
        return value / 2, [gradient / 2 for gradient in gradients], metrics

    def second_step(training: ta.TrainingClient) -> str:
        custom_step(training, BATCHES[1], half)
        return server.digest(training.save_state("second").result(WAIT_S).path)

    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        custom_step(training, BATCHES[0])
        wanted = second_step(training)
    die(server, run_dir, "gradient")
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        assert second_step(create(service)) == wanted
    assert [event.operations for event in events.of(GradientDropped)] == [1]


def test_history_and_metrics_have_the_loss_and_not_its_surrogate(server: Server, run_dir: Path) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        custom_step(training, BATCHES[0])
        (step,) = training.history().result(WAIT_S)
    assert step.metrics["loss:sum"] == step.metrics["mine:sum"]
    assert "surrogate_loss:sum" in step.metrics
