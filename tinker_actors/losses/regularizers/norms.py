"""Regularizers that keep numbers small: L1, L2 and a mixture of the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tinker_actors.errors import ValidationError
from tinker_actors.losses.custom import Array, Evaluation
from tinker_actors.losses.targets import Target, check_target, read_target
from tinker_actors.types.checks import finite, one_of, shown

__all__ = ["L1", "L2", "ElasticNet"]

Reduction = Literal["sum", "mean"]


def _share(reduction: Reduction, arrays: Sequence[Array]) -> float:
    """What each entry counts."""
    return 1.0 if reduction == "sum" else 1.0 / max(1, sum(one.size for one in arrays))


def _sum(arrays: Sequence[Array]) -> float:
    return float(sum(one.sum() for one in arrays))


@dataclass(frozen=True, kw_only=True)
class L1:
    """lambda * sum(|x|), or the mean of it; it makes entries 0.

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso" (1996).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "l1_sparsity"

    target: Target = "logprobs"
    """What x is."""
    reduction: Reduction = "sum"
    """Over all entries."""
    lambda_: float = 1.0
    """Factor."""

    def __post_init__(self) -> None:
        check_target(self.target)
        one_of("reduction", self.reduction, "sum", "mean")
        finite("lambda_", self.lambda_)

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty; at 0 its gradient is 0.

        >>> L1(lambda_=0.5).value_and_grad([], [np.array([-1.0, -3.0])]).value
        2.0
        """
        arrays, back = read_target(self.target, data, logprobs)
        share = _share(self.reduction, arrays)
        total = _sum([np.abs(x) for x in arrays])
        gradients = back([self.lambda_ * share * np.sign(x) for x in arrays])
        metrics = {"l1_raw": total, "l1_mean": total * _share("mean", arrays)}
        return Evaluation(self.lambda_ * share * total, gradients, metrics)


@dataclass(frozen=True, kw_only=True)
class L2:
    """lambda * sum(c**2), or the mean of it, with c = x - center, cut off at +-clip; it keeps entries small.

    Source: Hoerl and Kennard, "Ridge Regression" (1970).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "l2_weight_decay"

    target: Target = "logprobs"
    """What x is."""
    reduction: Reduction = "sum"
    """Over all entries."""
    lambda_: float = 1.0
    """Factor."""
    center: float | Literal["mean"] | None = None
    """What is small: a number, the mean of all entries, or 0 for None."""
    clip: float | None = None
    """Beyond it nothing more is asked for, and there is no gradient; positive."""

    def __post_init__(self) -> None:
        check_target(self.target)
        one_of("reduction", self.reduction, "sum", "mean")
        finite("lambda_", self.lambda_)
        is_mean = isinstance(self.center, str) and self.center == "mean"
        if self.center is not None and not is_mean:
            finite("center", self.center)
        if self.clip is not None and finite("clip", self.clip) <= 0:
            raise ValidationError(f"clip must be positive, got {shown(self.clip)}")

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty.

        >>> L2(center="mean").value_and_grad([], [np.array([-1.0, -3.0])]).value
        2.0
        """
        arrays, back = read_target(self.target, data, logprobs)
        share = _share(self.reduction, arrays)
        center = _sum(arrays) * _share("mean", arrays) if self.center == "mean" else float(self.center or 0.0)
        limit = np.inf if self.clip is None else self.clip
        centered = [np.clip(x - center, -limit, limit) for x in arrays]
        total = _sum([c**2 for c in centered])
        gradients = [2 * self.lambda_ * share * c * (np.abs(c) < limit) for c in centered]
        if self.center == "mean":  # which moves with each entry
            pull = _sum(gradients) * _share("mean", arrays)
            gradients = [gradient - pull for gradient in gradients]
        metrics = {"l2_raw": total, "l2_mean": total * _share("mean", arrays), "center": center}
        return Evaluation(self.lambda_ * share * total, back(gradients), metrics)


@dataclass(frozen=True, kw_only=True)
class ElasticNet:
    """lambda * (a * L1 + (1 - a) * L2), with a the ratio.

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net" (2005).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "elastic_net"

    target: Target = "logprobs"
    """What x is."""
    reduction: Reduction = "sum"
    """Over all entries."""
    lambda_: float = 1.0
    """Factor."""
    l1_ratio: float = 0.5
    """Share of L1, from 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= finite("l1_ratio", self.l1_ratio) <= 1:
            raise ValidationError(f"l1_ratio must be from 0 to 1, got {shown(self.l1_ratio)}")
        self._parts()

    def _parts(self) -> tuple[L1, L2]:
        common = {"target": self.target, "reduction": self.reduction}
        ratio = self.l1_ratio
        return (
            L1(**common, lambda_=finite("lambda_", self.lambda_) * ratio),  # type: ignore[arg-type]  # by name
            L2(**common, lambda_=self.lambda_ * (1 - ratio)),  # type: ignore[arg-type]  # by name
        )

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty.

        >>> ElasticNet().value_and_grad([], [np.array([-1.0, -3.0])]).value
        7.0
        """
        one, two = (part.value_and_grad(data, logprobs) for part in self._parts())
        gradients = [a + b for a, b in zip(one.gradients, two.gradients, strict=True)]
        value = one.value + two.value
        return Evaluation(value, gradients, {"elastic_net": value, "l1_ratio": self.l1_ratio})
