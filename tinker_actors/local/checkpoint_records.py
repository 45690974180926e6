"""What clients do to checkpoints that are kept: publish, give a lifetime, copy, delete. Each function is a job's body."""

import sqlite3

import msgspec

from tinker_actors.local import records
from tinker_actors.local.checkpoints import Checkpoints, Facts
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.specs import Kind, as_json
from tinker_actors.types import CheckpointKind, CheckpointPath

__all__ = [
    "Row",
    "claim_copy",
    "complete_copy",
    "copied_before",
    "delete",
    "every",
    "expired",
    "find",
    "publish",
    "set_lifetime",
]

COLUMNS = "path, created_at, expires_at, public, request_id, size_bytes, user_metadata"
SAVES: dict[CheckpointKind, Kind] = {
    "weights": "save_weights",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A complete checkpoint."""

    path: CheckpointPath
    created_at: float
    """Seconds since the epoch."""
    expires_at: float | None
    """None: never."""
    public: bool
    request_id: str
    """The save that wrote it."""
    size_bytes: int
    user_metadata: bytes | None
    """As JSON."""

    @classmethod
    def of(cls, columns: tuple[str, float, float | None, int, str, int, bytes | None]) -> "Row":
        """A row out of `COLUMNS`."""
        path, created_at, expires_at, public, request_id, size_bytes, user_metadata = columns
        return cls(
            path=CheckpointPath.parse(path),
            created_at=created_at,
            expires_at=expires_at,
            public=bool(public),
            request_id=request_id,
            size_bytes=size_bytes,
            user_metadata=user_metadata,
        )


def find(db: sqlite3.Connection, path: CheckpointPath) -> Row:
    """The checkpoint `path`.

    Raises:
        RefusedError: 404, there is none.
    """
    row = db.execute(
        f"SELECT {COLUMNS} FROM checkpoints WHERE path = ? AND {records.ALIVE}",  # noqa: S608
        (str(path),),
    ).fetchone()
    if row is None:
        raise RefusedError(404, f"there is no checkpoint {path}")
    return Row.of(row)


def publish(db: sqlite3.Connection, path: CheckpointPath, *, public: bool) -> None:
    """Let everybody read a checkpoint, or only its owner.

    Raises:
        RefusedError: 404, there is none; 409, it is so already.
    """
    if find(db, path).public == public:
        raise RefusedError(409, f"checkpoint {path} is {'public' if public else 'not public'} already")
    db.execute("UPDATE checkpoints SET public = ? WHERE path = ?", (public, str(path)))


def set_lifetime(db: sqlite3.Connection, path: CheckpointPath, ttl_seconds: int | None) -> None:
    """Let a checkpoint live so many seconds from now; None: for ever.

    Raises:
        RefusedError: 404, there is none.
    """
    find(db, path)
    db.execute("UPDATE checkpoints SET expires_at = now() + ? WHERE path = ?", (ttl_seconds, str(path)))


def delete(db: sqlite3.Connection, files: Checkpoints, path: CheckpointPath) -> None:
    """Remove a checkpoint with its files. Doing that twice does no harm.

    The files go while no save can be accepted, and none is on its way: a save that wrote the same files a moment
    later would lose them.

    Raises:
        RefusedError: 425, a save that overwrites it is on its way.
    """
    row = db.execute(
        "SELECT request_id FROM requests WHERE queue = ? AND form IS NULL AND kind = ?"
        " AND json_extract(CAST(body AS TEXT), '$.path') = ?",
        (path.training_run_id, SAVES[path.kind], path.name),
    ).fetchone()
    if row is not None:
        raise RefusedError(425, f"{path} is being saved by {row[0]}; delete it once that is done")
    files.remove(path)
    records.forget_checkpoint(db, str(path))


def expired(db: sqlite3.Connection) -> set[CheckpointPath]:
    """The checkpoints whose time has come."""
    rows = db.execute("SELECT path FROM checkpoints WHERE expires_at <= now()")
    return {CheckpointPath.parse(path) for (path,) in rows}


def every(db: sqlite3.Connection) -> set[CheckpointPath]:
    """All checkpoints, also those whose time has come."""
    return {CheckpointPath.parse(path) for (path,) in db.execute("SELECT path FROM checkpoints")}


# Copies -----------------------------------------------------------------------------------------


def copied_before(db: sqlite3.Connection, idempotency_key: str, digest: bytes) -> CheckpointPath | None:
    """The copy that a request with this key made, if there was one.

    Raises:
        RefusedError: 409, the key was used for another request.
    """
    row = db.execute(
        "SELECT digest, path FROM copies WHERE idempotency_key = ?", (idempotency_key,)
    ).fetchone()
    if row is None:
        return None
    if row[0] != digest:
        raise RefusedError(409, "the X-Idempotency-Key was used for another copy")
    return CheckpointPath.parse(row[1])


def claim_copy(
    db: sqlite3.Connection,
    target: CheckpointPath,
    facts: Facts,
    *,
    idempotency_key: str,
    digest: bytes,
    session_id: str | None,
    project_id: str | None,
) -> CheckpointPath:
    """Make the run that a copy belongs to, which cannot be trained; or find the copy that it repeats.

    Raises:
        RefusedError: 409, the run exists, or the key was used for another request.
    """
    made = copied_before(db, idempotency_key, digest)
    if made is not None:
        return made
    if db.execute("SELECT 1 FROM models WHERE model_id = ?", (target.training_run_id,)).fetchone():
        raise RefusedError(409, f"model {target.training_run_id} exists; choose another model_seq_id")
    spec = facts.spec("", {}, optimizer=False)
    db.execute(
        "INSERT INTO models VALUES (?, ?, now(), now(), ?, ?, ?, 0, 0, -1, '')",
        (target.training_run_id, session_id or "", project_id, digest, as_json(spec)),
    )
    db.execute("INSERT INTO copies VALUES (?, ?, ?)", (idempotency_key, digest, str(target)))
    return target


def complete_copy(
    db: sqlite3.Connection, target: CheckpointPath, source: Row, ttl_seconds: int | None
) -> None:
    """The files of a copy are there; neither lifetime nor publicity is inherited."""
    db.execute(
        "INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?, now(), now() + ?, 0, ?, ?, ?)",
        (
            str(target),
            target.training_run_id,
            target.kind,
            ttl_seconds,
            f"{target.training_run_id}:copy",
            source.size_bytes,
            source.user_metadata,
        ),
    )
