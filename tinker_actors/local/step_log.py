"""What this server executed, in order, and which signs of life it got: what tests of recovery are judged by.

What was executed, and a sign of life, is committed together with its entry, so that neither is there without the
other. A fault's entry is written once the fault has done its damage; a server that is killed in between, or whose disk
is full, has none, and a power cut may take it. Each kind of entry has a bound of its own; the oldest go first.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import msgspec

from tinker_actors.local.specs import Result, Ticket, as_json
from tinker_actors.wire.protobuf import without_ids

__all__ = [
    "KEPT",
    "SCHEMA",
    "Beat",
    "Entry",
    "Executed",
    "FaultFired",
    "add",
    "beat",
    "entries",
    "note",
    "read",
]

SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,             -- tag of the entry; of a sample: sample
    owner TEXT NOT NULL,            -- model, sampling session or session it tells of
    entry BLOB NOT NULL             -- as JSON
);
CREATE INDEX IF NOT EXISTS log_of_kind ON log(kind, id);
CREATE INDEX IF NOT EXISTS log_of_owner ON log(owner, id);
"""
KEPT = {"executed": 65_536, "sample": 16_384, "beat": 65_536, "fault": 16_384}
"""Entries kept of each kind; samples do not push training out."""
BETWEEN_PRUNING = 512
IDS = ("model_id", "seq_id", "session_id", "model_seq_id", "sampling_session_id", "sampling_session_seq_id")


class Executed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="executed"):
    """One request came to its result; what failed counts, too."""

    request_id: str
    kind: str
    """What the request was for; `refused` stands at a place that was passed over."""
    owner: str
    """Its model or sampling session."""
    seq_id: int | None
    """Its place in the model's order; None: it has none."""
    form: str
    """Of the result: `output`, `sample`, `json`, or `error`."""
    content: str
    """Digest of what was asked, without the ids that say for whom and when: the same work has the same digest."""
    result: str
    """Digest of the result's bytes."""
    at: float
    """Seconds since the epoch."""
    id: int = 0
    """Its place in the log."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="beat"):
    """A session's sign of life."""

    owner: str
    """The session."""
    at: float
    """Seconds since the epoch."""
    id: int = 0
    """Its place in the log."""


class FaultFired(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="fault"):
    """A fault was injected."""

    fault: str
    """Its name."""
    effect: str
    """What it did."""
    operation: str
    """The endpoint it did it to."""
    owner: str
    """The model, sampling session or session that the request named; empty if it named none."""
    seq_id: int | None
    """The place that the request named."""
    number: int
    """How often the fault had fired, with this time."""
    target: str
    """What was executed before the answer suffered, or what was damaged; empty: nothing."""
    at: float
    """Seconds since the epoch."""
    id: int = 0
    """Its place in the log."""


Entry: TypeAlias = Executed | Beat | FaultFired


def add(db: sqlite3.Connection, entry: Entry, kind: str | None = None) -> None:
    """Keep an entry; as a job's body or a part of one."""
    tag = kind or entry.__struct_config__.tag
    row = db.execute(
        "INSERT INTO log (kind, owner, entry) VALUES (?, ?, ?)", (tag, entry.owner, as_json(entry))
    ).lastrowid
    if row is not None and row % BETWEEN_PRUNING == 0:
        for name, kept in KEPT.items():
            db.execute(
                "DELETE FROM log WHERE kind = ? AND id <="
                " (SELECT id FROM log WHERE kind = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (name, name, kept),
            )


def note(db: sqlite3.Connection, ticket: Ticket, result: Result) -> None:
    """A request came to a result; before that is stored, while the request's body is still there."""
    digest, media, body = db.execute(
        "SELECT digest, media, body FROM requests WHERE request_id = ?", (ticket.request_id,)
    ).fetchone()
    entry = Executed(
        request_id=ticket.request_id,
        kind=ticket.kind,
        owner=ticket.queue,
        seq_id=ticket.seq_id,
        form=result.form,
        content=_digest(_content(media, body)) if body else digest.hex(),
        result=_digest(result.body),
        at=_now(db),
    )
    add(db, entry, "sample" if ticket.kind == "sample" else None)


def beat(db: sqlite3.Connection, session_id: str) -> None:
    """A session gave a sign of life."""
    add(db, Beat(owner=session_id, at=_now(db)))


def entries(
    db: sqlite3.Connection, *, owner: str | None = None, after: int = 0, most: int = 1_000_000
) -> list[Entry]:
    """What the log holds, oldest first.

    Args:
        db: the store.
        owner: only of this model, sampling session or session.
        after: only what stands after this place.
        most: no more than that.
    """
    rows = db.execute(
        f"SELECT id, entry FROM log WHERE id > ?{'' if owner is None else ' AND owner = ?'} ORDER BY id LIMIT ?",  # noqa: S608
        (after, *(() if owner is None else (owner,)), most),
    )
    return [msgspec.structs.replace(_decoder.decode(entry), id=row) for row, entry in rows]


def read(data: Path, *, owner: str | None = None) -> Sequence[Entry]:
    """What the log under a server's data directory holds, whether the server runs or not; see `entries`."""
    with closing(sqlite3.connect(f"{(data / 'server.db').absolute().as_uri()}?mode=ro", uri=True)) as db:
        return entries(db, owner=owner)


_decoder = msgspec.json.Decoder(Entry)


def _now(db: sqlite3.Connection) -> float:
    (now,) = db.execute("SELECT now()").fetchone()
    return float(now)


def _content(media: str, body: bytes) -> bytes:
    if media == "protobuf":
        return without_ids(body)
    try:
        document = msgspec.json.decode(body)
    except msgspec.MsgspecError:  # the reason of a refusal
        return body
    if not isinstance(document, dict):
        return body
    kept = {name: value for name, value in document.items() if name not in IDS}
    return msgspec.json.encode(kept, order="deterministic")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
