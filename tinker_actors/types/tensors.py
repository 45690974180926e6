"""Arrays as the API names them: `TensorData`, a dtype and a shape over numpy, dense or sparse."""

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types.arrays import np
from tinker_actors.types.checks import MOST_INT64, one_of, shown, whole

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MOST_CELLS", "DType", "TensorData"]

DType = Literal["int64", "float32"]
_DTYPES = ("int64", "float32")
MOST_CELLS = 2**26
"""Most cells a sparse tensor may have: a few bytes must not make anybody allocate without bound."""
_MOST_EMPTY = 2**20
"""Most rows a shape without values may promise."""


class _Csr(NamedTuple):
    """Where the listed values of a sparse matrix stand."""

    shape: tuple[int, int]
    crow: "NDArray[np.int64]"
    """Row i has the values from crow[i] to crow[i + 1]."""
    col: "NDArray[np.int64]"
    """Column of each value."""

    def places(self) -> "NDArray[np.int64]":
        """Of each listed value in the flat dense matrix."""
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.crow))
        return rows * self.shape[1] + self.col


class TensorData:
    """A tensor: values over a numpy array of dtype int64 or float32.

    Args:
        data: the values, flat in row-major order or already shaped; of a sparse tensor, the listed ones.
        dtype: "int64" or "float32"; by default what the values are (any float becomes float32).
        shape: sizes of the dimensions; by default the shape of `data`.
        sparse_crow_indices: of a sparse (CSR) matrix, where each row begins among the values; rows + 1 of them.
        sparse_col_indices: the column of each value, ascending within a row.

    Raises:
        ValidationError: the dtype is not one of the two, or the values are not numbers.
        ShapeError: `shape` or the indices do not fit the number of values.
    """

    __slots__ = ("_csr", "_values")

    def __init__(
        self,
        data: "ArrayLike | None" = None,
        dtype: str | None = None,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: "ArrayLike | None" = None,
        sparse_col_indices: "ArrayLike | None" = None,
    ) -> None:
        values = _array([] if data is None else data, dtype)
        self._csr: _Csr | None = None
        if sparse_crow_indices is not None or sparse_col_indices is not None:
            self._csr = _csr(values, shape, sparse_crow_indices, sparse_col_indices)
        elif shape is not None:
            values = _shaped(values, shape)
        self._values: NDArray[Any] = values

    @classmethod
    def from_numpy(cls, array: "NDArray[Any]") -> Self:
        """A tensor over `array`, without a copy where dtype and layout allow."""
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: "torch.Tensor") -> Self:
        """A tensor with the values of a torch tensor (bfloat16 is widened to float32)."""
        try:
            values = tensor.detach().cpu()
            return cls((values.float() if values.is_floating_point() else values).numpy())
        except (AttributeError, TypeError) as error:  # neither a tensor nor of a layout that numpy has
            raise ValidationError(
                f"a dense torch tensor is wanted, got {type(tensor).__name__}: {error}"
            ) from error

    @classmethod
    def from_torch_sparse(cls, tensor: "torch.Tensor", pad_value: int = 0) -> Self:
        """Like `from_torch`, and sparse where that is smaller; `pad_value` is what is left out."""
        return cls.from_torch(tensor).to_sparse(pad_value)

    @classmethod
    def of(cls, value: Any, dtype: DType | None = None) -> Self:
        """`value` as a tensor: ours, the official SDK's (by structure), numpy, torch or nested lists.

        Args:
            value: what to take.
            dtype: of values that have none of their own.
        """
        if isinstance(value, cls):
            return value
        if getattr(value, "sparse_crow_indices", None) is not None:
            crow, col = value.sparse_crow_indices, getattr(value, "sparse_col_indices", None)
            return cls(value.data, value.dtype, value.shape, crow, col)
        if hasattr(value, "to_numpy"):
            return cls(value.to_numpy())
        if hasattr(value, "detach"):
            return cls.from_torch(value)
        return cls(value, dtype)

    @property
    def dtype(self) -> DType:
        """Which of the two it is."""
        return _wire_dtype(self._values)

    @property
    def shape(self) -> list[int]:
        """Sizes of the dimensions."""
        return list(self._values.shape if self._csr is None else self._csr.shape)

    @property
    def is_sparse(self) -> bool:
        """Whether only some of its values are listed."""
        return self._csr is not None

    @property
    def values(self) -> "NDArray[Any]":
        """The array this tensor is over: all values in its shape, or the listed ones; do not write to it."""
        return self._values

    @property
    def data(self) -> list[Any]:
        """The (listed) values as a flat Python list in row-major order (slow; see `to_numpy`)."""
        flat: list[Any] = self._values.ravel().tolist()
        return flat

    @property
    def sparse_crow_indices(self) -> list[int] | None:
        """Where each row begins among the listed values; None for a dense tensor."""
        return None if self._csr is None else self._csr.crow.tolist()

    @property
    def sparse_col_indices(self) -> list[int] | None:
        """The column of each listed value; None for a dense tensor."""
        return None if self._csr is None else self._csr.col.tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of its values and indices."""
        indices = 0 if self._csr is None else self._csr.crow.nbytes + self._csr.col.nbytes
        return self._values.nbytes + indices

    def indices(self) -> "tuple[NDArray[np.int64], NDArray[np.int64]] | None":
        """Row starts and columns of a sparse tensor as arrays; None for a dense one."""
        return None if self._csr is None else (self._csr.crow, self._csr.col)

    def to_numpy(self, pad_value: int = 0) -> "NDArray[Any]":
        """All values: the array this tensor is over, which is not to be written to.

        A sparse tensor gives an array of its own, with `pad_value` in each cell that is not listed.
        """
        if self._csr is None:
            return self._values
        pad = whole("pad_value", pad_value, least=-MOST_INT64, most=MOST_INT64)
        dense = np.full(self._csr.shape, pad, self._values.dtype)
        dense.ravel()[self._csr.places()] = self._values
        return dense

    def to_sparse(self, pad_value: int = 0) -> Self:
        """This matrix without the cells that are `pad_value`, where that is smaller; else this tensor."""
        pad = whole("pad_value", pad_value, least=-MOST_INT64, most=MOST_INT64)
        if self._csr is not None or self._values.ndim != 2:  # noqa: PLR2004 - CSR is for matrices
            return self
        rows, columns = self._values.shape
        listed = self._values != pad
        count = int(np.count_nonzero(listed))
        if rows + 1 + 2 * count >= rows * columns or rows * columns > MOST_CELLS:
            return self
        crow = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
        return type(self)(self._values[listed], self.dtype, [rows, columns], crow, np.nonzero(listed)[1])

    def to_torch(self, pad_value: int = 0) -> "torch.Tensor":
        """All values as a torch tensor of its own memory; needs torch to be installed."""
        import torch

        dense = self.to_numpy(pad_value)
        return torch.from_numpy(dense.copy() if self._csr is None else dense)

    def tolist(self, pad_value: int = 0) -> list[Any]:
        """All values as nested Python lists."""
        nested: list[Any] = self.to_numpy(pad_value).tolist()
        return nested

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        if (self.dtype, self.shape, self.is_sparse) != (other.dtype, other.shape, other.is_sparse):
            return False
        pairs = zip(self.indices() or (), other.indices() or (), strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs) and np.array_equal(
            self._values, other._values, equal_nan=self.dtype == "float32"
        )

    __hash__ = None  # type: ignore[assignment]  # values, compared by content, are not keys

    def __repr__(self) -> str:
        sparse = f", listed={self._values.size}" if self.is_sparse else ""
        return f"TensorData(dtype={self.dtype!r}, shape={self.shape}{sparse})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._csr is None:
            return TensorData, (self._values,)
        return TensorData, (self._values, self.dtype, list(self._csr.shape), self._csr.crow, self._csr.col)


def _wire_dtype(array: "NDArray[Any]") -> DType:
    if array.dtype.kind in "iu":
        return "int64"
    if array.dtype.kind == "f":
        return "float32"
    raise ValidationError(f"tensors hold integers or floats, got {array.dtype}; convert the values first")


def _array(data: "ArrayLike", dtype: str | None) -> "NDArray[Any]":
    """`data` as a contiguous array of one of the two dtypes; no copy is made of what is one already."""
    if (
        dtype is None
        and type(data) is np.ndarray
        and data.dtype in (np.int64, np.float32)
        and data.flags.c_contiguous
    ):
        return data
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ShapeError(f"tensor rows must have one length: {error}") from error
    except (TypeError, OverflowError) as error:
        raise ValidationError(f"tensors hold integers or floats: {error}") from error
    if dtype is not None:
        one_of("tensor dtype", dtype, *_DTYPES)
    if array.size == 0 and dtype is not None:
        array = array.astype(dtype)
    if array.dtype.kind not in "biuf":
        raise ValidationError(f"tensors hold integers or floats, got {array.dtype}; convert the values first")
    name = dtype or _wire_dtype(array)
    if name == "int64" and _wire_dtype(array) != "int64":
        raise ValidationError(f"an int64 tensor needs integers, got {array.dtype}; convert the values first")
    if name == "int64" and array.dtype.kind == "u" and array.size and array.max() > MOST_INT64:
        raise ValidationError(f"an int64 tensor needs integers below 2**63, got {array.max()}")
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 becomes infinite
        return np.ascontiguousarray(array, dtype=name)


def _sizes(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError as error:
        raise ShapeError(f"a shape is a list of whole numbers, got {shown(shape)}") from error
    if min(sizes, default=0) < 0:
        raise ShapeError(f"sizes must be 0 or more, got {sizes}")
    return sizes


def _shaped(array: "NDArray[Any]", shape: Any) -> "NDArray[Any]":
    sizes = _sizes(shape)
    if math.prod(sizes) != array.size:
        raise ShapeError(f"shape {sizes} wants {math.prod(sizes)} values, got {array.size}")
    if array.size == 0 and math.prod(max(size, 1) for size in sizes) > _MOST_EMPTY:
        raise ShapeError(f"a tensor without values may have at most {_MOST_EMPTY} rows, got shape {sizes}")
    try:
        return array.reshape(sizes)
    except ValueError as error:
        raise ShapeError(f"shape {sizes} is none that numpy knows: {error}") from error


def _csr(values: "NDArray[Any]", shape: Any, crow: "ArrayLike | None", col: "ArrayLike | None") -> _Csr:
    if shape is None or crow is None or col is None:
        raise ShapeError("a sparse tensor needs shape, sparse_crow_indices and sparse_col_indices")
    sizes = _sizes(shape)
    if len(sizes) != 2 or math.prod(sizes) > MOST_CELLS or max(sizes) > MOST_CELLS:  # noqa: PLR2004 - a matrix
        raise ShapeError(f"a sparse tensor has two dimensions and at most {MOST_CELLS} cells, got {sizes}")
    starts, columns = _array(crow, "int64"), _array(col, "int64")
    if values.ndim != 1 or columns.shape != values.shape:
        raise ShapeError(
            f"sparse_col_indices must have one entry per value, got {columns.shape} for {values.shape}"
        )
    if starts.shape != (sizes[0] + 1,):
        raise ShapeError(
            f"sparse_crow_indices must have {sizes[0] + 1} entries for {sizes[0]} rows, got {starts.shape}"
        )
    ends = (starts[0], starts[-1], starts.min(), starts.max())
    if ends != (0, values.size, 0, values.size) or (np.diff(starts) < 0).any():
        raise ShapeError(f"sparse_crow_indices must ascend from 0 to {values.size}, the number of values")
    if values.size and not 0 <= columns.min() <= columns.max() < sizes[1]:
        raise ShapeError(
            f"sparse_col_indices must lie below {sizes[1]}, got {columns.min()} to {columns.max()}"
        )
    csr = _Csr((sizes[0], sizes[1]), starts, columns)
    if (np.diff(csr.places()) <= 0).any():
        raise ShapeError("sparse_col_indices must ascend within a row, without repeats")
    return csr
