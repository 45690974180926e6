"""Regularizers over distributions, which lie along the last axis: their entropy, their distance to others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tinker_actors.errors import ValidationError
from tinker_actors.losses.custom import Array, Evaluation
from tinker_actors.losses.targets import field_of, references
from tinker_actors.types.checks import finite, flag, one_of, shown

__all__ = [
    "Divergence",
    "Entropy",
    "KLDivergence",
    "Reduction",
    "kl_forward",
    "kl_reverse",
    "reduced",
    "symmetric",
]

Reduction = Literal["mean", "sum", "none"]
"""Over the distributions of all data; "none" gives one number each, and a loss of many numbers is their sum."""
LEAST_LOGPROB = -50.0
"""Terms of an entropy at or below it are 0."""
LEAST_PROB = 1e-10
"""Terms of a divergence at or below it are 0."""
MOST_GAP = 100.0
"""Of two logprobs in a divergence; what is beyond is cut off."""

Divergence = Callable[[Array, Array], tuple[Array, Array]]
"""Of logprobs and those of a reference: one value a distribution, and the gradient by the logprobs."""


def reduced(
    reduction: Reduction, values: Sequence[Array], gradients: Sequence[Array]
) -> tuple[float, list[Array], Array]:
    """The reduction of one value a distribution, its gradient, and all the values."""
    flat = np.concatenate([np.zeros(0), *(np.ravel(one) for one in values)])
    share = 1.0 / max(1, flat.size) if reduction == "mean" else 1.0
    return float(flat.sum()) * share, [share * gradient for gradient in gradients], flat


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """H = -sum(p * log p), with log p the log-softmax of logprobs / temperature.

    Source: Williams and Peng, "Function Optimization using Connectionist Reinforcement Learning Algorithms" (1991).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "entropy"

    mode: Literal["minimize", "maximize"] = "minimize"
    """The loss is H, or -H."""
    reduction: Reduction = "mean"
    """Over the distributions."""
    normalize: bool = False
    """Whether H is divided by its largest value, the log of the number of candidates."""
    temperature: float = 1.0
    """Positive."""

    def __post_init__(self) -> None:
        one_of("mode", self.mode, "minimize", "maximize")
        one_of("reduction", self.reduction, "mean", "sum", "none")
        flag("normalize", self.normalize)
        if finite("temperature", self.temperature) <= 0:
            raise ValidationError(f"temperature must be positive, got {shown(self.temperature)}")

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:  # noqa: ARG002 - one signature
        """The penalty; its metric `entropy` is H whatever the mode.

        >>> Entropy(normalize=True).value_and_grad([], [np.log([[0.5, 0.5]])]).value
        1.0
        """
        sign = 1.0 if self.mode == "minimize" else -1.0
        pairs = [self._entropy(row) for row in logprobs]
        entropy, gradients, _ = reduced(self.reduction, [one for one, _ in pairs], [one for _, one in pairs])
        metrics = {"entropy": entropy, "mode": self.mode, "temperature": self.temperature}
        return Evaluation(sign * entropy, [sign * gradient for gradient in gradients], metrics)

    def _entropy(self, logprobs: Array) -> tuple[Array, Array]:
        """H of each distribution, and its gradient."""
        if logprobs.size == 0:
            return np.zeros(logprobs.shape[:-1]), np.zeros_like(logprobs)
        scaled = logprobs / self.temperature
        scaled = scaled - scaled.max(axis=-1, keepdims=True)
        logp = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
        counts = logp > LEAST_LOGPROB
        p = np.exp(logp)
        terms = np.where(counts, p * logp, 0.0)
        slopes = np.where(counts, p * (logp + 1), 0.0)
        scale = 1.0
        if self.normalize:
            scale = 1.0 / np.log(logprobs.shape[-1]) if logprobs.shape[-1] > 1 else 0.0
        gradient = -(slopes - p * slopes.sum(axis=-1, keepdims=True)) / self.temperature
        return -scale * terms.sum(axis=-1), scale * gradient


def kl_forward(logprobs: Array, reference: Array) -> tuple[Array, Array]:
    """KL(P || Q) of P the logprobs and Q the reference, and its gradient by the logprobs."""
    p, gap = np.exp(logprobs), logprobs - reference
    counts = p > LEAST_PROB
    cut = np.clip(gap, -MOST_GAP, MOST_GAP)
    gradient = p * (cut + (np.abs(gap) < MOST_GAP))
    return np.where(counts, p * cut, 0.0).sum(axis=-1), np.where(counts, gradient, 0.0)


def kl_reverse(logprobs: Array, reference: Array) -> tuple[Array, Array]:
    """KL(Q || P) of P the logprobs and Q the reference, and its gradient by the logprobs."""
    q, gap = np.exp(reference), reference - logprobs
    counts = q > LEAST_PROB
    gradient = np.where(counts & (np.abs(gap) < MOST_GAP), -q, 0.0)
    return np.where(counts, q * np.clip(gap, -MOST_GAP, MOST_GAP), 0.0).sum(axis=-1), gradient


def symmetric(logprobs: Array, reference: Array) -> tuple[Array, Array]:
    """The mean of the two divergences, and its gradient by the logprobs."""
    one, two = kl_forward(logprobs, reference), kl_reverse(logprobs, reference)
    return (one[0] + two[0]) / 2, (one[1] + two[1]) / 2


@dataclass(frozen=True, kw_only=True)
class KLDivergence:
    """KL(P || Q) = sum(p * (log p - log q)), with P the logprobs and Q the reference; both are taken as they are.

    The reference comes from the first of the three ways that is given, and is a constant.

    Source: Kullback and Leibler, "On Information and Sufficiency" (1951).

    Raises:
        ValidationError: no reference is given, or an argument is wrong.
    """

    name: ClassVar[str] = "kl_divergence"

    reference_logprobs: Sequence[Any] | None = None
    """One array a datum."""
    reference_field: str | None = None
    """Name of the input of each datum that has it."""
    compute_reference: Callable[[Sequence[Any], Sequence[Array]], Sequence[Any]] | None = None
    """Of `(data, logprobs)`; gives one array a datum."""
    reduction: Reduction = "mean"
    """Over the distributions."""
    direction: Literal["forward", "reverse"] = "forward"
    """KL(P || Q), or KL(Q || P)."""
    symmetric: bool = False
    """The mean of both directions."""

    def __post_init__(self) -> None:
        if (
            self.reference_logprobs is None
            and self.reference_field is None
            and self.compute_reference is None
        ):
            raise ValidationError(
                "KLDivergence wants a reference: reference_logprobs, reference_field or compute_reference"
            )
        one_of("reduction", self.reduction, "mean", "sum", "none")
        one_of("direction", self.direction, "forward", "reverse")
        flag("symmetric", self.symmetric)

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty.

        Raises:
            ShapeError: the reference has not the shapes of the logprobs.

        >>> reference = [np.log([0.5, 0.5])]
        >>> round(KLDivergence(reference_logprobs=reference).value_and_grad([], [np.log([0.9, 0.1])]).value, 3)
        0.368
        """
        kind = symmetric if self.symmetric else kl_reverse if self.direction == "reverse" else kl_forward
        reference = references("reference logprobs", self._reference(data, logprobs), logprobs)
        pairs = [kind(row, other) for row, other in zip(logprobs, reference, strict=True)]
        value, gradients, each = reduced(self.reduction, [one for one, _ in pairs], [one for _, one in pairs])
        metrics = {
            "kl_divergence": value,
            "kl_direction": self.direction,
            "kl_symmetric": self.symmetric,
            "kl_max": float(each.max(initial=0.0)) if each.size == 0 else float(each.max()),
            "kl_min": float(each.min(initial=0.0)) if each.size == 0 else float(each.min()),
        }
        return Evaluation(value, gradients, metrics)

    def _reference(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Sequence[Any]:
        if self.reference_logprobs is not None:
            return self.reference_logprobs
        if self.reference_field is not None:
            return [field_of(datum, self.reference_field) for datum in data]
        assert self.compute_reference is not None  # noqa: S101 - one of the three is there
        return self.compute_reference(data, logprobs)
