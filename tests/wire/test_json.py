"""The JSON codec against itself, against documents of older services, and against what nobody should send."""

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import (
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    ModelInput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from tinker_actors.wire import json as codec
from tinker_actors.wire.documents import ForwardBackwardRequest, TensorDocument, WireDatum
from tinker_actors.wire.protobuf import TrainingRequest

READERS: list[Callable[[bytes], object]] = [codec.read_output_document, codec.read_sample_document]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
ids = st.integers(0, 2**31 - 1)
rows = st.lists(st.lists(st.sampled_from([0, 0, 0, 0, 5]), min_size=6, max_size=6), min_size=1, max_size=4)


def sparse(values: list[list[int]]) -> TensorData:
    return TensorData(values, dtype="int64").to_sparse()


tensors = st.one_of(
    st.lists(finite | st.just(math.nan)).map(lambda values: TensorData(values, dtype="float32")),
    rows.map(lambda values: TensorData(values, dtype="int64")),
    rows.map(sparse),
)
topks = st.lists(st.lists(st.tuples(ids, finite), min_size=1, max_size=3), min_size=1, max_size=4).map(
    TopkLogprobs.from_rows
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def encoded(document: Any) -> bytes:
    return msgspec.json.encode(document)


def output(**changes: Any) -> bytes:
    tensor = {"data": [1.0, 2.0], "dtype": "float32", "shape": [2]} | changes.pop("tensor", {})
    return json.dumps(
        {"loss_fn_outputs": [{"logprobs": tensor}], "metrics": {"loss:sum": 1.0}} | changes
    ).encode()


def sample(**changes: Any) -> bytes:
    sequence = {"tokens": [1], "logprobs": [-1.0], "stop_reason": "stop"} | changes.pop("sequence", {})
    return json.dumps({"type": "sample", "sequences": [sequence]} | changes).encode()


# There and back ---------------------------------------------------------------------------------------


@given(st.lists(st.dictionaries(st.text(), tensors, max_size=2), max_size=3))
def test_a_training_result_comes_back(outputs: list[dict[str, TensorData]]) -> None:
    wanted = ForwardBackwardOutput(loss_fn_outputs=outputs, metrics={"loss:sum": 0.5})
    assert codec.read_output_document(encoded(codec.output_document(wanted))) == wanted


@given(
    st.lists(
        st.builds(SampledSequence, tokens=st.lists(ids), stop_reason=st.sampled_from(["stop", "length"]))
    ),
    st.none() | st.lists(st.none() | finite),
    st.none() | topks,
    st.none() | tensors,
    st.none() | st.builds(PromptAltTokens, tokens=tensors, logprobs=tensors),
)
def test_a_sample_comes_back_with_all_that_was_asked_for(
    sequences: list[SampledSequence], prompt: Any, topk: Any, targets: Any, alternatives: Any
) -> None:
    for sequence in sequences:
        sequence.logprobs, sequence.topk_logprobs_np = [-0.5] * len(sequence.tokens), topk
    wanted = SampleResponse(
        sequences=sequences,
        prompt_logprobs=prompt,
        topk_prompt_logprobs_np=topk,
        target_prompt_logprobs=targets,
        prompt_alt_tokens=alternatives,
    )
    assert codec.read_sample_document(encoded(codec.sample_document(wanted))) == wanted


@given(tensors)
def test_a_tensor_that_is_asked_with_comes_back_as_it_is_laid_out(tensor: TensorData) -> None:
    if tensor.dtype == "float32":
        return
    document = msgspec.json.decode(encoded(codec.tensor_document(tensor)), type=TensorDocument)
    datum = WireDatum(model_input=ModelInput.empty(), loss_fn_inputs={"mine": document})
    assert codec.read_datum(datum).loss_fn_inputs == {"mine": tensor}


chunks = st.one_of(
    st.lists(ids).map(lambda tokens: EncodedTextChunk(tokens=tokens)),
    st.builds(ImageChunk, data=st.binary(min_size=1), format=st.sampled_from(["png", "jpeg"])),
)
requests = st.builds(
    TrainingRequest,
    model_id=st.text(),
    seq_id=st.integers(1, 2**31 - 1),
    data=st.lists(
        st.builds(
            Datum,
            model_input=st.lists(chunks, max_size=3).map(lambda held: ModelInput(chunks=held)),
            loss_fn_inputs=st.dictionaries(
                st.text(min_size=1), rows.map(TensorData) | rows.map(sparse), max_size=2
            ),
        ),
        max_size=3,
    ),
    loss_fn=st.text(),
    loss_fn_config=st.dictionaries(st.text(), finite | st.text(), max_size=2),
    forward_only=st.just(False),
)


@given(requests)
def test_a_training_request_comes_back_written_out(request: TrainingRequest) -> None:
    read = msgspec.json.decode(codec.training_body(request), type=ForwardBackwardRequest)
    body = read.forward_backward_input
    assert (read.model_id, read.seq_id, body.loss_fn) == (request.model_id, request.seq_id, request.loss_fn)
    assert dict(body.loss_fn_config or {}) == request.loss_fn_config
    for document, datum in zip(body.data, request.data, strict=True):
        came = codec.read_datum(document)
        assert came.model_input == datum.model_input
        for name, tensor in datum.loss_fn_inputs.items():
            assert not came.loss_fn_inputs[name].is_sparse
            assert came.loss_fn_inputs[name].to_numpy().tolist() == tensor.to_numpy().tolist()


# Other services' documents ----------------------------------------------------------------------------


def test_a_sample_of_an_older_service_is_read() -> None:
    body = b"""{"type": "sample", "sequences": [{"stop_reason": "length", "tokens": [5], "logprobs": [-0.5]}],
        "prompt_logprobs": [null, -1.5], "topk_prompt_logprobs": [null, [[7, -0.25], [8, -2]]],
        "prompt_cache_hit_tokens": 3, "newer": {"field": []}}"""
    response = codec.read_sample_document(body)
    assert response.sequences == [SampledSequence(tokens=[5], logprobs=[-0.5], stop_reason="length")]
    assert response.prompt_logprobs == [None, -1.5]
    assert response.topk_prompt_logprobs == [None, [(7, -0.25), (8, -2.0)]]
    assert response.prompt_cache_hit_tokens == 3


def test_scored_tokens_may_be_objects() -> None:
    body = sample(topk_prompt_logprobs=[None, [{"token_id": 7, "logprob": -0.25}]])
    assert codec.read_sample_document(body).topk_prompt_logprobs == [None, [(7, -0.25)]]


def test_null_stands_for_a_float_that_is_no_number() -> None:
    got = codec.read_output_document(output(tensor={"data": [None, 1.0]}, metrics={"loss:sum": None}))
    assert np.isnan(got.loss_fn_outputs[0]["logprobs"].to_numpy()).tolist() == [True, False]
    assert math.isnan(got.metrics["loss:sum"])


def test_the_kind_of_output_is_named_without_its_module() -> None:
    assert codec.read_output_document(output(loss_fn_output_type="a.b:Kind")).loss_fn_output_type == "Kind"


# What nobody should send ------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"no json",
        b"\xff\xfe",
        b"NaN",
        b'"\\ud800"',
        b"[" * 100_000,
        b'{"sequences":' * 100_000,
        b'{"unknown":' * 100_000,
        b'{"metrics": {"a": NaN}}',
    ],
    ids=[
        "empty",
        "open",
        "list",
        "null",
        "word",
        "no text",
        "NaN",
        "surrogate",
        *["deep list", "deep", "skipped", "member NaN"],
    ],
)
def test_a_body_that_is_no_result_is_a_typed_error(read: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(APIResponseValidationError):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        output(tensor={"data": ["a"]}),
        output(tensor={"data": [[1.0]]}),
        output(tensor={"data": None}),
        output(tensor={"dtype": "float64"}),
        output(tensor={"dtype": "int64", "data": [1.5]}),
        output(tensor={"dtype": "int64", "data": [None]}),
        output(tensor={"dtype": "int64", "data": [2**70]}),
        output(tensor={"shape": [3]}),
        output(tensor={"shape": [-2]}),
        output(tensor={"data": [], "shape": [2**62, 0]}),
        output(tensor={"data": [], "shape": [2**80, 0]}),
        output(tensor={"sparse_crow_indices": [0, 2]}),
        output(tensor={"shape": [1, 2**62], "sparse_crow_indices": [0, 2], "sparse_col_indices": [0, 1]}),
        output(tensor={"shape": [1, 2], "sparse_crow_indices": [0, 2], "sparse_col_indices": [0, 2**70]}),
        output(metrics={"loss:sum": "a"}),
        output(metrics=None),
        output(loss_fn_outputs=None),
        output(loss_fn_output_type=5),
    ],
)
def test_a_training_result_with_wrong_fields_is_a_typed_error(body: bytes) -> None:
    with pytest.raises(APIResponseValidationError):
        codec.read_output_document(body)


@pytest.mark.parametrize(
    "body",
    [
        sample(sequence={"tokens": [-1]}),
        sample(sequence={"tokens": [2**31]}),
        sample(sequence={"tokens": [2**80]}),
        sample(sequence={"tokens": ["a"]}),
        sample(sequence={"logprobs": [-1.0, -2.0]}),
        sample(sequence={"stop_reason": "tired"}),
        sample(sequence={"topk_logprobs": [[[1]]]}),
        sample(sequence={"topk_logprobs": [[[2**31, -1.0]]]}),
        sample(prompt_logprobs=["a"]),
        sample(topk_prompt_logprobs=[5]),
        sample(target_prompt_logprobs={"data": [1.0], "dtype": "float32", "shape": [2]}),
        sample(prompt_alt_tokens={"tokens": {"data": [1], "dtype": "int64"}}),
        sample(prompt_cache_hit_tokens="many"),
        sample(sequences={}),
    ],
)
def test_a_sample_with_wrong_fields_is_a_typed_error(body: bytes) -> None:
    with pytest.raises(APIResponseValidationError):
        codec.read_sample_document(body)


def test_a_short_document_cannot_make_a_large_matrix() -> None:
    body = sample(topk_prompt_logprobs=[[[1, -1.0]] * 10_000, *[None] * 10_000])
    with pytest.raises(APIResponseValidationError, match="cells"):
        codec.read_sample_document(body)


def test_numbers_too_large_for_float32_are_infinite() -> None:
    got = codec.read_sample_document(sample(topk_prompt_logprobs=[[[1, -1e300]]], prompt_logprobs=[1e300]))
    assert got.topk_prompt_logprobs == [[(1, -math.inf)]]
    assert got.prompt_logprobs_np is not None
    assert np.isinf(got.prompt_logprobs_np).all()


@given(
    st.dictionaries(
        st.sampled_from(["sequences", "metrics", "loss_fn_outputs", "prompt_logprobs"]), documents
    )
)
def test_no_document_crashes_the_readers(document: dict[str, Any]) -> None:
    for read in READERS:
        with contextlib.suppress(APIResponseValidationError):
            read(json.dumps(document).encode())


@given(st.sampled_from([output(), sample(prompt_logprobs=[None])]), st.data())
def test_no_cut_and_no_changed_byte_crashes_the_readers(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([data.draw(st.integers(0, 255))]) + body[place + 1 :]
    for read in READERS:
        for one in (body[:place], changed):
            with contextlib.suppress(APIResponseValidationError):
                read(one)


def test_a_datum_whose_tensor_does_not_fit_is_the_callers_error() -> None:
    document = TensorDocument(data=[1.0], dtype="float32", shape=[2])
    datum = WireDatum(model_input=ModelInput.from_ints([1]), loss_fn_inputs={"weights": document})
    with pytest.raises(ValidationError):
        codec.read_datum(datum)
