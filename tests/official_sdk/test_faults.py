"""The official SDK meets faults on order: each fires, and the SDK does what it does with the hosted service."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import WAIT_S, Server

Step = Callable[..., float]


@pytest.fixture(autouse=True)
def no_fault_left(server: Server) -> Iterator[None]:
    yield
    server.control.clear()


@pytest.mark.parametrize(
    "fault",
    [
        {"effect": "drop"},
        {"effect": "drop", "when": "after"},
        {"effect": "reset"},
        {"effect": "half_body"},
        {"effect": "status", "status": 503},
        {"effect": "status", "status": 503, "when": "after"},
        {"effect": "status", "status": 429, "retry_after_s": 0.1},
    ],
    ids=lambda fault: " ".join(str(value) for value in fault.values()),
)
def test_an_operation_whose_reply_is_lost_is_sent_again_and_executed_once(
    server: Server, training: Any, step: Step, fault: dict[str, Any]
) -> None:
    step(training)
    (name,) = server.control.arm({**fault, "operation": "optim_step"})
    step(training, 1)
    assert len(server.control.fired(name)) == 1
    log = server.control.executed(training.get_info().model_id)
    assert [entry.seq_id for entry in log] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "fault",
    [
        {"effect": "status", "status": 500},
        {"effect": "status", "status": 429},
        {"effect": "half_body"},
        {"effect": "delay", "seconds": 0.2},
    ],
    ids=lambda fault: " ".join(str(value) for value in fault.values()),
)
def test_a_poll_that_fails_is_repeated(server: Server, training: Any, step: Step, fault: Any) -> None:
    (name,) = server.control.arm({**fault, "operation": "retrieve_future", "of": "optim_step"})
    step(training)
    assert len(server.control.fired(name)) == 1


def test_a_training_result_that_expired_is_an_error(server: Server, training: Any, step: Step) -> None:
    server.control.arm({"effect": "expire_result", "operation": "retrieve_future", "of": "optim_step"})
    with pytest.raises(Exception, match=r"410|expired|no longer kept"):
        step(training)


def test_a_sample_whose_result_expired_is_asked_for_again(server: Server, tinker: Any, service: Any) -> None:
    sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    (name,) = server.control.arm({"effect": "expire_result", "operation": "retrieve_future", "of": "sample"})
    prompt, params = tinker.ModelInput.from_ints([72]), tinker.SamplingParams(max_tokens=2, seed=1)
    assert sampler.sample(prompt, 1, params).result(WAIT_S).sequences
    assert len(server.control.fired(name)) == 1


def test_a_model_that_is_lost_ends_the_training_client(
    server: Server, tinker: Any, training: Any, step: Step
) -> None:
    step(training)
    server.control.arm({"effect": "lose_model", "operation": "forward_backward"})
    with pytest.raises(tinker.NotFoundError, match="unloaded"):
        step(training, 1)
