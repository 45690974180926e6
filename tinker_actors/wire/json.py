"""Training requests and results in JSON, as servers before protobuf read and give them.

JSON has no NaN: a float that is none is null, and null is read as NaN.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import (
    Datum,
    ForwardBackwardOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    StopReason,
    TensorData,
    TopkLogprobs,
)
from tinker_actors.types.checks import MOST_INT32
from tinker_actors.wire.calls import json_body
from tinker_actors.wire.documents import TensorDocument, WireDatum
from tinker_actors.wire.protobuf import TrainingRequest

__all__ = [
    "output_document",
    "read_datum",
    "read_output_document",
    "read_sample_document",
    "read_tensor",
    "sample_document",
    "tensor_document",
    "training_body",
]

T = TypeVar("T")
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=MOST_INT32)]


class _ResultTensor(TensorDocument, frozen=True, kw_only=True):
    data: Sequence[float | int | None]  # type: ignore[assignment]  # no request may hold null, a result may


class _OutputDocument(msgspec.Struct):
    loss_fn_outputs: list[dict[str, _ResultTensor | list[float | None]]]
    metrics: dict[str, float | None]
    loss_fn_output_type: str = "ArrayRecord"


class _Scored(msgspec.Struct):
    token_id: _TokenId
    logprob: float


_TopkRows = list[list[tuple[_TokenId, float] | _Scored] | None]


class _Sequence(msgspec.Struct):
    tokens: list[_TokenId]
    stop_reason: StopReason
    logprobs: list[float | None] | None = None
    topk_logprobs: _TopkRows | None = None


class _AltTokens(msgspec.Struct):
    tokens: _ResultTensor
    logprobs: _ResultTensor


class _SampleDocument(msgspec.Struct):
    sequences: list[_Sequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: _TopkRows | None = None
    target_prompt_logprobs: _ResultTensor | None = None
    prompt_alt_tokens: _AltTokens | None = None
    prompt_cache_hit_tokens: int = 0


# Tensors and requests ---------------------------------------------------------------------------


def tensor_document(tensor: TensorData) -> TensorDocument:
    """The JSON form of a tensor; a sparse one stays sparse."""
    return TensorDocument(
        data=tensor.data,
        dtype=tensor.dtype,
        shape=tensor.shape,
        sparse_crow_indices=tensor.sparse_crow_indices,
        sparse_col_indices=tensor.sparse_col_indices,
    )


def training_body(request: TrainingRequest) -> bytes:
    """A forward or forward_backward request in JSON.

    Servers that need it in this form know neither sparse tensors nor provenance: tensors are written out with 0 in
    cells that are not listed, which is what those cells mean in a loss input, and provenance is left out.
    """
    content: dict[str, Any] = {
        "data": [
            {
                "model_input": datum.model_input,
                "loss_fn_inputs": {
                    name: tensor_document(_dense(tensor)) for name, tensor in datum.loss_fn_inputs.items()
                },
            }
            for datum in request.data
        ],
        "loss_fn": request.loss_fn,
    }
    if request.loss_fn_config:
        content["loss_fn_config"] = request.loss_fn_config
    field = "forward_input" if request.forward_only else "forward_backward_input"
    return json_body({"model_id": request.model_id, "seq_id": request.seq_id, field: content})


def _dense(tensor: TensorData) -> TensorData:
    return TensorData(tensor.to_numpy()) if tensor.is_sparse else tensor


def read_datum(document: WireDatum) -> Datum:
    """A datum out of its JSON form.

    Raises:
        ValidationError: values and shape do not fit.
    """
    tensors = {name: read_tensor(tensor) for name, tensor in document.loss_fn_inputs.items()}
    return Datum(model_input=document.model_input, loss_fn_inputs=tensors)


def read_tensor(document: TensorDocument) -> TensorData:
    """A tensor out of its JSON form, sparse if that is.

    Raises:
        ValidationError: values and shape do not fit, or a value is none of its dtype.
    """
    data: Sequence[Any] = document.data
    if document.dtype == "float32":
        data = _numbers(data)
    return TensorData(
        data, document.dtype, document.shape, document.sparse_crow_indices, document.sparse_col_indices
    )


def _result_tensor(given: _ResultTensor | list[float | None]) -> TensorData:
    """A tensor of a result; a list alone holds floats."""
    return TensorData(_numbers(given), "float32") if isinstance(given, list) else read_tensor(given)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _nulls(values: Sequence[float | None]) -> list[float | None]:
    """`values` with None for whatever JSON has no number for."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _read(body: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise APIResponseValidationError(f"{what} was wanted: {error}") from error


# Results of training ----------------------------------------------------------------------------


def output_document(output: ForwardBackwardOutput) -> dict[str, Any]:
    """The JSON form of a training result."""
    return {
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": [
            {name: tensor_document(tensor) for name, tensor in entry.items()}
            for entry in output.loss_fn_outputs
        ],
        "metrics": output.metrics,
    }


def read_output_document(body: bytes) -> ForwardBackwardOutput:
    """A training result out of JSON.

    Raises:
        APIResponseValidationError: the body is no such result.
    """
    document = _read(body, _OutputDocument, "a training result")
    try:
        outputs = [
            {name: _result_tensor(tensor) for name, tensor in entry.items()}
            for entry in document.loss_fn_outputs
        ]
    except ValidationError as error:
        raise APIResponseValidationError(f"a training result was wanted: {error}") from error
    return ForwardBackwardOutput(
        loss_fn_outputs=outputs,
        metrics={name: math.nan if value is None else value for name, value in document.metrics.items()},
        loss_fn_output_type=document.loss_fn_output_type.rpartition(":")[2],
    )


# Results of sampling ----------------------------------------------------------------------------


def sample_document(response: SampleResponse) -> dict[str, Any]:
    """The JSON form of a sample result; what was not asked for is left out."""
    alternatives = response.prompt_alt_tokens
    document: dict[str, Any] = {
        "topk_prompt_logprobs": response.topk_prompt_logprobs,
        "target_prompt_logprobs": response.target_prompt_logprobs
        and tensor_document(response.target_prompt_logprobs),
        "prompt_alt_tokens": alternatives
        and {
            "tokens": tensor_document(alternatives.tokens),
            "logprobs": tensor_document(alternatives.logprobs),
        },
    }
    return {
        "type": "sample",
        "sequences": [_sequence_document(sequence) for sequence in response.sequences],
        "prompt_logprobs": None if response.prompt_logprobs is None else _nulls(response.prompt_logprobs),
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    } | {name: value for name, value in document.items() if value is not None}


def _sequence_document(sequence: SampledSequence) -> dict[str, Any]:
    document = {
        "stop_reason": sequence.stop_reason,
        "tokens": sequence.tokens,
        "logprobs": sequence.logprobs,
    }
    topk = sequence.topk_logprobs
    return document if topk is None else {**document, "topk_logprobs": topk}


def read_sample_document(body: bytes) -> SampleResponse:
    """A sample result out of JSON.

    Raises:
        APIResponseValidationError: the body is no such result.
    """
    document = _read(body, _SampleDocument, "a sample result")
    try:
        return _sample(document)
    except ValidationError as error:
        raise APIResponseValidationError(f"a sample result was wanted: {error}") from error


def _sample(document: _SampleDocument) -> SampleResponse:
    target, drawn = document.target_prompt_logprobs, document.prompt_alt_tokens
    return SampleResponse(
        sequences=[_sequence(sequence) for sequence in document.sequences],
        prompt_logprobs=document.prompt_logprobs,
        topk_prompt_logprobs_np=_topk(document.topk_prompt_logprobs),
        target_prompt_logprobs=None if target is None else read_tensor(target),
        prompt_alt_tokens=None
        if drawn is None
        else PromptAltTokens(tokens=read_tensor(drawn.tokens), logprobs=read_tensor(drawn.logprobs)),
        prompt_cache_hit_tokens=document.prompt_cache_hit_tokens,
    )


def _sequence(document: _Sequence) -> SampledSequence:
    logprobs = document.logprobs
    if logprobs is not None and len(logprobs) != len(document.tokens):
        raise ValidationError(f"a sequence has {len(document.tokens)} tokens but {len(logprobs)} logprobs")
    return SampledSequence(
        tokens=document.tokens,
        logprobs=None if logprobs is None else _numbers(logprobs),
        stop_reason=document.stop_reason,
        topk_logprobs_np=_topk(document.topk_logprobs),
    )


def _topk(rows: _TopkRows | None) -> TopkLogprobs | None:
    if rows is None:
        return None
    return TopkLogprobs.from_rows([None if row is None else [_pair(one) for one in row] for row in rows])


def _pair(scored: tuple[int, float] | _Scored) -> tuple[int, float]:
    return (scored.token_id, scored.logprob) if isinstance(scored, _Scored) else scored
