"""A model's operations in their order: forward_backward, optim_step, saves."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import (
    adam_params,
    decode,
    digest_of,
    examples_of,
    parse,
    place_of,
    read_training,
)
from tinker_actors.local.ledger import Accepted
from tinker_actors.local.operations import NamedSave, checkpoint_of, sampler_of
from tinker_actors.local.refusals import BusyError, RefusedError, StorageError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Kind
from tinker_actors.local.store import Connection, Job
from tinker_actors.local.validation import check_examples, check_lifetime, check_name
from tinker_actors.wire.documents import (
    OptimStepRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)

__all__ = ["ROUTES", "operation"]


def operation(path: str, handler: Callable[[Service, str, bytes], Awaitable[Response]]) -> Route:
    """A route to an operation of a model; a refusal is remembered with the place it was at.

    Args:
        path: below the prefix.
        handler: given the body's media, `json` or `protobuf`, and the body.
    """

    async def respond(service: Service, request: Request) -> Response:
        is_protobuf = request.headers.get("content-type", "").startswith("application/x-protobuf")
        media = "protobuf" if is_protobuf else "json"
        body = await read_body(request)
        try:
            return await handler(service, media, body)
        except BusyError:  # the same request may come again
            raise
        except RefusedError as refusal:
            place = await service.in_thread(place_of, media, body)
            if place is not None:
                with suppress(StorageError):  # the refusal says more than that the disk is full
                    await service.run(partial(_note, place=place, detail=refusal.detail))
            raise

    return endpoint("POST", path, respond)


def _note(db: Connection, place: tuple[str, int], detail: str) -> None:
    ledger.note_refusal(db, *place, detail)


async def forward_backward(service: Service, media: str, body: bytes) -> Response:
    """Loss and gradient, as protobuf or JSON; without a gradient if the request says so."""
    return await _train(service, "forward_backward", media, body)


async def forward(service: Service, media: str, body: bytes) -> Response:
    """Loss without a gradient, as JSON."""
    return await _train(service, "forward", media, body)


async def _train(service: Service, kind: Kind, media: str, body: bytes) -> Response:
    checked = await service.in_thread(_checked, service, kind, media, body)
    return await _accept(service, checked)


def _checked(service: Service, kind: Kind, media: str, body: bytes) -> ledger.Request:
    """A checked forward or forward_backward; takes its time, so not on the event loop."""
    training = read_training(media, body)
    config = service.config_of_model(training.model_id)
    try:
        examples = examples_of(training)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
    check_examples(training, examples, config)
    return ledger.Request(
        request_id=f"{training.model_id}:{training.seq_id}",
        kind="forward" if training.forward_only else kind,
        queue=training.model_id,
        seq_id=training.seq_id,
        digest=digest_of(body if media == "protobuf" else parse(body)),
        body=body,
        media=media,
    )


async def optim_step(service: Service, _media: str, body: bytes) -> Response:
    """One AdamW update."""
    if "adam_params" not in parse(body):
        raise RefusedError(400, "optim_step needs adam_params: this server has no other optimizer than adamw")
    document, _, digest = decode(body, OptimStepRequest)
    adam_params(document)
    return await _accept(service, _request("optim_step", document, digest, body))


async def save_weights(service: Service, _media: str, body: bytes) -> Response:
    """A training checkpoint."""
    document, _, digest = decode(body, SaveWeightsRequest)
    return await _save_named(service, document, _request("save_weights", document, digest, body))


async def save_weights_for_sampler(service: Service, _media: str, body: bytes) -> Response:
    """Weights to sample from: a checkpoint by name, or a sampling session."""
    document, _, digest = decode(body, SaveWeightsForSamplerRequest)
    save = _request("save_weights_for_sampler", document, digest, body)
    if isinstance(document.sampling_session_seq_id, UnsetType):
        return await _save_named(service, document, save)
    if isinstance(document.path, str):
        raise RefusedError(422, "save_weights_for_sampler takes path or sampling_session_seq_id, not both")
    sampling_session_id = sampler_of(document)

    def accept(db: Connection) -> Accepted:
        accepted = ledger.accept_operation(db, save)
        if accepted.ticket is not None:
            records.reserve_sampler(db, sampling_session_id, save)
        return accepted

    return await _accept(service, save, accept)


async def save_weights_external(service: Service, _media: str, body: bytes) -> Response:
    """Weights as files for other programs."""
    document, _, digest = decode(body, SaveWeightsExternalRequest)
    if not isinstance(document.age_encryption_recipients, UnsetType) and document.age_encryption_recipients:
        raise RefusedError(
            400, "this server exports weights unencrypted only; leave age_encryption_recipients out"
        )
    return await _save_named(service, document, _request("save_weights_external", document, digest, body))


async def _save_named(service: Service, document: NamedSave, save: ledger.Request) -> Response:
    if isinstance(document.path, str):
        check_name(document.path)
    if isinstance(document.ttl_seconds, int):
        check_lifetime(document.ttl_seconds)
    path = str(checkpoint_of(document))
    may_replace = isinstance(document, SaveWeightsRequest) and document.overwrite

    def accept(db: Connection) -> Accepted:
        accepted = ledger.accept_operation(db, save)
        if accepted.ticket is not None and not may_replace:
            records.check_name(db, path, save.request_id)
        return accepted

    return await _accept(service, save, accept)


def _request(
    kind: Kind,
    document: OptimStepRequest | NamedSave,
    digest: bytes,
    body: bytes,
) -> ledger.Request:
    if document.seq_id < 1:
        raise RefusedError(400, f"seq_id must be positive, got {document.seq_id}")
    return ledger.Request(
        request_id=f"{document.model_id}:{document.seq_id}",
        kind=kind,
        queue=document.model_id,
        seq_id=document.seq_id,
        digest=digest,
        body=body,
    )


async def _accept(service: Service, request: ledger.Request, accept: Job[Accepted] | None = None) -> Response:
    job = accept or partial(ledger.accept_operation, request=request)
    return answer({"request_id": await service.accept(job), "model_id": request.queue})


ROUTES = [
    operation("/forward_backward", forward_backward),
    operation("/forward", forward),
    operation("/optim_step", optim_step),
    operation("/save_weights", save_weights),
    operation("/save_weights_external", save_weights_external),
    operation("/save_weights_for_sampler", save_weights_for_sampler),
]
