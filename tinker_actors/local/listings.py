"""What the server keeps, as the documents that REST endpoints list. Each public function is a job's body."""

import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from tinker_actors.local import records
from tinker_actors.local.access import OWNER
from tinker_actors.local.checkpoint_records import COLUMNS, Row
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.specs import ModelSpec
from tinker_actors.types import CheckpointKind

__all__ = [
    "Page",
    "checkpoints",
    "checkpoints_of_run",
    "iso",
    "session",
    "sessions",
    "training_run",
    "training_runs",
]

TYPES: Mapping[CheckpointKind, str] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
_RUN = """
SELECT model_id, spec, last_request_at FROM models LEFT JOIN sessions USING (session_id)
WHERE NOT EXISTS (SELECT 1 FROM requests WHERE request_id = model_id || ':0' AND form = 'error')
"""
"""Runs whose creation did not fail."""


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is wanted."""

    limit: int
    offset: int

    def cursor(self, total: int) -> dict[str, int]:
        """Where the page stands in a list of so many."""
        return {"offset": self.offset, "limit": self.limit, "total_count": total}


def iso(seconds: float) -> str:
    """A time in ISO 8601, given in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def texts(metadata: Mapping[str, Any] | None) -> dict[str, str] | None:
    """User metadata as clients read it: from text to text."""
    if not metadata:
        return None
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in metadata.items()
    }


# Checkpoints ------------------------------------------------------------------------------------


def checkpoints(db: sqlite3.Connection, page: Page) -> dict[str, Any]:
    """A page of all checkpoints, the newest first."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM checkpoints WHERE {records.ALIVE} ORDER BY created_at DESC, path LIMIT ? OFFSET ?",  # noqa: S608
        (page.limit, page.offset),
    ).fetchall()
    (total,) = db.execute(f"SELECT count(*) FROM checkpoints WHERE {records.ALIVE}").fetchone()  # noqa: S608
    return {"checkpoints": [_checkpoint(Row.of(row)) for row in rows], "cursor": page.cursor(total)}


def checkpoints_of_run(db: sqlite3.Connection, model_id: str) -> dict[str, Any]:
    """All checkpoints of a training run, the newest first.

    Raises:
        RefusedError: 404, there is no such run.
    """
    _run(db, model_id)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM checkpoints WHERE model_id = ? AND {records.ALIVE} ORDER BY created_at DESC, path",  # noqa: S608
        (model_id,),
    )
    return {"checkpoints": [_checkpoint(Row.of(row)) for row in rows]}


def _checkpoint(row: Row) -> dict[str, Any]:
    document = {
        "checkpoint_id": f"{row.path.kind}/{row.path.name}",
        "checkpoint_type": TYPES[row.path.kind],
        "time": iso(row.created_at),
        "tinker_path": str(row.path),
        "size_bytes": row.size_bytes,
        "public": row.public,
    }
    metadata = texts(msgspec.json.decode(row.user_metadata) if row.user_metadata else None)
    if metadata is not None:
        document["user_metadata"] = metadata
    if row.expires_at is not None:
        document["expires_at"] = iso(row.expires_at)
    return document


# Training runs ----------------------------------------------------------------------------------


def training_runs(db: sqlite3.Connection, page: Page, project_id: str | None) -> dict[str, Any]:
    """A page of training runs, the newest first; of one project, if that is given."""
    wanted = "AND ? IN (coalesce(models.project_id, sessions.project_id), '')"
    rows = db.execute(
        f"{_RUN} {wanted} ORDER BY models.created_at DESC, model_id LIMIT ? OFFSET ?",
        (project_id or "", page.limit, page.offset),
    ).fetchall()
    (total,) = db.execute(f"SELECT count(*) FROM ({_RUN} {wanted})", (project_id or "",)).fetchone()  # noqa: S608
    return {"training_runs": [_run_document(db, row) for row in rows], "cursor": page.cursor(total)}


def training_run(db: sqlite3.Connection, model_id: str) -> dict[str, Any]:
    """A model that is or was in training.

    Raises:
        RefusedError: 404, there is no such run.
    """
    return _run_document(db, _run(db, model_id))


def _run(db: sqlite3.Connection, model_id: str) -> tuple[str, bytes, float]:
    row: tuple[str, bytes, float] | None = db.execute(f"{_RUN} AND model_id = ?", (model_id,)).fetchone()
    if row is None:
        raise RefusedError(404, f"there is no training run {model_id}")
    return row


def _run_document(db: sqlite3.Connection, row: tuple[str, bytes, float]) -> dict[str, Any]:
    model_id, spec_bytes, last_request_at = row
    spec = msgspec.json.decode(spec_bytes, type=ModelSpec)
    document: dict[str, Any] = {
        "training_run_id": model_id,
        "base_model": spec.base_model,
        "model_owner": OWNER,
        "is_lora": True,
        "lora_rank": spec.rank,
        "corrupted": records.is_corrupted(db, model_id),
        "last_request_time": iso(last_request_at),
    }
    for name, kind in (("last_checkpoint", "weights"), ("last_sampler_checkpoint", "sampler_weights")):
        newest = db.execute(
            f"SELECT {COLUMNS} FROM checkpoints WHERE model_id = ? AND kind = ? AND {records.ALIVE}"  # noqa: S608
            " ORDER BY created_at DESC, path LIMIT 1",
            (model_id, kind),
        ).fetchone()
        if newest is not None:
            document[name] = _checkpoint(Row.of(newest))
    metadata = texts(spec.user_metadata)
    return document if metadata is None else {**document, "user_metadata": metadata}


# Sessions ---------------------------------------------------------------------------------------


def sessions(db: sqlite3.Connection, page: Page) -> dict[str, Any]:
    """A page of session ids, the newest first."""
    rows = db.execute(
        "SELECT session_id FROM sessions ORDER BY created_at DESC, session_id LIMIT ? OFFSET ?",
        (page.limit, page.offset),
    )
    return {"sessions": [session_id for (session_id,) in rows]}


def session(db: sqlite3.Connection, session_id: str) -> dict[str, Any]:
    """What lives in a session.

    Raises:
        RefusedError: 404, there is no such session.
    """
    row = db.execute("SELECT facts FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    if row is None:
        raise RefusedError(404, f"there is no session {session_id}")
    runs = db.execute(f"{_RUN} AND models.session_id = ? ORDER BY models.created_at, model_id", (session_id,))
    samplers = db.execute(
        "SELECT sampling_session_id FROM samplers WHERE session_id = ? AND ready ORDER BY sampling_session_id",
        (session_id,),
    )
    return {
        "training_run_ids": [run[0] for run in runs],
        "sampler_ids": [sampler for (sampler,) in samplers],
        **named(row[0]),
    }


def named(facts: bytes) -> dict[str, Any]:
    """Name and metadata that a session was given, out of its create_session document."""
    given = msgspec.json.decode(facts)
    found = {"user_metadata": texts(given.get("user_metadata")), "display_name": given.get("display_name")}
    return {name: value for name, value in found.items() if value is not None}
