"""Files to fetch: who may ask gets signed URLs, and whoever has such a URL gets its file until it expires."""

from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tinker_actors.errors import ValidationError
from tinker_actors.local import checkpoint_records, listings
from tinker_actors.local.adapters import FILES, archive_of
from tinker_actors.local.checkpoint_records import Row
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint
from tinker_actors.local.routes.queries import checkpoint_in
from tinker_actors.local.service import Service
from tinker_actors.local.tokens import TokenError
from tinker_actors.local.traces import trace_of
from tinker_actors.types import CheckpointPath

__all__ = ["ROUTES"]

PREFIX = "/files"
"""Outside of the API: no key is asked for, and none is sent."""
ARCHIVE = "checkpoint.tar.gz"
TRACE = "trace.json"


class _Permit(msgspec.Struct, frozen=True):
    """What a signed URL allows."""

    of: str
    """The checkpoint's path, or the session."""
    file: str
    save: str = ""
    """The save that wrote the checkpoint: a later one of the same name is another."""


async def archive(service: Service, request: Request) -> Response:
    """A redirect to a checkpoint as one file, as clients before `save_weights_external` follow it."""
    path = checkpoint_in(request)
    if path.kind == "external_weights":
        raise RefusedError(
            400, f"exports have no archive; ask for {path.kind}/{path.name}/external_weights_urls"
        )
    row = await service.ask(lambda db: checkpoint_records.find(db, path))
    url = _signed(service, request, _Permit(str(path), ARCHIVE, row.request_id))
    expires = format_datetime(_expires(service), usegmt=True)
    return Response(status_code=302, headers={"Location": url, "Expires": expires})


async def external_weights_urls(service: Service, request: Request) -> Response:
    """Where the files of an export are."""
    path = checkpoint_in(request)
    if path.kind != "external_weights":
        raise RefusedError(400, f"a path of external_weights is wanted, got {path}")
    row = await service.ask(lambda db: checkpoint_records.find(db, path))
    expires = _expires(service)
    urls = {name: _signed(service, request, _Permit(str(path), name, row.request_id)) for name in FILES}
    return answer({"urls": urls, "expires": expires.isoformat()})


async def trace_export(service: Service, request: Request) -> Response:
    """Where a session's trace is; there is always one."""
    session_id = request.path_params["session_id"]
    await service.ask(lambda db: listings.session(db, session_id))
    return answer({"status": "ready", "url": _signed(service, request, _Permit(session_id, TRACE))})


def _expires(service: Service) -> datetime:
    return datetime.fromtimestamp(service.now() + service.options.url_life_s, UTC)


def _signed(service: Service, request: Request, permit: _Permit) -> str:
    token = service.signer.sign("file", msgspec.to_builtins(permit), service.options.url_life_s)
    return f"{str(request.base_url).rstrip('/')}{PREFIX}/{token}/{permit.file}"


async def fetch(service: Service, request: Request) -> Response:
    """The file behind a signed URL: 403 if it was altered or expired, 404 once the file is gone."""
    try:
        claims = service.signer.read("file", request.path_params["token"])
    except TokenError as error:
        raise RefusedError(403, f"{error}; ask for another URL") from error
    permit = msgspec.convert(claims, _Permit)
    if permit.file != request.path_params["file"]:
        raise RefusedError(403, "the URL is for another file")
    if permit.file == TRACE:
        return answer(await service.ask(lambda db: trace_of(db, permit.of)))
    path = CheckpointPath.parse(permit.of)
    row = await service.ask(lambda db: checkpoint_records.find(db, path))
    if row.request_id != permit.save:
        raise RefusedError(404, f"checkpoint {path} was saved anew; ask for another URL")
    return await service.in_thread(_file, service, row, permit.file)


def _file(service: Service, row: Row, name: str) -> Response:
    try:
        files: Any = service.checkpoints.exported(row.path)
        if name == ARCHIVE:
            return Response(archive_of(files), media_type="application/gzip")
    except (ValidationError, OSError) as error:
        raise RefusedError(404, f"checkpoint {row.path} cannot be read") from error
    file = files[name]
    assert isinstance(file, Path)  # noqa: S101 - an export is files already
    return FileResponse(file, media_type="application/octet-stream")


def _anybody(_service: Service, _request: Request) -> None:
    """The guard of what a signed URL opens."""


ROUTES = [
    endpoint("GET", "/training_runs/{run}/checkpoints/{kind}/{name}/archive", archive),
    endpoint(
        "GET", "/training_runs/{run}/checkpoints/{kind}/{name}/external_weights_urls", external_weights_urls
    ),
    endpoint("GET", "/sessions/{session_id}/trace_export", trace_export),
    endpoint("GET", PREFIX + "/{token}/{file}", fetch, _anybody, prefix=""),
]
