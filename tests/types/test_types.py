"""The values callers build: conversion, validation, round trips."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import ShapeError, TinkerPathError, ValidationError
from tinker_actors.types import AdamParams, CheckpointPath, Datum, ModelInput, SamplingParams, TensorData


def test_a_tensor_is_over_the_array_it_was_made_from() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert TensorData.from_numpy(array).to_numpy() is array


@pytest.mark.parametrize(
    ("values", "dtype"), [([1, 2], "int64"), ([1, 2.5], "float32"), (np.ones(2, np.float64), "float32")]
)
def test_dtype_follows_from_the_values(values: Any, dtype: str) -> None:
    assert TensorData(values).dtype == dtype


def test_flat_values_take_the_shape_given() -> None:
    assert TensorData([1, 2, 3, 4], shape=[2, 2]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"data": [1, 2], "shape": [3]}, ShapeError),
        ({"data": [[1], [1, 2]]}, ShapeError),
        ({"data": ["a"]}, ValidationError),
        ({"data": [1.5], "dtype": "int64"}, ValidationError),
        ({"data": [1], "dtype": "float16"}, ValidationError),
    ],
)
def test_values_that_are_no_tensor_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TensorData(**arguments)


def test_a_tensor_survives_pickle() -> None:
    tensor = TensorData([[1.0, 2.0]])
    assert pickle.loads(pickle.dumps(tensor)) == tensor  # noqa: S301


def test_a_datum_of_another_library_is_taken_by_its_structure() -> None:
    chunk = SimpleNamespace(type="encoded_text", tokens=(1, 2))
    foreign = SimpleNamespace(
        model_input=SimpleNamespace(chunks=[chunk]), loss_fn_inputs={"weights": [0.0, 1.0]}
    )
    datum = Datum.of(foreign)
    assert datum.model_input.to_ints() == [1, 2]
    assert datum.loss_fn_inputs["weights"] == TensorData([0.0, 1.0])


@pytest.mark.parametrize("tokens", [[1.5], [-1], [2**31], [[1]], ["a"]])
def test_what_is_no_token_id_is_refused(tokens: Any) -> None:
    with pytest.raises(ValidationError, match="token ids"):
        ModelInput.from_ints(tokens).to_numpy()


def test_an_image_chunk_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="encoded text"):
        ModelInput.of(SimpleNamespace(chunks=[SimpleNamespace(type="image", data=b"")]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1.0},
        {"beta1": 1.0},
        {"eps": float("nan")},
        {"learning_rate": "fast"},
        {"beta2": True},
    ],
)
def test_adam_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AdamParams(**wrong)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_k": 0}])
def test_sampling_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_a_checkpoint_path_keeps_the_colons_of_its_run() -> None:
    path = "tinker://s-1:train:0/weights/step-3"
    parsed = CheckpointPath.parse(path, kind="weights")
    assert (parsed.training_run_id, parsed.name, str(parsed)) == ("s-1:train:0", "step-3", path)


@pytest.mark.parametrize(
    "path", ["", "x", "tinker://a/weights", "tinker://a/b/c", "tinker://a/weights/n/m", "tinker:///weights/n"]
)
def test_malformed_checkpoint_paths_are_refused(path: str) -> None:
    with pytest.raises(TinkerPathError, match="read tinker://"):
        CheckpointPath.parse(path)


def test_a_sampler_path_where_a_training_path_belongs_is_refused() -> None:
    with pytest.raises(TinkerPathError, match="kind weights"):
        CheckpointPath.parse("tinker://a/sampler_weights/n", kind="weights")
