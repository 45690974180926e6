"""The protobuf codec against itself, against bytes written by hand, and against what nobody should send."""

import contextlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import (
    Chunk,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    PromptAltTokens,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from tinker_actors.types.tensors import MOST_CELLS
from tinker_actors.wire import protobuf
from tinker_actors.wire.descriptors import message_class
from tinker_actors.wire.tensors import read_tensor

ids = st.integers(0, 2**31 - 1)
tokens = st.lists(ids, max_size=20)
floats = st.floats(width=32)
chunks: st.SearchStrategy[Chunk] = st.one_of(
    st.builds(EncodedTextChunk, tokens=tokens),
    st.builds(
        ImageChunk,
        data=st.binary(max_size=20),
        format=st.sampled_from(["png", "jpeg"]),
        expected_tokens=st.none() | st.integers(0, 2**31 - 1),
    ),
    st.builds(DmelChunk, dmel=st.binary(max_size=20).map(lambda rest: b"\x00\x01\x05" + rest)),
)
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> TensorData:
    """Dense ones of any shape, and sparse ones."""
    shape = draw(shapes)
    count = int(np.prod(shape))
    cells = floats if draw(st.booleans()) else st.sampled_from([0, 0, 0, 0, 2**63 - 1, -(2**63)])
    dtype = "float32" if cells is floats else "int64"
    values = draw(st.lists(cells, min_size=count, max_size=count))
    return TensorData(values, dtype=dtype, shape=shape).to_sparse()


@st.composite
def topks(draw: st.DrawFn) -> TopkLogprobs:
    """Matrices with at least one cell."""
    row = st.lists(st.tuples(ids, floats), min_size=1, max_size=3)
    return TopkLogprobs.from_rows(draw(st.lists(row, min_size=1, max_size=4)))


def datum(ids: list[int], **more: Any) -> Datum:
    inputs = {
        "target_tokens": TensorData(ids, dtype="int64"),
        "weights": TensorData([1.0] * len(ids), dtype="float32"),
    }
    return Datum(model_input=ModelInput.from_ints(ids), loss_fn_inputs=inputs, **more)


def sent(data: list[Datum]) -> bytes:
    return protobuf.with_ids(protobuf.encode_training_content(data, "cross_entropy"), "m", 1)


def request_with(**fields: Any) -> bytes:
    """A request of one datum, whose `weights` tensor has these fields."""
    request = message_class("ForwardBackwardRequest")()
    request.data.add().loss_fn_inputs["weights"].CopyFrom(message_class("Tensor")(**fields))
    body: bytes = request.SerializeToString()
    return body


def csr(crow: list[int], col: list[int], values: int) -> Any:
    as_bytes = [np.asarray(index, "<i8").tobytes() for index in (crow, col)]
    return message_class("SparseCsr")(
        values=bytes(4 * values), crow_indices=as_bytes[0], col_indices=as_bytes[1]
    )


# Requests ---------------------------------------------------------------------------------------------


@given(st.lists(tokens, max_size=4))
def test_a_request_comes_back_as_it_was_sent(rows: list[list[int]]) -> None:
    data = [datum(row) for row in rows]
    content = protobuf.encode_training_content(data, "cross_entropy", {"beta": 0.5, "loss_id": "x"})
    request = protobuf.decode_training_request(protobuf.with_ids(content, "s:train:0", 7))
    assert (request.model_id, request.seq_id, request.loss_fn) == ("s:train:0", 7, "cross_entropy")
    assert request.loss_fn_config == {"beta": 0.5, "loss_id": "x"}
    assert [got.model_input.to_ints() for got in request.data] == rows
    assert [got.loss_fn_inputs for got in request.data] == [d.loss_fn_inputs for d in data]


@given(st.lists(chunks, max_size=4), st.dictionaries(st.text(min_size=1, max_size=5), tensors(), max_size=3))
def test_chunks_and_tensors_of_every_kind_come_back(held: list[Chunk], inputs: dict[str, TensorData]) -> None:
    wanted = Datum(model_input=ModelInput(chunks=held), loss_fn_inputs=inputs)
    (got,) = protobuf.decode_training_request(sent([wanted])).data
    assert got == wanted
    assert all(got.loss_fn_inputs[name].is_sparse == inputs[name].is_sparse for name in inputs)


@given(
    st.lists(st.tuples(st.booleans(), st.text(min_size=1), st.integers(0, 2**63 - 1)), min_size=3, max_size=3)
)
def test_provenance_comes_back(spans: list[tuple[bool, str, int]]) -> None:
    made = [
        (SampledProvenanceSpan if is_sampled else PromptProvenanceSpan)(
            sequence_id=sequence, offset=offset, length=1
        )
        for is_sampled, sequence, offset in spans
    ]
    wanted = datum([1, 2, 3]).with_provenance(made, made[::-1])
    assert protobuf.decode_training_request(sent([wanted])).data == [wanted]


def test_an_image_elsewhere_has_no_protobuf_form() -> None:
    pointer = ImageAssetPointerChunk(format="png", location="s3://image", expected_tokens=4)
    with pytest.raises(ValidationError, match="give an ImageChunk"):
        sent([Datum(model_input=ModelInput(chunks=[pointer]))])


def test_names_that_utf8_cannot_hold_are_refused_before_they_are_sent() -> None:
    with pytest.raises(ValidationError, match="loss function"):
        protobuf.encode_training_content([], "\ud800")
    wrong: list[Any] = [{"\ud800": 1.0}, {"a": "\ud800"}, {"a": object()}, {5: 1.0}]
    for config in wrong:
        with pytest.raises(ValidationError, match="loss_fn_config"):
            protobuf.encode_training_content([], "ppo", config)


def test_equal_content_has_equal_bytes_whatever_the_order_of_its_keys() -> None:
    one = datum([1, 2])
    other = Datum(
        model_input=one.model_input, loss_fn_inputs=dict(reversed(list(one.loss_fn_inputs.items())))
    )
    assert protobuf.encode_training_content([one], "x") == protobuf.encode_training_content([other], "x")


def test_numbers_are_written_for_readers_of_both_generations() -> None:
    content = protobuf.encode_training_content([], "ppo", {"clip_low_threshold": 0.8})
    message = message_class("ForwardBackwardRequest").FromString(content)
    assert (
        message.loss_fn_config["clip_low_threshold"]
        == message.loss_fn_config_v2["clip_low_threshold"].number
        == 0.8
    )


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            "ForwardBackwardRequest",
            "model_id seq_id data loss_fn loss_fn_config forward_only loss_fn_config_v2",
        ),
        ("LossConfigValue", "number text"),
        ("Datum", "model_input loss_fn_inputs model_input_spans loss_fn_input_spans"),
        ("Chunk", "encoded_text image dmel"),
        ("ImageChunk", "data format expected_tokens override_dimensions"),
        ("Tensor", "dense sparse_csr dtype shape"),
        ("SparseCsr", "values crow_indices col_indices"),
        ("ProvenanceSpan", "prompt_tokens sampled_tokens"),
        ("TokenSpan", "sequence_id offset length"),
        ("ForwardBackwardOutput", "loss_fn_output_type loss_fn_outputs metrics"),
        ("ArrayRecord", "type_tag fields num_datums"),
        ("BatchedTensor", "data offsets dtype trailing_shape"),
        (
            "SampleResponse",
            """sequences prompt_logprobs topk_prompt_logprobs prompt_cache_hit_tokens
            target_prompt_logprobs prompt_alt_tokens""",
        ),
        ("SampledSequence", "stop_reason tokens logprobs topk_sampled_logprobs"),
        ("TopkLogprobs", "token_ids logprobs k length"),
    ],
)
def test_the_fields_of_each_message_are_numbered_in_the_public_order(message: str, fields: str) -> None:
    found = message_class(message).DESCRIPTOR.fields
    assert {field.name: field.number for field in found} == {
        name: number for number, name in enumerate(fields.split(), 1)
    }


def test_field_numbers_are_those_of_the_public_schema() -> None:
    content = protobuf.encode_training_content([datum([5])], "ce")
    chunk = b"\x0a\x06" + b"\x0a\x04" + b"\x05\x00\x00\x00"  # Chunk{encoded_text{tokens: int32 5}}
    assert protobuf.with_ids(b"", "m", 3) == b"\x0a\x01m\x10\x03"
    assert chunk in content
    assert content.endswith(b"\x22\x02ce")


# Results ----------------------------------------------------------------------------------------------


@given(st.lists(st.lists(floats, max_size=6), max_size=4), floats)
def test_a_training_result_comes_back_in_the_order_of_its_data(rows: list[list[float]], loss: float) -> None:
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": TensorData(row, dtype="float32")} for row in rows],
        metrics={"loss:sum": loss},
    )
    got = protobuf.decode_output(protobuf.encode_output(output))
    assert got.loss_fn_outputs == output.loss_fn_outputs
    assert np.array_equal(got.metrics["loss:sum"], loss, equal_nan=True)


def owner_of(array: Any) -> Any:
    """What holds the numbers of an array that is a view."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def test_rows_of_a_result_are_views_of_the_bytes_that_came() -> None:
    rows = [{"logprobs": TensorData(np.full(n, -1.0, np.float32))} for n in (3, 1, 2)]
    body = protobuf.encode_output(ForwardBackwardOutput(loss_fn_outputs=rows, metrics={}))
    got = protobuf.decode_output(body)
    owners = [owner_of(row["logprobs"].to_numpy()) for row in got.loss_fn_outputs]
    assert [(type(owner), len(owner)) for owner in owners] == [(bytes, 4 * 6)] * 3
    assert len({id(owner) for owner in owners}) == 1


def test_tensors_of_a_request_are_views_of_the_bytes_that_came() -> None:
    targets = TensorData(np.arange(4, dtype=np.int64).reshape(2, 2))
    datum = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": targets})
    content = protobuf.encode_training_content([datum], "cross_entropy")
    got = protobuf.decode_training_request(content).data[0].loss_fn_inputs["target_tokens"]
    assert got == targets
    assert type(owner_of(got.to_numpy())) is bytes


def test_rows_with_trailing_dimensions_keep_their_shape() -> None:
    rows = [TensorData(np.arange(n * 3, dtype=np.float32).reshape(n, 3)) for n in (2, 0, 1)]
    output = ForwardBackwardOutput(loss_fn_outputs=[{"logprobs": row} for row in rows], metrics={})
    assert protobuf.decode_output(protobuf.encode_output(output)) == output


def test_records_of_different_shape_are_one_result() -> None:
    parts = [
        ForwardBackwardOutput(
            loss_fn_outputs=[{"logprobs": TensorData(np.zeros((2, k), np.float32))}], metrics={}
        )
        for k in (2, 3)
    ]
    got = protobuf.decode_output(b"".join(protobuf.encode_output(part) for part in parts))
    assert [entry["logprobs"].shape for entry in got.loss_fn_outputs] == [[2, 2], [2, 3]]


def test_data_whose_fields_were_stripped_are_still_counted() -> None:
    message = message_class("ForwardBackwardOutput")()
    message.loss_fn_outputs.add(num_datums=3)
    assert protobuf.decode_output(message.SerializeToString()).loss_fn_outputs == [{}, {}, {}]


@given(
    st.lists(
        st.builds(SampledSequence, tokens=tokens, stop_reason=st.sampled_from(["stop", "length"])), max_size=2
    ),
    st.none() | st.lists(st.none() | st.floats(width=32, allow_nan=False), min_size=1),
    st.none() | topks(),
    st.none() | tensors(),
    st.none() | st.builds(PromptAltTokens, tokens=tensors(), logprobs=tensors()),
)
def test_a_sample_comes_back_with_all_that_was_asked_for(
    sequences: list[SampledSequence], prompt: Any, topk: Any, targets: Any, alternatives: Any
) -> None:
    for sequence in sequences:
        sequence.logprobs, sequence.topk_logprobs_np = [-0.5] * len(sequence.tokens), topk
    response = SampleResponse(
        sequences=sequences,
        prompt_logprobs=prompt,
        topk_prompt_logprobs_np=topk,
        target_prompt_logprobs=targets,
        prompt_alt_tokens=alternatives,
        prompt_cache_hit_tokens=4,
    )
    assert protobuf.decode_sample(protobuf.encode_sample(response)) == response


def test_a_sample_comes_back_with_its_undefined_first_prompt_logprob() -> None:
    sequences = [
        SampledSequence(tokens=[1, 2], logprobs=[-0.5, -1.0], stop_reason="stop"),
        SampledSequence(tokens=[3], logprobs=None, stop_reason="length"),
    ]
    response = SampleResponse(sequences=sequences, prompt_logprobs=[None, -2.0], prompt_cache_hit_tokens=4)
    assert protobuf.decode_sample(protobuf.encode_sample(response)) == response


def test_bfloat16_and_int32_are_widened() -> None:
    half = message_class("Tensor")(dense=np.array([0x3F80, 0xC000], "<u2").tobytes(), dtype=4)
    short = message_class("Tensor")(dense=np.array([-1, 7], "<i4").tobytes(), dtype=3, shape=[2, 1])
    assert read_tensor(half, ValidationError) == TensorData([1.0, -2.0], dtype="float32")
    assert read_tensor(short, ValidationError) == TensorData([[-1], [7]], dtype="int64")


# What nobody should send ------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"{}"])
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    with pytest.raises(ValidationError, match="no protobuf ForwardBackwardRequest"):
        protobuf.decode_training_request(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"dense": b"abc", "dtype": 1},
        {"dense": b"abcd"},
        {"dense": b"abcd", "dtype": 9},
        {"dense": b"abcd", "dtype": 1, "shape": [2]},
        {"dense": b"abcd", "dtype": 1, "shape": [-1]},
        {"dense": b"", "dtype": 1, "shape": [2**62, 0]},
        {"sparse_csr": csr([0, 1], [0], 1), "dtype": 1},
        {"sparse_csr": csr([0, 1], [0], 1), "dtype": 1, "shape": [1, 2**62]},
        {"sparse_csr": csr([0, 1], [5], 1), "dtype": 1, "shape": [1, 5]},
        {"sparse_csr": csr([0, 2], [0], 1), "dtype": 1, "shape": [1, 5]},
        {"sparse_csr": csr([0, 1], [0], 1), "dtype": 2, "shape": [1, 5]},
    ],
)
def test_tensors_whose_bytes_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        protobuf.decode_training_request(request_with(**fields))


def test_sparse_tensors_of_one_request_share_one_bound() -> None:
    body = request_with(sparse_csr=csr([0, 0], [], 0), dtype=1, shape=[1, MOST_CELLS])
    assert protobuf.decode_training_request(body).data
    with pytest.raises(ValidationError, match="cells"):
        protobuf.decode_training_request(body * 2)


@pytest.mark.parametrize(
    "fill",
    [
        lambda datum: datum.model_input.add(),
        lambda datum: setattr(datum.model_input.add().image, "format", "gif"),
        lambda datum: setattr(datum.model_input_spans.add().prompt_tokens, "length", -1),
        lambda datum: datum.model_input_spans.add(),
        lambda datum: setattr(datum.loss_fn_input_spans.add().sampled_tokens, "sequence_id", ""),
    ],
)
def test_malformed_data_are_refused(fill: Callable[[Any], object]) -> None:
    request = message_class("ForwardBackwardRequest")()
    fill(request.data.add())
    with pytest.raises(ValidationError):
        protobuf.decode_training_request(request.SerializeToString())


def output_with(**fields: Any) -> bytes:
    output = message_class("ForwardBackwardOutput")()
    record = output.loss_fn_outputs.add(num_datums=fields.pop("num_datums", 0))
    if fields:
        offsets = np.asarray(fields.pop("offsets"), "<i8").tobytes()
        record.fields["logprobs"].CopyFrom(message_class("BatchedTensor")(offsets=offsets, **fields))
    body: bytes = output.SerializeToString()
    return body


@pytest.mark.parametrize(
    "fields",
    [
        {"num_datums": 2**62},
        {"num_datums": -1},
        {"num_datums": 2, "offsets": [0, 4], "data": b"abcd", "dtype": 1},
        {"offsets": [0, 8], "data": b"abcd", "dtype": 1},
        {"offsets": [4, 0], "data": b"abcd", "dtype": 1},
        {"offsets": [-4, 4], "data": b"abcd", "dtype": 1},
        {"offsets": [0, 2], "data": b"abcd", "dtype": 1},
        {"offsets": [0, 4], "data": b"abcd"},
        {"offsets": [0, 4], "data": b"abcd", "dtype": 1, "trailing_shape": [3]},
        {"offsets": [0, 4], "data": b"abcd", "dtype": 1, "trailing_shape": [-1]},
        {"offsets": [0, 4], "data": b"abcd", "dtype": 1, "trailing_shape": [0]},
        {"offsets": [0, 4], "data": b"abcd", "dtype": 1, "trailing_shape": [2**62, 2**62]},
        {"offsets": [0, 0], "data": b"", "dtype": 1, "trailing_shape": [0, 2**62]},
    ],
)
def test_batches_that_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(APIResponseValidationError):
        protobuf.decode_output(output_with(**fields))


def test_counts_of_many_records_share_one_bound() -> None:
    body = output_with(num_datums=protobuf.MOST_DATA // 2)
    with pytest.raises(APIResponseValidationError, match="at most"):
        protobuf.decode_output(body * 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"sequences": [{"stop_reason": 7}]},
        {"sequences": [{"tokens": b"abc"}]},
        {"sequences": [{"tokens": b"\xff\xff\xff\xff"}]},
        {"sequences": [{"tokens": b"abcd", "logprobs": b"abcdabcd"}]},
        {"sequences": [{"tokens": b"abcd", "topk_sampled_logprobs": {"k": 1, "length": 1}}]},
        {"prompt_logprobs": b"abc"},
        {"topk_prompt_logprobs": {"k": 2**32 - 1, "length": 2**32 - 1}},
        {"topk_prompt_logprobs": {"k": 1, "length": 1, "token_ids": b"abcd", "logprobs": b"ab"}},
        {"target_prompt_logprobs": {"dense": b"abcd"}},
        {"prompt_alt_tokens": {}},
    ],
)
def test_samples_that_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(APIResponseValidationError):
        protobuf.decode_sample(message_class("SampleResponse")(**fields).SerializeToString())


def test_matrices_without_cells_are_as_good_as_none() -> None:
    message = message_class("SampleResponse")(topk_prompt_logprobs={"k": 0, "length": 2**32 - 1})
    assert protobuf.decode_sample(message.SerializeToString()).topk_prompt_logprobs is None


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoders(body: bytes) -> None:
    for decode in (protobuf.decode_output, protobuf.decode_sample):
        with contextlib.suppress(APIResponseValidationError):
            decode(body)
    with contextlib.suppress(ValidationError):
        protobuf.decode_training_request(body)


def _spoiled() -> list[tuple[Callable[[bytes], object], bytes]]:
    span = PromptProvenanceSpan(sequence_id="s", length=2)
    matrix = TensorData([[0] * 6, [0, 0, 0, 0, 0, 9]]).to_sparse()
    topk = TopkLogprobs.from_rows([[(3, -0.5)]])
    whole = datum([1, 2]).with_provenance([span], [span])
    sample = SampleResponse(
        sequences=[SampledSequence(tokens=[1], logprobs=[-1.0], stop_reason="stop", topk_logprobs_np=topk)],
        prompt_logprobs=[None, -1.0],
        topk_prompt_logprobs_np=topk,
        target_prompt_logprobs=matrix,
        prompt_alt_tokens=PromptAltTokens(tokens=matrix, logprobs=matrix),
    )
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": TensorData(np.ones((2, 3), np.float32))}] * 2, metrics={"a:sum": 1.0}
    )
    sparse = Datum(model_input=ModelInput(chunks=[]), loss_fn_inputs={"target_tokens": matrix})
    return [
        (protobuf.decode_training_request, sent([whole, sparse])),
        (protobuf.decode_output, protobuf.encode_output(output)),
        (protobuf.decode_sample, protobuf.encode_sample(sample)),
    ]


@pytest.mark.parametrize(("decode", "body"), _spoiled())
def test_no_cut_and_no_changed_byte_costs_more_than_an_error(
    decode: Callable[[bytes], object], body: bytes
) -> None:
    bodies = [body[:place] for place in range(len(body))]
    for place in range(len(body)):
        changes = (0x00, 0x01, 0x7F, 0x80, 0xFF, body[place] ^ 0xFF)
        bodies += [body[:place] + bytes([byte]) + body[place + 1 :] for byte in changes]
    tracemalloc.start()
    for one in bodies:
        with contextlib.suppress(ValidationError, APIResponseValidationError):
            decode(one)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000_000
