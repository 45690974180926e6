"""What faults see of a request: the ids it names, whatever else is wrong with it."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.local.faults.switches import Seen
from tinker_actors.local.queues import session_of
from tinker_actors.wire.protobuf import training_ids

__all__ = ["document_of", "path_in", "request_id_in", "see"]

_FUTURE = re.compile(r"(.+:(?:train|sample):\d+):(\d+)")
_IN_PATH = re.compile(r"(training_runs|models|sessions|samplers)/([^/]+)")


def document_of(content_type: str, body: bytes) -> Mapping[str, Any]:
    """What a body names; nothing if it cannot be read."""
    try:
        if content_type.startswith("application/x-protobuf"):
            model_id, seq_id = training_ids(body)
            return {"model_id": model_id, "seq_id": seq_id}
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValidationError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def see(operation: str, document: Mapping[str, Any], of: str | None = None) -> Seen:
    """A request as faults see it.

    Args:
        operation: its path below the prefix of the API.
        document: what its body names.
        of: kind of the request whose result a poll asks for.
    """
    texts = {name: value for name, value in document.items() if isinstance(value, str)}
    place = _FUTURE.fullmatch(texts.get("request_id", ""))
    seq_id = int(place[2]) if place else document.get("seq_id", document.get("model_seq_id"))
    owner = place[1] if place else texts.get("model_id") or texts.get("sampling_session_id") or ""
    named = _IN_PATH.match(operation)
    session_id = texts.get("session_id")
    if named is not None and named[1] == "sessions":
        session_id = named[2]
    elif named is not None:
        owner = named[2]
    if owner:
        session_id = session_of(owner)
    return Seen(
        operation=operation,
        of=of,
        owner=owner or session_id or "",
        session_id=session_id,
        model_id=owner if ":train:" in owner else None,
        seq_id=seq_id if isinstance(seq_id, int) else None,
    )


def request_id_in(document: Mapping[str, Any]) -> str | None:
    """The request that a poll asks for, or that an answer names."""
    request_id = document.get("request_id")
    return request_id if isinstance(request_id, str) else None


def path_in(document: Mapping[str, Any]) -> str | None:
    """The checkpoint that a request or a result names."""
    path = document.get("path")
    return path if isinstance(path, str) and path.startswith("tinker://") else None
