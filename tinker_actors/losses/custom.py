"""Losses of the caller's own: a value, and its gradient by the logprobs of the data.

In numpy a loss gives both itself; see `value_and_grad`. Any other callable is a torch function, as the official SDK has
them, and PyTorch finds the gradient; it is imported when such a function is met, and not before.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tinker_actors.errors import CustomLossError, MissingTorchError, ShapeError, ValidationError

__all__ = [
    "Array",
    "Differentiable",
    "Evaluation",
    "LossFn",
    "ValueAndGrad",
    "check_loss_fn",
    "evaluate",
    "name_of",
    "value_and_grad",
]

Array: TypeAlias = NDArray[np.float64]


class Evaluation(NamedTuple):
    """A loss at some logprobs."""

    value: float
    """Of the loss."""
    gradients: list[Array]
    """By the logprobs: one array a datum, in the shape of its logprobs."""
    metrics: Mapping[str, Any] = {}
    """What else the loss has to tell, by name."""


@runtime_checkable
class Differentiable(Protocol):
    """A loss in numpy; what `value_and_grad` makes, and every regularizer of ours."""

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array], /) -> Any:
        """The loss at `logprobs`, one array a datum, in nats: an `Evaluation`, or a tuple of its first two or three."""


LossFn: TypeAlias = Differentiable | Callable[..., Any]
"""A loss in numpy, or a torch function `(data, logprobs) -> (loss, metrics)`."""


class ValueAndGrad:
    """A function that is a loss in numpy; see `value_and_grad`."""

    def __init__(self, function: Callable[[Sequence[Any], Sequence[Array]], Any]) -> None:
        self.value_and_grad = function
        functools.update_wrapper(self, function)

    def __call__(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Any:
        """What the function gives."""
        return self.value_and_grad(data, logprobs)


def value_and_grad(function: Callable[[Sequence[Any], Sequence[Array]], Any]) -> ValueAndGrad:
    """Mark a function as a loss in numpy: it gives its value and its gradient.

    Args:
        function: of `(data, logprobs)`, where `logprobs` has a float64 array in nats for each datum, in the shape of
            its `target_tokens`. It gives `(value, gradients)` or `(value, gradients, metrics)`, the gradients in the
            shapes of the logprobs.

    >>> @value_and_grad
    ... def squares(data, logprobs):
    ...     return sum((row**2).sum() for row in logprobs), [2 * row for row in logprobs]
    >>> evaluate(squares, [None], [np.array([-1.0, -2.0])])
    Evaluation(value=5.0, gradients=[array([-2., -4.])], metrics={})
    """
    return ValueAndGrad(function)


def name_of(loss_fn: Any) -> str:
    """What to call a loss in messages."""
    name = getattr(loss_fn, "name", None) or getattr(loss_fn, "__name__", None)
    return name if isinstance(name, str) else type(loss_fn).__name__


def check_loss_fn(loss_fn: Any) -> LossFn:
    """`loss_fn`, which can be evaluated here.

    Raises:
        ValidationError: it is no loss.
        MissingTorchError: it is a torch function, and PyTorch is not installed.
    """
    if isinstance(loss_fn, type):
        raise ValidationError(f"a custom loss is wanted, got the class; use {loss_fn.__name__}(...)")
    if isinstance(loss_fn, Differentiable):
        return loss_fn
    function = getattr(loss_fn, "compute", loss_fn)
    if not callable(function):
        raise ValidationError(
            f"a custom loss is a function of (data, logprobs), got {type(loss_fn).__name__}; "
            "a built-in loss goes to forward_backward by its name"
        )
    if importlib.util.find_spec("torch") is None:
        raise MissingTorchError(
            f"PyTorch is wanted to differentiate {name_of(loss_fn)!r}, and is not installed; let the function give its"
            " gradient itself (tinker_actors.losses.value_and_grad), or"
        )
    return loss_fn  # type: ignore[no-any-return]  # a callable, or an object that has one


def evaluate(
    loss_fn: LossFn, data: Sequence[Any], logprobs: Sequence[NDArray[Any]], *, partial: bool = False
) -> Evaluation:
    """The value of a loss and its gradient.

    Args:
        loss_fn: the loss.
        data: of the batch.
        logprobs: one array a datum, in nats.
        partial: whether a torch function may leave out logprobs, whose gradient is then 0.

    Raises:
        CustomLossError: it gave something else than a loss, a gradient is missing, or something is not finite.
        ShapeError: a gradient has not the shape of its logprobs.
        Exception: whatever the loss raises.
    """
    if isinstance(loss_fn, Differentiable):
        given = loss_fn.value_and_grad(data, [np.asarray(row, np.float64) for row in logprobs])
    else:
        given = _by_torch(loss_fn, data, logprobs, partial=partial)
    return _checked(name_of(loss_fn), given, logprobs)


def _checked(name: str, given: Any, logprobs: Sequence[NDArray[Any]]) -> Evaluation:
    _refuse_coroutine(name, given)
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise CustomLossError(
            f"{name} must give (value, gradients) or (value, gradients, metrics), got {type(given).__name__}"
        )
    value, gradients, metrics = (*given, {})[:3]
    if not isinstance(metrics, Mapping):
        raise CustomLossError(f"the metrics of {name} must be a dict, got {type(metrics).__name__}")
    try:
        total = float(np.sum(_real(value)))
        found = [_real(gradient) for gradient in gradients]
    except (TypeError, ValueError) as error:
        raise CustomLossError(f"{name} must give a number and an array for each datum: {error}") from error
    shapes = [one.shape for one in found], [row.shape for row in logprobs]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"the gradients of {name} must have the shapes of the logprobs: {_differ(*shapes)}")
    if not np.isfinite(total):
        raise CustomLossError(f"{name} must be a finite number, got {total}")
    if not np.isfinite(np.concatenate([np.zeros(1), *map(np.ravel, found)])).all():
        number = next(number for number, one in enumerate(found) if not np.isfinite(one).all())
        raise CustomLossError(f"the gradient of {name} must be finite, that of datum {number} is not")
    return Evaluation(total, found, metrics)


def _refuse_coroutine(name: str, given: Any) -> None:
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()  # it will not be awaited
        raise CustomLossError(
            f"{name} must give its loss, got a coroutine; only regularizers may, see RegularizerSpec(async_=True)"
        )


def _real(value: Any) -> Array:
    array = np.asarray(value)
    if np.iscomplexobj(array):
        raise TypeError("complex numbers are none that a loss has")
    return array.astype(np.float64, copy=False)


def _differ(got: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> str:
    if len(got) != len(wanted):
        return f"wanted {len(wanted)} of them, got {len(got)}"
    number = next(number for number, shape in enumerate(got) if shape != wanted[number])
    return f"wanted {wanted[number]} for datum {number}, got {got[number]}"


def _by_torch(
    loss_fn: Any, data: Sequence[Any], logprobs: Sequence[NDArray[Any]], *, partial: bool
) -> tuple[Any, ...]:
    import torch

    name, function = name_of(loss_fn), getattr(loss_fn, "compute", loss_fn)
    tensors = [torch.tensor(row, dtype=torch.float32, requires_grad=True) for row in logprobs]
    with torch.enable_grad():
        given = function(data, tensors)
        _refuse_coroutine(name, given)
        loss, metrics = loss_and_metrics(name, given)
        if isinstance(loss, torch.Tensor) and loss.requires_grad:
            loss.sum().backward()
    value = loss.detach().sum().item() if isinstance(loss, torch.Tensor) else loss
    gradients = [None if row.grad is None else row.grad.numpy() for row in tensors]
    unused = [number for number, gradient in enumerate(gradients) if gradient is None]
    if unused and not partial:
        raise CustomLossError(
            f"{name} has no gradient by the logprobs of datum {unused[0]}; compute the loss out of all of them, in torch"
        )
    filled = [
        np.zeros(row.shape) if one is None else one for row, one in zip(logprobs, gradients, strict=True)
    ]
    return value, filled, metrics


def loss_and_metrics(name: str, given: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a torch function gave: a loss alone, or with its metrics.

    Raises:
        CustomLossError: it is more than that.
    """
    if not isinstance(given, tuple):
        return given, {}
    if len(given) != 2:  # noqa: PLR2004 - the loss and its metrics
        raise CustomLossError(f"{name} must give (loss, metrics), got {len(given)} values")
    return given
