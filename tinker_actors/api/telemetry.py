"""What a client tells the service of itself. The service needs none of it."""

import platform
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from tinker_actors.api.sessions import SDK_VERSION
from tinker_actors.wire.calls import Call, Pool, json_body
from tinker_actors.wire.retry import RetryRule

__all__ = [
    "MOST_EVENTS",
    "SEVERITIES",
    "Severity",
    "exception_event",
    "generic_event",
    "send_telemetry",
    "session_end_event",
    "session_start_event",
]

Severity: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
MOST_EVENTS = 100
"""In one batch."""
TIMEOUT_S = 5.0
_MOST_CHARACTERS = 20_000
"""Of a message or a traceback."""
_ONCE_MORE = RetryRule(
    statuses=frozenset({408, 429, 500}), connection=True, base_s=1.0, max_elapsed_s=TIMEOUT_S
)


def send_telemetry(session_id: str, process_uuid: str, events: Sequence[Mapping[str, Any]]) -> Call[None]:
    """A batch of events, the oldest first.

    Args:
        session_id: whose they are; a client without a session is `sessionless-<uuid>`.
        process_uuid: one for the life of the process.
        events: each with `event`, `event_id`, `event_session_index`, `severity` and `timestamp`, and what its kind
            has beside; at most 100.
    """
    body = {
        "events": list(events),
        "platform": platform.system(),
        "sdk_version": SDK_VERSION,
        "session_id": session_id,
        "process_uuid": process_uuid,
    }
    return Call(
        operation="telemetry",
        path="telemetry",
        body=json_body(body),
        pool=Pool.SESSION,
        timeout_s=TIMEOUT_S,
        retry=_ONCE_MORE,
        read=lambda _: None,
    )


def session_start_event() -> dict[str, Any]:
    """A session begins."""
    return {"event": "SESSION_START", "severity": "INFO"}


def session_end_event(duration: timedelta) -> dict[str, Any]:
    """A session is over, and how long it took."""
    return {"event": "SESSION_END", "severity": "INFO", "duration": str(duration)}


def generic_event(name: str, data: Mapping[str, Any], severity: Severity) -> dict[str, Any]:
    """Something of that name happened; what JSON cannot hold of `data` is text."""
    return {
        "event": "GENERIC_EVENT",
        "severity": severity,
        "event_name": name,
        "event_data": msgspec.to_builtins(
            {str(key): value for key, value in data.items()}, enc_hook=repr, str_keys=True
        ),
    }


def exception_event(error: BaseException, severity: Severity) -> dict[str, Any]:
    """An exception that nobody caught; behind which there is a mistake of the caller's, a `user_error`."""
    mistake = next((one for one in _chain(error) if getattr(one, "category", None) == "user"), None)
    if mistake is not None:
        facts = {"error_type": type(mistake).__name__, "error_message": str(mistake)[:_MOST_CHARACTERS]}
        status = getattr(mistake, "status", None)
        if status is not None:
            facts["status_code"] = status
        return generic_event("user_error", facts, "WARNING")
    trace = "".join(traceback.format_exception(error))
    return {
        "event": "UNHANDLED_EXCEPTION",
        "severity": severity,
        "error_type": type(error).__name__,
        "error_message": str(error)[:_MOST_CHARACTERS],
        "traceback": trace[-_MOST_CHARACTERS:],
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what is behind it, each once, the nearest first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__context__, one.__cause__]
