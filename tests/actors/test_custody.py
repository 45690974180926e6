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


@pytest.fixture
def custody(desk: Desk) -> Custody:
    run = SimpleNamespace(key="1")
    return Custody(run, ta.RecoveryPolicy(poll_interval_s=30.0), desk, corrupted=lambda: None)  # type: ignore[arg-type]  # what it needs of them


def test_the_service_is_asked_once_an_interval_however_often_a_model_is_served(
    desk: Desk, custody: Custody
) -> None:
    for _ in range(5):  # parked and begun again
        custody.end()
        custody.begin("m", ())
    for _ in range(4):
        desk.pass_time(custody, 30.0)
        custody.receive(Answered(PollDue("m"), health(corrupted=False)))
    assert len(desk.sent) == 4


@pytest.mark.parametrize("answer", [health(corrupted=False), APIConnectionError("gone")])
def test_an_answer_that_comes_late_begins_no_second_round(
    desk: Desk, custody: Custody, answer: Answer | APIConnectionError
) -> None:
    custody.begin("m", ())
    desk.pass_time(custody, 30.0)
    custody.end()
    custody.begin("m", ())
    tag = PollDue("m")
    custody.receive(
        Answered(tag, answer) if isinstance(answer, Answer) else Failed(tag, answer, accepted=False)
    )
    desk.pass_time(custody, 30.0)
    assert len(desk.sent) == 2


def test_nobody_is_asked_about_a_run_that_has_no_model(desk: Desk, custody: Custody) -> None:
    custody.begin("m", ())
    custody.end()
    desk.pass_time(custody, 300.0)
    assert desk.sent == []


def test_a_halted_run_is_not_restored_because_it_is_said_to_be_corrupted(
    server: Server, tmp_path: Path
) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
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
