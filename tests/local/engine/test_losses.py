import math
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.losses import LOSSES, find_loss

LOGPROBS = np.log([0.5, 0.5, 0.5, 0.5])
POLICY = {
    "logprobs": np.log([0.5, 0.25, 1.0, 0.25]),  # ratios 1, 2, 0.5 and 2
    "advantages": np.array([1.0, 1.0, -1.0, -3.0]),
}
TARGETS = {"target_tokens": np.zeros(4, np.int64)}
CONFIGS: dict[str, dict[str, Any]] = {"dro": {"beta": 0.1}}


def terms(name: str, inputs: dict[str, Any], config: dict[str, Any]) -> tuple[Any, Any]:
    loss = find_loss(name)
    loss.check({**TARGETS, **inputs}, 4)
    return loss.per_token(LOGPROBS, inputs, loss.complete(config))


@pytest.mark.parametrize(
    ("name", "config", "losses", "slopes"),
    [
        ("importance_sampling", {}, [-1, -2, 0.5, 6], [-1, -2, 0.5, 6]),
        ("ppo", {}, [-1, -1.2, 0.8, 6], [-1, 0, 0, 6]),
        ("ppo", {"clip_high_threshold": 3.0}, [-1, -2, 0.8, 6], [-1, -2, 0, 6]),
        ("ppo", {"clip_low_threshold": 0.1}, [-1, -1.2, 0.5, 6], [-1, 0, 0.5, 6]),
        ("cispo", {}, LOGPROBS * [-1, -2, 0.5, 6], [-1, -2, 0.5, 6]),
        (
            "cispo",
            {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
            LOGPROBS * [-1, -1.2, 0.8, 3.6],
            [-1, -1.2, 0.8, 3.6],
        ),
        (
            "dro",
            {"beta": 0.2},
            -LOGPROBS * POLICY["advantages"] + 0.1 * np.array([0, 1, 1, 1]) * math.log(2) ** 2,
            np.array([-1, -1, 1, 3]) + 0.2 * np.array([0, 1, -1, 1]) * math.log(2),
        ),
    ],
)
def test_losses_follow_their_formulas(name: str, config: dict[str, float], losses: Any, slopes: Any) -> None:
    found = terms(name, POLICY, config)
    assert np.allclose(found, [losses, slopes], rtol=1e-12)


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "dro"])
def test_weights_multiply_the_losses_of_policies(name: str) -> None:
    weights = np.array([0.0, 2.0, 0.5, 1.0])
    plain = terms(name, POLICY, CONFIGS.get(name, {}))
    weighed = terms(name, {**POLICY, "weights": weights}, CONFIGS.get(name, {}))
    assert np.allclose(weighed, np.array(plain) * weights)


@pytest.mark.parametrize("name", ["ppo", "cispo"])
def test_bounds_of_single_tokens_go_before_those_of_the_settings(name: str) -> None:
    bounds = {"clip_low_threshold": np.full(4, 0.9), "clip_high_threshold": np.array([9.0, 1.5, 9.0, np.inf])}
    one_by_one = [
        terms(name, POLICY, {"clip_low_threshold": 0.9, "clip_high_threshold": high})
        for high in bounds["clip_high_threshold"]
    ]
    found = np.array(terms(name, {**POLICY, **bounds}, {}))
    assert np.array_equal(found, np.stack([np.array(one_by_one[i])[:, i] for i in range(4)], axis=1))


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_a_token_without_advantage_costs_nothing_whatever_the_sampler_said(name: str) -> None:
    inputs = {"logprobs": np.full(4, -1e30), "advantages": np.zeros(4)}
    assert not np.array(terms(name, inputs, {})).any()


def test_cross_entropy_is_the_weighted_negative_logprob() -> None:
    logprobs, weights = np.array([-1.0, -2.0, -3.0]), np.array([0.0, 0.5, 2.0])
    losses, slopes = find_loss("cross_entropy").per_token(logprobs, {"weights": weights}, {})
    assert losses.tolist() == [0.0, 1.0, 6.0]
    assert slopes.tolist() == [-0.0, -0.5, -2.0]


def test_an_unknown_loss_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        ValidationError, match="one of cross_entropy, importance_sampling, ppo, cispo, dro, got 'mystery'"
    ):
        find_loss("mystery")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("cross_entropy", {"beta": 1.0}, "cross_entropy knows these settings: none; got 'beta'"),
        ("ppo", {"clip_high": 1.0}, "clip_low_threshold, clip_high_threshold; got 'clip_high'"),
        ("ppo", {"clip_low_threshold": 1.5}, "clip_low_threshold must not be above clip_high_threshold"),
        ("cispo", {"clip_high_threshold": "4"}, "clip_high_threshold must be a number, got '4'"),
        ("cispo", {"clip_high_threshold": math.nan}, "clip_high_threshold must be a number"),
        ("dro", {}, "dro needs the setting beta in loss_fn_config"),
        ("dro", {"beta": -0.1}, "beta must be finite and not negative"),
        ("dro", {"beta": math.inf}, "beta must be finite and not negative"),
    ],
)
def test_settings_that_a_loss_cannot_use_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        find_loss(name).complete(config)


@pytest.mark.parametrize("name", LOSSES)
def test_every_input_a_loss_needs_is_asked_for(name: str) -> None:
    loss = find_loss(name)
    inputs = dict.fromkeys(("target_tokens", *loss.inputs), np.zeros(3))
    loss.check(inputs, 3)
    for missing in inputs:
        rest = {key: value for key, value in inputs.items() if key != missing}
        with pytest.raises(ValidationError, match=f"{name} needs the loss input {missing}"):
            loss.check(rest, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask", np.ones(3), "reads target_tokens, logprobs, .*got mask, too; .*advantage 0"),
        ("values", np.ones(3), "got values, too; leave it out$"),
        ("weights", np.array([1.0, np.nan, 1.0]), "weights must be finite"),
        ("advantages", np.array([1.0, np.inf, 1.0]), "advantages must be finite"),
        ("clip_low_threshold", np.array([0.0, np.nan, 0.0]), "clip_low_threshold must be finite"),
    ],
)
def test_inputs_that_a_loss_cannot_read_are_refused(name: str, value: Any, message: str) -> None:
    inputs = {"target_tokens": np.zeros(3), "logprobs": np.zeros(3), "advantages": np.ones(3), name: value}
    with pytest.raises(ValidationError, match=message):
        find_loss("ppo").check(inputs, 3)


@pytest.mark.parametrize(
    ("name", "targets", "weights", "message"),
    [
        ("cross_entropy", (3,), (2,), r"weights must have shape \(3,\), as target_tokens, got \(2,\)"),
        ("cross_entropy", (3, 2), (3,), r"weights must have shape \(3, 2\)"),
        (
            "cross_entropy",
            (2, 2),
            (2, 2),
            r"shape \(3,\) or \(3, targets\), as the model input, got \(2, 2\)",
        ),
        ("cross_entropy", (3, 0), (3, 0), r"target_tokens must have shape"),
        ("cross_entropy", (3, 1, 1), (3, 1, 1), r"target_tokens must have shape"),
        ("cross_entropy", (), (), r"target_tokens must have shape"),
        ("dro", (3, 2), (3, 2), r"target_tokens must have shape \(3,\), as"),
    ],
)
def test_inputs_of_other_shapes_are_refused(
    name: str, targets: tuple[int, ...], weights: tuple[int, ...], message: str
) -> None:
    loss = find_loss(name)
    inputs = {"target_tokens": np.zeros(targets), **dict.fromkeys(loss.inputs, np.zeros(weights))}
    with pytest.raises(ShapeError, match=message):
        loss.check(inputs, 3)
