"""A regularizer over pairs: logprobs of a text, and those of another wording of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tinker_actors.losses.custom import Array, Evaluation
from tinker_actors.losses.regularizers.distributions import Divergence, reduced, symmetric
from tinker_actors.losses.targets import field_of, references
from tinker_actors.types.checks import one_of, text

__all__ = ["Consistency"]

LEAST_NORM = 1e-8


def _mse(x: Array, y: Array) -> tuple[Array, Array]:
    return (x - y) ** 2, 2 * (x - y)


def _l1(x: Array, y: Array) -> tuple[Array, Array]:
    return np.abs(x - y), np.sign(x - y)


def _cosine(x: Array, y: Array) -> tuple[Array, Array]:
    size, other = np.linalg.norm(x), max(float(np.linalg.norm(y)), LEAST_NORM)
    norm = max(float(size), LEAST_NORM)
    likeness = float(np.sum(x * y)) / (norm * other)
    along = likeness * x / norm**2 if size > LEAST_NORM else 0.0
    return np.asarray(1.0 - likeness), along - y / (norm * other)


_METRICS: dict[str, Divergence] = {"mse": _mse, "l1": _l1, "cosine": _cosine, "kl": symmetric}


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """How far the logprobs are from those of a pair, which are a constant.

    mse: (x - y)**2 of each entry; l1: |x - y| of each entry; cosine: 1 - <x, y> / (|x| |y|) of each datum; kl: the mean
    of KL(P || Q) and KL(Q || P) of each distribution.

    Source: Xie et al., "Unsupervised Data Augmentation for Consistency Training" (2020).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "consistency"

    pair_field: str = "original_logprobs"
    """Name of the input of each datum that has the pair's logprobs."""
    metric: Literal["mse", "l1", "cosine", "kl"] = "mse"
    """What is measured."""
    reduction: Literal["mean", "sum", "none"] = "mean"
    """Over all that is measured."""

    def __post_init__(self) -> None:
        text("pair_field", self.pair_field)
        one_of("metric", self.metric, *_METRICS)
        one_of("reduction", self.reduction, "mean", "sum", "none")

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty.

        Raises:
            ValidationError: a datum has no pair.
            ShapeError: a pair has not the shape of the logprobs.
        """
        pairs = references(self.pair_field, [field_of(datum, self.pair_field) for datum in data], logprobs)
        found = [_METRICS[self.metric](x, y) for x, y in zip(logprobs, pairs, strict=True)]
        value, gradients, _ = reduced(self.reduction, [one for one, _ in found], [one for _, one in found])
        return Evaluation(value, gradients, {"consistency_metric": self.metric})
