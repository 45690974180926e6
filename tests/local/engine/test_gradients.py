from collections.abc import Callable

import numpy as np
import pytest

from tinker_actors.local.engine.lora import Gradient
from tinker_actors.local.engine.training import Example, Trainer

STEP = 1e-6


def slope(trainer: Trainer, examples: list[Example], name: str, direction: np.ndarray) -> float:
    """The loss's central difference along `direction` of one parameter."""
    values = trainer.adapter.parameters[name]
    before, losses = values.copy(), []
    for sign in (1.0, -1.0):
        values[...] = before + sign * STEP * direction
        trainer.adapter.version += 1
        losses.append(trainer.forward_backward(examples, backward=False)[1]["loss:sum"])
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
