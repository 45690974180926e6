"""Sessions, models, samplers and checkpoints in the store. Each function is a job's body."""

import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from tinker_actors.local.ledger import Accepted, Request, accept
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.specs import ModelSpec, Ticket, as_json
from tinker_actors.types import CheckpointPath

__all__ = [
    "ALIVE",
    "DEFAULT_PROJECT",
    "EXPIRED",
    "Model",
    "Sampler",
    "add_checkpoint",
    "add_model",
    "add_sampler",
    "add_session",
    "assign_project",
    "beat",
    "bury",
    "check_name",
    "corrupt_run",
    "expire_sessions",
    "expiry",
    "finish_session",
    "forget_checkpoint",
    "is_corrupted",
    "live_models",
    "model",
    "needless_samplers",
    "open_session",
    "reserve_sampler",
    "resume_sessions",
    "sampler",
    "sampler_gone",
    "sampler_ready",
    "set_numerics",
    "set_snapshot",
    "unload",
]


DEFAULT_PROJECT = "default"
"""Where sessions belong that name no project."""
EXPIRED = "expired"
"""Why a session ended that gave no sign of life."""
ALIVE = "coalesce(expires_at > now(), 1)"
"""Whether a checkpoint's time has not come: it is as good as gone from then on, before its files are."""
_READY, _REMOVED = 1, 2


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model's row."""

    model_id: str
    spec: ModelSpec
    live: bool
    executed: int
    snapshot: int
    numerics: str


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """A sampling session's row."""

    sampling_session_id: str
    base_model: str
    path: str | None
    """`tinker://` path of the weights."""
    ephemeral: bool
    """Whether the weights are its own, saved without a name."""
    saved_by: str | None = None
    """The save that wrote `path`: a later one of that name wrote other weights. None: they are gone, or it has none."""


# Sessions ---------------------------------------------------------------------------------------


def add_session(db: sqlite3.Connection, facts: bytes, project_id: str = DEFAULT_PROJECT) -> str:
    """A new session's id."""
    session_id = str(uuid.uuid4())
    db.execute("INSERT INTO sessions VALUES (?, now(), now(), ?, ?, NULL)", (session_id, facts, project_id))
    return session_id


def beat(db: sqlite3.Connection, session_id: str) -> None:
    """A sign of life of an open session.

    Raises:
        RefusedError: 404, there is no such session; 410, it is finished.
    """
    open_session(db, session_id)
    db.execute("UPDATE sessions SET last_beat = now() WHERE session_id = ?", (session_id,))


def resume_sessions(db: sqlite3.Connection) -> None:
    """Count no session's silence while there was no server to hear it."""
    db.execute("UPDATE sessions SET last_beat = now() WHERE finished IS NULL")


def assign_project(db: sqlite3.Connection, session_id: str, project_id: str) -> None:
    """Move a session, open or not, into a project.

    Raises:
        RefusedError: 404, there is no such session.
    """
    moved = db.execute("UPDATE sessions SET project_id = ? WHERE session_id = ?", (project_id, session_id))
    if not moved.rowcount:
        raise RefusedError(404, f"there is no session {session_id}")


def expire_sessions(db: sqlite3.Connection, timeout_s: float) -> list[Ticket]:
    """Finish the sessions that gave no sign of life for `timeout_s`; what is to be executed."""
    silent = db.execute(
        "SELECT session_id FROM sessions WHERE finished IS NULL AND last_beat < now() - ?", (timeout_s,)
    ).fetchall()
    reason = expiry(f"no heartbeat for {timeout_s:g} s")
    return [ticket for (session_id,) in silent for ticket in finish_session(db, session_id, reason)]


def expiry(detail: str) -> bytes:
    """The finish document of a session that ended by itself; `detail` says why."""
    return as_json({"reason": {"type": EXPIRED}, "detail": detail})


def open_session(db: sqlite3.Connection, session_id: str) -> None:
    """Nothing if the session is open.

    Raises:
        RefusedError: 404, there is no such session; 410, it is finished.
    """
    row = db.execute("SELECT finished FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    if row is None:
        raise RefusedError(404, f"there is no session {session_id}")
    if row[0] is not None:
        raise RefusedError(410, f"session {session_id} is finished")


def finish_session(db: sqlite3.Connection, session_id: str, reason: bytes) -> list[Ticket]:
    """Finish a session and unload its models; a finished one stays as it is.

    Returns:
        What is to be executed.

    Raises:
        RefusedError: 404, there is no such session.
    """
    try:
        open_session(db, session_id)
    except RefusedError as refusal:
        if refusal.status == 404:  # noqa: PLR2004
            raise
        return []
    db.execute("UPDATE sessions SET finished = ? WHERE session_id = ?", (reason, session_id))
    models = db.execute(
        "SELECT model_id FROM models WHERE session_id = ? AND live = 1", (session_id,)
    ).fetchall()
    accepted = [unload(db, model_id, b"{}") for (model_id,) in models]
    return [entry.ticket for entry in accepted if entry.ticket is not None]


# Models -----------------------------------------------------------------------------------------


def add_model(
    db: sqlite3.Connection, session_id: str, request: Request, spec: ModelSpec, numerics: str
) -> Accepted:
    """Keep a new model and the request that makes it, or find the one that it repeats.

    Raises:
        RefusedError: 404 or 410, there is no open session; 409, the id was used with another body.
    """
    known = db.execute("SELECT digest FROM models WHERE model_id = ?", (request.queue,)).fetchone()
    if known is None:
        open_session(db, session_id)
        db.execute(
            "INSERT INTO models VALUES (?, ?, now(), now(), NULL, ?, ?, 1, -1, -1, ?)",
            (request.queue, session_id, request.digest, as_json(spec), numerics),
        )
    elif known[0] != request.digest:
        raise RefusedError(409, f"model {request.queue} was created before with another body")
    return accept(db, request)


def model(db: sqlite3.Connection, model_id: str) -> Model:
    """A live model.

    Raises:
        RefusedError: 404, there is none of this id.
    """
    row = db.execute(
        "SELECT model_id, spec, live, executed, snapshot, numerics FROM models WHERE model_id = ?",
        (model_id,),
    ).fetchone()
    if row is None or not row[2]:
        raise RefusedError(404, f"there is no model {model_id}" + (", it was unloaded" if row else ""))
    return _model(row)


def live_models(db: sqlite3.Connection) -> list[Model]:
    """All models that were not unloaded, or whose unloading still waits."""
    rows = db.execute(
        "SELECT model_id, spec, live, executed, snapshot, numerics FROM models WHERE live = 1 OR model_id IN"
        " (SELECT queue FROM requests WHERE form IS NULL AND kind = 'unload_model')"
    )
    return [_model(row) for row in rows]


def _model(row: Any) -> Model:
    return Model(
        model_id=row[0],
        spec=msgspec.json.decode(row[1], type=ModelSpec),
        live=bool(row[2]),
        executed=row[3],
        snapshot=row[4],
        numerics=row[5],
    )


def set_numerics(db: sqlite3.Connection, numerics: str) -> None:
    """All live models go on with these numerics."""
    db.execute("UPDATE models SET numerics = ? WHERE live = 1", (numerics,))


def set_snapshot(db: sqlite3.Connection, model_id: str, seq_id: int) -> None:
    """The newest snapshot stands after `seq_id`."""
    db.execute("UPDATE models SET snapshot = ? WHERE model_id = ?", (seq_id, model_id))


def bury(db: sqlite3.Connection, model_id: str) -> None:
    """A model that could not be made is none."""
    db.execute("UPDATE models SET live = 0 WHERE model_id = ?", (model_id,))


def unload(db: sqlite3.Connection, model_id: str, digest: bytes) -> Accepted:
    """Begin to unload a model: from now on no request reaches it. Repeating it changes nothing.

    Raises:
        RefusedError: 404, there is no such model.
    """
    if db.execute("SELECT 1 FROM models WHERE model_id = ?", (model_id,)).fetchone() is None:
        raise RefusedError(404, f"there is no model {model_id}")
    request_id = f"{model_id}:unload"
    if db.execute("SELECT 1 FROM requests WHERE request_id = ?", (request_id,)).fetchone():
        return Accepted(request_id=request_id, ticket=None)
    db.execute("UPDATE models SET live = 0 WHERE model_id = ?", (model_id,))
    return accept(
        db,
        Request(
            request_id=request_id, kind="unload_model", queue=model_id, seq_id=None, digest=digest, body=b"{}"
        ),
    )


# Samplers ---------------------------------------------------------------------------------------


def add_sampler(
    db: sqlite3.Connection, sampling_session_id: str, digest: bytes, *, base: str, path: str | None
) -> None:
    """Keep a sampling session, or find that it was kept.

    Raises:
        RefusedError: 404 or 410, there is no open session; 409, the id was used for another one.
    """
    if not _known_sampler(db, sampling_session_id, digest):
        session_id = sampling_session_id.rpartition(":sample:")[0]
        open_session(db, session_id)
        db.execute(
            "INSERT INTO samplers VALUES (?, ?, ?, ?, ?, NULL, 1, 0)",
            (sampling_session_id, session_id, digest, base, path),
        )


def reserve_sampler(db: sqlite3.Connection, sampling_session_id: str, save: Request) -> None:
    """Keep the id of the sampling session that an ephemeral save will make.

    Raises:
        RefusedError: 404 or 410, there is no open session; 409, the id was used for another one.
    """
    if not _known_sampler(db, sampling_session_id, save.digest):
        session_id = sampling_session_id.rpartition(":sample:")[0]
        open_session(db, session_id)
        spec = model(db, save.queue).spec
        db.execute(
            "INSERT INTO samplers VALUES (?, ?, ?, ?, NULL, ?, 0, 0)",
            (sampling_session_id, session_id, save.digest, spec.base_model, save.queue),
        )


def _known_sampler(db: sqlite3.Connection, sampling_session_id: str, digest: bytes) -> bool:
    row = db.execute(
        "SELECT digest FROM samplers WHERE sampling_session_id = ?", (sampling_session_id,)
    ).fetchone()
    if row is not None and row[0] != digest:
        raise RefusedError(
            409, f"sampling session {sampling_session_id} was created before with another body"
        )
    return row is not None


def needless_samplers(db: sqlite3.Connection) -> list[str]:
    """Ephemeral saves whose session is finished and of which no sample waits."""
    rows = db.execute(
        "SELECT sampling_session_id FROM samplers JOIN sessions USING (session_id)"
        " WHERE model_id IS NOT NULL AND ready = ? AND finished IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM requests WHERE queue = sampling_session_id AND form IS NULL)",
        (_READY,),
    )
    return [sampling_session_id for (sampling_session_id,) in rows]


def sampler_gone(db: sqlite3.Connection, sampling_session_id: str) -> None:
    """The weights of an ephemeral save are no longer kept."""
    db.execute("UPDATE samplers SET ready = ? WHERE sampling_session_id = ?", (_REMOVED, sampling_session_id))


def sampler_ready(db: sqlite3.Connection, sampling_session_id: str) -> None:
    """The weights of an ephemeral save are there."""
    db.execute("UPDATE samplers SET ready = ? WHERE sampling_session_id = ?", (_READY, sampling_session_id))


def sampler(db: sqlite3.Connection, sampling_session_id: str) -> Sampler:
    """A sampling session.

    Raises:
        RefusedError: 404, there is none of this id, its weights are not saved yet, or they are gone.
    """
    row = db.execute(
        "SELECT base_model, samplers.path, samplers.model_id, ready, request_id"  # noqa: S608
        f" FROM samplers LEFT JOIN checkpoints ON samplers.path = checkpoints.path AND {ALIVE}"
        " WHERE sampling_session_id = ?",
        (sampling_session_id,),
    ).fetchone()
    if row is None or row[3] != _READY:
        why = "" if row is None else " any more, its session is finished" if row[3] else " yet"
        raise RefusedError(404, f"there is no sampling session {sampling_session_id}{why}")
    return Sampler(
        sampling_session_id=sampling_session_id,
        base_model=row[0],
        path=row[1],
        ephemeral=row[2] is not None,
        saved_by=row[4],
    )


# Checkpoints ------------------------------------------------------------------------------------


def check_name(db: sqlite3.Connection, path: str, request_id: str) -> None:
    """Nothing if `request_id` may write the checkpoint `path`.

    Raises:
        RefusedError: 400, another request wrote it.
    """
    row = db.execute("SELECT request_id FROM checkpoints WHERE path = ?", (path,)).fetchone()
    if row is not None and row[0] != request_id:
        raise RefusedError(400, f"checkpoint {path} exists; choose another name or save with overwrite")


def add_checkpoint(
    db: sqlite3.Connection,
    path: CheckpointPath,
    request_id: str,
    size_bytes: int,
    *,
    ttl_seconds: float | None = None,
    user_metadata: Mapping[str, Any] | None = None,
) -> None:
    """The checkpoint `path` is complete."""
    metadata = None if user_metadata is None else as_json(user_metadata)
    db.execute(
        "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, now(), now() + ?, 0, ?, ?, ?)",
        (str(path), path.training_run_id, path.kind, ttl_seconds, request_id, size_bytes, metadata),
    )


def forget_checkpoint(db: sqlite3.Connection, path: str) -> bool:
    """The checkpoint `path` is gone; whether it was there."""
    return db.execute("DELETE FROM checkpoints WHERE path = ?", (path,)).rowcount > 0


# Corrupted runs ---------------------------------------------------------------------------------


def corrupt_run(db: sqlite3.Connection, model_id: str) -> None:
    """From now on a run is shown as corrupted.

    Raises:
        RefusedError: 404, there is no such model.
    """
    if db.execute("SELECT 1 FROM models WHERE model_id = ?", (model_id,)).fetchone() is None:
        raise RefusedError(404, f"there is no model {model_id}")
    db.execute("INSERT OR IGNORE INTO corrupted_runs VALUES (?)", (model_id,))


def is_corrupted(db: sqlite3.Connection, model_id: str) -> bool:
    """Whether a run is shown as corrupted; this server never finds one so by itself."""
    return db.execute("SELECT 1 FROM corrupted_runs WHERE model_id = ?", (model_id,)).fetchone() is not None
