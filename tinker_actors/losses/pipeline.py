"""A loss with regularizers: total = base loss + sum of weight * regularizer, and the gradient of all of it."""

import asyncio
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tinker_actors.errors import CustomLossError, TinkerActorsError, ValidationError
from tinker_actors.losses.custom import (
    Array,
    Differentiable,
    Evaluation,
    LossFn,
    check_loss_fn,
    evaluate,
    name_of,
)
from tinker_actors.losses.threads import run_all
from tinker_actors.types.checks import finite, flag, shown, text, whole

__all__ = [
    "BaseLossOutput",
    "CustomLossOutput",
    "Pipeline",
    "RegularizerOutput",
    "RegularizerSpec",
    "gradient_norm",
]

TIMEOUT_S = 30.0
"""For one regularizer, tinkex's."""

_MOST = float(np.finfo(np.float32).max)
T = TypeVar("T")


def gradient_norm(gradients: Sequence[Array]) -> float:
    """The length of a gradient over all its arrays: the root of the sum of squares.

    >>> gradient_norm([np.array([3.0]), np.array([[4.0]])])
    5.0
    """
    return math.sqrt(sum(float((one**2).sum()) for one in gradients))


class RegularizerSpec:
    """A regularizer with its weight and its name.

    Args:
        fn: one of ours, another loss in numpy (`value_and_grad`), or a torch function `(data, logprobs) -> (loss, metrics)`.
        weight: at least 0.
        name: in metrics; by default the regularizer's own.
        async_: whether `fn` is a coroutine function; it then runs in an event loop of its own.

    Raises:
        ValidationError: an argument is wrong.
        MissingTorchError: `fn` is a torch function, and PyTorch is not installed.
    """

    __slots__ = ("async_", "fn", "name", "weight")

    def __init__(
        self, fn: LossFn, weight: float = 1.0, name: str | None = None, *, async_: bool = False
    ) -> None:
        self.fn = check_loss_fn(fn)
        self.weight = finite("the weight of a regularizer", weight)
        if self.weight < 0:
            raise ValidationError(f"the weight of a regularizer must be at least 0, got {shown(weight)}")
        self.name = text("the name of a regularizer", name_of(fn) if name is None else name)
        self.async_ = flag("async_", async_)

    def evaluate(self, data: Sequence[Any], logprobs: Sequence[NDArray[Any]]) -> Evaluation:
        """Its value and gradient, without the weight.

        Raises:
            CustomLossError: it failed; the cause is its own error.
        """
        fn = _awaiting(self.fn) if self.async_ else self.fn
        return _guarded(f"regularizer {self.name!r}", lambda: evaluate(fn, data, logprobs, partial=True))

    def __repr__(self) -> str:
        return f"RegularizerSpec({self.name!r}, weight={self.weight:g})"


def _awaiting(fn: LossFn) -> LossFn:
    """A coroutine function as one that waits for its coroutine."""
    is_numpy = isinstance(fn, Differentiable)
    function: Any = fn.value_and_grad if isinstance(fn, Differentiable) else getattr(fn, "compute", fn)

    def wait(data: Sequence[Any], logprobs: Sequence[Any]) -> Any:
        given = function(data, logprobs)
        return asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given

    return cast("LossFn", _Named(wait, name_of(fn)) if is_numpy else wait)


async def _awaited(given: Any) -> Any:
    return await given


@dataclass(frozen=True)
class _Named:
    value_and_grad: Callable[..., Any]
    name: str


def _guarded(what: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except TinkerActorsError as error:
        raise CustomLossError(f"{what} failed: {error}") from error
    except Exception as error:  # whatever the caller's function raises
        raise CustomLossError(f"{what} failed: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class BaseLossOutput:
    """What the loss itself was."""

    value: float
    """The loss."""
    grad_norm: float | None
    """Length of its gradient; None where lengths are not tracked."""
    custom: Mapping[str, Any]
    """Its own metrics."""


@dataclass(frozen=True, kw_only=True)
class RegularizerOutput:
    """What one regularizer was."""

    name: str
    value: float
    """Without the weight."""
    weight: float
    contribution: float
    """weight * value."""
    grad_norm: float | None
    """Length of its gradient without the weight; None where lengths are not tracked."""
    grad_norm_weighted: float | None
    """weight * grad_norm."""
    custom: Mapping[str, Any]
    """Its own metrics."""


@dataclass(frozen=True, kw_only=True)
class CustomLossOutput:
    """A loss with its regularizers."""

    loss_total: float
    """What is minimised."""
    base_loss: BaseLossOutput
    regularizers: Mapping[str, RegularizerOutput]
    """By name, in order."""
    regularizer_total: float
    """Sum of the contributions."""
    total_grad_norm: float | None
    """Length of the whole gradient; None where lengths are not tracked."""
    gradients: list[Array] = field(repr=False)
    """Of the total by the logprobs: one array a datum."""

    def loss(self) -> float:
        """The total."""
        return self.loss_total

    def to_dict(self) -> dict[str, Any]:
        """All but the gradients, for JSON; lengths that were not tracked are left out."""
        parts = {name: _without_none(vars(one)) for name, one in self.regularizers.items()}
        return _without_none(
            {
                "loss_total": self.loss_total,
                "base_loss": _without_none(vars(self.base_loss)),
                "regularizers": parts,
                "regularizer_total": self.regularizer_total,
                "total_grad_norm": self.total_grad_norm,
            }
        )

    def metrics(self) -> dict[str, float]:
        """As a forward_backward has them: the loss's own, and where there are regularizers, what each part added.

        Metrics that are no numbers stay behind: no step fails for its metrics.
        """
        found = {
            str(name): value
            for name, given in self.base_loss.custom.items()
            if (value := _number(given)) is not None
        }
        if self.regularizers:
            found |= {"base_loss:sum": self.base_loss.value, "regularizer_total:sum": self.regularizer_total}
        for name, one in self.regularizers.items():
            found[f"regularizer/{name}:sum"] = one.contribution
            if one.grad_norm is not None:
                found[f"regularizer/{name}/grad_norm:max"] = one.grad_norm
        if self.total_grad_norm is not None and self.base_loss.grad_norm is not None:
            found["base_loss/grad_norm:max"] = self.base_loss.grad_norm
            found["total_grad_norm:max"] = self.total_grad_norm
        return found


def _number(value: Any) -> float | None:
    """`value` as a float, also an array or a tensor of one entry; None if it is no number."""
    try:
        return None if isinstance(value, str) else float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):  # the last is torch's
        return None


def _check_float32(name: str, gradients: Sequence[Array]) -> None:
    """Refuse what the service's weights cannot hold."""
    for number, gradient in enumerate(gradients):
        largest = np.abs(gradient).max(initial=0.0)
        if largest > _MOST:
            raise CustomLossError(
                f"the gradient of {name} must fit float32, below {_MOST:.3g}; that of datum {number} has {largest:.3g}"
            )


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class Pipeline:
    """Regularizers, and how they are computed.

    Args:
        regularizers: of `RegularizerSpec`, or regularizers alone, which then have weight 1.
        track_grad_norms: whether the lengths of gradients are told.
        parallel: whether regularizers run side by side; else one after another, and the first that fails ends it.
        timeout_s: for each regularizer; None lets it take as long as it will.
        max_concurrency: how many run at a time; as many as there are processors for None.

    Raises:
        ValidationError: an argument is wrong, or two regularizers have one name.
        MissingTorchError: a regularizer is a torch function, and PyTorch is not installed.
    """

    def __init__(
        self,
        regularizers: Sequence[RegularizerSpec | LossFn] = (),
        *,
        track_grad_norms: bool = False,
        parallel: bool = True,
        timeout_s: float | None = TIMEOUT_S,
        max_concurrency: int | None = None,
    ) -> None:
        if not isinstance(regularizers, list | tuple):
            raise ValidationError(f"regularizers is a list, got {type(regularizers).__name__}")
        self.specs = [
            one if isinstance(one, RegularizerSpec) else RegularizerSpec(one) for one in regularizers
        ]
        names = [one.name for one in self.specs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValidationError(
                f"each regularizer has a name of its own, got several of {', '.join(twice)}"
            )
        self.track_grad_norms = flag("track_grad_norms", track_grad_norms)
        self.parallel = flag("parallel", parallel)
        self.timeout_s = None if timeout_s is None else finite("timeout_s", timeout_s)
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValidationError(f"timeout_s must be positive, got {shown(timeout_s)}")
        processors = os.cpu_count() or 1
        self.max_concurrency = (
            processors if max_concurrency is None else whole("max_concurrency", max_concurrency, least=1)
        )

    @classmethod
    def of(cls, regularizers: Any) -> "Pipeline":
        """`regularizers` as a pipeline: one as it is, a list with the defaults, None without any."""
        if isinstance(regularizers, cls):
            return regularizers
        return cls(() if regularizers is None else regularizers)

    def compute(
        self, data: Sequence[Any], logprobs: Sequence[NDArray[Any]], base_loss_fn: LossFn
    ) -> CustomLossOutput:
        """The loss with its regularizers at `logprobs`.

        Args:
            data: of the batch.
            logprobs: one array a datum, in nats.
            base_loss_fn: the loss itself; it runs in this thread, without a time limit.

        Raises:
            ValidationError: `base_loss_fn` is no loss.
            MissingTorchError: it is a torch function, and PyTorch is not installed.
            CustomLossError: it failed, or a regularizer did, or took too long; or the gradient of all is too large.
        """
        known = check_loss_fn(base_loss_fn)
        base = _guarded(f"loss {name_of(known)!r}", lambda: evaluate(known, data, logprobs))
        found = self._regularizers(data, logprobs)
        total = [one.copy() for one in base.gradients] if found else base.gradients
        for spec, one in zip(self.specs, found, strict=True):
            for row, gradient in zip(total, one.gradients, strict=True):
                np.add(row, spec.weight * gradient, out=row)
        _check_float32(name_of(known), total)
        outputs = {spec.name: self._output(spec, one) for spec, one in zip(self.specs, found, strict=True)}
        added = sum(one.contribution for one in outputs.values())
        return CustomLossOutput(
            loss_total=base.value + added,
            base_loss=BaseLossOutput(
                value=base.value, grad_norm=self._norm(base.gradients), custom=dict(base.metrics)
            ),
            regularizers=outputs,
            regularizer_total=added,
            total_grad_norm=self._norm(total),
            gradients=total,
        )

    def _regularizers(self, data: Sequence[Any], logprobs: Sequence[NDArray[Any]]) -> list[Evaluation]:
        def job(spec: RegularizerSpec) -> Callable[[], Evaluation]:
            return lambda: spec.evaluate(data, logprobs)

        limit = self.max_concurrency if self.parallel else 1
        try:
            return run_all([job(spec) for spec in self.specs], limit=limit, timeout_s=self.timeout_s)
        except TimeoutError as error:
            name = self.specs[error.args[0]].name
            raise CustomLossError(
                f"regularizer {name!r} must be done in {self.timeout_s:g} s, and was not; see Pipeline(timeout_s=...)"
            ) from error

    def _output(self, spec: RegularizerSpec, found: Evaluation) -> RegularizerOutput:
        norm = self._norm(found.gradients)
        return RegularizerOutput(
            name=spec.name,
            value=found.value,
            weight=spec.weight,
            contribution=spec.weight * found.value,
            grad_norm=norm,
            grad_norm_weighted=None if norm is None else spec.weight * norm,
            custom=dict(found.metrics),
        )

    def _norm(self, gradients: Sequence[Array]) -> float | None:
        return gradient_norm(gradients) if self.track_grad_norms else None
