"""The end of a service client: in which order its tree stops, and what becomes of what cannot be finished."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.clients import service as clients
from tinker_actors.events import (
    CircuitHalfOpened,
    CircuitOpened,
    RequestBegan,
    SessionLeftOpen,
    SessionReattached,
)
from tinker_actors.supervision import ChildExited, ShutdownBegan, ShutdownEnded, TreeNode
from tinker_actors.supervision.testing import expect

NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
BREAKER = "service/breakers/"
DOWN = {"effect": "status", "status": 503, "count": "always"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as server:
        yield server


def backwards(node: TreeNode) -> Iterator[str]:
    """Paths in the order in which a tree is to end: who started last first, children before their supervisor."""
    for child in reversed(node.children):
        yield from backwards(child)
    yield node.path


def test_whole_tree_ends_in_reverse_order(server: Server) -> None:
    """SHU-01, of the tree that users have."""
    with client(server, None) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        step(training, 0)
        wanted = [path for path in backwards(service.tree()) if BREAKER not in path]
        with expect(service._runtime.tree, ShutdownEnded) as ended:
            service.close().result(WAIT_S)
    assert ended.event.abandoned == ()
    ended_in_turn = [event.path for event in events.of(ChildExited)]
    breakers = [path for path in ended_in_turn if BREAKER in path]
    assert f"{BREAKER}finish_session" in breakers  # operations are called until the end
    above = ended_in_turn.index("service/breakers")
    assert ended_in_turn[above - len(breakers) : above] == breakers
    assert [path for path in ended_in_turn if path not in breakers] == wanted
    assert wanted.index("service/session/training/training:1") < wanted.index("service/session/heartbeat")
    assert wanted.index("service/session/heartbeat") < wanted.index("service/transport")
    assert wanted[-2:] == ["service/journal", "service"]
    with pytest.raises(ta.RuntimeStoppedError):
        sampler.sample(ta.ModelInput.from_ints([72]), 1, ta.SamplingParams(max_tokens=1)).result(WAIT_S)


def test_client_closes_while_a_circuit_is_half_open(server: Server) -> None:
    """SHU-04: the probe is on its way, and no answer to it comes."""
    control = Control(server.url)
    breaker = ta.BreakerSettings(consecutive_failures=1, open_s=0.1, max_open_s=0.1, jitter=0.0)
    with client(server, None, circuit_breaker=breaker, sampling_waits=True) as service:
        tree = service._runtime.tree
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        with expect(tree, CircuitOpened), expect(tree, CircuitHalfOpened):
            control.arm(
                {**DOWN, "operation": "asample", "count": 1},
                {"effect": "hang", "operation": "asample"},  # does not see the first one
            )
            sample = sampler.sample(ta.ModelInput.from_ints([72]), 1, ta.SamplingParams(max_tokens=1))
        with expect(tree, ShutdownBegan), expect(tree, ShutdownEnded) as ended:
            service.close().result(WAIT_S)
        with pytest.raises(ta.RuntimeStoppedError):
            sample.result(WAIT_S)
    assert ended.event.abandoned == ()


def test_what_could_not_be_saved_is_told_and_gone_on_with(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = Control(server.url)
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        monkeypatch.setattr(clients, "CLOSE_TIMEOUT_S", 2.0)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        other = service.create_lora_training_client("local/tiny", rank=4, run="other").result(WAIT_S)
        step(other, 0)
        step(training, 0)
        control.arm({**DOWN, "operation": "optim_step"})
        training.forward_backward(BATCHES[0], "cross_entropy")
        training.optim_step(ADAM)
    (left,) = events.of(SessionLeftOpen)
    assert list(left.uncovered) == ["1"]
    assert "optim_step" in left.uncovered["1"]
    control.clear()
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        assert training.step == 2
        assert [event.session_id for event in events.of(SessionReattached)] == [left.session_id]


def test_client_that_saved_everything_leaves_no_session_open(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
    assert events.of(SessionLeftOpen) == []


def test_client_closes_while_a_run_is_being_restored_and_the_next_start_restores_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SHU-04."""
    control = Control(server.url)
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        tree = service._runtime.tree
        monkeypatch.setattr(clients, "CLOSE_TIMEOUT_S", 2.0)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        control.arm({"effect": "hang", "operation": "create_model"})
        is_restoring = threading.Event()

        def look(began: RequestBegan) -> None:
            if began.operation == "create_model":
                is_restoring.set()

        service.subscribe(look, RequestBegan)
        server.unload(training.model_id)
        forward = training.forward_backward(BATCHES[1], "cross_entropy")
        update = training.optim_step(ADAM)
        assert is_restoring.wait(WAIT_S)
        with expect(tree, ShutdownEnded) as ended:
            service.close().result(WAIT_S)
        for future in (forward, update):
            with pytest.raises(ta.RuntimeStoppedError):
                future.result(WAIT_S)
    assert ended.event.abandoned == ()
    control.clear()
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        assert training.step == 2
