"""Events in the log."""

from pathlib import Path

import structlog
from harness import WAIT_S, Server, client, step

from tinker_actors import events as runtime_events
from tinker_actors.events import ModelCreated, RuntimeEvent
from tinker_actors.observe.logs import _WARNINGS, event_name, log_events
from tinker_actors.supervision import ChildRestarting, ChildStarted, Event
from tinker_actors.supervision import events as kit_events
from tinker_actors.supervision.testing import crash, expect


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


def test_names_tell_the_area_and_what_happened() -> None:
    assert event_name(ModelCreated) == "runtime.model_created"
    assert event_name(ChildRestarting) == "supervision.child_restarting"
