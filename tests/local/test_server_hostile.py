"""Requests nobody should send: each gets a clear 4xx, and the server lives on."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

PROTOBUF = "application/x-protobuf"
POSTS = [
    "create_session",
    "session_heartbeat",
    "create_model",
    "get_info",
    "forward_backward",
    "forward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "load_weights",
    "create_sampling_session",
    "asample",
    "stream_sample",
    "join_sampling_session",
    "retrieve_future",
    "retrieve_futures",
    "cancel_future",
    "unload_model",
]


@pytest.fixture(autouse=True)
def server_lives_on(caller: Any) -> Iterator[None]:
    yield
    assert caller.http.get("healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}', b'"\\ud800"'],
    ids=["empty", "open", "list", "null", "no text", "deep list", "deep object", "NaN", "surrogate"],
)
def test_a_body_that_is_no_document_is_refused(caller: Any, path: str, body: bytes) -> None:
    response = caller.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert "Traceback" not in response.json()["detail"]
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize("path", POSTS[1:])
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, True, 2**70, -1, "\x00", "../.."])
def test_fields_of_wrong_types_are_refused(caller: Any, path: str, value: Any) -> None:
    names = ("session_id", "model_id", "seq_id", "model_seq_id", "path", "request_id", "base_model")
    document = dict.fromkeys(names, value)
    response = caller.post(path, {**document, "optimizer": True, "lora_config": value, "adam_params": value})
    assert 400 <= response.status_code < 500
    assert response.json()["detail"]


@pytest.mark.parametrize("body", [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x08\x96\x01", b""])
def test_malformed_protobuf_is_refused(caller: Any, body: bytes) -> None:
    response = caller.http.post("forward_backward", content=body, headers={"Content-Type": PROTOBUF})
    assert response.status_code in (400, 404)
    assert response.json()["detail"]


def test_protobuf_with_every_byte_changed_never_fails_the_server(caller: Any) -> None:
    from tinker_actors.wire.protobuf import encode_training_content, with_ids

    body = with_ids(encode_training_content([caller.datum([1, 2, 3])], "cross_entropy"), caller.model(), 1)
    for position in range(len(body)):
        spoiled = body[:position] + bytes([body[position] ^ 0xFF]) + body[position + 1 :]
        response = caller.http.post("forward_backward", content=spoiled, headers={"Content-Type": PROTOBUF})
        assert response.status_code < 500, (position, response.text)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../../x", "/etc/passwd", "a\x00b", "a b", "ä", "x" * 256]
)
@pytest.mark.parametrize("path", ["save_weights", "save_weights_for_sampler"])
def test_names_that_leave_their_directory_are_refused(caller: Any, path: str, name: str) -> None:
    model_id = caller.model()
    response = caller.post(path, {"model_id": model_id, "seq_id": 1, "path": name})
    assert response.status_code == 400
    assert "checkpoint names are" in response.json()["detail"]
    assert caller.optim_step(model_id, 1).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("tinker://../weights/x", 404),
        ("tinker://a/weights/..", 404),
        ("tinker://a/sampler_weights/x", 400),
        ("tinker://a/b", 400),
        ("/etc/passwd", 400),
        ("", 400),
    ],
)
def test_paths_that_are_no_checkpoints_are_refused(caller: Any, path: str, status: int) -> None:
    document = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    assert caller.post("load_weights", document).status_code == status
    into = {"model_id": caller.model(), "seq_id": 1, "path": path, "optimizer": True}
    assert caller.post("load_weights", into).status_code == status


def test_ids_nobody_was_given_are_not_found(caller: Any) -> None:
    model = f"{caller.session()}:train:0"
    assert caller.optim_step(model, 1).status_code == 404
    assert caller.forward_backward(model, 1).status_code == 404
    assert caller.post("unload_model", {"model_id": model}).status_code == 404
    assert caller.post("asample", caller.sample_document("nobody:sample:0")).status_code == 404
    assert caller.http.get("samplers/nobody:sample:0").status_code == 404


@pytest.mark.parametrize(
    "more",
    [
        {"prev_cursor": -1},
        {"prev_cursor": 2**63},
        {"target": {"cloned_sampler_id": -1}},
        {"target": {"cloned_sampler_id": 2**40}},
        {"timeout": -1.0},
        {"timeout": "soon"},
        {"retrieved_request_ids": [1]},
    ],
)
def test_polls_for_many_that_make_no_sense_are_refused(caller: Any, more: dict[str, Any]) -> None:
    target = {"sampling_session_id": caller.sampler(caller.session()), **more.get("target", {})}
    response = caller.post("retrieve_futures", {"timeout": 0, **more, "target": target})
    assert response.status_code == 422
    assert response.json()["detail"]


@pytest.mark.parametrize(
    "more",
    [
        {"topk_prompt_logprobs": 2**40},
        {"topk_sample_logprobs": -1},
        {"prompt_alt_tokens_k": 2**62},
        {"prompt_logprobs": True, "prompt_logprobs_last_n": 2**62},
        {"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [4, 2**40]}},
        {"target_prompt_logprobs": {"data": [1.5] * 4, "dtype": "float32", "shape": [4, 1]}},
        {"target_prompt_logprobs": {"data": [2**62] * 4, "dtype": "int64", "shape": [4, 1]}},
        {"target_prompt_logprobs": {"data": [], "dtype": "int64", "shape": [4, 0]}},
        {
            "target_prompt_logprobs": {
                "data": [1],
                "dtype": "int64",
                "shape": [4, 2**50],
                "sparse_crow_indices": [0, 1, 1, 1, 1],
                "sparse_col_indices": [2**49],
            }
        },
    ],
)
def test_questions_that_have_no_answer_are_refused(caller: Any, more: dict[str, Any]) -> None:
    document = caller.sample_document(caller.sampler(caller.session()), **more)
    assert len(document["prompt"]["chunks"][0]["tokens"]) == 5
    response = caller.post("asample", document)
    assert response.status_code == 400
    assert response.json()["detail"]


def test_a_sampling_session_of_another_session_cannot_be_taken(caller: Any) -> None:
    session_id = caller.session()
    sampler = caller.sampler(session_id)
    document = {"session_id": sampler, "sampling_session_seq_id": 0, "base_model": "local/tiny"}
    assert caller.post("create_sampling_session", document).status_code == 404


@pytest.mark.parametrize(
    "lora", [{"rank": 0}, {"rank": 10**6}, {"rank": 4, "seed": -1}, {"rank": 4, "seed": 2**64}]
)
def test_adapters_that_cannot_be_made_are_refused(caller: Any, lora: dict[str, int]) -> None:
    document = {"session_id": caller.session(), "model_seq_id": 0, "base_model": "local/tiny"}
    assert caller.post("create_model", {**document, "lora_config": lora}).status_code in (400, 422)
    unknown = {**document, "base_model": "other", "lora_config": {"rank": 4}}
    assert caller.post("create_model", unknown).status_code == 400


def test_a_body_that_ends_early_is_forgotten(process: Any, caller: Any) -> None:
    with socket.create_connection(("127.0.0.1", process.listening["port"])) as connection:
        head = "POST /api/v1/create_session HTTP/1.1\r\nhost: x\r\nx-api-key: tml-x\r\ncontent-length: 99\r\n\r\n{"
        connection.sendall(head.encode())
    assert caller.session()


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br", "zstd, zstd", "x" * 1000])
def test_bodies_that_are_not_packed_as_they_say_are_refused(caller: Any, encoding: str) -> None:
    response = caller.http.post("forward_backward", content=b"x", headers={"Content-Encoding": encoding})
    assert response.status_code == 415
    assert "zstd is wanted" in response.json()["detail"]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_is_not_unpacked(caller: Any, layers: int) -> None:
    body = zstandard.compress(bytes(65 * 2**20))
    for _ in range(layers - 1):
        body = zstandard.compress(body)
    encoding = ", ".join(["zstd"] * layers)
    response = caller.http.post("forward_backward", content=body, headers={"Content-Encoding": encoding})
    assert response.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "nowhere", 404), ("GET", "asample", 405)])
def test_unknown_endpoints_are_refused_in_json(caller: Any, method: str, path: str, status: int) -> None:
    response = caller.http.request(method, path)
    assert response.status_code == status
    assert json.loads(response.text)["detail"]
