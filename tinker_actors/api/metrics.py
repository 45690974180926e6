"""How metrics of several requests become those of one operation: each by the reduction that its name ends in.

Sources: the official SDK 0.38 for services of today, tinkex 0.4 (which follows SDK 0.15) for those before. Both fail
where a name has no reduction or nothing was weighed; ours never lets a step fail for its metrics.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

__all__ = ["CURRENT", "LEGACY", "MetricRules", "reduce_metrics"]


class MetricRules(msgspec.Struct, frozen=True, kw_only=True):
    """Where generations of the API differ."""

    drops_incomplete: bool
    """Whether a metric goes that a request lacks; else those are reduced that are there."""
    drops_unknown: bool
    """Whether a metric goes whose reduction is not known; else it is averaged."""
    second: int
    """Number of the second value of a `unique` metric."""


CURRENT = MetricRules(drops_incomplete=True, drops_unknown=True, second=1)
LEGACY = MetricRules(drops_incomplete=False, drops_unknown=False, second=2)


def reduce_metrics(
    metrics: Sequence[Mapping[str, float]], weights: Sequence[int], rules: MetricRules = CURRENT
) -> dict[str, float]:
    """The metrics of the first request, over all of them.

    Names read `name:reduction`, with `mean` (weighted), `sum`, `min`, `max`, `slack` (max - mean), `unique` (the
    first, the others numbered), `hash2` (sum modulo 2**64) or `hash_unordered` (hash of the sorted values); a name
    without a reduction is averaged.

    Args:
        metrics: of each request, in order; of none there are none.
        weights: how much each request counts: its data.
        rules: of the service's generation.
    """
    reduced: dict[str, float] = {}
    for name in metrics[0] if metrics else ():
        there = [(one[name], weight) for one, weight in zip(metrics, weights, strict=True) if name in one]
        if len(there) == len(metrics) or not rules.drops_incomplete:
            reduced |= _reduce(name, [value for value, _ in there], [weight for _, weight in there], rules)
    return reduced


def _reduce(name: str, values: list[float], weights: list[int], rules: MetricRules) -> dict[str, float]:
    match name.rpartition(":"):
        case _, _, "sum":
            return {name: sum(values)}
        case _, _, "min":
            return {name: min(values)}
        case _, _, "max":
            return {name: max(values)}
        case _, _, "slack":
            return {name: max(values) - _mean(values, weights)}
        case _, _, "unique":
            others = enumerate(values[1:], rules.second)
            return {name: values[0]} | {f"{name}_{number}": value for number, value in others}
        case _, _, "hash2":
            if not all(math.isfinite(value) for value in values):
                return {}
            return {name: sum(int(value) % 2**64 for value in values) % 2**64}
        case _, _, "hash_unordered":
            return {name: hash(tuple(sorted(values)))}
        case _, separator, reduction if separator and reduction != "mean" and rules.drops_unknown:
            return {}
    return {name: _mean(values, weights)}


def _mean(values: list[float], weights: list[int]) -> float:
    total = sum(weights)
    return (
        sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0
    )
