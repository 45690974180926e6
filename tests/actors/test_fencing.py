"""An incarnation that was given up, and whose thread wakes up late: nothing of what it does has an effect."""

import threading
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT_S, Server, client, give_up, step

import tinker_actors as ta
from tinker_actors.actors import settlement
from tinker_actors.actors.journal import Append, LoadRun, Writer
from tinker_actors.actors.published import JOURNAL
from tinker_actors.actors.results import conclude
from tinker_actors.actors.training import TrainingActor
from tinker_actors.errors import FencedError
from tinker_actors.journal.records import RunRecord
from tinker_actors.supervision import ChildStarted, ZombieEnded
from tinker_actors.supervision.testing import expect

TRAINING = "service/session/training/training:1"


def test_the_journal_refuses_an_incarnation_whose_successor_has_read(server: Server, tmp_path: Path) -> None:
    old, new = Writer("service/somebody", 3), Writer("service/somebody", 4)
    with client(server, tmp_path / "run") as service:
        journal = service.address(JOURNAL)
        journal.call(Append((RunRecord(run="x", config=b"{}"),), writer=old))
        assert journal.call(LoadRun("x", writer=new)).run.config == b"{}"
        with pytest.raises(FencedError, match="epoch 3"):
            journal.call(Append((RunRecord(run="x", config=b"[]"),), writer=old))
        assert journal.call(LoadRun("x", writer=new)).run.config == b"{}"


def test_requests_carry_the_incarnation_that_made_them(server: Server) -> None:
    with client(server, None) as service:
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        assert service._runtime.published.epochs[TRAINING] == 1
        assert LoadRun("1").writer is None


def test_a_training_actor_that_stalled_writes_and_settles_nothing_when_it_wakes_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REC-15, of an actor."""
    stalled, wakes = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def stall(*arguments: Any) -> Any:
        """In the middle of writing a result: the answer is there, the journal does not know of it."""
        monkeypatch.setattr(settlement, "conclude", conclude)
        stalled.set()
        wakes.wait(WAIT_S)
        return conclude(*arguments)

    original = TrainingActor.on_receive

    def noting(actor: TrainingActor, message: Any) -> Any:
        try:
            return original(actor, message)
        except FencedError as error:
            outcome.append(error)
            raise

    monkeypatch.setattr(TrainingActor, "on_receive", noting)
    with client(server, tmp_path / "run") as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        step(training, 0)
        monkeypatch.setattr(settlement, "conclude", stall)
        with expect(service._runtime.tree, ChildStarted, path=TRAINING, timeout_s=WAIT_S):
            update = training.optim_step(ta.AdamParams(learning_rate=1e-3))
            assert stalled.wait(WAIT_S)
            give_up(service, TRAINING)
        update.result(WAIT_S)
        left = service._runtime._store.load("1")
        with expect(service._runtime.tree, ZombieEnded, timeout_s=WAIT_S):
            wakes.set()
        assert [type(error) for error in outcome] == [FencedError]
        assert service._runtime._store.load("1") == left
        step(training, 1)
        assert training.step == 3
