"""Events as structured logs: `area.past_tense` and fields, through structlog."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from tinker_actors.clients.service import ServiceClient
from tinker_actors.supervision import Event

__all__ = ["event_name", "log_events"]

_WARNINGS = (
    "supervision.child_abandoned",
    "supervision.child_restarting",
    "supervision.child_start_failed",
    "supervision.dead_letter",
    "supervision.error_contained",
    "supervision.escalated",
    "runtime.gradient_dropped",
    "runtime.heartbeat_missed",
    "runtime.journal_parked",
    "runtime.local_server_ended",
    "runtime.model_restored",
    "runtime.request_retried",
    "runtime.run_halted",
    "runtime.step_voided",
)
_LEFT_OUT = ("seq", "at")


def event_name(kind: type) -> str:
    """The log name of a kind of event, such as `supervision.child_restarting` or `runtime.step_done`."""
    area = "supervision" if issubclass(kind, Event) else "runtime"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    return f"{area}.{words}"


def log_events(service: ServiceClient, log: Any = None) -> Callable[[], None]:
    """Log what happens in `service` from now on; returns the way to end that.

    Args:
        service: whose events.
        log: a structlog logger; by default one named `tinker_actors`.
    """
    logger = log or structlog.get_logger("tinker_actors")

    def write(event: object) -> None:
        name = event_name(type(event))
        level = "warning" if name in _WARNINGS else "info"
        getattr(logger, level)(name, **_fields(event))

    return service.subscribe(write)


def _fields(event: object) -> dict[str, Any]:
    if isinstance(event, msgspec.Struct):
        values = msgspec.structs.asdict(event)
    elif dataclasses.is_dataclass(event) and not isinstance(event, type):
        names = [field.name for field in dataclasses.fields(event)]
        values = {name: getattr(event, name) for name in names if name not in _LEFT_OUT}
    else:
        values = {"value": repr(event)[:200]}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | dict | None) else repr(value)
