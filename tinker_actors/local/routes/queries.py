"""What endpoints read of a URL or a body: pages, scopes, and which checkpoint is meant."""

import re

from starlette.requests import Request

from tinker_actors.errors import TinkerPathError, ValidationError
from tinker_actors.local import checkpoint_records
from tinker_actors.local.checkpoints import Facts
from tinker_actors.local.listings import Page
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.service import Service
from tinker_actors.local.store import Connection
from tinker_actors.types import CheckpointKind, CheckpointPath

__all__ = ["check_scope", "checkpoint_in", "facts_of", "known_checkpoint", "page_in", "parsed"]

MOST_LIMIT = 1000
MOST_OFFSET = 2**53
SCOPES = ("owned", "accessible")
WHOLE = re.compile(r"[0-9]{1,16}")


def page_in(request: Request, limit: int) -> Page:
    """The page that a query asks for.

    Args:
        request: whose `limit` and `offset` are read.
        limit: where none is given.

    Raises:
        RefusedError: 422, one is no number, or out of range.
    """
    return Page(
        limit=_whole(request, "limit", limit, 1, MOST_LIMIT),
        offset=_whole(request, "offset", 0, 0, MOST_OFFSET),
    )


def _whole(request: Request, name: str, usual: int, least: int, most: int) -> int:
    given = request.query_params.get(name, str(usual))
    if not WHOLE.fullmatch(given) or not least <= int(given) <= most:
        raise RefusedError(422, f"{name} must lie in [{least}, {most}], got {given[:32]!r}")
    return int(given)


def check_scope(request: Request) -> None:
    """Nothing if the scope that a query names is one. Both mean everything here: whoever asks owns all.

    Raises:
        RefusedError: 422, it is none.
    """
    scope = request.query_params.get("access_scope", "owned")
    if scope not in SCOPES:
        raise RefusedError(422, f"access_scope must be one of {', '.join(SCOPES)}, got {scope[:32]!r}")


def checkpoint_in(request: Request) -> CheckpointPath:
    """The checkpoint that a URL names.

    Raises:
        RefusedError: 400, its kind is none, or its id lacks one.
    """
    names = request.path_params
    return parsed(f"tinker://{names['run']}/{names['kind']}/{names['name']}")


def parsed(path: str, kind: CheckpointKind | None = None) -> CheckpointPath:
    """A path as it was given.

    Raises:
        RefusedError: 400, it is malformed, or of another kind than the one wanted.
    """
    try:
        return CheckpointPath.parse(path, kind=kind)
    except TinkerPathError as error:
        raise RefusedError(400, str(error)) from error


def known_checkpoint(db: Connection, path: str, kind: CheckpointKind) -> CheckpointPath:
    """A complete checkpoint of the kind wanted.

    Raises:
        RefusedError: 400, the path is malformed or of another kind; 404, there is no such checkpoint.
    """
    return checkpoint_records.find(db, parsed(path, kind)).path


def facts_of(service: Service, path: CheckpointPath) -> Facts:
    """What a checkpoint that the store knows says of itself; its file may be gone all the same.

    Raises:
        RefusedError: 404, it is gone, or cannot be read.
    """
    try:
        return service.checkpoints.facts(path)
    except ValidationError as error:
        raise RefusedError(404, str(error)) from error
