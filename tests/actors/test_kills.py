"""One actor after another is crashed in the middle of a run; the run ends as if nothing had happened."""

from functools import partial
from pathlib import Path

import pytest
from harness import ADAM, BATCHES, WAIT_S, Server, client, step

import tinker_actors as ta
from tinker_actors.actors.recovery import Recovery
from tinker_actors.errors import RunHaltedError, RuntimeStoppedError
from tinker_actors.supervision import ActorTree, ChildStarted
from tinker_actors.supervision.testing import InjectedCrashError, crash, expect, wait_for

STEPS = 6
SESSION = ["session/heartbeat", "session/training", "session/training/training:1", "session/sampling"]
SERVED = ["journal", "transport", "session", *SESSION]


def epochs(service: ta.ServiceClient) -> dict[str, int]:
    tree = service.tree()
    nodes = {path: tree.find(f"service/{path}") for path in SERVED}
    return {path: node.epoch for path, node in nodes.items() if node is not None}


def program(service: ta.ServiceClient, victim: str | None) -> tuple[str, dict[str, int], list[float]]:
    """Six steps, the victim crashed while the third is under way."""
    training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
    losses = [step(training, number)["loss:sum"] for number in range(2)]
    if victim is not None:
        with expect(service._runtime.tree, ChildStarted, path=f"service/{victim}", timeout_s=WAIT_S):
            forward = training.forward_backward(BATCHES[0], "cross_entropy")
            update = training.optim_step(ADAM)
            crash(service.address(f"service/{victim}"))
            losses.append(forward.result(WAIT_S).metrics["loss:sum"])
            update.result(WAIT_S)
    losses += [step(training, number)["loss:sum"] for number in range(len(losses), STEPS)]
    path = training.save_state("final").result(WAIT_S).path
    return path, epochs(service), losses


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> tuple[str, list[float]]:
    with client(server, None) as service:
        path, _, losses = program(service, None)
    return server.digest(path), losses


@pytest.mark.parametrize(
    ("victim", "restarted"),
    [
        ("journal", ["journal"]),
        ("transport", ["transport"]),
        ("session/training/training:1", ["session/training/training:1"]),
        ("session/sampling", ["session/sampling"]),
        ("session/training", ["session/training", "session/sampling"]),
        ("session/heartbeat", ["session/heartbeat", "session/training", "session/sampling"]),
        ("session", ["session"]),
    ],
)
@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("is_on_disk", [True, False], ids=["disk", "memory"])
def test_a_run_survives_each_actor(
    server: Server,
    run_dir: Path,
    undisturbed: tuple[str, list[float]],
    victim: str,
    restarted: list[str],
    is_on_disk: bool,
) -> None:
    """REC-01, for every actor of the tree."""
    with client(server, run_dir if is_on_disk else None) as service:
        path, found, losses = program(service, victim)
    assert losses == undisturbed[1]
    assert server.digest(path) == undisturbed[0]
    assert all(found[name] == 2 for name in restarted)
    below = (*restarted, "session/training/")
    assert all(epoch == 1 for name, epoch in found.items() if not name.startswith(below))


@pytest.mark.usefixtures("no_thread_left")
def test_when_the_root_crashes_every_call_ends_with_the_first_cause(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        crash(service.address("service"), ValueError("the first cause"))
        with pytest.raises(RuntimeStoppedError, match="the first cause") as caught:
            step_for_ever(training)
    assert isinstance(caught.value.first_cause, ValueError)


def step_for_ever(training: ta.TrainingClient) -> None:
    while True:
        training.optim_step(ADAM).result(WAIT_S)


def test_a_recovery_that_crashes_again_and_again_halts_and_the_next_process_goes_on(
    server: Server, run_dir: Path, undisturbed: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """REC-10."""
    crashes, policy = [], ta.RecoveryPolicy(backoff_s=0.01, max_backoff_s=0.02)

    def crash_restoring(*_: object) -> None:
        crashes.append(1)
        raise InjectedCrashError

    with client(server, run_dir, recovery=policy) as service, monkeypatch.context() as patch:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        step(training, 0)
        patch.setattr(Recovery, "_take_turn", crash_restoring)
        server.unload(training.model_id)
        with pytest.raises(RunHaltedError, match="3 restores brought no progress"):
            step(training, 1)
        assert len(crashes) == policy.max_attempts
    with client(server, run_dir) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        for number in training.steps(STEPS):
            step(training, number)
        assert server.digest(training.save_state("final").result(WAIT_S).path) == undisturbed[0]


def test_an_actor_that_crashes_for_ever_ends_the_client_and_says_why(server: Server) -> None:
    with client(server, None) as service:
        tree = service._runtime.tree
        for epoch in range(1, 5):  # three restarts in a minute are allowed
            wait_for(tree, partial(is_running, service, epoch))
            crash(service.address("service/journal"), OSError("broken disk"))
        with pytest.raises(RuntimeStoppedError, match="broken disk"):
            service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)


def is_running(service: ta.ServiceClient, epoch: int, _tree: ActorTree) -> bool:
    node = service.tree().find("service/journal")
    return node is not None and (node.state, node.epoch) == ("running", epoch)
