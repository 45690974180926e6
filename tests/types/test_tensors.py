"""Tensors, dense and sparse: what they are made from, what they refuse, what they cost."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types import TensorData
from tinker_actors.types.tensors import MOST_CELLS

matrices = st.integers(0, 6).flatmap(
    lambda columns: st.lists(
        st.lists(st.sampled_from([0, 0, 0, 0, -1, 7]), min_size=columns, max_size=columns),
        min_size=1,
        max_size=6,
    )
)


class Torch:
    """As much of a torch tensor as is asked of one."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def detach(self) -> "Torch":
        return self

    cpu = detach

    def is_floating_point(self) -> bool:
        return self._values.dtype.kind == "f"

    def float(self) -> "Torch":
        return Torch(self._values.astype(np.float32))

    def numpy(self) -> Any:
        return self._values


def sparse(**changes: Any) -> TensorData:
    """[[0, 5, 0], [6, 0, 7]], or something near it."""
    arguments: dict[str, Any] = {
        "data": [5, 6, 7],
        "dtype": "int64",
        "shape": [2, 3],
        "sparse_crow_indices": [0, 1, 3],
        "sparse_col_indices": [1, 0, 2],
    }
    return TensorData(**arguments | changes)


# Dense ------------------------------------------------------------------------------------------------


def test_a_tensor_is_over_the_array_it_was_made_from() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert TensorData.from_numpy(array).to_numpy() is array


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, 2.5], "float32"),
        (np.ones(2, np.float64), "float32"),
        (np.ones(2, np.float16), "float32"),
        (np.ones(2, np.int8), "int64"),
        (np.ones(2, np.uint64), "int64"),
    ],
)
def test_every_float_becomes_float32_and_every_integer_int64(values: Any, dtype: str) -> None:
    tensor = TensorData(values)
    assert tensor.dtype == dtype == tensor.to_numpy().dtype


def test_flat_values_take_the_shape_given() -> None:
    assert TensorData([1, 2, 3, 4], shape=[2, 2]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"data": [1, 2], "shape": [3]}, ShapeError),
        ({"data": [1, 2], "shape": [-1]}, ShapeError),
        ({"data": [1, 2], "shape": ["a"]}, ShapeError),
        ({"data": [1], "shape": [1] * 100}, ShapeError),
        ({"data": [], "shape": [2**62, 0]}, ShapeError),
        ({"data": [], "shape": [2**70, 0]}, ShapeError),
        ({"data": [[1], [1, 2]]}, ShapeError),
        ({"data": ["a"]}, ValidationError),
        ({"data": [None]}, ValidationError),
        ({"data": [2**70]}, ValidationError),
        ({"data": [2**63]}, ValidationError),
        ({"data": [True]}, ValidationError),
        ({"data": [1.5], "dtype": "int64"}, ValidationError),
        ({"data": [1], "dtype": "float16"}, ValidationError),
    ],
)
def test_values_that_are_no_tensor_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TensorData(**arguments)


def test_what_is_too_large_for_float32_becomes_infinite() -> None:
    assert TensorData([1e300, -1e300]).tolist() == [float("inf"), float("-inf")]


@pytest.mark.parametrize("tensor", [TensorData([[1.0, 2.0]]), TensorData([float("nan")]), sparse()])
def test_a_tensor_survives_pickle(tensor: TensorData) -> None:
    assert pickle.loads(pickle.dumps(tensor)) == tensor  # noqa: S301


# Sparse -----------------------------------------------------------------------------------------------


def test_a_sparse_tensor_has_the_listed_values_and_the_pad_elsewhere() -> None:
    assert sparse().data == [5, 6, 7]
    assert sparse().tolist() == [[0, 5, 0], [6, 0, 7]]
    assert sparse().tolist(pad_value=-1) == [[-1, 5, -1], [6, -1, 7]]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": None},
        {"shape": [6]},
        {"shape": [3, 3]},
        {"shape": [2, 2]},
        {"shape": [2, 2**40]},
        {"shape": [2, MOST_CELLS]},
        {"sparse_crow_indices": None},
        {"sparse_col_indices": None},
        {"sparse_crow_indices": [0, 3]},
        {"sparse_crow_indices": [1, 1, 3]},
        {"sparse_crow_indices": [0, 4, 3]},
        {"sparse_crow_indices": [0, 1, 2]},
        {"sparse_crow_indices": [0, 2.0, 3]},
        {"sparse_col_indices": [1, 0]},
        {"sparse_col_indices": [1, 0, 3]},
        {"sparse_col_indices": [-1, 0, 2]},
        {"sparse_col_indices": [1, 2, 0]},
        {"sparse_col_indices": [1, 2, 2]},
        {"data": [[5, 6, 7]]},
        {"data": [5, 6]},
    ],
)
def test_indices_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sparse(**changes)


def test_row_starts_that_overflow_do_not_pass_for_ascending() -> None:
    with pytest.raises(ShapeError):
        sparse(shape=[4, 3], sparse_crow_indices=[0, 2**63 - 1, -(2**63), -1, 3])


@given(matrices, st.sampled_from([0, -1]))
def test_a_matrix_made_sparse_is_the_same_matrix_and_smaller(rows: list[list[int]], pad: int) -> None:
    dense = TensorData(rows, dtype="int64")
    thin = dense.to_sparse(pad)
    assert thin.tolist(pad) == dense.tolist()
    listed = sum(cell != pad for row in rows for cell in row)
    assert thin.is_sparse == (len(rows) + 1 + 2 * listed < len(rows) * len(rows[0]))
    assert thin.nbytes <= dense.nbytes


def test_a_vector_stays_dense() -> None:
    assert not TensorData([0, 0, 0, 0, 1]).to_sparse().is_sparse


def test_a_torch_matrix_is_taken_sparse_with_its_pad() -> None:
    rows: Any = Torch([[-1, -1, -1, -1, -1, 4], [-1] * 6])
    tensor = TensorData.from_torch_sparse(rows, pad_value=-1)
    assert (tensor.data, tensor.tolist(-1)) == ([4], rows.numpy().tolist())


def test_a_sparse_tensor_of_the_official_sdk_is_taken_without_torch() -> None:
    foreign = SimpleNamespace(
        data=[5, 6, 7],
        dtype="int64",
        shape=[2, 3],
        sparse_crow_indices=[0, 1, 3],
        sparse_col_indices=[1, 0, 2],
        to_numpy=None,
    )
    assert TensorData.of(foreign) == sparse()


def test_a_sparse_tensor_and_its_dense_twin_are_not_equal() -> None:
    assert sparse() == sparse()
    assert sparse() != TensorData(sparse().to_numpy())
    assert sparse() != sparse(sparse_col_indices=[0, 0, 2])
