"""What a regularizer is computed of, and the way back from its gradient to the logprobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.losses.custom import Array
from tinker_actors.types.checks import shown
from tinker_actors.types.tensors import TensorData

__all__ = ["Field", "Target", "check_target", "field_of", "read_target", "references"]


@dataclass(frozen=True, slots=True)
class Field:
    """An input of the loss as target; a constant, so that its regularizer has no gradient."""

    key: str
    """Its name in `loss_fn_inputs`."""


Target: TypeAlias = Literal["logprobs", "probs"] | Field
"""The logprobs, their exponentials, or an input of the first datum."""
Back: TypeAlias = Callable[[Sequence[Array]], list[Array]]
"""From a gradient by the target to that by the logprobs."""


def check_target(target: Any) -> None:
    """Refuse what is no target.

    Raises:
        ValidationError: it is none.
    """
    is_name = isinstance(target, str) and target in ("logprobs", "probs")
    if not isinstance(target, Field) and not is_name:
        raise ValidationError(f'target must be "logprobs", "probs" or a Field, got {shown(target)}')


def read_target(target: Target, data: Sequence[Any], logprobs: Sequence[Array]) -> tuple[list[Array], Back]:
    """The arrays behind `target`, and the way back.

    Raises:
        ValidationError: it is an input that the first datum has not, or there is no datum.
    """
    match target:
        case "logprobs":
            return list(logprobs), list
        case "probs":
            probs = [np.exp(row) for row in logprobs]
            return probs, lambda gradients: [p * g for p, g in zip(probs, gradients, strict=True)]
        case Field(key):
            if not data:
                raise ValidationError(f"a datum is wanted to take {key!r} from, got none")
            return [field_of(data[0], key)], lambda _: [np.zeros_like(row) for row in logprobs]


def field_of(datum: Any, key: str) -> Array:
    """An input of the loss.

    Raises:
        ValidationError: the datum has it not.
    """
    if key not in datum.loss_fn_inputs:
        raise ValidationError(f"{key!r} is wanted in loss_fn_inputs, got {sorted(datum.loss_fn_inputs)}")
    return _floats(datum.loss_fn_inputs[key])


def references(what: str, given: Any, logprobs: Sequence[Array]) -> list[Array]:
    """`given` as one array a datum, in the shapes of the logprobs.

    Raises:
        ShapeError: it is of other shapes.
    """
    found = [_floats(row) for row in given]
    if [one.shape for one in found] != [row.shape for row in logprobs]:
        raise ShapeError(
            f"{what} must have the shapes of the logprobs, {[row.shape for row in logprobs]}, "
            f"got {[one.shape for one in found]}"
        )
    return found


def _floats(value: Any) -> Array:
    numbers = value if isinstance(value, np.ndarray) else TensorData.of(value, "float32").to_numpy()
    return np.asarray(numbers, np.float64)
