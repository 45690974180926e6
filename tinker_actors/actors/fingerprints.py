"""What is kept of a forward_backward's result, to recognise it when it is repeated on another model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tinker_actors.types import ForwardBackwardOutput
from tinker_actors.types.arrays import np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

__all__ = ["Fingerprint", "difference_nats", "fingerprint_of"]

KEPT = 16
"""Logprobs kept of each datum."""
_DIGITS = 6
LOSS = "loss:sum"

_Value: TypeAlias = float | None
"""None stands for what JSON cannot write, such as minus infinity."""


class _Datum(msgspec.Struct, frozen=True, array_like=True):
    """The logprobs of one datum."""

    count: int
    mean: _Value
    first: list[_Value]


class Fingerprint(msgspec.Struct, frozen=True):
    """A few figures that are alike for results that are alike."""

    metrics: Mapping[str, _Value]
    data: Sequence[_Datum | None]
    """One per datum; None where it has no logprobs."""


def fingerprint_of(output: ForwardBackwardOutput) -> Fingerprint:
    """The figures of one result: metrics; count, mean and the first logprobs of each datum, in nats."""
    return Fingerprint(
        {name: _written(value) for name, value in output.metrics.items()},
        list(_data([_logprobs(entry) for entry in output.loss_fn_outputs])),
    )


def _logprobs(entry: Mapping[str, object]) -> "Array | None":
    values: Array | None = getattr(entry.get("logprobs"), "values", None)
    return None if values is None else values.ravel()


def _data(logprobs: "Sequence[Array | None]") -> Iterator[_Datum | None]:
    heads = [values[:KEPT] for values in logprobs if values is not None]
    rounded: list[_Value] = np.concatenate(heads, dtype=np.float64).round(_DIGITS).tolist() if heads else []
    kept = iter(rounded)  # rounded together: a call of numpy's takes longer than what it does here
    for values in logprobs:
        if values is None:
            yield None
            continue
        first = list(islice(kept, min(KEPT, values.size)))
        mean = _written(float(np.add.reduce(values, dtype=np.float64)) / values.size) if values.size else 0.0
        if mean is None:  # a sum that is finite has none but finite terms
            first = [None if one is None else _written(one) for one in first]
        yield _Datum(values.size, mean, first)


def _written(value: float) -> _Value:
    return round(value, _DIGITS) if math.isfinite(value) else None


def difference_nats(one: Fingerprint, other: Fingerprint) -> float:
    """How far two results are apart.

    Returns:
        The mean of |Δlogprob| over the kept logprobs or, if that is larger, of |Δmean| over all tokens; infinity for
        results of another shape. Without logprobs it is the change of the summed loss relative to the loss, or to 1 nat
        where it is smaller.
    """
    if len(one.data) != len(other.data):
        return math.inf
    pairs = list(zip(one.data, other.data, strict=True))
    if any(_shape(mine) != _shape(theirs) for mine, theirs in pairs):
        return math.inf
    known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    if not known:
        before = one.metrics.get(LOSS)
        return _gap(before, other.metrics.get(LOSS)) / max(1.0, abs(before or 0.0))
    kept = [gap for mine, theirs in known for gap in _gaps(mine.first, theirs.first)]
    tokens = sum(mine.count for mine, _ in known)
    means = sum(_gap(mine.mean, theirs.mean) * mine.count for mine, theirs in known)
    return max(sum(kept) / max(1, len(kept)), means / max(1, tokens))


def _shape(datum: _Datum | None) -> int | None:
    return None if datum is None else datum.count


def _gaps(mine: Sequence[_Value], theirs: Sequence[_Value]) -> Iterator[float]:
    return (_gap(one, other) for one, other in zip(mine, theirs, strict=True))


def _gap(one: _Value, other: _Value) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)
