"""Accepted requests in the store: their order, their idempotency, their results. Each function is a job's body."""

import re
import sqlite3
from typing import cast

import msgspec

from tinker_actors.local import completions
from tinker_actors.local.refusals import BusyError, RefusedError, StorageError
from tinker_actors.local.specs import Kind, Result, Ticket

__all__ = [
    "CHANGING",
    "Accepted",
    "Request",
    "accept",
    "accept_operation",
    "body_of",
    "expire",
    "finish",
    "kind_of",
    "look_up",
    "note_refusal",
    "pending",
    "prune_model",
    "replay_after",
]

RESULTS_KEPT = 512
"""Results of a model that are kept behind its newest snapshot."""
RESULT_BYTES_KEPT = 32 * 2**20
"""Bytes those results may take; the newest `RESULTS_SAFE` are kept whatever their size."""
RESULTS_SAFE = 32
MOST_AHEAD = 4096
"""How far ahead of what was executed a model's operations may be accepted."""
DETAIL_KEPT = 1000
"""Characters of the reason why a request was refused."""
ROWS_KEPT = 4096
"""Operations of a model that are still recognised when they are sent again."""
_OPERATION = re.compile(r"(.+:train:\d+):(\d+)")

CHANGING: tuple[Kind, ...] = ("forward_backward", "load_weights", "optim_step")
"""What changes a model's state, and is executed again to restore it."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it is accepted."""

    request_id: str
    kind: Kind
    queue: str
    seq_id: int | None
    digest: bytes
    body: bytes
    media: str = "json"
    seed: int | None = None

    @property
    def ticket(self) -> Ticket:
        """What the executor is handed."""
        return Ticket(request_id=self.request_id, kind=self.kind, queue=self.queue, seq_id=self.seq_id)


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request, or the one it repeats."""

    request_id: str
    ticket: Ticket | None
    """What is to be executed; None if it was accepted before."""
    passed_over: tuple[Ticket, ...] = ()
    """Refused places before it, which nothing will be accepted at any more."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request id."""

    result: Result | None
    """None while it is pending."""


def accept(db: sqlite3.Connection, request: Request) -> Accepted:
    """Keep a request, or find the one that it repeats.

    Raises:
        RefusedError: 409, its place was used by another request.
    """
    known = db.execute(
        "SELECT kind, digest FROM requests WHERE request_id = ?", (request.request_id,)
    ).fetchone()
    if known is not None:
        if known != (request.kind, request.digest):
            raise RefusedError(409, f"{request.request_id} was accepted before with another body")
        return Accepted(request_id=request.request_id, ticket=None)
    db.execute(
        "INSERT INTO requests (request_id, kind, queue, seq_id, digest, media, body, seed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.request_id,
            request.kind,
            request.queue,
            request.seq_id,
            request.digest,
            request.media,
            request.body,
            request.seed,
        ),
    )
    return Accepted(request_id=request.request_id, ticket=request.ticket)


def accept_operation(db: sqlite3.Connection, request: Request) -> Accepted:
    """Keep an operation of a live model at its place.

    Places before it where a request was refused, and none accepted since, are passed over.

    Raises:
        RefusedError: 404, there is no such model; 409, its place is taken or was passed.
        BusyError: it is far ahead of what was executed.
    """
    model = db.execute("SELECT live, executed FROM models WHERE model_id = ?", (request.queue,)).fetchone()
    if model is None or not model[0]:
        raise RefusedError(404, f"there is no model {request.queue}" + (", it was unloaded" if model else ""))
    db.execute(
        "DELETE FROM requests WHERE request_id = ? AND kind = 'refused' AND form = 'refused'",
        (request.request_id,),
    )
    accepted = accept(db, request)
    if accepted.ticket is None or request.seq_id is None:
        return accepted
    if request.seq_id <= model[1]:
        raise RefusedError(
            409,
            f"seq_id must be above {model[1]}, the last executed one of {request.queue}, got {request.seq_id}",
        )
    if request.seq_id > model[1] + MOST_AHEAD:
        raise BusyError(
            f"operations may be {MOST_AHEAD} ahead of the last executed one of {request.queue}, {model[1]}, "
            f"got seq_id {request.seq_id}; send it again later",
            "paused_rate_limit",
        )
    db.execute("UPDATE models SET last_request_at = now() WHERE model_id = ?", (request.queue,))
    passed_over = _pass_over(db, request.queue, after=model[1], before=request.seq_id)
    return msgspec.structs.replace(accepted, passed_over=passed_over)


def note_refusal(db: sqlite3.Connection, model_id: str, seq_id: int, detail: str) -> None:
    """Remember that a request was refused at a free place of a live model.

    The place stays free: a client may use it again. One that goes on with the next place, as the official
    SDK does, would wait for it for ever.
    """
    db.execute(
        "INSERT OR IGNORE INTO requests (request_id, kind, queue, seq_id, digest, media, body, form)"
        " SELECT ?, 'refused', model_id, ?, x'', 'json', ?, 'refused' FROM models"
        " WHERE model_id = ? AND live = 1 AND executed < ?",
        (f"{model_id}:{seq_id}", seq_id, detail[:DETAIL_KEPT].encode(), model_id, seq_id),
    )


def _pass_over(db: sqlite3.Connection, model_id: str, *, after: int, before: int) -> tuple[Ticket, ...]:
    rows = db.execute(
        "SELECT request_id, kind, queue, seq_id FROM requests WHERE queue = ? AND seq_id > ? AND seq_id < ?"
        " AND kind = 'refused' AND form = 'refused'",
        (model_id, after, before),
    ).fetchall()
    for request_id, *_ in rows:
        db.execute("UPDATE requests SET form = NULL WHERE request_id = ?", (request_id,))
    return tuple(_ticket(row) for row in rows)


def body_of(db: sqlite3.Connection, request_id: str) -> tuple[str, bytes, int | None]:
    """Media, body and drawn seed of a pending request."""
    row = db.execute("SELECT media, body, seed FROM requests WHERE request_id = ?", (request_id,)).fetchone()
    return cast("tuple[str, bytes, int | None]", row)


def kind_of(db: sqlite3.Connection, request_id: str) -> str | None:
    """What a request is for; None if it is not known."""
    row = db.execute("SELECT kind FROM requests WHERE request_id = ?", (request_id,)).fetchone()
    return None if row is None else str(row[0])


def finish(db: sqlite3.Connection, ticket: Ticket, result: Result) -> None:
    """Keep what a request came to; a model's operation counts as executed from here.

    Raises:
        StorageError: the operation before it is not stored as executed.
    """
    needed = ticket.kind in CHANGING and result.form != "error"
    db.execute(
        f"UPDATE requests SET form = ?, result = ?{'' if needed else ', body = NULL'} WHERE request_id = ?",  # noqa: S608
        (result.form, result.body, ticket.request_id),
    )
    if ticket.kind == "sample":
        db.execute(
            "UPDATE requests SET ended = 1 + (SELECT coalesce(max(ended), 0) FROM requests WHERE queue = ?)"
            " WHERE request_id = ?",
            (ticket.queue, ticket.request_id),
        )
    elif ticket.seq_id is not None:
        live, executed = db.execute(
            "SELECT live, executed FROM models WHERE model_id = ?", (ticket.queue,)
        ).fetchone()
        if live and executed != ticket.seq_id - 1:
            raise StorageError(f"{ticket.request_id} follows on what could not be stored")
        db.execute("UPDATE models SET executed = ? WHERE model_id = ?", (ticket.seq_id, ticket.queue))


def look_up(db: sqlite3.Connection, request_id: str) -> Found:
    """What is known of a request id.

    Raises:
        RefusedError: 404, it was never given out; 410, its result is no longer kept.
    """
    row = db.execute("SELECT form, result FROM requests WHERE request_id = ?", (request_id,)).fetchone()
    if row is None or row[0] == "refused":
        if not (_was_executed(db, request_id) or completions.was_sampled(db, request_id)):
            raise RefusedError(404, f"there is no request {request_id}")
        row = ("expired", b"")
    if row[0] == "expired":
        raise RefusedError(410, f"{request_id} was executed, and its result is no longer kept")
    return Found(result=None if row[0] is None else Result(form=row[0], body=row[1]))


def _was_executed(db: sqlite3.Connection, request_id: str) -> bool:
    """Whether an id is that of a model's operation before its last one."""
    named = _OPERATION.fullmatch(request_id)
    if named is None:
        return False
    model = db.execute("SELECT executed FROM models WHERE model_id = ?", (named[1],)).fetchone()
    return model is not None and 0 < int(named[2]) <= model[0]


def expire(db: sqlite3.Connection, request_id: str) -> bool:
    """Forget the result of a request that succeeded, as pruning does; whether there was one."""
    changed = db.execute(
        "UPDATE requests SET form = 'expired', result = NULL WHERE request_id = ? AND form IN ('output', 'sample', 'json')",
        (request_id,),
    )
    return changed.rowcount > 0


def pending(db: sqlite3.Connection) -> list[Ticket]:
    """All that waits to be executed, in the order of acceptance."""
    rows = db.execute("SELECT request_id, kind, queue, seq_id FROM requests WHERE form IS NULL ORDER BY id")
    return [_ticket(row) for row in rows]


def replay_after(db: sqlite3.Connection, model_id: str, after: int, until: int) -> list[Ticket]:
    """The operations that changed a model after one place and up to another, in order."""
    rows = db.execute(
        "SELECT request_id, kind, queue, seq_id FROM requests WHERE queue = ? AND seq_id > ? AND seq_id <= ?"
        " AND form IS NOT NULL AND form != 'error' AND kind IN (?, ?, ?) ORDER BY seq_id",
        (model_id, after, until, *CHANGING),
    )
    return [_ticket(row) for row in rows]


def _ticket(row: tuple[str, Kind, str, int | None]) -> Ticket:
    return Ticket(request_id=row[0], kind=row[1], queue=row[2], seq_id=row[3])


def prune_model(db: sqlite3.Connection, model_id: str, snapshot: int) -> None:
    """Forget what a snapshot makes needless: bodies before it, old results, ancient rows.

    The row of the model's creation stays.
    """
    db.execute(
        "UPDATE requests SET body = NULL WHERE queue = ? AND seq_id <= ? AND form IS NOT NULL AND body IS NOT NULL",
        (model_id, snapshot),
    )
    db.execute(
        "UPDATE requests SET form = 'expired', result = NULL WHERE id IN ("
        "  SELECT id FROM (SELECT id, seq_id, sum(length(result)) OVER (ORDER BY seq_id DESC) AS total"
        "    FROM requests WHERE queue = ? AND seq_id > 0 AND form IS NOT NULL AND form != 'expired')"
        "  WHERE seq_id <= ? OR (total > ? AND seq_id <= ?))",
        (model_id, snapshot - RESULTS_KEPT, RESULT_BYTES_KEPT, snapshot - RESULTS_SAFE),
    )
    db.execute(
        "DELETE FROM requests WHERE queue = ? AND seq_id > 0 AND seq_id <= ? AND form = 'expired'",
        (model_id, snapshot - ROWS_KEPT),
    )
