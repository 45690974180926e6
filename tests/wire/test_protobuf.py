"""The protobuf codec against itself and against bytes written by hand."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import (
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    SampledSequence,
    SampleResponse,
    TensorData,
)
from tinker_actors.wire import protobuf
from tinker_actors.wire.descriptors import message_class

tokens = st.lists(st.integers(0, 2**31 - 1), max_size=20)


def datum(ids: list[int]) -> Datum:
    inputs = {
        "target_tokens": TensorData(ids, dtype="int64"),
        "weights": TensorData([1.0] * len(ids), dtype="float32"),
    }
    return Datum(model_input=ModelInput.from_ints(ids), loss_fn_inputs=inputs)


@given(st.lists(tokens, max_size=4))
def test_a_request_comes_back_as_it_was_sent(rows: list[list[int]]) -> None:
    data = [datum(row) for row in rows]
    content = protobuf.encode_training_content(data, "cross_entropy", {"beta": 0.5, "loss_id": "x"})
    request = protobuf.decode_training_request(protobuf.with_ids(content, "s:train:0", 7))
    assert (request.model_id, request.seq_id, request.loss_fn) == ("s:train:0", 7, "cross_entropy")
    assert request.loss_fn_config == {"beta": 0.5, "loss_id": "x"}
    assert [got.model_input.to_ints() for got in request.data] == rows
    assert [got.loss_fn_inputs for got in request.data] == [d.loss_fn_inputs for d in data]


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


def test_field_numbers_are_those_of_the_public_schema() -> None:
    content = protobuf.encode_training_content([datum([5])], "ce")
    chunk = b"\x0a\x06" + b"\x0a\x04" + b"\x05\x00\x00\x00"  # Chunk{encoded_text{tokens: int32 5}}
    assert protobuf.with_ids(b"", "m", 3) == b"\x0a\x01m\x10\x03"
    assert chunk in content
    assert content.endswith(b"\x22\x02ce")


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=6), max_size=4))
def test_a_training_result_comes_back_in_the_order_of_its_data(rows: list[list[float]]) -> None:
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": TensorData(row, dtype="float32")} for row in rows],
        metrics={"loss:sum": 1.5},
    )
    assert protobuf.decode_output(protobuf.encode_output(output)) == output


def test_rows_with_trailing_dimensions_keep_their_shape() -> None:
    rows = [TensorData(np.arange(n * 3, dtype=np.float32).reshape(n, 3)) for n in (2, 1)]
    output = ForwardBackwardOutput(loss_fn_outputs=[{"logprobs": row} for row in rows], metrics={})
    assert protobuf.decode_output(protobuf.encode_output(output)) == output


def test_a_sample_comes_back_with_its_undefined_first_prompt_logprob() -> None:
    sequences = [
        SampledSequence(tokens=[1, 2], logprobs=[-0.5, -1.0], stop_reason="stop"),
        SampledSequence(tokens=[3], logprobs=None, stop_reason="length"),
    ]
    response = SampleResponse(sequences=sequences, prompt_logprobs=[None, -2.0], prompt_cache_hit_tokens=4)
    assert protobuf.decode_sample(protobuf.encode_sample(response)) == response


def test_bfloat16_is_widened() -> None:
    message = message_class("Tensor")(dense=np.array([0x3F80], "<u2").tobytes(), dtype=4)
    assert protobuf._read_tensor(message, ValidationError) == TensorData([1.0], dtype="float32")


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"{}"])
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    with pytest.raises(ValidationError, match="no protobuf ForwardBackwardRequest"):
        protobuf.decode_training_request(body)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_result_decoders(body: bytes) -> None:
    for decode in (protobuf.decode_output, protobuf.decode_sample):
        with contextlib.suppress(APIResponseValidationError):
            decode(body)


def test_ragged_tensor_bytes_are_refused() -> None:
    request = message_class("ForwardBackwardRequest")()
    tensor = request.data.add().loss_fn_inputs["weights"]
    tensor.dense, tensor.dtype = b"abc", 1
    with pytest.raises(ValidationError, match="3 bytes are no tensor"):
        protobuf.decode_training_request(request.SerializeToString())
