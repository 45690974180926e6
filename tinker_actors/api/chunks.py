"""One forward_backward as several requests: how data are split, and how results are put together again."""

from collections.abc import Iterator, Sequence

from tinker_actors.api.metrics import CURRENT, MetricRules, reduce_metrics
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


def combine(outputs: Sequence[ForwardBackwardOutput], rules: MetricRules = CURRENT) -> ForwardBackwardOutput:
    """The results of all chunks as one; their metrics reduced, see `reduce_metrics`."""
    return ForwardBackwardOutput(
        loss_fn_outputs=[entry for output in outputs for entry in output.loss_fn_outputs],
        metrics=reduce_metrics(
            [output.metrics for output in outputs],
            [len(output.loss_fn_outputs) for output in outputs],
            rules,
        ),
        loss_fn_output_type=outputs[0].loss_fn_output_type,
    )
