"""Figures of what a client does."""

import statistics
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server, client, step
from hypothesis import given
from hypothesis import strategies as st

import tinker_actors as ta
from tinker_actors import events
from tinker_actors.errors import ConfigError, MissingExtraError, ValidationError
from tinker_actors.events import RequestBegan, RequestEnded
from tinker_actors.observe.metrics import BUCKETS_MS, Histogram, Metrics, prometheus_collector
from tinker_actors.supervision import ChildRestarting, ChildStarted, Error
from tinker_actors.supervision.testing import crash, expect

NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)


class Stream:
    """Hands events to its listener in the thread that publishes."""

    def subscribe(self, callback: Callable[[Any], object], *kinds: type[object]) -> Callable[[], None]:
        self._kinds = kinds
        self._callback: Callable[[Any], object] | None = callback
        return self._leave

    def _leave(self) -> None:
        self._callback = None

    def publish(self, event: object) -> None:
        if self._callback is not None and isinstance(event, self._kinds):
            self._callback(event)


def ended(operation: str = "asample", *, is_success: bool = True, took_s: float = 0.003) -> RequestEnded:
    status, error = (200, "") if is_success else (None, "APIConnectionError")
    return RequestEnded(
        operation=operation,
        method="POST",
        path=operation,
        took_s=took_s,
        status=status,
        error=error,
        is_success=is_success,
    )


def histogram_of(*values: float, most: int = 1000) -> Histogram:
    metrics = Metrics(most_samples=most)
    for value in values:
        metrics.record_histogram("h", value)
    found = metrics.snapshot().histograms["h"]
    assert found is not None
    return found


# By hand ---------------------------------------------------------------------------------------------


def test_counters_add_up_by_their_labels() -> None:
    metrics = Metrics()
    metrics.increment("c")
    metrics.increment("c", 2)
    metrics.increment("c", 0.5, run="1", kind="x")
    found = metrics.snapshot()
    assert found.counters == {"c": 3, 'c{kind="x",run="1"}': 0.5}
    assert (found.total("c"), found.total("other")) == (3.5, 0)


@pytest.mark.parametrize("delta", [-1, float("nan"), float("inf")])
def test_a_counter_does_not_fall(delta: float) -> None:
    with pytest.raises(ValidationError, match="at least 0"):
        Metrics().increment("c", delta)


def test_a_gauge_has_its_newest_value() -> None:
    metrics = Metrics()
    metrics.set_gauge("g", 3)
    metrics.set_gauge("g", 2)
    assert metrics.snapshot().gauges == {"g": 2}


def test_values_are_counted_into_buckets_and_none_above_the_last() -> None:
    found = histogram_of(0.5, 1.0, 1.5, 5000.0, 5001.0)
    assert {bound: count for bound, count in found.buckets.items() if count} == {1.0: 2, 2.0: 1, 5000.0: 1}
    assert tuple(found.buckets) == BUCKETS_MS
    assert (found.count, found.min, found.max) == (5, 0.5, 5001.0)


@pytest.mark.parametrize(
    ("values", "p50", "p95", "p99"),
    [
        ([7.0], 7.0, 7.0, 7.0),
        ([1.0, 2.0], 1.5, 2.0, 2.0),
        ([float(n) for n in range(1, 101)], 50.5, 95.0, 99.0),
        ([float(n) for n in range(1, 22)], 11.0, 20.0, 21.0),
    ],
)
def test_percentiles_are_values_that_were_recorded(
    values: list[float], p50: float, p95: float, p99: float
) -> None:
    found = histogram_of(*reversed(values))
    assert (found.p50, found.p95, found.p99) == (p50, p95, p99)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_middle_and_the_mean_are_those_of_statistics(values: list[float]) -> None:
    found = histogram_of(*values)
    assert found.p50 == statistics.median(values)
    assert found.mean == pytest.approx(statistics.fmean(values))


def test_percentiles_are_of_the_newest_values_and_the_rest_of_all() -> None:
    found = histogram_of(1000.0, 1.0, 2.0, 3.0, most=3)
    assert (found.p50, found.p99) == (2.0, 3.0)
    assert (found.count, found.max, found.mean) == (4, 1000.0, 251.5)


def test_a_reset_begins_anew() -> None:
    metrics = Metrics()
    metrics.increment("c")
    metrics.set_gauge("g", 1)
    metrics.record_histogram("h", 1)
    metrics.reset()
    found = metrics.snapshot()
    assert (found.counters, found.gauges, found.histograms) == ({"c": 0}, {}, {"h": None})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"buckets_ms": []}, "must be numbers that ascend"),
        ({"buckets_ms": [2.0, 1.0]}, "must be numbers that ascend"),
        ({"buckets_ms": [1.0, 1.0]}, "must be numbers that ascend"),
        ({"most_samples": 0}, "at least 1"),
    ],
)
def test_what_makes_no_histogram_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Metrics(**options)


def test_no_increment_of_many_threads_is_lost() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(1000):
            metrics.increment("c")
            metrics.record_histogram("h", 1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = metrics.snapshot()
    assert found.counters == {"c": 8000}
    assert found.histograms["h"] is not None
    assert found.histograms["h"].count == 8000


# From events -----------------------------------------------------------------------------------------


def test_requests_are_counted_by_operation_and_outcome() -> None:
    metrics, stream = Metrics(), Stream()
    metrics.watch(stream)
    for event in (ended(), ended(is_success=False), ended("optim_step", took_s=0.2)):
        stream.publish(event)
    found = metrics.snapshot()
    assert found.counters == {
        'tinker_actors_requests_total{operation="asample"}': 2,
        'tinker_actors_requests_success_total{operation="asample"}': 1,
        'tinker_actors_requests_failure_total{operation="asample"}': 1,
        'tinker_actors_requests_total{operation="optim_step"}': 1,
        'tinker_actors_requests_success_total{operation="optim_step"}': 1,
    }
    slow = found.histograms['tinker_actors_request_duration_ms{operation="optim_step"}']
    assert slow is not None
    assert slow.max == pytest.approx(200.0)


def test_what_else_happens_is_counted() -> None:
    metrics, stream = Metrics(), Stream()
    metrics.watch(stream)
    of_optim = {"operation": "optim_step"}
    for event in (
        events.RequestRetried(**of_optim, reason="no", delay_s=1.0),
        events.CircuitOpened(**of_optim, open_s=5.0, trips=1),
        events.CircuitHalfOpened(operation="asample"),
        events.CircuitHalfOpened(operation="save_weights"),
        events.CircuitClosed(operation="get_info", refused=3),
        events.CircuitForced(operation="asample", mode="forced_open"),
        events.CircuitForced(operation="forward", mode="disabled"),
        events.SamplingPaused(pause_s=1.5, reason="429"),
        events.SamplingPaused(pause_s=1.0, reason="429"),
        events.StepDone(run="1", step=1, metrics={}),
        events.QueueStateChanged(
            **of_optim, client="c", request_id="7", state="paused_capacity", reason="short"
        ),
        events.QueueStateChanged(**of_optim, client="c", request_id="7", state="active", reason=""),
        ChildRestarting(
            path="service/journal", epoch=1, delay_s=0.0, restarts=1, in_window=1, reason=Error(ValueError())
        ),
    ):
        stream.publish(event)
    found = metrics.snapshot()
    assert found.counters == {
        'tinker_actors_retries_total{operation="optim_step"}': 1,
        "tinker_actors_sampling_pause_seconds_total": 2.5,
        'tinker_actors_steps_total{run="1"}': 1,
        'tinker_actors_queue_pauses_total{operation="optim_step",state="paused_capacity"}': 1,
        'tinker_actors_restarts_total{path="service/journal"}': 1,
    }
    assert found.gauges == {
        'tinker_actors_circuit_state{operation="optim_step"}': 2.0,
        'tinker_actors_circuit_state{operation="save_weights"}': 1.0,
        'tinker_actors_circuit_state{operation="asample"}': 2.0,
        'tinker_actors_circuit_state{operation="get_info"}': 0.0,
        'tinker_actors_circuit_state{operation="forward"}': 0.0,
    }


def test_what_is_not_watched_any_more_is_not_counted_and_by_hand_it_still_is() -> None:
    metrics, stream = Metrics(), Stream()
    stop = metrics.watch(stream)
    stop()
    stream.publish(ended())
    metrics.increment("c")
    assert metrics.snapshot().counters == {"c": 1}


def test_all_that_happened_in_a_client_is_counted_once_it_is_closed(server: Server) -> None:
    metrics = Metrics()
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        metrics.watch(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        server.control.arm({"effect": "status", "status": 503, "operation": "optim_step"})
        step(training, 0)
        with expect(service._runtime.tree, ChildStarted, path="service/journal", timeout_s=WAIT_S):
            crash(service.address("service/journal"))
    found = metrics.snapshot()
    of_optim = '{operation="optim_step"}'
    assert found.counters[f"tinker_actors_requests_total{of_optim}"] == 2
    assert found.counters[f"tinker_actors_requests_success_total{of_optim}"] == 1
    assert found.counters[f"tinker_actors_requests_failure_total{of_optim}"] == 1
    assert found.counters[f"tinker_actors_retries_total{of_optim}"] == 1
    assert found.counters['tinker_actors_steps_total{run="1"}'] == 1
    assert found.counters['tinker_actors_restarts_total{path="service/journal"}'] == 1
    assert found.total("tinker_actors_requests_total") > 8


# Prometheus ------------------------------------------------------------------------------------------


def test_prometheus_reads_them() -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    metrics, stream, registry = Metrics(buckets_ms=[2.0, 4.0]), Stream(), CollectorRegistry()
    metrics.watch(stream)
    registry.register(prometheus_collector(metrics))
    for took_s in (0.001, 0.003, 9.0):
        stream.publish(ended(took_s=took_s))
    stream.publish(ended("optim_step", is_success=False))
    metrics.set_gauge("depth", 3, actor='a"b')
    metrics.increment("mine")
    metrics.increment("mine", 4, name="x")
    families = {one.name: one for one in text_string_to_metric_families(generate_latest(registry).decode())}
    requests = {one.labels["operation"]: one.value for one in families["tinker_actors_requests"].samples}
    assert requests == {"asample": 3, "optim_step": 1}
    assert [(one.labels, one.value) for one in families["depth"].samples] == [({"actor": 'a"b'}, 3)]
    assert [(one.labels, one.value) for one in families["mine"].samples] == [({}, 1), ({"name": "x"}, 4)]
    durations = {
        (one.name.rpartition("_")[2], one.labels.get("le")): one.value
        for one in families["tinker_actors_request_duration_ms"].samples
        if one.labels["operation"] == "asample"
    }
    assert durations == {
        ("bucket", "2.0"): 1,
        ("bucket", "4.0"): 2,
        ("bucket", "+Inf"): 3,
        ("count", None): 3,
        ("sum", None): pytest.approx(9004.0),
    }


def test_without_its_client_prometheus_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.metrics_core", None)
    with pytest.raises(MissingExtraError, match=r"tinker-actors\[metrics\]"):
        prometheus_collector(Metrics())


# The events of requests ------------------------------------------------------------------------------


def test_requests_are_told_to_those_who_ask_for_them_alone(server: Server) -> None:
    everything: list[object] = []
    requests: list[RequestBegan | RequestEnded] = []
    with client(server, None, default_query={"q": "hidden"}) as service:
        service.subscribe(everything.append)
        stop = service.subscribe(requests.append, RequestBegan, RequestEnded)
        service.get_server_capabilities().result(WAIT_S)
        server.control.arm({"effect": "drop", "operation": "get_server_capabilities"})
        service.get_server_capabilities().result(WAIT_S)
        service.create_rest_client().list_sessions(limit=1).result(WAIT_S)
    stop()
    assert not any(isinstance(event, RequestBegan | RequestEnded) for event in everything)
    known = [one for one in requests if not one.path.startswith("client/")]
    assert [(type(one).__name__, one.operation, one.method, one.path) for one in known[:2]] == [
        ("RequestBegan", "get_server_capabilities", "GET", "get_server_capabilities"),
        ("RequestEnded", "get_server_capabilities", "GET", "get_server_capabilities"),
    ]
    outcomes = [(one.status, one.error, one.is_success) for one in known if isinstance(one, RequestEnded)]
    assert outcomes[:4] == [
        (200, "", True),
        (None, "APIConnectionError", False),
        (200, "", True),
        (200, "", True),
    ]
    assert all(one.took_s >= 0 for one in requests if isinstance(one, RequestEnded))
    assert (known[6].operation, known[6].path) == ("list_sessions", "sessions")
    assert KEY not in repr(requests)
    assert "hidden" not in repr(requests)


def test_no_event_of_a_request_is_made_while_nobody_asks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinker_actors.actors import tracing

    def forbidden(**_: object) -> None:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(tracing, "RequestEnded", forbidden)
    monkeypatch.setattr(tracing, "RequestBegan", forbidden)
    with client(server, None) as service:
        service.subscribe(lambda _: None)
        service.get_server_capabilities().result(WAIT_S)


@pytest.mark.parametrize("kind", ["RequestEnded", 7, None])
def test_kinds_of_events_are_classes(server: Server, kind: Any) -> None:
    with client(server, None) as service, pytest.raises(ValidationError, match="are classes"):
        service.subscribe(print, kind)
