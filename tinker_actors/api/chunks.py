"""One forward_backward as several requests: how data are split, and how results are put together again."""

from collections.abc import Iterator, Sequence

from tinker_actors.errors import APIResponseValidationError
from tinker_actors.types import Datum, ForwardBackwardOutput

__all__ = ["MAX_CHUNK_BYTES", "MAX_CHUNK_DATA", "combine", "split"]

MAX_CHUNK_DATA = 1024
"""Data per request, the official SDK's default."""
MAX_CHUNK_BYTES = 5_000_000
"""Estimated bytes per request, the official SDK's default."""
_TOKEN_BYTES = 4


def estimate_bytes(datum: Datum) -> int:
    """About how many bytes `datum` takes on the wire; framing is not counted."""
    tensors = sum(tensor.to_numpy().nbytes for tensor in datum.loss_fn_inputs.values())
    return _TOKEN_BYTES * datum.model_input.length + tensors


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
        APIResponseValidationError: a metric's name has not exactly one colon.
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
            return {key: sum(int(value) % 2**64 for value in values) % 2**64}
        case "unique":
            return {key: values[0]} | {f"{key}_{n}": value for n, value in enumerate(values[1:], 1)}
        case _:
            return {}
