"""Protobuf both ways: forward_backward requests, forward_backward and sample results.

All numeric buffers are little-endian raw bytes. Serialisation is deterministic, so equal content has
equal bytes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tinker_actors.errors import APIResponseValidationError, ShapeError, ValidationError
from tinker_actors.types import (
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ModelInput,
    SampledSequence,
    SampleResponse,
    TensorData,
)
from tinker_actors.wire.descriptors import message_class

__all__ = [
    "TrainingRequest",
    "decode_output",
    "decode_sample",
    "decode_training_request",
    "encode_output",
    "encode_sample",
    "encode_training_content",
    "with_ids",
]

_FLOAT32, _INT64, _INT32, _BFLOAT16 = 1, 2, 3, 4
_NUMPY: dict[int, "np.dtype[Any]"] = {
    _FLOAT32: np.dtype("<f4"),
    _INT64: np.dtype("<i8"),
    _INT32: np.dtype("<i4"),
    _BFLOAT16: np.dtype("<u2"),
}
_NUMBER = {"float32": _FLOAT32, "int64": _INT64}


class TrainingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A forward or forward_backward request, decoded."""

    model_id: str
    """The model."""
    seq_id: int
    """The request's place in the model's order."""
    data: list[Datum]
    """What to train on."""
    loss_fn: str
    """Name of the loss."""
    loss_fn_config: dict[str, float | str]
    """Its settings."""
    forward_only: bool = False
    """Whether no gradient is wanted."""


# Requests ---------------------------------------------------------------------------------------


def encode_training_content(
    data: Sequence[Datum],
    loss_fn: str,
    loss_fn_config: Mapping[str, float | str] | None = None,
    *,
    forward_only: bool = False,
) -> bytes:
    """The body of a forward_backward request, still without model and order; see `with_ids`."""
    request = message_class("ForwardBackwardRequest")(loss_fn=loss_fn, forward_only=forward_only)
    for datum in data:
        message = request.data.add()
        for chunk in datum.model_input.chunks:
            tokens = ModelInput(chunks=[chunk]).to_numpy()
            message.model_input.add().encoded_text.tokens = tokens.astype("<i4", copy=False).tobytes()
        for name in sorted(datum.loss_fn_inputs):
            _write_tensor(message.loss_fn_inputs[name], datum.loss_fn_inputs[name])
    for name, value in (loss_fn_config or {}).items():
        if isinstance(value, str):
            request.loss_fn_config_v2[name].text = value
        else:  # readers of both generations find numbers
            request.loss_fn_config[name] = value
            request.loss_fn_config_v2[name].number = value
    body: bytes = request.SerializeToString(deterministic=True)
    return body


def with_ids(content: bytes, model_id: str, seq_id: int) -> bytes:
    """A whole request: serialised messages that stand behind one another are one message."""
    ids: bytes = message_class("ForwardBackwardRequest")(model_id=model_id, seq_id=seq_id).SerializeToString()
    return ids + content


def decode_training_request(body: bytes) -> TrainingRequest:
    """A forward_backward request.

    Raises:
        ValidationError: the bytes are no such request.
    """
    request = _parse("ForwardBackwardRequest", body, ValidationError)
    config: dict[str, float | str] = dict(request.loss_fn_config)
    for name, value in request.loss_fn_config_v2.items():
        config[name] = value.text if value.WhichOneof("value") == "text" else value.number
    return TrainingRequest(
        model_id=request.model_id,
        seq_id=request.seq_id,
        data=[_read_datum(datum) for datum in request.data],
        loss_fn=request.loss_fn,
        loss_fn_config=config,
        forward_only=request.forward_only,
    )


def _read_datum(datum: Any) -> Datum:
    chunks = []
    for chunk in datum.model_input:
        if chunk.WhichOneof("chunk") != "encoded_text":
            raise ValidationError(
                f"model inputs hold chunks of encoded text, got {chunk.WhichOneof('chunk')}"
            )
        chunks.append(
            EncodedTextChunk(tokens=_array(chunk.encoded_text.tokens, _INT32, ValidationError).tolist())
        )
    tensors = {name: _read_tensor(tensor, ValidationError) for name, tensor in datum.loss_fn_inputs.items()}
    return Datum(model_input=ModelInput(chunks=chunks), loss_fn_inputs=tensors)


# Results ----------------------------------------------------------------------------------------


def encode_output(output: ForwardBackwardOutput) -> bytes:
    """The result of a forward_backward; all data must have the same output names."""
    message = message_class("ForwardBackwardOutput")(loss_fn_output_type=output.loss_fn_output_type)
    message.metrics.update(output.metrics)
    record = message.loss_fn_outputs.add(num_datums=len(output.loss_fn_outputs))
    for name in sorted(output.loss_fn_outputs[0]) if output.loss_fn_outputs else ():
        arrays = [entry[name].to_numpy() for entry in output.loss_fn_outputs]
        tensor = record.fields[name]
        tensor.data = b"".join(array.tobytes() for array in arrays)
        tensor.offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype="<i8").tobytes()
        tensor.dtype = _NUMBER[output.loss_fn_outputs[0][name].dtype]
        tensor.trailing_shape.extend(arrays[0].shape[1:])
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def decode_output(body: bytes) -> ForwardBackwardOutput:
    """The result of a forward_backward.

    Raises:
        APIResponseValidationError: the bytes are no such result.
    """
    message = _parse("ForwardBackwardOutput", body, APIResponseValidationError)
    outputs: list[dict[str, TensorData]] = []
    for record in message.loss_fn_outputs:
        columns = {name: _read_batch(tensor) for name, tensor in record.fields.items()}
        rows = record.num_datums or max((len(column) for column in columns.values()), default=0)
        if any(len(column) != rows for column in columns.values()):
            raise APIResponseValidationError(f"a result's fields must each have {rows} entries")
        outputs.extend({name: column[row] for name, column in columns.items()} for row in range(rows))
    return ForwardBackwardOutput(
        loss_fn_outputs=outputs,
        metrics=dict(message.metrics),
        loss_fn_output_type=message.loss_fn_output_type.rpartition(":")[2] or "ArrayRecord",
    )


def encode_sample(response: SampleResponse) -> bytes:
    """The result of a sample request."""
    message = message_class("SampleResponse")(prompt_cache_hit_tokens=response.prompt_cache_hit_tokens)
    for sequence in response.sequences:
        entry = message.sequences.add(stop_reason=0 if sequence.stop_reason == "stop" else 1)
        entry.tokens = np.asarray(sequence.tokens, dtype="<i4").tobytes()
        if sequence.logprobs is not None:
            entry.logprobs = np.asarray(sequence.logprobs, dtype="<f4").tobytes()
    if response.prompt_logprobs is not None:
        undefined = [np.nan if value is None else value for value in response.prompt_logprobs]
        message.prompt_logprobs = np.asarray(undefined, dtype="<f4").tobytes()
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def decode_sample(body: bytes) -> SampleResponse:
    """The result of a sample request.

    Raises:
        APIResponseValidationError: the bytes are no such result.
    """
    message = _parse("SampleResponse", body, APIResponseValidationError)
    prompt = None
    if message.HasField("prompt_logprobs"):
        values = _array(message.prompt_logprobs, _FLOAT32, APIResponseValidationError).tolist()
        prompt = [None if value != value else value for value in values]  # noqa: PLR0124 - NaN stands for undefined
    return SampleResponse(
        sequences=[
            SampledSequence(
                tokens=_array(entry.tokens, _INT32, APIResponseValidationError).tolist(),
                logprobs=_array(entry.logprobs, _FLOAT32, APIResponseValidationError).tolist()
                if entry.HasField("logprobs")
                else None,
                stop_reason="stop" if entry.stop_reason == 0 else "length",
            )
            for entry in message.sequences
        ],
        prompt_logprobs=prompt,
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
    )


# Tensors ----------------------------------------------------------------------------------------

_Invalid = type[ValidationError] | type[APIResponseValidationError]


def _parse(name: str, body: bytes, invalid: _Invalid) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message_class(name).FromString(body)
    except DecodeError as error:
        raise invalid(f"{len(body)} bytes are no protobuf {name}: {error}") from error


def _array(data: bytes, dtype: int, invalid: _Invalid) -> NDArray[Any]:
    """Raw bytes as float32, int32 or int64; bfloat16 is widened to float32."""
    kind = _NUMPY.get(dtype)
    if kind is None or len(data) % kind.itemsize:
        raise invalid(f"{len(data)} bytes are no tensor of dtype {dtype}")
    values: NDArray[Any] = np.frombuffer(data, dtype=kind)
    if dtype == _BFLOAT16:
        return (values.astype("<u4") << 16).view("<f4")
    return values


def _write_tensor(message: Any, tensor: TensorData) -> None:
    array = tensor.to_numpy()
    message.dense = array.tobytes()
    message.dtype = _NUMBER[tensor.dtype]
    message.shape.extend(array.shape)


def _read_tensor(message: Any, invalid: _Invalid) -> TensorData:
    if message.WhichOneof("encoding") == "sparse_csr":
        raise invalid("sparse tensors are not supported; send dense ones")
    values = _array(message.dense, message.dtype, invalid)
    try:
        return TensorData(values, shape=list(message.shape) or None)
    except (ShapeError, ValueError) as error:
        raise invalid(str(error)) from error


def _read_batch(message: Any) -> list[TensorData]:
    """The rows of a batched tensor; offsets count bytes."""
    invalid = APIResponseValidationError
    offsets = _array(message.offsets, _INT64, invalid).tolist()
    trailing = list(message.trailing_shape)
    rows = []
    for start, stop in pairwise(offsets):
        if not 0 <= start <= stop <= len(message.data):
            raise invalid(f"offsets {start}:{stop} lie outside of {len(message.data)} bytes")
        values = _array(message.data[start:stop], message.dtype, invalid)
        try:
            rows.append(TensorData(values.reshape([-1, *trailing]) if trailing else values))
        except ValueError as error:
            raise invalid(f"a row does not fit the shape {trailing}: {error}") from error
    return rows
