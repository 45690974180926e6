"""How data are split over requests, and how results are put together."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.api.chunks import (
    JSON_TOKEN_BYTES,
    combine,
    estimate_bytes,
    estimate_input_bytes,
    split,
)
from tinker_actors.api.metrics import LEGACY
from tinker_actors.types import (
    Chunk,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    TensorData,
)


def datum(tokens: int, **inputs: TensorData) -> Datum:
    return Datum(model_input=ModelInput.from_ints([1] * tokens), loss_fn_inputs=inputs)


def output(metrics: dict[str, Any], data: int = 1) -> ForwardBackwardOutput:
    return ForwardBackwardOutput(loss_fn_outputs=[{} for _ in range(data)], metrics=metrics)


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (EncodedTextChunk(tokens=[1, 2, 3]), 12),
        (ImageChunk(data=bytes(50), format="png"), 50),
        (ImageAssetPointerChunk(format="png", location="s3://image"), 10),
        (DmelChunk(dmel=bytes(7)), 7),
    ],
)
def test_chunks_are_estimated_by_their_bytes_in_protobuf(chunk: Chunk, size: int) -> None:
    assert estimate_bytes(Datum(model_input=ModelInput(chunks=[chunk, chunk]))) == 2 * size


def test_text_takes_more_in_json() -> None:
    assert estimate_input_bytes(ModelInput.from_ints([1, 2, 3]), token_bytes=JSON_TOKEN_BYTES) == 30


@pytest.mark.parametrize(
    ("tensor", "size"),
    [
        (TensorData([1.0, 2.0]), 8),
        (TensorData([1, 2]), 16),
        (TensorData([9], "int64", [1, 8], [0, 1], [3]), 8 + 16 + 8),
        (TensorData([9.0], "float32", [1, 8], [0, 1], [3]), 4 + 16 + 8),
    ],
)
def test_tensors_are_estimated_by_their_values_and_indices(tensor: TensorData, size: int) -> None:
    assert estimate_bytes(datum(0, mine=tensor)) == size


def test_a_datum_over_the_limit_travels_alone() -> None:
    sizes = [
        [one.model_input.length for one in chunk]
        for chunk in split([datum(n) for n in (9, 1, 1, 9, 1)], max_bytes=8)
    ]
    assert sizes == [[9], [1, 1], [9], [1]]


@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 60))
def test_every_chunk_keeps_to_both_limits_and_none_could_take_another(
    lengths: list[int], max_data: int, max_bytes: int
) -> None:
    chunks = list(split([datum(length) for length in lengths], max_data=max_data, max_bytes=max_bytes))
    sizes = [[estimate_bytes(one) for one in chunk] for chunk in chunks]
    assert [size for chunk in sizes for size in chunk] == [4 * length for length in lengths]
    assert all(len(chunk) == 1 or (len(chunk) <= max_data and sum(chunk) <= max_bytes) for chunk in sizes)
    for chunk, following in pairwise(sizes):
        assert len(chunk) == max_data or sum(chunk) + following[0] > max_bytes


def test_results_are_put_together_in_the_order_of_the_data() -> None:
    both = combine([output({"loss:sum": 1.0}), output({"loss:sum": 4.0, "late:sum": 1.0}, data=2)])
    assert (both.metrics, len(both.loss_fn_outputs)) == ({"loss:sum": 5.0}, 3)


def test_metrics_follow_the_rules_of_the_services_generation() -> None:
    outputs = [output({"a:odd": 1.0}), output({"a:odd": 4.0}, data=2)]
    assert combine(outputs).metrics == {}
    assert combine(outputs, LEGACY).metrics == {"a:odd": 3.0}
