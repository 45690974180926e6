"""The losses of the training API, as pure functions of one example's logprobs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import Floats

__all__ = ["LOSSES", "Inputs", "Loss", "LossConfig", "find_loss"]

Inputs = Mapping[str, npt.NDArray[Any]]
"""Loss inputs by name, each of shape (tokens,)."""

LossConfig = Mapping[str, Any]
"""A loss's settings by name."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of one example; an operation's loss is the sum over its examples."""

    name: str
    inputs: tuple[str, ...]
    """Names of the inputs it reads besides `target_tokens`."""
    per_token: Callable[[Floats, Inputs, LossConfig], tuple[Floats, Floats]]
    """From logprobs (tokens,), inputs and settings to the loss of each token and d loss / d logprob."""

    def check(self, inputs: Inputs, tokens: int) -> None:
        """Refuse inputs this loss cannot read.

        Raises:
            ValidationError: an input is missing.
            ShapeError: an input is not of shape (tokens,).
        """
        for name in ("target_tokens", *self.inputs):
            if name not in inputs:
                raise ValidationError(f"{self.name} needs the loss input {name}, got {sorted(inputs)}")
            if inputs[name].shape != (tokens,):
                raise ShapeError(f"{name} must have shape ({tokens},), got {inputs[name].shape}")


def find_loss(name: str) -> Loss:
    """The loss called `name`.

    Raises:
        ValidationError: no such loss.
    """
    loss = LOSSES.get(name)
    if loss is None:
        raise ValidationError(f"loss function must be one of {', '.join(LOSSES)}, got {name!r}")
    return loss


def _cross_entropy(logprobs: Floats, inputs: Inputs, config: LossConfig) -> tuple[Floats, Floats]:
    del config
    slopes = -inputs["weights"].astype(logprobs.dtype)
    return slopes * logprobs, slopes


LOSSES: Mapping[str, Loss] = {
    loss.name: loss for loss in (Loss("cross_entropy", ("weights",), _cross_entropy),)
}
