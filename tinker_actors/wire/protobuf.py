"""Protobuf both ways: forward_backward requests, forward_backward and sample results.

Serialisation is deterministic, so equal content has equal bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

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
    StopReason,
    TensorData,
    token_ids,
)
from tinker_actors.types.checks import text
from tinker_actors.types.tensors import MOST_CELLS
from tinker_actors.wire.descriptors import message_class
from tinker_actors.wire.tensors import (
    FLOAT32,
    INT32,
    Invalid,
    read_array,
    read_batch,
    read_tensor,
    read_topk,
    write_array,
    write_batch,
    write_tensor,
    write_topk,
)

__all__ = [
    "TrainingRequest",
    "check_cells",
    "decode_output",
    "decode_sample",
    "decode_training_request",
    "encode_output",
    "encode_sample",
    "encode_training_content",
    "training_ids",
    "with_ids",
    "without_ids",
]

_STOP_REASONS: tuple[StopReason, ...] = ("stop", "length")
MOST_DATA = 2**20
"""Most data a result may count: the count needs no bytes, so that it bounds nothing by itself."""


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
    """The body of a forward_backward request, still without model and order; see `with_ids`.

    Raises:
        ValidationError: a chunk has no protobuf form, or holds what is no token id.
    """
    request = message_class("ForwardBackwardRequest")(
        loss_fn=text("the name of a loss function", loss_fn), forward_only=forward_only
    )
    try:
        for name, value in (loss_fn_config or {}).items():
            if isinstance(value, str):
                request.loss_fn_config_v2[name].text = value
            else:  # readers of both generations find numbers
                request.loss_fn_config[name] = value
                request.loss_fn_config_v2[name].number = value
    except (TypeError, ValueError) as error:  # half of a surrogate pair, or no number
        raise ValidationError(f"loss_fn_config holds text and numbers by name: {error}") from error
    # Data are serialised one by one, in memory that is still in the processor's cache; see `with_ids`.
    return b"".join((*map(_encode_datum, data), request.SerializeToString(deterministic=True)))


def _encode_datum(datum: Datum) -> bytes:
    """A request with nothing but `datum`."""
    request = message_class("ForwardBackwardRequest")()
    message = request.data.add()
    for chunk in datum.model_input.chunks:
        _write_chunk(message.model_input.add(), chunk)
    for name in sorted(datum.loss_fn_inputs):
        write_tensor(message.loss_fn_inputs[name], datum.loss_fn_inputs[name])
    for span in datum.model_input_spans or ():
        _write_span(message.model_input_spans.add(), span)
    for span in datum.loss_fn_input_spans or ():
        _write_span(message.loss_fn_input_spans.add(), span)
    body: bytes = request.SerializeToString(deterministic=True)
    return body


def with_ids(content: bytes, model_id: str, seq_id: int) -> bytes:
    """A whole request: serialised messages that stand behind one another are one message."""
    ids: bytes = message_class("ForwardBackwardRequest")(model_id=model_id, seq_id=seq_id).SerializeToString()
    return ids + content


def without_ids(body: bytes) -> bytes:
    """What a request asks for, in one form for all who ask the same, without model and order; see `with_ids`.

    Raises:
        ValidationError: the bytes are no such request.
    """
    request = _parse("ForwardBackwardRequest", body, ValidationError)
    request.ClearField("model_id")
    request.ClearField("seq_id")
    content: bytes = request.SerializeToString(deterministic=True)
    return content


def training_ids(body: bytes) -> tuple[str, int]:
    """The model of a forward_backward request and its place in the model's order.

    Raises:
        ValidationError: the bytes are no such request.
    """
    request = _parse("ForwardBackwardRequest", body, ValidationError)
    return request.model_id, request.seq_id


def decode_training_request(body: bytes) -> TrainingRequest:
    """A forward_backward request.

    Raises:
        ValidationError: the bytes are no such request.
    """
    request = _parse("ForwardBackwardRequest", body, ValidationError)
    config: dict[str, float | str] = dict(request.loss_fn_config)
    for name, value in request.loss_fn_config_v2.items():
        config[name] = value.text if value.WhichOneof("value") == "text" else value.number
    data = [_read_datum(datum) for datum in request.data]
    check_cells(data)
    return TrainingRequest(
        model_id=request.model_id,
        seq_id=request.seq_id,
        data=data,
        loss_fn=request.loss_fn,
        loss_fn_config=config,
        forward_only=request.forward_only,
    )


def _write_chunk(message: Any, chunk: Chunk) -> None:
    match chunk:
        case EncodedTextChunk(tokens=tokens):
            message.encoded_text.tokens = write_array(token_ids(tokens), INT32)
        case ImageChunk(data=data, format=kind, expected_tokens=expected):
            message.image.data, message.image.format = data, kind
            if expected is not None:
                message.image.expected_tokens = expected
        case DmelChunk(dmel=dmel):
            message.dmel.dmel = dmel
        case ImageAssetPointerChunk():
            raise ValidationError(
                "training data cannot point to an image elsewhere; load it and give an ImageChunk"
            )


def _read_chunk(message: Any) -> Chunk:
    match message.WhichOneof("chunk"):
        case "encoded_text":
            return EncodedTextChunk(
                tokens=read_array(message.encoded_text.tokens, INT32, ValidationError).tolist()
            )
        case "image":
            image = message.image
            expected = image.expected_tokens if image.HasField("expected_tokens") else None
            return ImageChunk(data=image.data, format=image.format, expected_tokens=expected)
        case "dmel":
            return DmelChunk(dmel=message.dmel.dmel)
        case _:
            raise ValidationError(
                "a chunk of a model input must be text, an image or audio, got none of them"
            )


def _write_span(message: Any, span: PromptProvenanceSpan | SampledProvenanceSpan) -> None:
    arm = message.sampled_tokens if isinstance(span, SampledProvenanceSpan) else message.prompt_tokens
    arm.sequence_id, arm.offset, arm.length = span.sequence_id, span.offset, span.length


def _read_span(message: Any) -> PromptProvenanceSpan | SampledProvenanceSpan:
    arm = message.WhichOneof("span")
    if arm is None:
        raise ValidationError("a provenance span must be of a prompt or of a sample, got neither")
    kind = SampledProvenanceSpan if arm == "sampled_tokens" else PromptProvenanceSpan
    span = getattr(message, arm)
    return kind(sequence_id=span.sequence_id, offset=span.offset, length=span.length)


def _read_datum(message: Any) -> Datum:
    spans = [
        [_read_span(span) for span in field]
        for field in (message.model_input_spans, message.loss_fn_input_spans)
    ]
    return Datum(
        model_input=ModelInput(chunks=[_read_chunk(chunk) for chunk in message.model_input]),
        loss_fn_inputs={
            name: read_tensor(tensor, ValidationError) for name, tensor in message.loss_fn_inputs.items()
        },
        # An empty list and none look alike on the wire.
        model_input_spans=spans[0] if any(spans) else None,
        loss_fn_input_spans=spans[1] if any(spans) else None,
    )


def check_cells(data: Sequence[Datum]) -> None:
    """Nothing if the sparse tensors of all data together stay within what one may have."""
    sparse = (tensor for datum in data for tensor in datum.loss_fn_inputs.values() if tensor.is_sparse)
    cells = sum(rows * columns for rows, columns in (tensor.shape for tensor in sparse))
    if cells > MOST_CELLS:
        raise ValidationError(f"sparse tensors of a request have at most {MOST_CELLS} cells, got {cells}")


# Results ----------------------------------------------------------------------------------------


def encode_output(output: ForwardBackwardOutput) -> bytes:
    """The result of a forward_backward; all data must have the same output names."""
    message = message_class("ForwardBackwardOutput")(loss_fn_output_type=output.loss_fn_output_type)
    message.metrics.update(output.metrics)
    record = message.loss_fn_outputs.add(num_datums=len(output.loss_fn_outputs))
    for name in sorted(output.loss_fn_outputs[0]) if output.loss_fn_outputs else ():
        write_batch(record.fields[name], [entry[name] for entry in output.loss_fn_outputs])
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
        columns = {name: read_batch(tensor) for name, tensor in record.fields.items()}
        rows = record.num_datums or max((len(column) for column in columns.values()), default=0)
        if rows < 0 or any(len(column) != rows for column in columns.values()):
            raise APIResponseValidationError(f"a result's fields must each have {rows} entries")
        if len(outputs) + rows > MOST_DATA:
            raise APIResponseValidationError(f"a result is of at most {MOST_DATA} data, got more")
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
        entry = message.sequences.add(stop_reason=_STOP_REASONS.index(sequence.stop_reason))
        entry.tokens = write_array(sequence.tokens, INT32)
        if sequence.logprobs is not None:
            entry.logprobs = write_array(sequence.logprobs, FLOAT32)
        if sequence.topk_logprobs_np is not None:
            write_topk(entry.topk_sampled_logprobs, sequence.topk_logprobs_np)
    if response.prompt_logprobs is not None:
        message.prompt_logprobs = write_array(response.prompt_logprobs_np, FLOAT32)
    if response.topk_prompt_logprobs_np is not None:
        write_topk(message.topk_prompt_logprobs, response.topk_prompt_logprobs_np)
    if response.target_prompt_logprobs is not None:
        write_tensor(message.target_prompt_logprobs, response.target_prompt_logprobs)
    if response.prompt_alt_tokens is not None:
        write_tensor(message.prompt_alt_tokens.tokens, response.prompt_alt_tokens.tokens)
        write_tensor(message.prompt_alt_tokens.logprobs, response.prompt_alt_tokens.logprobs)
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def decode_sample(body: bytes) -> SampleResponse:
    """The result of a sample request.

    Raises:
        APIResponseValidationError: the bytes are no such result.
    """
    invalid = APIResponseValidationError
    message = _parse("SampleResponse", body, invalid)
    prompt = target = alternatives = None
    if message.prompt_logprobs:
        values = read_array(message.prompt_logprobs, FLOAT32, invalid).tolist()
        prompt = [None if value != value else value for value in values]  # noqa: PLR0124 - NaN stands for undefined
    if message.HasField("target_prompt_logprobs"):
        target = read_tensor(message.target_prompt_logprobs, invalid)
    if message.HasField("prompt_alt_tokens"):
        drawn = message.prompt_alt_tokens
        alternatives = PromptAltTokens(
            tokens=read_tensor(drawn.tokens, invalid), logprobs=read_tensor(drawn.logprobs, invalid)
        )
    return SampleResponse(
        sequences=[_read_sequence(entry) for entry in message.sequences],
        prompt_logprobs=prompt,
        topk_prompt_logprobs_np=read_topk(message.topk_prompt_logprobs),
        target_prompt_logprobs=target,
        prompt_alt_tokens=alternatives,
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
    )


def _read_sequence(message: Any) -> SampledSequence:
    invalid = APIResponseValidationError
    if not 0 <= message.stop_reason < len(_STOP_REASONS):
        raise invalid(f"a sequence ends by stop or by length, got reason {message.stop_reason}")
    tokens = read_array(message.tokens, INT32, invalid)
    logprobs = None
    if message.logprobs or (message.HasField("logprobs") and tokens.size == 0):
        logprobs = read_array(message.logprobs, FLOAT32, invalid)
        if logprobs.size != tokens.size:
            raise invalid(f"a sequence has {tokens.size} tokens but {logprobs.size} logprobs")
    if tokens.size and tokens.min() < 0:
        raise invalid(f"token ids are 0 or more, got {tokens.min()}")
    return SampledSequence(
        tokens=tokens.tolist(),
        logprobs=None if logprobs is None else logprobs.tolist(),
        stop_reason=_STOP_REASONS[message.stop_reason],
        topk_logprobs_np=read_topk(message.topk_sampled_logprobs),
    )


def _parse(name: str, body: bytes, invalid: Invalid) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message_class(name).FromString(body)
    except DecodeError as error:
        raise invalid(f"{len(body)} bytes are no protobuf {name}: {error}") from error
