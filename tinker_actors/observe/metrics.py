"""Figures of what a client does: counters, gauges and histograms, counted from its events.

They are kept here, whoever reads them: `snapshot()`, or Prometheus by `prometheus_collector` (extra `metrics`).
"""

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from tinker_actors.errors import ConfigError, MissingExtraError, ValidationError
from tinker_actors.events import (
    CircuitClosed,
    CircuitForced,
    CircuitHalfOpened,
    CircuitOpened,
    QueueStateChanged,
    RequestEnded,
    RequestRetried,
    SamplingPaused,
    StepDone,
)
from tinker_actors.supervision import ChildRestarting

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

__all__ = ["BUCKETS_MS", "Histogram", "Metrics", "Snapshot", "Source", "prometheus_collector"]

BUCKETS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Upper bounds, milliseconds; what is above the last is counted by none of them."""
MOST_SAMPLES = 1000
"""Of one histogram, which its percentiles are of: the newest."""
REQUESTS = "tinker_actors_requests"
_PAUSED = frozenset({"paused_capacity", "paused_rate_limit"})
_CIRCUIT = {CircuitClosed: 0.0, CircuitHalfOpened: 1.0, CircuitOpened: 2.0}

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A name and its labels, sorted."""


class Source(Protocol):
    """What has events: a `ServiceClient`, or the `events` of an `ActorTree`."""

    def subscribe(self, callback: Callable[[Any], object], *kinds: type[object]) -> Callable[[], None]:
        """Call `callback` with every later event of these kinds; returns the way to end that."""
        ...


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of values that were recorded, in milliseconds."""

    count: int
    total: float
    mean: float
    min: float
    max: float
    p50: float
    """The middle of the newest 1000, or the mean of the two in the middle."""
    p95: float
    """Of n values in order the one at ceil(n * 0.95), counted from 1; likewise below."""
    p99: float
    buckets: Mapping[float, int]
    """By upper bound, how many values were not above it and above the bound before."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All figures at one moment. Labels are part of a name, as Prometheus writes them: `name{operation="asample"}`."""

    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    histograms: Mapping[str, Histogram | None]
    """None for one that was reset and has no value yet."""

    def total(self, counter: str) -> float:
        """The sum of a counter over all its labels."""
        return sum(value for name, value in self.counters.items() if name.partition("{")[0] == counter)


class _Values:
    """Of one histogram."""

    def __init__(self, buckets: Sequence[float], most: int) -> None:
        self._bounds = buckets
        self._buckets = [0] * (len(buckets) + 1)
        self._newest: deque[float] = deque(maxlen=most)
        self._count, self._total = 0, 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, value: float) -> None:
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._newest.append(value)
        self._count += 1
        self._total += value
        self._min, self._max = min(self._min, value), max(self._max, value)

    def histogram(self) -> Histogram | None:
        if not self._count:
            return None
        ordered = sorted(self._newest)
        half = len(ordered) // 2
        return Histogram(
            count=self._count,
            total=self._total,
            mean=self._total / self._count,
            min=self._min,
            max=self._max,
            p50=ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2,
            p95=_percentile(ordered, 95),
            p99=_percentile(ordered, 99),
            buckets=dict(zip(self._bounds, self._buckets, strict=False)),
        )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


class Metrics:
    """Counters, gauges and histograms; thread-safe.

    Args:
        buckets_ms: upper bounds of the buckets of histograms, ascending.
        most_samples: so many of the newest values are what percentiles are of.

    Raises:
        ConfigError: the bounds do not ascend, or no sample is to be kept.
    """

    def __init__(self, *, buckets_ms: Sequence[float] = BUCKETS_MS, most_samples: int = MOST_SAMPLES) -> None:
        if not buckets_ms or list(buckets_ms) != sorted(set(buckets_ms)):
            raise ConfigError(f"buckets_ms must be numbers that ascend, got {list(buckets_ms)}")
        if most_samples < 1:
            raise ConfigError(f"most_samples must be at least 1, got {most_samples}")
        self._bounds = tuple(float(bound) for bound in buckets_ms)
        self._most = most_samples
        self._lock = threading.Lock()
        self._counters: dict[Series, float] = {}
        self._gauges: dict[Series, float] = {}
        self._values: dict[Series, _Values] = {}

    def increment(self, name: str, /, delta: float = 1, **labels: str) -> None:
        """Add `delta` to a counter.

        Raises:
            ValidationError: it is negative, or no number: counters do not fall.
        """
        if not 0 <= delta < math.inf:
            raise ValidationError(f"a counter is incremented by a number of at least 0, got {delta}")
        series = _series(name, labels)
        with self._lock:
            self._counters[series] = self._counters.get(series, 0) + delta

    def set_gauge(self, name: str, /, value: float, **labels: str) -> None:
        """Give a gauge its value."""
        with self._lock:
            self._gauges[_series(name, labels)] = value

    def record_histogram(self, name: str, /, value_ms: float, **labels: str) -> None:
        """Add a value, in milliseconds, to a histogram."""
        series = _series(name, labels)
        with self._lock:
            if series not in self._values:
                self._values[series] = _Values(self._bounds, self._most)
            self._values[series].add(value_ms)

    def snapshot(self) -> Snapshot:
        """All figures at this moment."""
        with self._lock:
            return Snapshot(
                counters={_text(series): value for series, value in self._counters.items()},
                gauges={_text(series): value for series, value in self._gauges.items()},
                histograms={_text(series): values.histogram() for series, values in self._values.items()},
            )

    def reset(self) -> None:
        """Begin anew: counters at 0, histograms without a value, gauges forgotten."""
        with self._lock:
            self._counters = dict.fromkeys(self._counters, 0)
            self._gauges.clear()
            self._values = {series: _Values(self._bounds, self._most) for series in self._values}

    def watch(self, source: Source) -> Callable[[], None]:
        """Count what happens in `source` from now on; returns the way to end that.

        The events come on a thread of their own. After `service.close()` all that were told are counted.
        """
        return source.subscribe(
            _Counting(self).note,
            RequestEnded,
            RequestRetried,
            QueueStateChanged,
            SamplingPaused,
            StepDone,
            ChildRestarting,
            CircuitForced,
            *_CIRCUIT,
        )

    def series(self) -> "Iterator[tuple[str, Mapping[str, str], float | Histogram, str]]":
        """Each series: its name, labels, value, and what it is: counter, gauge or histogram."""
        with self._lock:
            counters, gauges = dict(self._counters), dict(self._gauges)
            histograms = {series: values.histogram() for series, values in self._values.items()}
        for (name, labels), value in counters.items():
            yield name, dict(labels), value, "counter"
        for (name, labels), value in gauges.items():
            yield name, dict(labels), value, "gauge"
        for (name, labels), found in histograms.items():
            if found is not None:
                yield name, dict(labels), found, "histogram"


class _Counting:
    """Turns events into figures, one after another."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def note(self, event: object) -> None:
        metrics = self._metrics
        match event:
            case RequestEnded(operation=operation):
                outcome = "success" if event.is_success else "failure"
                metrics.increment(f"{REQUESTS}_total", operation=operation)
                metrics.increment(f"{REQUESTS}_{outcome}_total", operation=operation)
                took_ms = 1000 * event.took_s
                metrics.record_histogram("tinker_actors_request_duration_ms", took_ms, operation=operation)
            case RequestRetried(operation=operation):
                metrics.increment("tinker_actors_retries_total", operation=operation)
            case QueueStateChanged(operation=operation, state=state) if state in _PAUSED:
                metrics.increment("tinker_actors_queue_pauses_total", operation=operation, state=state)
            case SamplingPaused(pause_s=pause_s):
                metrics.increment("tinker_actors_sampling_pause_seconds_total", pause_s)
            case StepDone(run=run):
                metrics.increment("tinker_actors_steps_total", run=run)
            case ChildRestarting(path=path):
                metrics.increment("tinker_actors_restarts_total", path=path)
            case CircuitOpened() | CircuitHalfOpened() | CircuitClosed():
                state_of = _CIRCUIT[type(event)]
                metrics.set_gauge("tinker_actors_circuit_state", state_of, operation=event.operation)
            case CircuitForced(operation=operation, mode=mode):
                state_of = _CIRCUIT[CircuitOpened if mode == "forced_open" else CircuitClosed]
                metrics.set_gauge("tinker_actors_circuit_state", state_of, operation=operation)


def prometheus_collector(metrics: Metrics) -> "Collector":
    """`metrics` for Prometheus: `prometheus_client.REGISTRY.register(prometheus_collector(metrics))`.

    Histograms are in milliseconds there, too, as their names say.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    try:
        from prometheus_client.metrics_core import Metric
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise MissingExtraError(
            "Prometheus wants prometheus-client, which is not installed;", extra="metrics"
        ) from error

    class OfMetrics(Collector):
        def collect(self) -> "Iterator[Metric]":
            families: dict[str, Metric] = {}
            for name, labels, value, kind in metrics.series():
                base = name.removesuffix("_total") if kind == "counter" else name
                family = families.setdefault(name, Metric(base, _HELP.get(name, name), kind))
                for suffix, more, one in _samples(value, kind):
                    family.add_sample(f"{family.name}{suffix}", {**labels, **more}, one)
            yield from families.values()

    return OfMetrics()


_HELP = {
    f"{REQUESTS}_total": "HTTP requests that ended",
    f"{REQUESTS}_success_total": "HTTP requests that were answered as was hoped",
    f"{REQUESTS}_failure_total": "HTTP requests that were refused or not answered",
    "tinker_actors_request_duration_ms": "Time of an HTTP request, milliseconds",
    "tinker_actors_retries_total": "Requests that were to be sent again",
    "tinker_actors_queue_pauses_total": "Times that the service said that a request waits for its turn",
    "tinker_actors_sampling_pause_seconds_total": "Pauses that the service asked samples to keep",
    "tinker_actors_steps_total": "Optimizer steps with a result",
    "tinker_actors_restarts_total": "Restarts of actors",
    "tinker_actors_circuit_state": "Circuit breaker: 0 closed, 1 half-open, 2 open; by hand, too",
}


def _samples(value: float | Histogram, kind: str) -> "Iterator[tuple[str, dict[str, str], float]]":
    """What Prometheus has of one series: the end of the name, a label more, the value."""
    if not isinstance(value, Histogram):
        yield "_total" if kind == "counter" else "", {}, value
        return
    inside = 0
    for bound, count in value.buckets.items():
        inside += count  # each bucket has there what is in those below, too
        yield "_bucket", {"le": str(bound)}, inside
    yield "_bucket", {"le": "+Inf"}, value.count
    yield "_count", {}, value.count
    yield "_sum", {}, value.total


def _series(name: str, labels: Mapping[str, str]) -> Series:
    return name, tuple(sorted(labels.items()))


def _text(series: Series) -> str:
    name, labels = series
    if not labels:
        return name
    told = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{told}}}"
