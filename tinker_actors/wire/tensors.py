"""Numbers inside of protobuf messages: little-endian raw bytes, with a dtype and a shape beside them."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import TensorData, TopkLogprobs
from tinker_actors.types.arrays import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FLOAT32",
    "INT32",
    "Invalid",
    "read_array",
    "read_batch",
    "read_tensor",
    "read_topk",
    "write_array",
    "write_batch",
    "write_tensor",
    "write_topk",
]

FLOAT32, INT64, INT32, BFLOAT16 = 1, 2, 3, 4
_LITTLE_ENDIAN = {FLOAT32: "<f4", INT64: "<i8", INT32: "<i4", BFLOAT16: "<u2"}
"""numpy's names of what lies on the wire."""
_NUMBER = {"float32": FLOAT32, "int64": INT64}

Invalid = type[ValidationError] | type[APIResponseValidationError]
"""The error of whoever sent what cannot be read: the caller of a server, or the service."""


def read_array(data: bytes, dtype: int, invalid: Invalid) -> "NDArray[Any]":
    """Raw bytes as float32, int32 or int64, not copied; bfloat16 is widened to float32."""
    name = _LITTLE_ENDIAN.get(dtype)
    kind = None if name is None else np.dtype(name)
    if kind is None or len(data) % kind.itemsize:
        raise invalid(f"{len(data)} bytes are no tensor of dtype {dtype}")
    values: NDArray[Any] = np.frombuffer(data, dtype=kind)
    if dtype == BFLOAT16:  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values


def write_array(values: Any, dtype: int) -> bytes:
    """Numbers as raw bytes."""
    array, kind = np.asarray(values), np.dtype(_LITTLE_ENDIAN[dtype])
    if array.dtype != kind:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            array = array.astype(kind)
    return array.tobytes()


def write_tensor(message: Any, tensor: TensorData) -> None:
    """Fill the protobuf Tensor `message`."""
    message.dtype = _NUMBER[tensor.dtype]
    message.shape.extend(tensor.shape)
    indices, values = tensor.indices(), write_array(tensor.values, message.dtype)
    if indices is None:
        message.dense = values
    else:
        message.sparse_csr.values = values
        message.sparse_csr.crow_indices, message.sparse_csr.col_indices = (
            write_array(index, INT64) for index in indices
        )


def read_tensor(message: Any, invalid: Invalid) -> TensorData:
    """The tensor in the protobuf Tensor `message`; a sparse one stays sparse."""
    shape = list(message.shape) or None
    try:
        if message.WhichOneof("encoding") != "sparse_csr":
            return TensorData(read_array(message.dense, message.dtype, invalid), shape=shape)
        sparse = message.sparse_csr
        return TensorData(
            read_array(sparse.values, message.dtype, invalid),
            shape=shape,
            sparse_crow_indices=read_array(sparse.crow_indices, INT64, invalid),
            sparse_col_indices=read_array(sparse.col_indices, INT64, invalid),
        )
    except ValidationError as error:
        raise invalid(str(error)) from error


def write_batch(message: Any, rows: list[TensorData]) -> None:
    """Fill the protobuf BatchedTensor `message` with dense tensors of one dtype and one trailing shape."""
    arrays = [row.to_numpy() for row in rows]
    message.dtype = _NUMBER[rows[0].dtype]
    message.data = b"".join(write_array(array, message.dtype) for array in arrays)
    message.offsets = write_array(np.cumsum([0, *(array.nbytes for array in arrays)]), INT64)
    message.trailing_shape.extend(arrays[0].shape[1:])


def read_batch(message: Any) -> list[TensorData]:
    """The rows of a protobuf BatchedTensor; its offsets count bytes."""
    invalid = APIResponseValidationError
    data, dtype = message.data, message.dtype
    values = read_array(data, dtype, invalid)
    offsets = read_array(message.offsets, INT64, invalid).tolist()
    itemsize = np.dtype(_LITTLE_ENDIAN[dtype]).itemsize
    trailing = list(message.trailing_shape)
    width = math.prod(trailing)
    rows = []
    for start, stop in pairwise(offsets):
        if not 0 <= start <= stop <= len(data) or start % itemsize or stop % itemsize:
            raise invalid(f"offsets {start}:{stop} are no part of {len(data)} bytes of dtype {dtype}")
        count = (stop - start) // itemsize
        try:
            row = TensorData(values[start // itemsize : stop // itemsize])
            if trailing:
                row = TensorData(row.values, shape=[count // width if width > 0 else 0, *trailing])
        except ValidationError as error:
            raise invalid(f"a row does not fit the shape {trailing}: {error}") from error
        rows.append(row)
    return rows


def write_topk(message: Any, topk: TopkLogprobs) -> None:
    """Fill the protobuf TopkLogprobs `message`."""
    message.length, message.k = topk.token_ids.shape
    message.token_ids = write_array(topk.token_ids, INT32)
    message.logprobs = write_array(topk.logprobs, FLOAT32)


def read_topk(message: Any) -> TopkLogprobs | None:
    """The matrices in the protobuf TopkLogprobs `message`; None if they have no cell."""
    invalid = APIResponseValidationError
    positions, k = message.length, message.k
    if positions == 0 or k == 0:
        return None
    ids = read_array(message.token_ids, INT32, invalid)
    logprobs = read_array(message.logprobs, FLOAT32, invalid)
    if not ids.size == logprobs.size == positions * k:
        raise invalid(
            f"{positions} positions of {k} tokens do not fit {ids.size} ids and {logprobs.size} logprobs"
        )
    return TopkLogprobs(ids.reshape(positions, k), logprobs.reshape(positions, k))
