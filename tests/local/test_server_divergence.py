"""Models that diverge: what is not finite is refused by name, and the server says nothing on the side."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def server(start: Any, tmp_path: Path) -> Any:
    return start(tmp_path / "s")


@pytest.fixture
def caller(open_caller: Any, server: Any) -> Any:
    return open_caller(server)


def trained(caller: Any, model_id: str, seq_id: int) -> Any:
    return caller.poll(caller.forward_backward(model_id, seq_id).json()["request_id"]).json()


def stepped(caller: Any, model_id: str, seq_id: int, learning_rate: float) -> Any:
    return caller.do("optim_step", caller.step_document(model_id, seq_id, learning_rate))


def test_a_step_to_infinity_is_not_taken_and_the_gradient_waits(caller: Any, server: Any) -> None:
    session = caller.session()
    broken, whole = (caller.model(session, number=number) for number in (0, 1))
    for model_id in (broken, whole):
        trained(caller, model_id, 1)
    failed = stepped(caller, broken, 2, 1e300)
    assert failed["category"] == "user"
    assert "weights and moments must be finite after a step" in failed["error"]
    assert stepped(caller, broken, 3, 0.01) == stepped(caller, whole, 2, 0.01)
    assert trained(caller, broken, 4) == trained(caller, whole, 3)
    assert server.errors == ""


def test_a_model_of_no_sense_fails_its_own_requests_alone(caller: Any, server: Any) -> None:
    session = caller.session()
    model_id = caller.model(session)
    trained(caller, model_id, 1)
    assert "metrics" in stepped(caller, model_id, 2, 1e30)
    for _ in range(2):
        failed = trained(caller, model_id, 3)
        assert (failed["category"], "the model has diverged" in failed["error"]) == ("user", True)
    save = {"model_id": model_id, "seq_id": 4, "sampling_session_seq_id": 7}
    sampler = caller.do("save_weights_for_sampler", save)["sampling_session_id"]
    failed = caller.do("asample", caller.sample_document(sampler))
    assert (failed["category"], "the model has diverged" in failed["error"]) == ("user", True)
    base = caller.sampler(session, 8)
    assert caller.do("asample", caller.sample_document(base))["sequences"]
    assert server.errors == ""
