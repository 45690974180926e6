"""One forward_backward as several requests: how data are split, and how results are put together again."""

import math
from collections.abc import Iterator, Sequence

from tinker_actors.errors import APIResponseValidationError
from tinker_actors.types import (
    Chunk,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
)

__all__ = [
    "JSON_TOKEN_BYTES",
    "MAX_CHUNK_BYTES",
    "MAX_CHUNK_DATA",
    "TOKEN_BYTES",
    "combine",
    "estimate_bytes",
    "estimate_input_bytes",
    "split",
]

MAX_CHUNK_DATA = 1024
"""Data per request, the official SDK's default."""
MAX_CHUNK_BYTES = 5_000_000
"""Estimated bytes per request, the official SDK's default."""
TOKEN_BYTES = 4
"""Of a token in protobuf."""
JSON_TOKEN_BYTES = 10
"""Of a token in JSON, the official SDK's estimate."""


def estimate_bytes(datum: Datum) -> int:
    """About how many bytes `datum` takes on the wire; framing and provenance are not counted."""
    tensors = sum(tensor.nbytes for tensor in datum.loss_fn_inputs.values())
    return estimate_input_bytes(datum.model_input, token_bytes=TOKEN_BYTES) + tensors


def estimate_input_bytes(model_input: ModelInput, *, token_bytes: int) -> int:
    """About how many bytes `model_input` takes, with so many for each token of text."""
    return sum(_chunk_bytes(chunk, token_bytes) for chunk in model_input.chunks)


def _chunk_bytes(chunk: Chunk, token_bytes: int) -> int:
    match chunk:
        case EncodedTextChunk():
            return token_bytes * chunk.length
        case ImageChunk(data=data) | DmelChunk(dmel=data):
            return len(data)
        case ImageAssetPointerChunk(location=location):
            return len(location)


def split(
    data: Sequence[Datum], *, max_data: int = MAX_CHUNK_DATA, max_bytes: int = MAX_CHUNK_BYTES
) -> Iterator[list[Datum]]:
    """`data` in order, in as few chunks as the two limits allow; a datum over the limit travels alone."""
    chunk: list[Datum] = []
    filled = 0
    for datum in data:
        size = estimate_bytes(datum)
        if chunk and (filled + size > max_bytes or len(chunk) >= max_data):
            yield chunk
            chunk, filled = [], 0
        chunk.append(datum)
        filled += size
    if chunk:
        yield chunk


def combine(outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """The results of all chunks as one.

    Metrics are named `name:reduction`. Those of the first chunk that every chunk has are reduced: `mean`
    (weighted by data), `sum`, `min`, `max`, `slack` (max - mean), `unique` (the first, then name_1, name_2, ...),
    `hash2` (sum modulo 2**64); others are left out. Source: the official SDK 0.38.

    Raises:
        APIResponseValidationError: a metric's name has not exactly one colon, or a hash is no number.
    """
    first = outputs[0]
    metrics: dict[str, float] = {}
    for key in first.metrics:
        if key.count(":") != 1:
            raise APIResponseValidationError(f"metrics are named name:reduction, got {key!r}")
        if all(key in output.metrics for output in outputs):
            weights = [len(output.loss_fn_outputs) for output in outputs]
            metrics |= _reduce(key, [output.metrics[key] for output in outputs], weights)
    return ForwardBackwardOutput(
        loss_fn_outputs=[entry for output in outputs for entry in output.loss_fn_outputs],
        metrics=metrics,
        loss_fn_output_type=first.loss_fn_output_type,
    )


def _reduce(key: str, values: list[float], weights: list[int]) -> dict[str, float]:
    total = sum(weights)
    mean = (
        sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0
    )
    match key.partition(":")[2]:
        case "mean":
            return {key: mean}
        case "sum":
            return {key: sum(values)}
        case "min":
            return {key: min(values)}
        case "max":
            return {key: max(values)}
        case "slack":
            return {key: max(values) - mean}
        case "hash2":
            if not all(math.isfinite(value) for value in values):
                raise APIResponseValidationError(f"metric {key!r} must be a number, got {values}")
            return {key: sum(int(value) % 2**64 for value in values) % 2**64}
        case "unique":
            return {key: values[0]} | {f"{key}_{n}": value for n, value in enumerate(values[1:], 1)}
        case _:
            return {}
