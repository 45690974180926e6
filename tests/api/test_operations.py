"""Operations as data: method, path and body of each, by the table of the wire protocol."""

import platform
from typing import Any

import msgspec
import pytest

from tinker_actors.api import checkpoints, futures, rest, sampling, sessions, setup, telemetry, training
from tinker_actors.api.sampling import SampleOptions
from tinker_actors.api.training import SaveContent
from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    ConflictError,
)
from tinker_actors.types import LoraConfig, ModelInput, SamplingParams
from tinker_actors.wire.calls import Answer, Call, json_body
from tinker_actors.wire.protobuf import encode_training_content
from tinker_actors.wire.retry import is_repeatable

LORA = LoraConfig(rank=8)
LORA_DOCUMENT = {"rank": 8, "train_unembed": True, "train_mlp": True, "train_attn": True}
DIMUON = {"type": "dimuon", "learning_rate": 1e-3, "grad_clip_norm": 0.0, "beta1": 0.9}
PATH = "tinker://s:train:0/weights/n"


def saved(**content: Any) -> bytes:
    return json_body(SaveContent(**content))


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (sessions.healthz(), "GET", "healthz", None),
        (
            sessions.finish_session("s", "success"),
            "POST",
            "sessions/s/finish",
            {"reason": {"type": "success"}, "detail": None},
        ),
        (setup.client_config(), "POST", "client/config", {"sdk_version": "0.38.0"}),
        (setup.exchange_key(), "POST", "auth/token", {}),
        (setup.get_own_key(), "GET", "auth/apikey/me", None),
        (setup.revoke_own_key(), "DELETE", "auth/apikey/me", None),
        (
            training.create_model("s", 0, "m", LORA, optimizer={"type": "dimuon", "version": 1}),
            "POST",
            "create_model",
            {
                "session_id": "s",
                "model_seq_id": 0,
                "base_model": "m",
                "lora_config": LORA_DOCUMENT,
                "optimizer_config": {"type": "dimuon", "version": 1},
                "type": "create_model",
            },
        ),
        (
            training.load_weights(
                "s",
                1,
                PATH,
                optimizer=False,
                access_token="t",  # noqa: S106 - nobody's
                optimizer_config={"type": "dimuon"},
            ),
            "POST",
            "load_weights",
            {
                "path": PATH,
                "optimizer": False,
                "session_id": "s",
                "model_seq_id": 1,
                "optimizer_config": {"type": "dimuon"},
                "weights_access_token": "t",
                "type": "load_weights",
            },
        ),
        (
            training.load_weights_into("m", 1, PATH, optimizer=True),
            "POST",
            "load_weights",
            {"path": PATH, "optimizer": True, "model_id": "m", "seq_id": 1, "type": "load_weights"},
        ),
        (
            training.unload_model("m"),
            "POST",
            "unload_model",
            {"model_id": "m", "type": "unload_model"},
        ),
        (
            training.optim_step("m", 2, json_body({"learning_rate": 1.0})),
            "POST",
            "optim_step",
            {"model_id": "m", "seq_id": 2, "adam_params": {"learning_rate": 1.0}, "type": "optim_step"},
        ),
        (
            training.optim_step("m", 2, json_body(DIMUON)),
            "POST",
            "optim_step",
            {"model_id": "m", "seq_id": 2, "optimizer_params": DIMUON, "type": "optim_step"},
        ),
        (
            training.save_weights_for_sampler("m", 3, saved(sampling_session_seq_id=0, kind="inflight")),
            "POST",
            "save_weights_for_sampler",
            {
                "model_id": "m",
                "seq_id": 3,
                "sampling_session_seq_id": 0,
                "kind": "inflight",
                "type": "save_weights_for_sampler",
            },
        ),
        (
            training.save_weights_external(
                "m", 4, saved(name="n", ttl_seconds=3600, age_encryption_recipients=["age1x"])
            ),
            "POST",
            "save_weights_external",
            {
                "model_id": "m",
                "path": "n",
                "seq_id": 4,
                "ttl_seconds": 3600,
                "age_encryption_recipients": ["age1x"],
                "type": "save_weights_external",
            },
        ),
        (
            sampling.join_sampling_session("s:sample:0"),
            "POST",
            "join_sampling_session",
            {"sampling_session_id": "s:sample:0", "type": "join_sampling_session"},
        ),
        (
            telemetry.send_telemetry("s", "u", [{"event": "SESSION_START"}]),
            "POST",
            "telemetry",
            {
                "events": [{"event": "SESSION_START"}],
                "platform": platform.system(),
                "sdk_version": "0.38.0",
                "session_id": "s",
                "process_uuid": "u",
            },
        ),
    ],
    ids=lambda value: value.operation if isinstance(value, Call) else "",
)
def test_an_operation_is_one_request(call: Call[Any], method: str, path: str, body: Any) -> None:
    sent = msgspec.json.decode(call.body) if call.body else None
    assert (call.method, call.path, sent) == (method, path, body)


@pytest.mark.parametrize(
    ("call", "body", "result"),
    [
        (sessions.healthz(), b'{"status": "ok"}', "ok"),
        (setup.exchange_key(), b'{"jwt": "eyJ.x.y"}', "eyJ.x.y"),
        (setup.get_own_key(), b'{"key_id": 7, "name": "n"}', setup.KeyRecord(key_id=7, name="n")),
        (setup.revoke_own_key(), b"", None),
        (sampling.join_sampling_session("s"), b'{"client_counter": 2}', 2),
        (telemetry.send_telemetry("s", "u", []), b'{"status": "accepted"}', None),
    ],
    ids=lambda value: value.operation if isinstance(value, Call) else "",
)
def test_an_answer_is_read(call: Call[Any], body: bytes, result: Any) -> None:
    assert call.read(Answer(200, {}, body)) == result


@pytest.mark.parametrize(
    "call",
    [sessions.healthz(), setup.exchange_key(), setup.get_own_key(), sampling.join_sampling_session("s")],
    ids=lambda call: call.operation,
)
@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"", b'{"status": 1, "jwt": 1, "key_id": ""}'])
def test_another_answer_is_a_typed_error(call: Call[Any], body: bytes) -> None:
    with pytest.raises(APIResponseValidationError):
        call.read(Answer(200, {}, body))


MODEL_IDS = "m", 1
CONTENT = encode_training_content([], "cross_entropy")

# How long each operation is repeated when it fails in passing, and why.
REPEATED_S = [
    # What a run depends on outlives an hour of outage.
    (sessions.create_session(), 3600.0),
    (sessions.get_server_capabilities(), 3600.0),
    (training.create_model("s", 0, "m", LORA), 3600.0),
    (training.load_weights("s", 0, PATH, optimizer=True), 3600.0),
    (training.load_weights_into(*MODEL_IDS, PATH, optimizer=True), 3600.0),
    (training.get_info("m"), 3600.0),
    (training.forward_backward(*MODEL_IDS, CONTENT), 3600.0),
    (training.optim_step(*MODEL_IDS, b"{}"), 3600.0),
    (training.save_weights(*MODEL_IDS, saved(name="n")), 3600.0),
    (training.save_weights_for_sampler(*MODEL_IDS, saved(name="n")), 3600.0),
    (training.save_weights_external(*MODEL_IDS, saved(name="n")), 3600.0),
    (training.unload_model("m"), 3600.0),
    (sampling.create_sampling_session("s", 0, base_model="m"), 3600.0),
    (sampling.join_sampling_session("s"), 3600.0),
    (sampling.asample("s", 0, ModelInput.empty(), SamplingParams(), SampleOptions()), 3600.0),
    # What somebody waits for tells of a longer outage.
    (sessions.healthz(), 300.0),
    (setup.get_own_key(), 300.0),
    (rest.get_session("s", None), 300.0),
    (rest.get_sampler("s"), 300.0),
    (checkpoints.delete_checkpoint(PATH), 300.0),
    (checkpoints.publish_checkpoint(PATH), 300.0),
    (checkpoints.set_checkpoint_ttl(PATH, None), 300.0),
    # What matters for a moment.
    (sessions.finish_session("s", "success"), 5.0),
    (telemetry.send_telemetry("s", "u", []), 5.0),
    # The next beat is the repetition; so is the next poll; flags and tokens are part of the try that needs them.
    (sessions.session_heartbeat("s"), 0.0),
    (futures.cancel_future("7"), 0.0),
    (setup.client_config(), 0.0),
    (setup.dynamic_config(), 0.0),
    (setup.exchange_key(), 0.0),
    # A second one would be told that the key is none.
    (setup.revoke_own_key(), 0.0),
]


@pytest.mark.parametrize(
    ("call", "repeated_s"), REPEATED_S, ids=lambda value: getattr(value, "operation", "")
)
def test_each_operation_has_its_rule_for_failures_and_none_repeats_a_conflict(
    call: Call[Any], repeated_s: float
) -> None:
    assert call.retry.max_elapsed_s == repeated_s
    assert is_repeatable(call.retry, APIConnectionError("gone")) is (repeated_s > 0)
    assert is_repeatable(call.retry, APIStatusError.of(503, None)) is (repeated_s > 0)
    for should_retry in (None, True):
        assert not is_repeatable(call.retry, ConflictError("no", status=409, should_retry=should_retry))


def test_the_content_of_a_save_has_the_bytes_it_always_had() -> None:
    assert saved(name="n") == b'{"name":"n"}'
