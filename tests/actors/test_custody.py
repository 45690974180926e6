"""What is looked after beside a run's work: polls of the service, and checkpoints that newer ones make needless."""

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from harness import NO_CHECKPOINTS, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors.custody import Custody, PollDue
from tinker_actors.actors.training import Drain
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.errors import APIConnectionError, RunHaltedError
from tinker_actors.events import ModelRestored
from tinker_actors.journal.records import CheckpointRecord
from tinker_actors.supervision.testing import VirtualClock
from tinker_actors.wire.calls import Answer

TRAINING = "service/session/training/training:1"


def health(*, corrupted: bool) -> Answer:
    document = {
        "training_run_id": "m",
        "base_model": "local/tiny",
        "model_owner": "me",
        "is_lora": True,
        "corrupted": corrupted,
        "last_request_time": "2026-01-01T00:00:00Z",
    }
    return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(document))


class Desk:
    """The actor that a custody works for: its mailbox, its clock, and whom it talks to."""

    path = TRAINING

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.sent: list[Any] = []
        self.me: Any = self
        self._mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def address(self, _path: str) -> Any:
        return self

    def tell(self, message: Any) -> None:
        self.sent.append(message) if isinstance(message, Send) else self._mailbox.put(message)

    def send_after(self, delay_s: float, message: Any) -> Any:
        return self.clock.schedule(delay_s, lambda: self.tell(message))

    def pass_time(self, custody: Custody, seconds: float) -> None:
        self.clock.advance(seconds)
        while not self._mailbox.empty():
            custody.receive(self._mailbox.get())


@pytest.fixture
def desk() -> Desk:
    return Desk()


def custody_of(desk: Desk, policy: ta.RecoveryPolicy) -> Custody:
    run = SimpleNamespace(key="1")
    return Custody(run, policy, desk, corrupted=lambda: None)  # type: ignore[arg-type]  # what it needs of them


@pytest.fixture
def custody(desk: Desk) -> Custody:
    return custody_of(desk, ta.RecoveryPolicy(poll_interval_s=30.0))


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


def test_the_service_is_asked_once_an_interval_however_often_a_model_is_served(
    desk: Desk, custody: Custody
) -> None:
    for _ in range(5):  # parked and begun again
        custody.end()
        custody.begin("m")
    for _ in range(4):
        desk.pass_time(custody, 30.0)
        custody.receive(Answered(PollDue("m"), health(corrupted=False)))
    assert len(desk.sent) == 4


@pytest.mark.parametrize("answer", [health(corrupted=False), APIConnectionError("gone")])
def test_an_answer_that_comes_late_begins_no_second_round(
    desk: Desk, custody: Custody, answer: Answer | APIConnectionError
) -> None:
    custody.begin("m")
    desk.pass_time(custody, 30.0)
    custody.end()
    custody.begin("m")
    tag = PollDue("m")
    custody.receive(
        Answered(tag, answer) if isinstance(answer, Answer) else Failed(tag, answer, accepted=False)
    )
    desk.pass_time(custody, 30.0)
    assert len(desk.sent) == 2


def test_nobody_is_asked_about_a_run_that_has_no_model(desk: Desk, custody: Custody) -> None:
    custody.begin("m")
    custody.end()
    desk.pass_time(custody, 300.0)
    assert desk.sent == []


def saved(name: str, **fields: int) -> CheckpointRecord:
    return CheckpointRecord(run="1", place=2, step=1, path=f"tinker://m/weights/{name}", **fields)


def test_our_own_checkpoints_are_renewed_while_a_run_is_parked(desk: Desk) -> None:
    """REC-09: for 12 h, twice in each lifetime of 4 h."""
    custody = custody_of(desk, ta.RecoveryPolicy(checkpoint_ttl_s=4 * 3600))
    ours = saved("ours", automatic=1)
    others = [
        saved("of-the-caller"),
        saved("spoilt", automatic=1, usable=0),
        saved("old", automatic=1, retired=1),
    ]
    custody.open([ours, *others])
    custody.begin("m")
    custody.end()
    for _ in range(12):
        desk.pass_time(custody, 3600.0)
    renewals = [send.call for send in desk.sent if send.call.operation == "set_checkpoint_ttl"]
    assert len(renewals) == 1 + 6
    assert {(call.path, call.body) for call in renewals} == {
        ("training_runs/m/checkpoints/weights/ours/ttl", b'{"ttl_seconds":14400}')
    }


def test_what_opens_its_journal_again_renews_in_one_rhythm(desk: Desk) -> None:
    custody = custody_of(desk, ta.RecoveryPolicy(checkpoint_ttl_s=3600))
    for _ in range(5):
        custody.open([saved("ours", automatic=1)])
    desk.sent.clear()
    desk.pass_time(custody, 1800.0)
    assert len(desk.sent) == 1


def test_checkpoints_of_the_runtime_may_have_a_lifetime(server: Server, run_dir: Path) -> None:
    policy = ta.RecoveryPolicy(checkpoint_every_steps=1, checkpoint_ttl_s=7200)
    with client(server, run_dir, recovery=policy) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        mine = training.save_state("mine").result(WAIT_S).path
        listed = service.create_rest_client().list_checkpoints(training.model_id).result(WAIT_S).checkpoints
        assert {one.tinker_path == mine: one.expires_at is None for one in listed} == {
            True: True,
            False: False,
        }
        step(training, 1)
        server.unload(training.model_id)
        step(training, 2)
        (restored,) = events.of(ModelRestored)
        assert "auto-1-000002" in restored.checkpoint


def test_a_halted_run_is_not_restored_because_it_is_said_to_be_corrupted(
    server: Server, tmp_path: Path
) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        events, model_id = Events(service), training.model_id
        server.control.arm({"effect": "status", "status": 401, "operation": "forward_backward"})
        with pytest.raises(RunHaltedError):
            step(training, 1)
        address = service.address(TRAINING)
        address.tell(Answered(PollDue(model_id), health(corrupted=True)))
        assert address.call(Drain()) is False
        assert events.of(ModelRestored) == []
        assert "halted" in str(service._runtime._runs[0].hold)
