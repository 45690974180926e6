"""A session's trace: what was executed in it, in the JSON that Perfetto and chrome://tracing open."""

import sqlite3
from typing import Any

from tinker_actors.local import listings, step_log

__all__ = ["trace_of"]

MICROSECONDS = 1_000_000


def trace_of(db: sqlite3.Connection, session_id: str) -> dict[str, Any]:
    """The trace of a session; as a job's body.

    Raises:
        RefusedError: 404, there is no such session.
    """
    found = listings.session(db, session_id)
    owners = [session_id, *found["training_run_ids"], *found["sampler_ids"]]
    events = [
        _event(session_id, number, entry)
        for number, owner in enumerate(owners)
        for entry in step_log.entries(db, owner=owner)
    ]
    names = [
        {"name": "thread_name", "ph": "M", "pid": session_id, "tid": number, "args": {"name": owner}}
        for number, owner in enumerate(owners)
    ]
    return {"traceEvents": [*names, *sorted(events, key=lambda event: event["ts"])]}


def _event(session_id: str, number: int, entry: step_log.Entry) -> dict[str, Any]:
    name, facts = "heartbeat", {}
    if isinstance(entry, step_log.Executed):
        name = entry.kind
        facts = {"request_id": entry.request_id, "seq_id": entry.seq_id, "form": entry.form}
    elif isinstance(entry, step_log.FaultFired):
        name, facts = f"fault {entry.fault}", {"effect": entry.effect, "operation": entry.operation}
    place = {"pid": session_id, "tid": number, "ts": round(entry.at * MICROSECONDS)}
    return {"name": name, "ph": "i", "s": "t", **place, "args": facts}
