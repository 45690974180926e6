"""Sessions that fit a search: by id or name, owner, project, metadata, status. The newest first."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from tinker_actors.local import records
from tinker_actors.local.access import OWNER
from tinker_actors.local.listings import iso, named
from tinker_actors.local.refusals import RefusedError

__all__ = ["SearchRequest", "search"]

MOST = 200
MOST_OWNERS = 10
SILENT_S = 120.0
"""Without a heartbeat for so long, a session is not known to be running."""


class _Owner(msgspec.Struct, frozen=True):
    type: Literal["own", "accessible", "user"] = "own"
    owner_urns: Sequence[str] | None = None


class _Status(msgspec.Struct, frozen=True):
    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: Sequence[Literal["success", "errored", "interrupted"]] | None = None


class _Cursor(msgspec.Struct, frozen=True):
    last_created_at: str
    last_session_id: str


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST sessions/search."""

    session_id: str | None = None
    project_ids: Sequence[str] | None = None
    user_metadata: dict[str, str] = {}
    display_name: str | None = None
    owner: _Owner = _Owner()
    statuses: Sequence[_Status] | None = None
    limit: int = 50
    cursor: _Cursor | None = None


def search(db: sqlite3.Connection, wanted: SearchRequest) -> dict[str, Any]:
    """A page of sessions.

    Raises:
        RefusedError: 422, the limit, the owners or the cursor are none.
    """
    if not 1 <= wanted.limit <= MOST:
        raise RefusedError(422, f"limit must lie in [1, {MOST}], got {wanted.limit}")
    _check_owners(wanted.owner)
    found: list[dict[str, Any]] = []
    rows = db.execute(
        "SELECT session_id, created_at, facts, project_id, finished, last_beat > now() - ? FROM sessions"
        " ORDER BY created_at DESC, session_id",
        (SILENT_S,),
    )
    is_behind = _behind(wanted.cursor)
    for session_id, created_at, facts, project_id, finished, beats in rows:
        entry = {
            "session_id": session_id,
            "created_at": iso(created_at),
            "owner": OWNER,
            "project_id": project_id,
            "status": _status(finished, beats=bool(beats)),
            **named(facts),
        }
        if is_behind(entry) and _fits(entry, wanted):
            found.append(entry)
            if len(found) > wanted.limit:
                break
    return _page(db, found, wanted.limit)


def _check_owners(owner: _Owner) -> None:
    if (owner.type == "user") != (owner.owner_urns is not None):
        raise RefusedError(422, 'owner_urns are wanted with the owner type "user", and with no other')
    if owner.owner_urns is not None and not 1 <= len(owner.owner_urns) <= MOST_OWNERS:
        raise RefusedError(422, f"owner_urns must be 1 to {MOST_OWNERS}, got {len(owner.owner_urns)}")


def _status(finished: bytes | None, *, beats: bool) -> dict[str, Any] | None:
    if finished is None:
        return {"type": "active"} if beats else None
    document = json.loads(finished)
    detail = {"detail": document["detail"]} if isinstance(document.get("detail"), str) else {}
    if document["reason"]["type"] == records.EXPIRED:
        return {"type": "cancelled", **detail}
    return {"type": "client_finished", "reason": {"type": document["reason"]["type"]}, **detail}


def _behind(cursor: _Cursor | None) -> Callable[[dict[str, Any]], bool]:
    """Whether an entry stands behind the page that ended at the cursor."""
    if cursor is None:
        return lambda _: True
    try:
        last = datetime.fromisoformat(cursor.last_created_at)
        last = last if last.tzinfo is not None else last.replace(tzinfo=UTC)
    except ValueError as error:
        raise RefusedError(422, "cursor must be the next_cursor of the page before") from error

    def is_behind(entry: dict[str, Any]) -> bool:
        created = datetime.fromisoformat(entry["created_at"])
        return created < last or (created == last and entry["session_id"] > cursor.last_session_id)

    return is_behind


def _fits(entry: dict[str, Any], wanted: SearchRequest) -> bool:
    metadata = entry.get("user_metadata", {})
    urns = wanted.owner.owner_urns
    return (
        _is_called(entry, wanted)
        and (wanted.project_ids is None or entry["project_id"] in wanted.project_ids)
        and all(metadata.get(name) == value for name, value in wanted.user_metadata.items())
        and (urns is None or entry["owner"] in urns)
        and (wanted.statuses is None or any(_has(entry["status"], status) for status in wanted.statuses))
    )


def _is_called(entry: dict[str, Any], wanted: SearchRequest) -> bool:
    if wanted.session_id is None and wanted.display_name is None:
        return True
    name = str(entry.get("display_name", "")).casefold()
    words = (wanted.display_name or "").casefold().split()
    return entry["session_id"] == wanted.session_id or (bool(words) and all(word in name for word in words))


def _has(status: dict[str, Any] | None, wanted: _Status) -> bool:
    if status is None or status["type"] != wanted.type:
        return False
    return wanted.reasons is None or status.get("reason", {}).get("type") in wanted.reasons


def _page(db: sqlite3.Connection, found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    page = found[:limit]
    for entry in page:
        entry["checkpoints_count"], entry["checkpoint_storage_bytes"] = db.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0)"  # noqa: S608
            f" FROM checkpoints JOIN models USING (model_id) WHERE session_id = ? AND {records.ALIVE}",
            (entry["session_id"],),
        ).fetchone()
        if entry["status"] is None:
            del entry["status"]
    if len(found) <= limit:
        return {"sessions": page}
    last = page[-1]
    cursor = {"last_created_at": last["created_at"], "last_session_id": last["session_id"]}
    return {"sessions": page, "next_cursor": cursor}
