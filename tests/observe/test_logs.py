"""Events in the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from harness import WAIT_S, Server, client, step

from tinker_actors import events as runtime_events
from tinker_actors.events import ModelCreated, RuntimeEvent, ServiceNotified
from tinker_actors.observe.logs import _WARNINGS, event_name, log_events
from tinker_actors.supervision import ChildRestarting, ChildStarted, Error, Event
from tinker_actors.supervision import events as kit_events
from tinker_actors.supervision.testing import crash, expect


class Stream:
    """Hands events to its listeners in the thread that publishes."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[object], object]] = []

    def subscribe(self, callback: Callable[[object], object]) -> Callable[[], None]:
        self.listeners.append(callback)
        return self.listeners.clear

    def publish(self, event: object) -> None:
        for listener in self.listeners:
            listener(event)


def restarting(
    epoch: int, *, at: float, path: str = "root/a", error: Exception | None = None
) -> ChildRestarting:
    return ChildRestarting(
        at=at,
        path=path,
        epoch=epoch,
        delay_s=0.0,
        restarts=epoch,
        in_window=epoch,
        reason=Error(error or ValueError("x")),
    )


def test_what_happens_is_logged_by_name_and_fields(server: Server, run_dir: Path) -> None:
    with structlog.testing.capture_logs() as logs, client(server, run_dir) as service:
        log_events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        with expect(service._runtime.tree, ChildStarted, path="service/journal", timeout_s=WAIT_S):
            crash(service.address("service/journal"))
    entries = {entry["event"]: entry for entry in logs}
    assert entries["runtime.model_created"]["run"] == "1"
    assert entries["runtime.step_done"]["step"] == 1
    restarting = entries["supervision.child_restarting"]
    assert (restarting["path"], restarting["log_level"]) == ("service/journal", "warning")


def test_nothing_secret_is_logged(server: Server) -> None:
    with structlog.testing.capture_logs() as logs, client(server, None) as service:
        log_events(service)
        step(service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S), 0)
    assert "tml-test" not in repr(logs)


def test_every_event_that_warns_is_one_that_there_is() -> None:
    kinds = [*vars(runtime_events).values(), *vars(kit_events).values()]
    there = {
        event_name(kind)
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, RuntimeEvent | Event)
    }
    assert set(_WARNINGS) <= there


def test_events_of_the_runtime_that_do_not_warn_are_those_of_its_daily_work() -> None:
    names = {event_name(getattr(runtime_events, name)) for name in runtime_events.__all__}
    assert names - set(_WARNINGS) == {
        f"runtime.{name}"
        for name in (
            "checkpoint_saved",
            "circuit_closed",
            "circuit_forced",
            "circuit_half_opened",
            "custom_loss_computed",
            "lineage_started",
            "local_server_started",
            "model_attached",
            "model_created",
            "request_began",
            "request_ended",
            "runtime_event",
            "service_notified",
            "session_health_changed",
            "session_opened",
            "session_reattached",
            "step_done",
        )
    }


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_words_of_the_service_are_logged_at_its_level(level: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        stream = Stream()
        log_events(stream)
        stream.publish(ServiceNotified(session_id="s", level=level, message="closed on Friday"))
    assert logs == [
        {
            "event": "runtime.service_notified",
            "log_level": level,
            "level": level,
            "session_id": "s",
            "message": "closed on Friday",
        }
    ]


def test_names_tell_the_area_and_what_happened() -> None:
    assert event_name(ModelCreated) == "runtime.model_created"
    assert event_name(ChildRestarting) == "supervision.child_restarting"


def test_every_restart_is_logged_with_whom_and_why_and_how_often() -> None:
    """SUP-31."""
    with structlog.testing.capture_logs() as logs:
        writer = Stream()
        log_events(writer)
        writer.publish(restarting(3, at=0.0))
    assert logs == [
        {
            "event": "supervision.child_restarting",
            "log_level": "warning",
            "path": "root/a",
            "epoch": 3,
            "delay_s": 0.0,
            "restarts": 3,
            "in_window": 3,
            "reason": "Error(error=ValueError('x'))",
        }
    ]


def test_restarts_that_repeat_are_grouped_after_ten_in_a_second() -> None:
    """SUP-31."""
    with structlog.testing.capture_logs() as logs:
        stream = Stream()
        log_events(stream)
        for epoch in range(25):
            stream.publish(restarting(epoch, at=0.01 * epoch))
        stream.publish(restarting(25, at=1.5))
    names = [(entry["event"], entry.get("times")) for entry in logs]
    assert names == [
        *[("supervision.child_restarting", None)] * 10,
        ("supervision.repeated", 15),
        ("supervision.child_restarting", None),
    ]


def test_actors_do_not_crowd_each_other_out_of_the_log() -> None:
    with structlog.testing.capture_logs() as logs:
        stream = Stream()
        log_events(stream)
        for epoch in range(11):
            stream.publish(restarting(epoch, at=0.0))
        stream.publish(restarting(1, at=0.0, path="root/b"))
    assert [entry["path"] for entry in logs] == ["root/a"] * 10 + ["root/b"]


def test_what_was_kept_back_is_counted_when_logging_ends() -> None:
    with structlog.testing.capture_logs() as logs:
        stream = Stream()
        end = log_events(stream)
        for epoch in range(12):
            stream.publish(restarting(epoch, at=0.0))
        end()
    assert logs[-1]["event"] == "supervision.repeated"
    assert (logs[-1]["of"], logs[-1]["times"]) == ("supervision.child_restarting", 2)


def test_a_field_of_any_length_is_cut() -> None:
    with structlog.testing.capture_logs() as logs:
        stream = Stream()
        log_events(stream)
        stream.publish(restarting(1, at=0.0, error=ValueError("x" * 10_000)))
    assert len(logs[0]["reason"]) < 600


def waiting(client: str, state: str = "paused_capacity") -> runtime_events.QueueStateChanged:
    return runtime_events.QueueStateChanged(
        operation="asample", client=client, request_id="7", state=state, reason="short of machines"
    )


def test_wait_in_the_services_queue_is_logged_once_a_minute_for_each_client() -> None:
    stream, now = Stream(), [0.0]
    with structlog.testing.capture_logs() as logs:
        log_events(stream, now=lambda: now[0])
        for at, event in (
            (0.0, waiting("a")),
            (1.0, waiting("a", "paused_rate_limit")),
            (2.0, waiting("b")),
            (3.0, waiting("a", "active")),
            (59.0, waiting("a")),
            (60.0, waiting("a")),
        ):
            now[0] = at
            stream.publish(event)
    assert [entry["client"] for entry in logs] == ["a", "b", "a"]
    assert [(entry["reason"], entry["log_level"]) for entry in logs[:1]] == [("short of machines", "warning")]
