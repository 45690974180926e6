"""Samples that have ended: in which order, who fetched them, how long they are kept. Each function is a job's body."""

import re
import sqlite3

import msgspec

from tinker_actors.local.refusals import RefusedError

__all__ = ["CLONE_IDS", "Completion", "after", "fetched", "forget", "join", "prune", "topic", "was_sampled"]

CLONE_IDS = 1_000_000_000
"""Each clone of a sampling client numbers its requests from a multiple of this."""
MOST_AT_ONCE = 1000
KEPT = 4096
"""Newest requests whose results are kept whoever fetched them."""
FETCHES = 2
"""Fetches after which an older result need not be kept: the answer to the first may have been lost."""
BYTES_KEPT = 512 * 2**20
"""Bytes that all results may take; those of the newest `KEPT` are kept whatever their size."""
ROWS_KEPT = 65_536
"""Newest requests that are still recognised when they are sent again."""
_SAMPLE = re.compile(r"(.+:sample:\d+):(\d{1,18})")


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One sample that has ended."""

    state: str
    """`finished` or `failed`."""
    request_id: str
    response_payload_uncompressed_size: int | msgspec.UnsetType = msgspec.UNSET
    """Bytes of its result; left out once that is not kept."""


def topic(sampling_session_id: str, clone: int) -> str:
    """What those wait for who wait for any sample of a clone; no request has such an id."""
    return f"{sampling_session_id}/{clone}"


def join(db: sqlite3.Connection, sampling_session_id: str) -> int:
    """The number of one more clone of a sampling client, from 1 on.

    Raises:
        RefusedError: 404, there is no such sampling session.
    """
    row = db.execute(
        "UPDATE samplers SET clones = clones + 1 WHERE sampling_session_id = ? RETURNING clones",
        (sampling_session_id,),
    ).fetchone()
    if row is None:
        raise RefusedError(404, f"there is no sampling session {sampling_session_id}")
    return int(row[0])


def after(
    db: sqlite3.Connection, sampling_session_id: str, clone: int, cursor: int
) -> tuple[list[Completion], int]:
    """What ended of a clone's samples after a cursor, in order, and the cursor behind it.

    Raises:
        RefusedError: 404, there is no such sampling session.
    """
    known = db.execute(
        "SELECT 1 FROM samplers WHERE sampling_session_id = ?", (sampling_session_id,)
    ).fetchone()
    if known is None:
        raise RefusedError(404, f"there is no sampling session {sampling_session_id}")
    rows = db.execute(
        "SELECT ended, request_id, form, length(result) FROM requests WHERE queue = ? AND ended > ?"
        " AND seq_id >= ? AND seq_id < ? ORDER BY ended LIMIT ?",
        (sampling_session_id, cursor, clone * CLONE_IDS, (clone + 1) * CLONE_IDS, MOST_AT_ONCE),
    ).fetchall()
    completions = [
        Completion(
            state="failed" if form == "error" else "finished",
            request_id=request_id,
            response_payload_uncompressed_size=msgspec.UNSET if size is None or form == "error" else size,
        )
        for _, request_id, form, size in rows
    ]
    return completions, rows[-1][0] if rows else cursor


def was_sampled(db: sqlite3.Connection, request_id: str) -> bool:
    """Whether an id is that of a sample of which nothing is known any more: later ones of its clone came."""
    named = _SAMPLE.fullmatch(request_id)
    if named is None:
        return False
    end = (int(named[2]) // CLONE_IDS + 1) * CLONE_IDS
    later = db.execute(
        "SELECT 1 FROM requests WHERE queue = ? AND seq_id > ? AND seq_id < ? LIMIT 1",
        (named[1], int(named[2]), end),
    )
    return later.fetchone() is not None


def fetched(db: sqlite3.Connection, request_id: str) -> None:
    """A client was sent a result."""
    db.execute("UPDATE requests SET fetched = fetched + 1 WHERE request_id = ?", (request_id,))


def forget(db: sqlite3.Connection, sampling_session_id: str, request_ids: list[str]) -> None:
    """A client has these results and will not ask for them again."""
    db.executemany(
        "UPDATE requests SET fetched = ? WHERE request_id = ? AND queue = ?",
        [(FETCHES, request_id, sampling_session_id) for request_id in request_ids],
    )


def prune(db: sqlite3.Connection) -> None:
    """Forget results that were fetched and are old, then the oldest of all, at last that they were."""
    (newest,) = db.execute("SELECT coalesce(max(id), 0) FROM requests").fetchone()
    db.execute(
        "UPDATE requests SET form = 'expired', result = NULL WHERE id IN ("
        "  SELECT id FROM (SELECT id, fetched, sum(length(result)) OVER (ORDER BY id DESC) AS total"
        "    FROM requests WHERE kind = 'sample' AND form IS NOT NULL AND form != 'expired')"
        "  WHERE id <= ? AND (fetched >= ? OR total > ?))",
        (newest - KEPT, FETCHES, BYTES_KEPT),
    )
    db.execute(
        "DELETE FROM requests WHERE kind = 'sample' AND form IS NOT NULL AND id <= ?", (newest - ROWS_KEPT,)
    )
