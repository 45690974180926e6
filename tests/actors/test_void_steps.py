"""A step of which a part fails leaves nothing on the service, and nothing good is lost or doubled."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step
from judge import verdict

import tinker_actors as ta
from tinker_actors.actors.futures import Submissions
from tinker_actors.api.setup import ClientConfig
from tinker_actors.errors import BadRequestError, JournalError, RunHaltedError, StepVoidError
from tinker_actors.events import StepVoided
from tinker_actors.journal.records import OperationRecord, State
from tinker_actors.journal.store import Store
from tinker_actors.supervision.testing import InjectedCrashError

NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
CHUNKS = BATCHES[0] + BATCHES[1]
"""Three data, each in a request of its own."""
STEPS = 3


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
    service._runtime.published.config = ClientConfig(fwdbwd_max_chunk_len=1)
    return training


@pytest.fixture
def control(server: Server) -> Iterator[Control]:
    yield server.control
    server.control.clear()


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> tuple[str, list[tuple[str, str]]]:
    """Digest of the weights, and what the server executed, when nothing fails."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        for number in range(STEPS):
            step(training, number)
        return verdict(server, training.save_state("final").result(WAIT_S).path)


def refused(seq_id: int) -> dict[str, Any]:
    """The service refuses a request."""
    return {
        "effect": "status",
        "status": 422,
        "operation": "forward_backward",
        "seq_id": seq_id,
        "detail": "no",
    }


def failed(seq_id: int) -> dict[str, Any]:
    """The service took a request, and has an error in place of its result."""
    return {
        "effect": "status",
        "status": 422,
        "operation": "retrieve_future",
        "of": "forward_backward",
        "seq_id": seq_id,
        "detail": "no",
    }


# The first step of the undisturbed run has the places 1 to 3.
@pytest.mark.parametrize("is_update_sent", [True, False], ids=["update sent", "update not sent"])
@pytest.mark.parametrize("fault", [refused, failed])
@pytest.mark.parametrize(
    ("forwards", "seq_id"), [(1, 4), (1, 6), (2, 8)], ids=["chunk 1", "chunk 3", "second forward_backward"]
)
def test_a_void_step_leaves_nothing_and_costs_nothing(
    server: Server,
    control: Control,
    undisturbed: tuple[str, list[tuple[str, str]]],
    forwards: int,
    seq_id: int,
    fault: Any,
    is_update_sent: bool,
) -> None:
    """REC: void steps, beside the server's step log."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(fault(seq_id) | {"model_id": training.model_id})
        submitted: list[ta.APIFuture[Any]] = [
            training.forward_backward(CHUNKS, "cross_entropy") for _ in range(forwards)
        ]
        if is_update_sent:
            update = training.optim_step(ADAM)
        with pytest.raises(ta.UnprocessableEntityError):
            submitted[-1].result(WAIT_S)
        if not is_update_sent:
            update = training.optim_step(ADAM)
        with pytest.raises(StepVoidError):
            update.result(WAIT_S)
        for number in range(1, STEPS):
            step(training, number)
        assert verdict(server, training.save_state("final").result(WAIT_S).path) == undisturbed
        assert training.step == STEPS
    assert len(events.of(StepVoided)) == 1
    assert len(control.fired()) >= 1


def test_futures_of_a_void_step_carry_the_first_error(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        control.arm(failed(2) | {"model_id": training.model_id})
        futures: list[ta.APIFuture[Any]] = [
            training.forward_backward(CHUNKS, "cross_entropy"),
            training.forward_backward(CHUNKS, "cross_entropy"),
            training.forward_backward(CHUNKS, "cross_entropy"),
        ]
        for future in futures:
            with pytest.raises(ta.UnprocessableEntityError):
                future.result(WAIT_S)


@pytest.mark.parametrize(
    ("error", "is_written"),
    [
        (JournalError("disk full"), False),
        (InjectedCrashError("before it is written"), False),
        (InjectedCrashError("behind it"), True),
    ],
    ids=["disk full", "crash before it", "crash behind it"],
)
def test_writing_down_that_a_step_is_void_may_fail_and_costs_no_other_step(
    server: Server,
    control: Control,
    undisturbed: tuple[str, list[tuple[str, str]]],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    is_written: bool,
) -> None:
    write, failed_on = Store.write, list[OperationRecord]()

    def write_or_fail(store: Store, records: Sequence[Any], *, durable: bool = True) -> None:
        for one in records:
            is_end = isinstance(one, OperationRecord) and (one.kind, one.state) == ("optim_step", State.VOID)
            if is_end and not failed_on:
                failed_on.append(one)
                if is_written:
                    write(store, records, durable=durable)
                raise error
        write(store, records, durable=durable)

    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        step(training, 0)
        control.arm(refused(4) | {"model_id": training.model_id})
        with pytest.raises(ta.UnprocessableEntityError):
            training.forward_backward(CHUNKS, "cross_entropy").result(WAIT_S)
        monkeypatch.setattr(Store, "write", write_or_fail)
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        for number in training.steps(STEPS):
            step(training, number)
        assert failed_on
        assert verdict(server, training.save_state("final").result(WAIT_S).path) == undisturbed


# Who asks is refused, and not what is asked for -----------------------------------------------------


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "set a key that"), (403, "set a key that")], ids=["no key", "not allowed"]
)
@pytest.mark.parametrize("operation", ["forward_backward", "optim_step"])
def test_a_key_that_is_refused_halts_the_run_with_a_hint_and_voids_nothing(
    server: Server,
    control: Control,
    undisturbed: tuple[str, list[tuple[str, str]]],
    tmp_path: Any,
    status: int,
    hint: str,
    operation: str,
) -> None:
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        step(training, 0)
        control.arm(
            {"effect": "status", "status": status, "operation": operation, "model_id": training.model_id}
        )
        forward, update = training.forward_backward(BATCHES[1], "cross_entropy"), training.optim_step(ADAM)
        with pytest.raises(RunHaltedError, match=hint) as caught:
            update.result(WAIT_S)
        assert hint in caught.value.resume
        assert events.of(StepVoided) == []
        del forward
    with client(server, tmp_path / "run", recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        assert training.step == 2
        step(training, 2)
        assert server.digest(training.save_state("final").result(WAIT_S).path) == undisturbed[0]


def test_an_unpaid_bill_is_waited_out_and_voids_nothing(
    server: Server, control: Control, undisturbed: tuple[str, list[tuple[str, str]]]
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training, events = create(service), Events(service)
        control.arm(
            {
                "effect": "status",
                "status": 402,
                "operation": "forward_backward",
                "model_id": training.model_id,
            }
        )
        for number in range(STEPS):
            step(training, number)
        assert verdict(server, training.save_state("final").result(WAIT_S).path) == undisturbed
    assert events.of(StepVoided) == []


def test_an_unpaid_bill_that_lasts_halts_the_run(server: Server, control: Control) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        service._runtime.published.config = ClientConfig(billing_exception_max_pause_duration_sec=0.0)
        control.arm(
            {"effect": "status", "status": 402, "operation": "optim_step", "model_id": training.model_id}
        )
        training.forward_backward(BATCHES[0], "cross_entropy")
        with pytest.raises(RunHaltedError, match="settle the account"):
            training.optim_step(ADAM).result(WAIT_S)


# A failure keeps its class ---------------------------------------------------------------------------


def test_a_failure_that_an_actor_could_not_hand_over_keeps_its_class(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Submissions.fail

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Submissions, "fail", original)
        raise InjectedCrashError

    with client(server, None) as service:
        training = create(service)
        monkeypatch.setattr(Submissions, "fail", fail)
        with pytest.raises(BadRequestError, match="no_such_loss") as caught:
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
        assert (caught.value.status, caught.value.category) == (400, "user")
