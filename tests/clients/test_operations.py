"""Each operation that a training or a sampling client makes: one program, and what came of it at the server."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness import BATCHES, KEY, NO_CHECKPOINTS, WAIT_S
from recorder import BASE_MODEL, Profile, Recorded, Recorder

import tinker_actors as ta

MODEL = "session-1:train:0"
STATE = f"tinker://{MODEL}/weights/state"
NAMED = f"tinker://{MODEL}/sampler_weights/named"


def program(url: str) -> None:
    """Everything once, each result waited for before the next call."""
    with ta.ServiceClient(
        {"team": "blue"},
        "project-1",
        display_name="nightly",
        base_url=url,
        api_key=KEY,
        recovery=NO_CHECKPOINTS,
    ) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8, seed=7).result(WAIT_S)
        training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
        training.optim_step(ta.AdamParams(learning_rate=0.5)).result(WAIT_S)
        training.forward(BATCHES[1], "cross_entropy").result(WAIT_S)
        training.save_state("state", ttl_seconds=3600).result(WAIT_S)
        training.save_weights_for_sampler("named").result(WAIT_S)
        training.save_weights_external("export").result(WAIT_S)
        training.save_weights_and_get_sampling_client().result(WAIT_S)
        service.create_training_client_from_state_with_optimizer(STATE).result(WAIT_S)
        sampler = service.create_sampling_client(NAMED).result(WAIT_S)
        sampler.sample([72, 105], 2, ta.SamplingParams(max_tokens=4)).result(WAIT_S)
        service.close("errored", "diverged").result(WAIT_S)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder(Profile(flags={"proto_compress_fwdbwd": False})) as recorder:
        program(recorder.url)
        yield recorder


def fields(request: Recorded, names: Any) -> dict[str, Any]:
    document = request.document
    return {name: document.get(name, "missing") for name in names}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(
            "create_session",
            [
                {
                    "user_metadata": {"team": "blue"},
                    "project_id": "project-1",
                    "display_name": "nightly",
                    "tags": [],
                }
            ],
            id="row-1-create-session",
        ),
        pytest.param(
            "sessions/session-1/finish",
            [{"reason": {"type": "errored"}, "detail": "diverged"}],
            id="row-5-finish-session",
        ),
        pytest.param(
            "create_model",
            [
                {
                    "session_id": "session-1",
                    "model_seq_id": 0,
                    "base_model": BASE_MODEL,
                    "lora_config": {
                        "rank": 8,
                        "seed": 7,
                        "train_unembed": True,
                        "train_mlp": True,
                        "train_attn": True,
                    },
                    "optimizer_config": {"type": "adamw"},
                }
            ],
            id="row-6-create-model",
        ),
        pytest.param(
            "get_info", [{"model_id": MODEL}, {"model_id": "session-1:train:1"}], id="row-7-get-info"
        ),
        pytest.param(
            "forward_backward",
            [
                {"model_id": MODEL, "seq_id": 1, "loss_fn": "cross_entropy", "forward_only": "missing"},
                {"model_id": MODEL, "seq_id": 3, "loss_fn": "cross_entropy", "forward_only": True},
            ],
            id="row-9-and-10-forward-backward-and-forward",
        ),
        pytest.param(
            "optim_step",
            [
                {
                    "model_id": MODEL,
                    "seq_id": 2,
                    "adam_params": {
                        "learning_rate": 0.5,
                        "beta1": 0.9,
                        "beta2": 0.95,
                        "eps": 1e-12,
                        "weight_decay": 0.0,
                        "grad_clip_norm": 0.0,
                    },
                }
            ],
            id="row-11-optim-step",
        ),
        pytest.param(
            "save_weights",
            [{"model_id": MODEL, "seq_id": 4, "path": "state", "ttl_seconds": 3600, "overwrite": False}],
            id="row-12-save-weights",
        ),
        pytest.param(
            "load_weights",
            [
                {
                    "session_id": "session-1",
                    "model_seq_id": 1,
                    "path": STATE,
                    "optimizer": True,
                    "model_id": "missing",
                }
            ],
            id="row-13-load-weights",
        ),
        pytest.param(
            "save_weights_for_sampler",
            [
                {"model_id": MODEL, "seq_id": 5, "path": "named", "sampling_session_seq_id": "missing"},
                {"model_id": MODEL, "seq_id": 7, "path": "missing", "sampling_session_seq_id": 0},
            ],
            id="row-14-save-weights-for-sampler",
        ),
        pytest.param(
            "save_weights_external",
            [{"model_id": MODEL, "seq_id": 6, "path": "export", "age_encryption_recipients": "missing"}],
            id="row-15-save-weights-external",
        ),
        pytest.param(
            "create_sampling_session",
            [
                {
                    "session_id": "session-1",
                    "sampling_session_seq_id": 1,
                    "model_path": NAMED,
                    "base_model": "missing",
                }
            ],
            id="row-16-create-sampling-session",
        ),
        pytest.param(
            "asample",
            [
                {
                    "sampling_session_id": "session-1:sample:1",
                    "num_samples": 2,
                    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [72, 105]}]},
                    "sampling_params": {"max_tokens": 4, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
                }
            ],
            id="row-18-sample",
        ),
        pytest.param("client/config", [{"sdk_version": "0.38.0"}], id="row-37-client-config"),
        pytest.param("client/dynamic_config", [{"sdk_version": "0.38.0"}], id="row-38-dynamic-config"),
    ],
)
def test_an_operation_is_sent_as_the_api_wants_it(
    recorder: Recorder, path: str, expected: list[dict[str, Any]]
) -> None:
    sent = recorder.to(path)
    assert [fields(request, wanted) for request, wanted in zip(sent, expected, strict=True)] == expected
    assert {request.method for request in sent} == {"POST"}


def test_each_result_is_polled_for_until_it_is_there(recorder: Recorder) -> None:
    asked = [request.document["request_id"] for request in recorder.to("retrieve_future")]
    steps = [f"{MODEL}:{number}" for number in range(1, 8)]
    assert set(steps) <= set(asked)
    assert {asked.count(step) for step in steps if step != f"{MODEL}:2"} == {1}
    assert asked.count(f"{MODEL}:2") == 2  # the server says once that it is pending
