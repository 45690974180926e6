"""A model's operations: their order, and requests that come again."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PROTOBUF = "application/x-protobuf"


def test_operations_run_in_the_order_of_their_ids(caller: Any) -> None:
    first, second = caller.model(), caller.model()
    for seq_id in (2, 3, 1):
        assert caller.forward_backward(first, seq_id, caller.TEXT[seq_id:]).status_code == 200
    for seq_id in (1, 2, 3):
        caller.forward_backward(second, seq_id, caller.TEXT[seq_id:])
    norms = [caller.do("optim_step", caller.step_document(model, 4))["metrics"] for model in (first, second)]
    assert norms[0] == norms[1]


def test_a_later_operation_waits_for_a_missing_one(caller: Any) -> None:
    model_id = caller.model()
    late = caller.optim_step(model_id, 3).json()["request_id"]
    caller.optim_step(model_id, 1)
    assert caller.post("retrieve_future", {"request_id": late}).status_code == 408
    caller.optim_step(model_id, 2)
    assert "metrics" in caller.poll(late).json()


def test_a_repeated_operation_is_the_same_request_also_when_it_was_executed(caller: Any) -> None:
    model_id = caller.model()
    first = caller.forward_backward(model_id, 1).json()
    result = caller.poll(first["request_id"], PROTOBUF).content
    assert caller.forward_backward(model_id, 1).json() == first
    assert caller.poll(first["request_id"], PROTOBUF).content == result


def test_an_operation_takes_effect_once_however_often_it_comes(caller: Any) -> None:
    first, second = caller.model(), caller.model()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.forward_backward(first, 1).json(), range(8)))
    assert all(answer == answers[0] for answer in answers)
    caller.forward_backward(second, 1)
    norms = [caller.do("optim_step", caller.step_document(model, 2))["metrics"] for model in (first, second)]
    assert norms[0] == norms[1]


def test_the_order_of_json_keys_is_no_difference(caller: Any) -> None:
    document = caller.step_document(caller.model(), 1)
    first = caller.ask("optim_step", document)
    assert caller.ask("optim_step", dict(reversed(document.items()))) == first


@pytest.mark.parametrize("executed", [True, False])
def test_another_request_at_a_used_place_is_a_conflict(caller: Any, executed: bool) -> None:
    model_id = caller.model()
    request_id = caller.optim_step(model_id, 1 if executed else 2).json()["request_id"]
    if executed:
        caller.poll(request_id)
    seq_id = 1 if executed else 2
    assert caller.optim_step(model_id, seq_id, 0.5).status_code == 409
    assert caller.forward_backward(model_id, seq_id).status_code == 409
    assert caller.save(model_id, seq_id, "a").status_code == 409


def test_the_same_fields_for_another_endpoint_are_another_request(caller: Any) -> None:
    document = {"model_id": caller.model(), "seq_id": 1, "path": "a"}
    assert caller.post("save_weights", document).status_code == 200
    assert caller.post("save_weights_for_sampler", document).status_code == 409


@pytest.mark.parametrize(
    "spoil",
    [
        {"target_tokens": {"data": [1, 2], "dtype": "int64"}},
        {"target_tokens": {"data": [1, 2, 999], "dtype": "int64"}},
        {"target_tokens": {"data": [1.0, 2.0, 3.0], "dtype": "float32"}},
        {"weights": {"data": [1, 1], "dtype": "float32"}},
        {"weights": {"data": [1, 1, 1e99], "dtype": "float32"}},
        {"weights": {"data": [1, 1, 1], "dtype": "float64"}},
        {"weights": {"data": [1, 1, 1], "dtype": "float32", "shape": [2, 2]}},
        {"weights": None},
    ],
)
def test_a_refused_operation_uses_up_no_place(caller: Any, spoil: dict[str, Any]) -> None:
    model_id = caller.model()
    document = caller.training_document(model_id, 1, [1, 2, 3])
    content = document["forward_backward_input"]["data"][0]["loss_fn_inputs"]
    kept = {name: value for name, value in {**content, **spoil}.items() if value is not None}
    document["forward_backward_input"]["data"][0]["loss_fn_inputs"] = kept
    response = caller.post("forward_backward", document)
    assert response.status_code in (400, 422)
    assert int(response.headers["content-length"]) > 0
    assert response.json()["detail"]
    assert "error" not in caller.do("optim_step", caller.step_document(model_id, 1))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("forward_backward", {"forward_backward_input": {"data": [], "loss_fn": "cross_entropy"}}),
        ("forward", {"forward_input": {"data": [], "loss_fn": "squared"}}),
        ("optim_step", {"adam_params": {"learning_rate": -1}}),
        ("save_weights", {"path": "a/b"}),
        ("save_weights_for_sampler", {"path": "", "sampling_session_seq_id": 0}),
        ("load_weights", {"path": "tinker://x:train:0/weights/none", "optimizer": True}),
    ],
)
def test_a_client_may_go_on_behind_a_refused_operation(
    caller: Any, path: str, fields: dict[str, Any]
) -> None:
    model_id = caller.model()
    refused = caller.post(path, {"model_id": model_id, "seq_id": 1, **fields})
    assert refused.status_code in (400, 404, 422)
    assert "metrics" in caller.do("optim_step", caller.step_document(model_id, 2))
    result = caller.poll(f"{model_id}:1").json()
    assert (result["category"], refused.json()["detail"] in result["error"]) == ("user", True)
    assert caller.optim_step(model_id, 1).status_code == 409


def test_a_refused_protobuf_operation_can_be_passed_over_too(caller: Any) -> None:
    model_id = caller.model()
    assert caller.forward_backward(model_id, 1, [300]).status_code == 400
    assert "metrics" in caller.do("optim_step", caller.step_document(model_id, 2))


def test_only_refused_places_are_passed_over(caller: Any) -> None:
    model_id = caller.model()
    assert caller.forward_backward(model_id, 2, [300]).status_code == 400
    late = caller.optim_step(model_id, 3).json()["request_id"]
    assert caller.post("retrieve_future", {"request_id": late}).status_code == 408
    assert caller.post("retrieve_future", {"request_id": f"{model_id}:2"}).status_code == 408
    caller.optim_step(model_id, 1)
    assert "metrics" in caller.poll(late).json()


def test_a_refused_place_is_no_request_until_it_is_passed_over(caller: Any) -> None:
    model_id = caller.model()
    assert caller.forward_backward(model_id, 1, [300]).status_code == 400
    assert caller.post("retrieve_future", {"request_id": f"{model_id}:1"}).status_code == 404


@pytest.mark.parametrize("tokens", [[], [300], [-1], [1] * 1025])
def test_tokens_a_model_cannot_read_are_refused(caller: Any, tokens: list[int]) -> None:
    model_id = caller.model()
    document = caller.training_document(model_id, 1, tokens or [1])
    document["forward_backward_input"]["data"][0]["model_input"]["chunks"][0]["tokens"] = tokens
    response = caller.post("forward_backward", document)
    assert response.status_code == 400
    assert "data[0]" in response.json()["detail"] or "token" in response.json()["detail"]


def test_an_unknown_loss_is_refused_with_those_there_are(caller: Any) -> None:
    document = caller.training_document(caller.model(), 1, [1, 2])
    document["forward_backward_input"]["loss_fn"] = "squared"
    response = caller.post("forward_backward", document)
    assert response.status_code == 400
    assert "cross_entropy" in response.json()["detail"]


@pytest.mark.parametrize("params", [{}, {"learning_rate": -1}, {"learning_rate": "1"}, {"beta1": 1.0}])
def test_adam_settings_out_of_range_are_refused(caller: Any, params: dict[str, Any]) -> None:
    model_id = caller.model()
    document = {"model_id": model_id, "seq_id": 1, "adam_params": params}
    refused = caller.post("optim_step", document).status_code in (400, 422)
    assert refused is bool(params)


def test_models_take_turns(caller: Any) -> None:
    session_id = caller.session()
    models = [caller.model(session_id, number=number) for number in range(2)]
    handles = [
        [caller.forward_backward(model_id, seq_id).json()["request_id"] for seq_id in range(1, 6)]
        for model_id in models
    ]
    for request_id in (handle for pair in zip(*handles, strict=True) for handle in pair):
        assert "metrics" in caller.poll(request_id).json()


def test_heartbeats_are_answered_while_a_model_trains(caller: Any) -> None:
    session_id = caller.session()
    model_id = caller.model(session_id)
    request_id = caller.forward_backward(model_id, 1, list(b"x" * 1000)).json()["request_id"]
    beats = 0
    while caller.post("retrieve_future", {"request_id": request_id}).status_code == 408:
        beats += caller.post("session_heartbeat", {"session_id": session_id}).status_code == 200
    assert caller.post("session_heartbeat", {"session_id": session_id}).status_code == 200
