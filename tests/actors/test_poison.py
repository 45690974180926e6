"""A batch that brings the program down is tried three times, and then left out; nothing else is blamed."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from harness import ADAM, BATCHES, NO_CHECKPOINTS, WAIT_S, Events, Server, client, give_up, step
from judge import verdict
from poisoned_program import POISON, carries_poison, is_poison
from zygote import Zygote

import tinker_actors as ta
from tinker_actors.actors import results
from tinker_actors.actors.outbox import Pending
from tinker_actors.actors.results import Progress, conclude
from tinker_actors.actors.transport import TransportActor
from tinker_actors.errors import FutureExpiredError, PoisonedBatchError, RunHaltedError, StepVoidError
from tinker_actors.events import BatchPoisoned
from tinker_actors.journal.records import Kind, OperationRecord, SendRecord, State
from tinker_actors.supervision import ZombieEnded
from tinker_actors.supervision.testing import InjectedCrashError, expect

SKIP = ta.RecoveryPolicy(checkpoint_every_steps=0, on_poison="skip")
STEPS = 4
BAD = 2
"""Number of the step whose batch is poison."""
TRAINING = "service/session/training/training:1"


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


def result_of(server: Server, training: ta.TrainingClient) -> tuple[str, list[tuple[str, str]]]:
    return verdict(server, training.save_state("final").result(WAIT_S).path)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> tuple[str, list[tuple[str, str]]]:
    """What a run ends with that never saw the poisoned batch."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        for number in range(STEPS):
            if number != BAD:
                step(training, number)
        return result_of(server, training)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("poisoned_program", "numpy", "httpx", "google.protobuf") as zygote:
        yield zygote


def crash_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training actor crashes when it reads the result."""
    read: Any = vars(results)["read_parts"]

    def read_or_crash(*arguments: Any) -> list[Any]:
        parts: list[Any] = read(*arguments)
        if is_poison(parts):
            raise InjectedCrashError
        return parts

    monkeypatch.setattr(results, "read_parts", read_or_crash)


def crash_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport crashes when it sends the data."""
    once = TransportActor._once

    async def once_or_crash(actor: TransportActor, call: Any, **named: Any) -> Any:
        if carries_poison(call):
            raise InjectedCrashError
        return await once(actor, call, **named)

    monkeypatch.setattr(TransportActor, "_once", once_or_crash)


@pytest.mark.parametrize("crash", [crash_reading, crash_sending])
def test_a_poisoned_batch_is_skipped_and_the_rest_of_the_run_is_as_if_it_had_not_been(
    server: Server,
    undisturbed: tuple[str, list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    crash: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """REC-12."""
    crash(monkeypatch)
    with client(server, None, recovery=SKIP) as service:
        training, events, numbers = create(service), Events(service), []
        for number in training.steps(STEPS):
            numbers.append(number)
            if number != BAD:
                step(training, number)
                continue
            forward, update = training.forward_backward(POISON, "cross_entropy"), training.optim_step(ADAM)
            with pytest.raises(
                PoisonedBatchError, match="place 5 brought the program down 3 times"
            ) as caught:
                forward.result(WAIT_S)
            with pytest.raises(StepVoidError):
                update.result(WAIT_S)
            assert caught.value.attempts == 3
        assert result_of(server, training) == undisturbed
        assert (numbers, training.step) == ([0, 1, 2, 3], STEPS - 1)
        (told,) = service.history().result(WAIT_S)
        assert [one.state for one in told.failures] == [State.SKIPPED, State.SKIPPED]
    assert [event.is_skipped for event in events.of(BatchPoisoned)] == [True]


def test_a_batch_over_which_the_actor_hangs_is_left_out_like_one_over_which_it_crashes(
    server: Server, undisturbed: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """REC-12, by hang."""
    read: Any = vars(results)["read_parts"]
    hangs, wakes = SimpleQueue[bool](), threading.Event()

    def read_or_hang(*arguments: Any) -> list[Any]:
        parts: list[Any] = read(*arguments)
        if is_poison(parts):
            hangs.put(True)
            wakes.wait()
        return parts

    monkeypatch.setattr(results, "read_parts", read_or_hang)
    with client(server, None, recovery=SKIP) as service:
        training, events = create(service), Events(service)
        for number in range(BAD):
            step(training, number)
        forward, update = training.forward_backward(POISON, "cross_entropy"), training.optim_step(ADAM)
        for _ in range(3):
            assert hangs.get(timeout=WAIT_S)
            give_up(service, TRAINING)
        with pytest.raises(PoisonedBatchError):
            forward.result(WAIT_S)
        with pytest.raises(StepVoidError):
            update.result(WAIT_S)
        with expect(service._runtime.tree, ZombieEnded, count=3, timeout_s=WAIT_S):
            wakes.set()
        step(training, BAD + 1)
        assert result_of(server, training) == undisturbed
    assert [event.attempts for event in events.of(BatchPoisoned)] == [3]


def test_the_run_halts_by_default(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch, client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        crash_reading(patch)
        training = create(service)
        step(training, 0)
        forward = training.forward_backward(POISON, "cross_entropy")
        with pytest.raises(PoisonedBatchError):
            forward.result(WAIT_S)
        with pytest.raises(RunHaltedError, match="leave them out"):
            training.optim_step(ADAM).result(WAIT_S)
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        assert next(training.steps(STEPS)) == 1
        step(training, 1)
        assert training.step == 2


def test_a_replay_that_brought_the_program_down_is_tried_again_by_the_next_start(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its result was given out: it cannot be left out, and whoever starts the program again may have mended it."""
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        training.forward_backward(POISON, "cross_entropy")
        training.optim_step(ADAM).result(WAIT_S)
        with monkeypatch.context() as patch:
            crash_reading(patch)
            server.unload(training.model_id)
            with pytest.raises(RunHaltedError, match=r"place 1 .* 3 times .* no model without it; to resume"):
                step(training, 1)
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        assert training.step == 2  # the step behind it was committed to, and is taken, too


@pytest.mark.parametrize("state", [State.PLACED, State.DONE])
def test_what_was_executed_and_lost_its_result_is_acknowledged(state: State) -> None:
    """Crashes before that are forgiven."""
    record = OperationRecord(
        run="1", place=1, kind=Kind.FORWARD_BACKWARD, digest="", state=state, summary=b"{}", crashes=2
    )
    send = SendRecord(run="1", generation=1, place=1, part=0, seq_id=1)
    pending = Pending(record, [b""], [], [send], lost={0: FutureExpiredError("gone", status=410)})
    written = conclude(pending, Progress(steps=0, step_place=0)).records
    assert [one.crashes for one in written if isinstance(one, OperationRecord)] == [0]


def test_no_more_are_skipped_than_the_policy_allows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    crash_reading(monkeypatch)
    policy = ta.RecoveryPolicy(checkpoint_every_steps=0, on_poison="skip", max_skipped=0)
    with client(server, None, recovery=policy) as service:
        training = create(service)
        with pytest.raises(PoisonedBatchError):
            training.forward_backward(POISON, "cross_entropy").result(WAIT_S)
        with pytest.raises(RunHaltedError):
            training.optim_step(ADAM).result(WAIT_S)


@pytest.mark.parametrize("die", ["die_reading", "die_sending"])
def test_a_batch_that_kills_the_process_is_left_out_by_the_fourth(
    server: Server, zygote: Zygote, undisturbed: tuple[str, list[tuple[str, str]]], tmp_path: Path, die: str
) -> None:
    """REC-12, by SIGKILL."""
    arguments = {"url": server.url, "run_dir": str(tmp_path / "run")}
    for _ in range(3):
        assert zygote.run(f"poisoned_program:{die}", arguments) == -signal.SIGKILL
    with client(server, tmp_path / "run", recovery=SKIP) as service:
        events = Events(service)
        training = create(service)
        assert (training.step, next(training.steps(STEPS))) == (2, 3)
        step(training, 3)
        assert result_of(server, training) == undisturbed
    assert [event.attempts for event in events.of(BatchPoisoned)] == [3]


def test_two_crashes_and_something_acknowledged_are_no_poison(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        for number in range(3):
            crashes = iter(range(1))
            read: Any = vars(results)["read_parts"]

            def read_or_crash(*arguments: Any, crashes: Any = crashes, read: Any = read) -> list[Any]:
                parts: list[Any] = read(*arguments)
                if next(crashes, None) is not None:
                    raise InjectedCrashError
                return parts

            with monkeypatch.context() as patch:
                patch.setattr(results, "read_parts", read_or_crash)
                step(training, number)
        assert training.step == 3


@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_from_outside_while_the_service_works_quarantine_nothing(
    server: Server, zygote: Zygote, tmp_path: Path, kills: int
) -> None:
    arguments = {"url": server.url, "run_dir": str(tmp_path / "run")}
    for _ in range(kills):
        assert zygote.run("poisoned_program:die_waiting", arguments) == -signal.SIGKILL
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
        training.optim_step(ADAM).result(WAIT_S)
        assert training.step == 1
    assert events.of(BatchPoisoned) == []


@pytest.mark.parametrize("transport", ["fast", "httpx"])
@pytest.mark.parametrize("fault", [{"effect": "hang"}, {"effect": "status", "status": 503}])
def test_kills_while_the_service_gives_no_answer_quarantine_nothing(
    server: Server, zygote: Zygote, tmp_path: Path, fault: dict[str, Any], transport: str
) -> None:
    server.control.arm({**fault, "operation": "forward_backward", "count": "always"})
    arguments = {"url": server.url, "run_dir": str(tmp_path / "run"), "transport": transport}
    for _ in range(4):
        assert zygote.run("poisoned_program:die_unanswered", arguments) == -signal.SIGKILL
    server.control.clear()
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        assert training.step == 1
    assert events.of(BatchPoisoned) == []
