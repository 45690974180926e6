"""AdamW on one flat vector of parameters."""

from dataclasses import dataclass

import numpy as np

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import Floats

__all__ = ["AdamState", "adam_step", "clip_scale"]


@dataclass(slots=True)
class AdamState:
    """Running moments of the gradient; shapes are those of the parameters."""

    first: Floats
    second: Floats
    steps: int = 0
    """Steps taken so far."""

    @classmethod
    def zeros(cls, like: Floats) -> "AdamState":
        """The state before the first step."""
        return cls(np.zeros_like(like), np.zeros_like(like))


def clip_scale(norm: float, grad_clip_norm: float) -> float:
    """What the gradient is multiplied by so that its norm is at most `grad_clip_norm`; 0 never clips."""
    return grad_clip_norm / norm if 0.0 < grad_clip_norm < norm else 1.0


def adam_step(
    parameters: Floats,
    gradient: Floats,
    state: AdamState,
    *,
    learning_rate: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
) -> None:
    """One AdamW step in place; `gradient` is used as scratch.

    With m, v the moments and t the step: p -= learning_rate * (m / (1 - beta1^t) / (sqrt(v / (1 -
    beta2^t)) + eps) + weight_decay * p), the decay on p as it stood before.

    Raises:
        ValidationError: a setting lies outside its range, or the result would not be finite. Nothing was changed.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.
    """
    if not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
        raise ValidationError(f"Adam betas must lie in [0, 1), got {beta1} and {beta2}")
    if not (learning_rate >= 0.0 and eps >= 0.0 and weight_decay >= 0.0):
        raise ValidationError(
            f"learning_rate, eps and weight_decay must not be negative, got {learning_rate}, {eps}, {weight_decay}"
        )
    steps = state.steps + 1
    with np.errstate(all="ignore"):  # what is not finite is refused below
        squares = gradient * gradient
        squares *= 1.0 - beta2
        second = state.second * beta2
        second += squares
        gradient *= 1.0 - beta1
        first = state.first * beta1
        first += gradient
        divisor = np.divide(second, 1.0 - beta2**steps, out=squares)
        np.sqrt(divisor, out=divisor)
        # A parameter that never had a gradient has 0 / 0 here when eps is 0 or lost to rounding.
        divisor += max(eps, float(np.finfo(divisor.dtype).tiny))
        update = np.divide(first, divisor, out=gradient)
        update *= learning_rate / (1.0 - beta1**steps)
        decayed = np.multiply(parameters, 1.0 - learning_rate * weight_decay, out=squares)
        changed = np.subtract(decayed, update, out=gradient)
    if not all(np.isfinite(values).all() for values in (changed, first, second)):
        raise ValidationError(
            "weights and moments must be finite after a step, and would not be: take a smaller learning_rate"
            f" or weight_decay, got {learning_rate} and {weight_decay}, or clip the gradient with grad_clip_norm"
        )
    parameters[...] = changed
    state.first, state.second, state.steps = first, second, steps
