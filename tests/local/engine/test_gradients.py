from collections.abc import Callable

import numpy as np
import pytest

from tinker_actors.local.engine.lora import Gradient
from tinker_actors.local.engine.training import Example, Trainer

STEP = 1e-6


CASES: list[tuple[str, dict[str, float]]] = [
    ("cross_entropy", {}),
    ("importance_sampling", {}),
    ("ppo", {"clip_low_threshold": 0.6, "clip_high_threshold": 1.6}),
    ("cispo", {}),
    ("dro", {"beta": 0.3}),
]


def slope(
    trainer: Trainer,
    examples: list[Example],
    name: str,
    direction: np.ndarray,
    loss: tuple[str, dict[str, float]] = CASES[0],
) -> float:
    """The loss's central difference along `direction` of one parameter."""
    values = trainer.adapter.parameters[name]
    before, losses = values.copy(), []
    for sign in (1.0, -1.0):
        values[...] = before + sign * STEP * direction
        trainer.adapter.version += 1
        losses.append(trainer.forward_backward(examples, *loss, backward=False)[1]["loss:sum"])
    values[...] = before
    trainer.adapter.version += 1
    return (losses[0] - losses[1]) / (2 * STEP)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_gradient_of_every_parameter_is_its_finite_difference(
    make_trainer: Callable[..., Trainer], examples: list[Example], rank: int, qk_norm: bool
) -> None:
    trainer = make_trainer("float64", rank, qk_norm=qk_norm)
    trainer.forward_backward(examples)
    state = trainer.state()
    random = np.random.default_rng(0)
    for name, values in trainer.adapter.parameters.items():
        direction = random.standard_normal(values.shape)
        exact = float((state[f"gradient.{name}"] * direction).sum())
        assert slope(trainer, examples, name, direction) == pytest.approx(exact, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("case", CASES, ids=[name for name, _ in CASES])
def test_gradient_of_every_loss_is_its_finite_difference(
    make_trainer: Callable[..., Trainer], examples: list[Example], case: tuple[str, dict[str, float]]
) -> None:
    trainer = make_trainer("float64")
    batch = examples if case[0] == "cross_entropy" else policy_batch(trainer, examples)
    trainer.forward_backward(batch, *case)
    check_slopes(trainer, batch, case)


def test_gradient_of_many_targets_a_position_is_its_finite_difference(
    make_trainer: Callable[..., Trainer], examples: list[Example]
) -> None:
    trainer, random = make_trainer("float64"), np.random.default_rng(2)
    batch = [*examples[:2], *(many_targets(example, random) for example in examples[2:])]
    trainer.forward_backward(batch)
    check_slopes(trainer, batch, CASES[0])


def many_targets(example: Example, random: np.random.Generator) -> Example:
    """The example with three targets a position, some of them twice."""
    shape = (len(example.tokens), 3)
    targets = random.integers(6, size=shape)
    return Example(example.tokens, {"target_tokens": targets, "weights": random.standard_normal(shape)})


def policy_batch(trainer: Trainer, examples: list[Example]) -> list[Example]:
    """The examples with advantages, and with a sampler's logprobs that differ from the learner's, none at a bound."""
    random = np.random.default_rng(4)
    logprobs, _ = trainer.forward_backward(examples, backward=False)
    return [
        Example(
            example.tokens,
            {
                "target_tokens": example.inputs["target_tokens"],
                "logprobs": values + random.choice([-1.0, -0.2, 0.0, 0.3, 1.0], size=len(values)),
                "advantages": random.standard_normal(len(values)),
            },
        )
        for example, values in zip(examples, logprobs, strict=True)
    ]


def check_slopes(trainer: Trainer, batch: list[Example], case: tuple[str, dict[str, float]]) -> None:
    """The gradient that waits agrees with central differences; that of `cispo` with those of its surrogate."""
    state, random = trainer.state(), np.random.default_rng(0)
    case, batch = frozen(trainer, batch) if case[0] == "cispo" else (case, batch)
    for name, values in trainer.adapter.parameters.items():
        direction = random.standard_normal(values.shape)
        exact = float((state[f"gradient.{name}"] * direction).sum())
        found = slope(trainer, batch, name, direction, case)
        assert found == pytest.approx(exact, rel=1e-6, abs=1e-6), name


def frozen(trainer: Trainer, batch: list[Example]) -> tuple[tuple[str, dict[str, float]], list[Example]]:
    """CISPO holds its ratios: beside them it is a cross-entropy with the weights ratio * advantage."""
    weighed = []
    for example in batch:
        inputs = {"target_tokens": example.inputs["target_tokens"], "weights": np.ones(len(example.tokens))}
        [logprobs], _ = trainer.forward_backward([Example(example.tokens, inputs)], backward=False)
        ratio = np.clip(np.exp(logprobs - example.inputs["logprobs"]), 0.0, 4.0)
        inputs["weights"] = ratio * example.inputs["advantages"]
        weighed.append(Example(example.tokens, inputs))
    return CASES[0], weighed


@pytest.mark.parametrize("stack", ["qkv", "gate_up", "down", "o"])
def test_the_thin_and_the_dense_gradient_agree(make_trainer: Callable[..., Trainer], stack: str) -> None:
    trainer = make_trainer("float64")
    random = np.random.default_rng(0)
    weight = getattr(trainer.base.weights.layers[0], stack)
    inputs = random.standard_normal((30, weight.shape[1]))
    outgoing = random.standard_normal((30, weight.shape[0]))
    thin, dense = Gradient(trainer.adapter), Gradient(trainer.adapter)
    for target in trainer.adapter.targets:
        if (target.layer, target.stack) == (0, stack):
            thin._add_thin(target, inputs, outgoing[:, target.rows])
            dense._add_dense(target, (outgoing.T @ inputs)[target.rows])
    assert thin.flat.any()
    assert np.allclose(thin.flat, dense.flat, rtol=1e-10, atol=1e-12)
