"""The losses over the wire: what they give back, and what is refused before it takes a place."""

from typing import Any

import numpy as np
import pytest

TOKENS = list(b"abcd")


@pytest.fixture
def model(caller: Any) -> str:
    return str(caller.model())


def document(model_id: str, loss_fn: str, config: dict[str, Any] | None, inputs: dict[str, Any]) -> Any:
    data = [
        {"model_input": {"chunks": [{"type": "encoded_text", "tokens": TOKENS}]}, "loss_fn_inputs": inputs}
    ]
    content: dict[str, Any] = {"data": data, "loss_fn": loss_fn}
    if config is not None:
        content["loss_fn_config"] = config
    return {"model_id": model_id, "seq_id": 1, "forward_backward_input": content}


def tensor(values: list[float], dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"data": values, "dtype": dtype, **more}


def policy_inputs() -> dict[str, Any]:
    return {
        "target_tokens": tensor([*TOKENS[1:], 256], "int64"),
        "logprobs": tensor([-5.0, -6.0, -5.5, -5.0]),
        "advantages": tensor([1.0, -1.0, 0.5, 0.0]),
    }


@pytest.mark.parametrize(
    ("loss_fn", "config"),
    [
        ("importance_sampling", None),
        ("ppo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}),
        ("cispo", {}),
        ("dro", {"beta": 0.05}),
    ],
)
def test_a_policy_is_trained_with_every_loss(
    caller: Any, model: str, loss_fn: str, config: dict[str, Any] | None
) -> None:
    result = caller.do("forward_backward", document(model, loss_fn, config, policy_inputs()))
    logprobs = result["loss_fn_outputs"][0]["logprobs"]
    assert (logprobs["dtype"], logprobs["shape"]) == ("float32", [4])
    assert np.isfinite(result["metrics"]["loss:sum"])
    assert (
        caller.poll(caller.optim_step(model, 2).json()["request_id"]).json()["metrics"]["grad_norm:mean"] > 0
    )


def test_sparse_targets_mean_what_dense_ones_do(caller: Any) -> None:
    dense = {
        "target_tokens": tensor([98, 99, 0, 0, 0, 0, 97, 100], "int64", shape=[4, 2]),
        "weights": tensor([0.5, 0.5, 0, 0, 0, 0, 0.9, 0.1], shape=[4, 2]),
    }
    places: dict[str, Any] = {
        "shape": [4, 2],
        "sparse_crow_indices": [0, 2, 2, 2, 4],
        "sparse_col_indices": [0, 1, 0, 1],
    }
    sparse = {
        "target_tokens": tensor([98, 99, 97, 100], "int64", **places),
        "weights": tensor([0.5, 0.5, 0.9, 0.1], **places),
    }
    results = [
        caller.do("forward_backward", document(caller.model(), "cross_entropy", None, inputs))
        for inputs in (dense, sparse)
    ]
    assert results[0] == results[1]
    assert results[0]["loss_fn_outputs"][0]["logprobs"]["shape"] == [4, 2]


@pytest.mark.parametrize(
    ("loss_fn", "config", "without", "more", "detail"),
    [
        ("gspo", None, "", {}, "must be one of cross_entropy, importance_sampling, ppo, cispo, dro"),
        ("ppo", {"epsilon": 0.2}, "", {}, "clip_low_threshold, clip_high_threshold; got 'epsilon'"),
        ("dro", None, "", {}, "dro needs the setting beta in loss_fn_config"),
        ("dro", {"beta": "much"}, "", {}, "beta must be a number, got 'much'"),
        ("ppo", None, "advantages", {}, "data[0]: ppo needs the loss input advantages"),
        ("ppo", None, "", {"mask": tensor([1.0] * 4)}, "got mask, too; leave it out; to leave tokens out"),
        ("ppo", None, "", {"advantages": tensor([1.0])}, "data[0]: advantages must have shape (4,)"),
    ],
)
def test_a_loss_that_cannot_be_computed_is_refused_and_uses_up_no_place(
    caller: Any,
    model: str,
    loss_fn: str,
    config: dict[str, Any] | None,
    without: str,
    more: dict[str, Any],
    detail: str,
) -> None:
    inputs = {name: value for name, value in policy_inputs().items() if name != without} | more
    refused = caller.post("forward_backward", document(model, loss_fn, config, inputs))
    assert refused.status_code == 400
    assert detail in refused.json()["detail"]
    assert caller.post("forward_backward", document(model, "cispo", None, policy_inputs())).status_code == 200
