"""What a client tells the service of itself. The service needs none of it."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from tinker_actors.api.sessions import SDK_VERSION
from tinker_actors.wire.calls import Call, Pool, json_body
from tinker_actors.wire.retry import RetryRule

__all__ = ["MOST_EVENTS", "send_telemetry"]

MOST_EVENTS = 100
"""In one batch."""
TIMEOUT_S = 5.0
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
