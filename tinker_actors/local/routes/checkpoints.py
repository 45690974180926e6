"""Checkpoints that are kept: listed, described, published, given a lifetime, copied, deleted."""

import uuid

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.errors import ValidationError
from tinker_actors.local import checkpoint_records, listings, records
from tinker_actors.local.bodies import decode, parse
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.routes.queries import checkpoint_in, facts_of, page_in, parsed
from tinker_actors.local.service import Service
from tinker_actors.local.store import Connection
from tinker_actors.local.validation import check_lifetime
from tinker_actors.types import CheckpointPath

__all__ = ["ROUTES"]

USUAL_LIMIT = 100
NOTHING = 204


class WeightsInfoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST weights_info."""

    tinker_path: str


class CopyWeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST copy_weights: into a project, or into a session as one of its models."""

    source_path: str
    destination_project_id: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    model_seq_id: int | UnsetType = UNSET
    ttl_seconds: int | UnsetType = UNSET


async def list_checkpoints(service: Service, request: Request) -> Response:
    """A page of all, the newest first."""
    page = page_in(request, USUAL_LIMIT)
    return answer(await service.ask(lambda db: listings.checkpoints(db, page)))


async def list_checkpoints_of_run(service: Service, request: Request) -> Response:
    """All of a training run."""
    run = request.path_params["run"]
    return answer(await service.ask(lambda db: listings.checkpoints_of_run(db, run)))


async def weights_info(service: Service, request: Request) -> Response:
    """What must be known of a checkpoint to load it."""
    document, _, _ = decode(await read_body(request), WeightsInfoRequest)
    path = loadable(document.tinker_path)
    await service.ask(lambda db: checkpoint_records.find(db, path))
    facts = await service.in_thread(facts_of, service, path)
    return answer(
        {
            "base_model": facts.base_model,
            "is_lora": True,
            "lora_rank": facts.rank,
            "train_unembed": facts.train_unembed,
            "train_mlp": facts.train_mlp,
            "train_attn": facts.train_attn,
            "optimizer_config": {"type": "adamw"},
        }
    )


def loadable(tinker_path: str) -> CheckpointPath:
    """A path of a kind that can be loaded or copied.

    Raises:
        RefusedError: 400, it is malformed, or names an export.
    """
    path = parsed(tinker_path)
    if path.kind == "external_weights":
        raise RefusedError(400, f"a path of training state or sampler weights is wanted, got {path}")
    return path


# Changing ---------------------------------------------------------------------------------------


async def delete_checkpoint(service: Service, request: Request) -> Response:
    """Its end."""
    path = checkpoint_in(request)

    def delete(db: Connection) -> None:
        checkpoint_records.find(db, path)
        checkpoint_records.delete(db, service.checkpoints, path)

    await service.run(delete)
    return Response(status_code=NOTHING)


async def delete_without_kind(_service: Service, request: Request) -> Response:
    """An id that lacks its kind could mean several checkpoints."""
    name = request.path_params["name"]
    raise RefusedError(
        400, f"checkpoint ids read <kind>/<name>, such as weights/{name[:64]}; got {name[:64]!r}"
    )


async def publish(service: Service, request: Request) -> Response:
    """Everybody may read it."""
    path = checkpoint_in(request)
    await service.run(lambda db: checkpoint_records.publish(db, path, public=True))
    return Response(status_code=NOTHING)


async def unpublish(service: Service, request: Request) -> Response:
    """Only its owner may read it."""
    path = checkpoint_in(request)
    await service.run(lambda db: checkpoint_records.publish(db, path, public=False))
    return Response(status_code=NOTHING)


async def set_lifetime(service: Service, request: Request) -> Response:
    """How long it lives from now on; null: for ever."""
    path, document = checkpoint_in(request), parse(await read_body(request))
    ttl_seconds = document.get("ttl_seconds", UNSET)
    if ttl_seconds is not None:
        if not isinstance(ttl_seconds, int) or isinstance(ttl_seconds, bool):
            raise RefusedError(422, "ttl_seconds must be a whole number, or null for ever")
        check_lifetime(ttl_seconds)
    await service.run(lambda db: checkpoint_records.set_lifetime(db, path, ttl_seconds))
    return Response(status_code=NOTHING)


async def copy_weights(service: Service, request: Request) -> Response:
    """Another run with the same weights, which shares their storage and cannot be trained."""
    document, _, digest = decode(await read_body(request), CopyWeightsRequest)
    key = request.headers.get("x-idempotency-key") or str(uuid.uuid4())
    source = loadable(document.source_path)
    ttl_seconds = (
        None if isinstance(document.ttl_seconds, UnsetType) else check_lifetime(document.ttl_seconds)
    )
    made = await service.ask(lambda db: checkpoint_records.copied_before(db, key, digest))
    if made is not None and await service.in_thread(service.checkpoints.is_there, made):
        return answer({"tinker_path": str(made)})
    row = await service.ask(lambda db: checkpoint_records.find(db, source))
    facts = await service.in_thread(facts_of, service, source)

    def claim(db: Connection) -> CheckpointPath:
        run, session_id, project_id = _destination(db, document)
        return checkpoint_records.claim_copy(
            db,
            CheckpointPath(run, source.kind, source.name),
            facts,
            idempotency_key=key,
            digest=digest,
            session_id=session_id,
            project_id=project_id,
        )

    target = await service.run(claim)
    try:
        await service.in_thread(service.checkpoints.copy, source, target)
    except ValidationError as error:
        raise RefusedError(404, str(error)) from error
    await service.run(lambda db: checkpoint_records.complete_copy(db, target, row, ttl_seconds))
    return answer({"tinker_path": str(target)})


def _destination(db: Connection, document: CopyWeightsRequest) -> tuple[str, str | None, str | None]:
    """Run, session and project of a copy."""
    session_id, number, project_id = (
        document.session_id,
        document.model_seq_id,
        document.destination_project_id,
    )
    if isinstance(session_id, str) and isinstance(number, int) and isinstance(project_id, UnsetType):
        records.open_session(db, session_id)
        return f"{session_id}:train:{number}", session_id, None
    if isinstance(project_id, str) and isinstance(session_id, UnsetType) and isinstance(number, UnsetType):
        return f"{uuid.uuid4()}:train:0", None, project_id
    raise RefusedError(422, "copy_weights needs destination_project_id, or session_id and model_seq_id")


_ONE = "/training_runs/{run}/checkpoints/{kind}/{name}"
ROUTES = [
    endpoint("GET", "/checkpoints", list_checkpoints),
    endpoint("GET", "/training_runs/{run}/checkpoints", list_checkpoints_of_run),
    endpoint("GET", "/models/{run}/checkpoints", list_checkpoints_of_run),
    endpoint("POST", "/weights_info", weights_info),
    endpoint("DELETE", _ONE, delete_checkpoint),
    endpoint("DELETE", "/training_runs/{run}/checkpoints/{name}", delete_without_kind),
    endpoint("POST", f"{_ONE}/publish", publish),
    endpoint("DELETE", f"{_ONE}/publish", unpublish),
    endpoint("PUT", f"{_ONE}/ttl", set_lifetime),
    endpoint("POST", "/copy_weights", copy_weights),
]
