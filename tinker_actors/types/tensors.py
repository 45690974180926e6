"""Arrays as the API names them: `TensorData`, a dtype and a shape over numpy."""

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinker_actors.errors import ShapeError, ValidationError

if TYPE_CHECKING:
    import torch

__all__ = ["DType", "TensorData"]

type_names: dict[str, type[np.generic]] = {"int64": np.int64, "float32": np.float32}
DType = Literal["int64", "float32"]


def _wire_dtype(array: NDArray[Any]) -> DType:
    if np.issubdtype(array.dtype, np.integer):
        return "int64"
    if np.issubdtype(array.dtype, np.floating):
        return "float32"
    raise ValidationError(f"tensors hold integers or floats, got {array.dtype}; convert the values first")


def _shaped(array: NDArray[Any], shape: Any) -> NDArray[Any]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError as error:
        raise ShapeError(f"a shape is a list of whole numbers, got {shape!r}") from error
    if min(sizes, default=0) < 0 or math.prod(sizes) != array.size:
        raise ShapeError(f"shape {sizes} wants {math.prod(sizes)} values, got {array.size}")
    return array.reshape(sizes)


class TensorData:
    """A dense tensor: values over a numpy array of dtype int64 or float32.

    Args:
        data: the values, flat in row-major order or already shaped.
        dtype: "int64" or "float32"; by default what the values are (any float becomes float32).
        shape: sizes of the dimensions; by default the shape of `data`.

    Raises:
        ValidationError: the dtype is not one of the two, or the values are not numbers.
        ShapeError: `shape` does not fit the number of values.
    """

    __slots__ = ("_array",)

    def __init__(self, data: ArrayLike, dtype: str | None = None, shape: Sequence[int] | None = None) -> None:
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ShapeError(f"tensor rows must have one length: {error}") from error
        if dtype is not None and dtype not in type_names:
            raise ValidationError(f'tensor dtype must be "int64" or "float32", got {dtype!r}')
        if array.size == 0 and dtype is not None:
            array = array.astype(type_names[dtype])
        if array.dtype.kind not in "biuf":
            raise ValidationError(
                f"tensors hold integers or floats, got {array.dtype}; convert the values first"
            )
        name = dtype or _wire_dtype(array)
        if name == "int64" and _wire_dtype(array) != "int64":
            raise ValidationError(
                f"an int64 tensor needs integers, got {array.dtype}; convert the values first"
            )
        array = np.ascontiguousarray(array, dtype=type_names[name])
        if shape is not None:
            array = _shaped(array, shape)
        self._array: NDArray[Any] = array

    @classmethod
    def from_numpy(cls, array: NDArray[Any]) -> Self:
        """A tensor over `array`, without a copy where dtype and layout allow."""
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: "torch.Tensor") -> Self:
        """A tensor with the values of a torch tensor (bfloat16 is widened to float32)."""
        values = tensor.detach().cpu()
        return cls((values.float() if values.is_floating_point() else values).numpy())

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as a tensor: ours, the official SDK's (by structure), numpy, torch or nested lists."""
        if isinstance(value, cls):
            return value
        if hasattr(value, "to_numpy"):
            return cls(value.to_numpy())
        if hasattr(value, "detach"):
            return cls.from_torch(value)
        return cls(value)

    @property
    def dtype(self) -> DType:
        """Which of the two it is."""
        return _wire_dtype(self._array)

    @property
    def shape(self) -> list[int]:
        """Sizes of the dimensions."""
        return list(self._array.shape)

    @property
    def data(self) -> list[Any]:
        """The values as a flat Python list in row-major order (slow; see `to_numpy`)."""
        flat: list[Any] = self._array.ravel().tolist()
        return flat

    def to_numpy(self) -> NDArray[Any]:
        """The values as the array this tensor is over; do not write to it."""
        return self._array

    def to_torch(self) -> "torch.Tensor":
        """The values as a torch tensor of their own memory; needs torch to be installed."""
        import torch

        return torch.from_numpy(self._array.copy())

    def tolist(self) -> list[Any]:
        """The values as nested Python lists."""
        nested: list[Any] = self._array.tolist()
        return nested

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return self.dtype == other.dtype and np.array_equal(
            self._array, other._array, equal_nan=self.dtype == "float32"
        )

    __hash__ = None  # type: ignore[assignment]  # values, compared by content, are not keys

    def __repr__(self) -> str:
        return f"TensorData(dtype={self.dtype!r}, shape={self.shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorData, (self._array,)
