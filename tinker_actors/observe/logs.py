"""Events as structured logs: `area.past_tense` and fields, through structlog."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from tinker_actors.events import QueueStateChanged, ServiceNotified
from tinker_actors.observe.repeats import Repeats
from tinker_actors.supervision import Event

__all__ = ["Source", "event_name", "log_events"]

_WARNINGS = (
    "supervision.child_abandoned",
    "supervision.child_restarting",
    "supervision.child_start_failed",
    "supervision.dead_letter",
    "supervision.error_contained",
    "supervision.escalated",
    "supervision.poisoned",
    "supervision.stall_warning",
    "runtime.batch_poisoned",
    "runtime.checkpoint_passed_over",
    "runtime.circuit_opened",
    "runtime.custom_loss_dropped",
    "runtime.custom_loss_failed",
    "runtime.gradient_dropped",
    "runtime.heartbeat_missed",
    "runtime.journal_parked",
    "runtime.local_server_ended",
    "runtime.model_restored",
    "runtime.operation_deprecated",
    "runtime.optimizer_unverified",
    "runtime.queue_state_changed",
    "runtime.replay_diverged",
    "runtime.request_retried",
    "runtime.result_lost",
    "runtime.run_halted",
    "runtime.sampling_paused",
    "runtime.session_left_open",
    "runtime.session_unauthorized",
    "runtime.step_voided",
)
_LEFT_OUT = ("seq", "at")
_MAX_CHARACTERS = 500
_QUEUE_S = 60.0
"""How long it is enough to have said that a client waits; the official SDK's time."""


class Source(Protocol):
    """What has events: a `ServiceClient`, or the `events` of an `ActorTree`."""

    def subscribe(self, callback: Callable[[object], object]) -> Callable[[], None]:
        """Call `callback` with every later event; returns the way to end that."""
        ...


def event_name(kind: type) -> str:
    """The log name of a kind of event, such as `supervision.child_restarting` or `runtime.step_done`."""
    area = "supervision" if issubclass(kind, Event) else "runtime"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    return f"{area}.{words}"


def log_events(
    source: Source, log: Any = None, *, now: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """Log what happens in `source` from now on; returns the way to end that.

    Events of the tree that repeat, of one kind and about one actor, are written ten times a second; the others are
    counted, and written as one entry `supervision.repeated` with the next event after that second. That a client
    waits in the service's queue is written once a minute.

    Args:
        source: whose events.
        log: a structlog logger; by default one named `tinker_actors`.
        now: the time in seconds.
    """
    writer = _Writer(log or structlog.get_logger("tinker_actors"), now)
    unsubscribe = source.subscribe(writer.write)

    def end() -> None:
        unsubscribe()
        writer.write_repeats(None)

    return end


class _Writer:
    """Writes the events of one source; called by one thread at a time."""

    def __init__(self, logger: Any, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._repeats = Repeats()
        self._queues = Repeats(limit=1, within_s=_QUEUE_S)

    def write(self, event: object) -> None:
        name = event_name(type(event))
        if isinstance(event, Event):
            self.write_repeats(event.at)
            if not self._repeats.admits((name, event.path), event.at):
                return
        if isinstance(event, QueueStateChanged) and not self._is_news(event):
            return
        getattr(self._logger, _level(name, event))(name, **_fields(event))

    def _is_news(self, event: QueueStateChanged) -> bool:
        """Whether nobody was told within the last minute that this client waits."""
        if event.state == "active":
            return False
        now = self._now()
        for _ in self._queues.over(now):
            pass  # how often it was not told is no matter
        return self._queues.admits((event_name(type(event)), event.client), now)

    def write_repeats(self, at: float | None) -> None:
        """Say how many entries were kept back in the seconds that are over at `at`; in all, when None."""
        for key, count in self._repeats.over(at):
            name, path = key
            self._logger.warning("supervision.repeated", of=name, path=path, times=count)


def _level(name: str, event: object) -> str:
    if isinstance(event, ServiceNotified):
        return event.level
    return "warning" if name in _WARNINGS else "info"


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
    if isinstance(value, bool | int | float | dict | None):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}… ({len(text)} characters)"
