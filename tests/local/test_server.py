"""Each endpoint's contract, against a server in its own process."""

from typing import Any

import pytest

from tinker_actors.wire.protobuf import decode_output

PROTOBUF = "application/x-protobuf"


def test_server_says_where_it_listens(process: Any) -> None:
    assert process.listening["event"] == "listening"
    assert process.listening["host"] == "127.0.0.1"
    assert process.listening["port"] > 0


@pytest.mark.parametrize(
    ("path", "flags"), [("client/config", {}), ("client/dynamic_config", {"sample_cancel_enabled": True})]
)
def test_client_flags_are_those_of_what_is_offered(caller: Any, path: str, flags: dict[str, bool]) -> None:
    assert caller.ask(path, {"sdk_version": "0.38.0"}) == flags


@pytest.mark.parametrize("key", [{}, {"X-API-Key": "other"}])
def test_a_key_is_asked_for(process: Any, key: dict[str, str]) -> None:
    import httpx

    response = httpx.get(process.url + "/healthz", headers=key)
    assert response.status_code == 401
    assert "X-API-Key" in response.json()["detail"]


def test_a_session_beats_until_it_is_finished_and_the_first_reason_wins(caller: Any) -> None:
    session_id = caller.session()
    assert caller.post("session_heartbeat", {"session_id": session_id}).status_code == 200
    for reason in ("success", "errored"):
        document = {"reason": {"type": reason}, "detail": None}
        assert caller.post(f"sessions/{session_id}/finish", document).status_code == 200
    assert caller.post("session_heartbeat", {"session_id": session_id}).status_code == 410


def test_an_unknown_session_is_not_found(caller: Any) -> None:
    assert caller.post("session_heartbeat", {"session_id": "nobody"}).status_code == 404
    assert caller.post("sessions/nobody/finish", {"reason": {"type": "success"}}).status_code == 404


def test_a_finished_session_takes_its_models_with_it(caller: Any) -> None:
    session_id = caller.session()
    model_id = caller.model(session_id)
    caller.post(f"sessions/{session_id}/finish", {"reason": {"type": "success"}})
    assert caller.post("get_info", {"model_id": model_id}).status_code == 404


def test_model_id_follows_from_session_and_number(caller: Any) -> None:
    session_id = caller.session()
    assert caller.model(session_id, number=3) == f"{session_id}:train:3"


def test_info_says_what_a_client_needs_for_tokens(caller: Any) -> None:
    info = caller.ask("get_info", {"model_id": caller.model(rank=8)})
    assert info["model_data"] == {
        "arch": "llama",
        "model_name": "local/tiny",
        "tokenizer_id": "local/tiny",
    }
    assert (info["is_lora"], info["lora_rank"]) == (True, 8)


def test_creating_a_model_again_is_the_same_request(caller: Any) -> None:
    document = {
        "session_id": caller.session(),
        "model_seq_id": 0,
        "base_model": "local/tiny",
        "lora_config": {"rank": 4},
    }
    first = caller.ask("create_model", document)
    assert caller.ask("create_model", document) == first
    changed = {**document, "lora_config": {"rank": 8}}
    assert caller.post("create_model", changed).status_code == 409


def test_json_and_protobuf_give_the_same_numbers(caller: Any) -> None:
    first, second = caller.model(), caller.model()
    binary = caller.forward_backward(first, 1).json()["request_id"]
    plain = caller.ask("forward_backward", caller.training_document(second, 1, caller.TEXT))["request_id"]
    decoded = decode_output(caller.poll(binary, PROTOBUF).content)
    document = caller.poll(plain).json()
    assert document["metrics"] == decoded.metrics
    assert document["loss_fn_outputs"][0]["logprobs"]["data"] == decoded.loss_fn_outputs[0]["logprobs"].data
    assert caller.poll(binary).json() == document
    assert (
        caller.poll(plain, f"{PROTOBUF}, application/json").content == caller.poll(binary, PROTOBUF).content
    )


def test_media_type_follows_what_the_client_accepts(caller: Any) -> None:
    request_id = caller.forward_backward(caller.model(), 1).json()["request_id"]
    assert caller.poll(request_id, PROTOBUF).headers["content-type"] == PROTOBUF
    assert caller.poll(request_id).headers["content-type"] == "application/json"


def test_forward_leaves_no_gradient(caller: Any) -> None:
    model_id = caller.model()
    loss = caller.do("forward", caller.training_document(model_id, 1, caller.TEXT, "forward_input"))
    assert loss["metrics"]["loss:sum"] > 0
    caller.optim_step(model_id, 2)
    result = caller.do("forward", caller.training_document(model_id, 3, caller.TEXT, "forward_input"))
    assert result["metrics"] == loss["metrics"]


def test_training_lowers_the_loss(caller: Any) -> None:
    model_id = caller.model(rank=8)
    losses = []
    for seq_id in range(1, 12, 2):
        losses.append(caller.poll(caller.forward_backward(model_id, seq_id).json()["request_id"]))
        caller.optim_step(model_id, seq_id + 1)
    values = [answer.json()["metrics"]["loss:sum"] for answer in losses]
    assert values == sorted(values, reverse=True)


def test_a_pending_request_is_to_be_asked_for_again(caller: Any) -> None:
    request_id = caller.optim_step(caller.model(), 2).json()["request_id"]
    response = caller.post("retrieve_future", {"request_id": request_id})
    assert response.status_code == 408
    assert response.json() == {"type": "try_again", "request_id": request_id, "queue_state": "active"}


def test_an_unknown_request_is_not_found(caller: Any) -> None:
    assert caller.post("retrieve_future", {"request_id": "nothing"}).status_code == 404
    assert caller.post("retrieve_future", {"request_id": f"{caller.model()}:9"}).status_code == 404


def test_a_checkpoint_is_loaded_as_a_new_model_with_its_shape(caller: Any) -> None:
    model_id = caller.model(rank=4)
    caller.forward_backward(model_id, 1)
    caller.optim_step(model_id, 2)
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 3, "path": "a"})["path"]
    assert path == f"tinker://{model_id}/weights/a"
    document = {"session_id": caller.session(), "model_seq_id": 5, "path": path, "optimizer": True}
    loaded = caller.do("load_weights", document)["model_id"]
    assert caller.ask("load_weights", document)["request_id"] == f"{loaded}:0"
    assert loaded == f"{document['session_id']}:train:5"
    assert caller.ask("get_info", {"model_id": loaded})["lora_rank"] == 4
    old = caller.poll(caller.forward_backward(model_id, 4).json()["request_id"], PROTOBUF).content
    new = caller.poll(caller.forward_backward(loaded, 1).json()["request_id"], PROTOBUF).content
    assert new == old


@pytest.mark.parametrize(("optimizer", "equal"), [(True, True), (False, False)])
def test_the_optimizer_is_loaded_if_asked_for(
    process: Any, caller: Any, optimizer: bool, equal: bool
) -> None:
    model_id = caller.model()
    caller.forward_backward(model_id, 1)
    caller.optim_step(model_id, 2)
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 3, "path": "a"})["path"]
    copy = caller.model()
    load = {"model_id": copy, "seq_id": 1, "path": path, "optimizer": optimizer}
    assert caller.do("load_weights", load)["path"] == path
    saved = []
    for each, first in ((model_id, 4), (copy, 2)):
        caller.forward_backward(each, first)
        caller.optim_step(each, first + 1)
        caller.do("save_weights", {"model_id": each, "seq_id": first + 2, "path": "b"})
        file = process.data / "checkpoints" / each / "weights" / "b" / "checkpoint.safetensors"
        saved.append(file.read_bytes())
    assert (saved[0] == saved[1]) is equal


def test_load_weights_into_a_model_is_only_its_first_operation(caller: Any) -> None:
    model_id = caller.model()
    caller.forward_backward(model_id, 1)
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 2, "path": "a"})["path"]
    load = {"model_id": model_id, "seq_id": 3, "path": path, "optimizer": True}
    response = caller.post("load_weights", load)
    assert response.status_code == 400
    assert "not permitted with seq_id 3" in response.json()["detail"]


def test_a_name_is_taken_once_unless_overwritten(caller: Any) -> None:
    model_id = caller.model()
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 1, "path": "a"})["path"]
    response = caller.save(model_id, 2, "a")
    assert response.status_code == 400
    assert path in response.json()["detail"]
    again = {"model_id": model_id, "seq_id": 2, "path": "a", "overwrite": True}
    assert caller.do("save_weights", again)["path"] == path


def test_a_name_taken_by_an_operation_ahead_fails_the_later_one(caller: Any) -> None:
    model_id = caller.model()
    second = caller.save(model_id, 2, "a").json()["request_id"]
    caller.save(model_id, 1, "a")
    result = caller.poll(second).json()
    assert result["category"] == "user"
    assert f"tinker://{model_id}/weights/a" in result["error"]
    assert "grad_norm:mean" in caller.do("optim_step", caller.step_document(model_id, 3))["metrics"]


def test_an_unloaded_model_is_gone_and_its_checkpoints_stay(caller: Any) -> None:
    model_id = caller.model()
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 1, "path": "a"})["path"]
    waiting = caller.optim_step(model_id, 3).json()["request_id"]
    assert caller.do("unload_model", {"model_id": model_id})["model_id"] == model_id
    assert caller.post("get_info", {"model_id": model_id}).status_code == 404
    assert caller.optim_step(model_id, 2).status_code == 404
    assert caller.poll(waiting).json()["category"] == "user"
    document = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    assert "error" not in caller.do("load_weights", document)
