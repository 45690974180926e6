"""A model's operations in their order: forward_backward, optim_step, saves."""

from functools import partial

from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import adam_params, decode, digest_of, examples_of, parse, read_training
from tinker_actors.local.ledger import Accepted
from tinker_actors.local.operations import checkpoint_of
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Kind
from tinker_actors.local.store import Connection, Job
from tinker_actors.local.validation import check_examples, check_name
from tinker_actors.wire.documents import OptimStepRequest, SaveWeightsForSamplerRequest, SaveWeightsRequest

__all__ = ["ROUTES"]


async def forward_backward(service: Service, request: Request) -> Response:
    """Loss and gradient, as protobuf or JSON; without a gradient if the request says so."""
    return await _train(service, request, "forward_backward")


async def forward(service: Service, request: Request) -> Response:
    """Loss without a gradient, as JSON."""
    return await _train(service, request, "forward")


async def _train(service: Service, request: Request, kind: Kind) -> Response:
    is_protobuf = request.headers.get("content-type", "").startswith("application/x-protobuf")
    media = "protobuf" if is_protobuf else "json"
    body = await read_body(request)
    operation = await service.in_thread(_operation, service, kind, media, body)
    return await _accept(service, operation)


def _operation(service: Service, kind: Kind, media: str, body: bytes) -> ledger.Request:
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


async def optim_step(service: Service, request: Request) -> Response:
    """One AdamW update."""
    body = await read_body(request)
    if "adam_params" not in parse(body):
        raise RefusedError(400, "optim_step needs adam_params: this server has no other optimizer than adamw")
    document, _, digest = decode(body, OptimStepRequest)
    adam_params(document)
    return await _accept(service, _request("optim_step", document, digest, body))


async def save_weights(service: Service, request: Request) -> Response:
    """A training checkpoint."""
    body = await read_body(request)
    document, _, digest = decode(body, SaveWeightsRequest)
    return await _save_named(service, document, _request("save_weights", document, digest, body))


async def save_weights_for_sampler(service: Service, request: Request) -> Response:
    """Weights to sample from: a checkpoint by name, or a sampling session."""
    body = await read_body(request)
    document, _, digest = decode(body, SaveWeightsForSamplerRequest)
    operation = _request("save_weights_for_sampler", document, digest, body)
    if isinstance(document.sampling_session_seq_id, UnsetType):
        return await _save_named(service, document, operation)
    if isinstance(document.path, str):
        raise RefusedError(422, "save_weights_for_sampler takes path or sampling_session_seq_id, not both")
    session_id = document.model_id.rpartition(":train:")[0]
    sampling_session_id = f"{session_id}:sample:{document.sampling_session_seq_id}"

    def accept(db: Connection) -> Accepted:
        accepted = ledger.accept_operation(db, operation)
        if accepted.ticket is not None:
            records.reserve_sampler(db, sampling_session_id, operation)
        return accepted

    return await _accept(service, operation, accept)


async def _save_named(
    service: Service, document: SaveWeightsRequest | SaveWeightsForSamplerRequest, operation: ledger.Request
) -> Response:
    if isinstance(document.path, str):
        check_name(document.path)
    path = str(checkpoint_of(document))
    may_replace = isinstance(document, SaveWeightsRequest) and document.overwrite

    def accept(db: Connection) -> Accepted:
        accepted = ledger.accept_operation(db, operation)
        if accepted.ticket is not None and not may_replace:
            records.check_name(db, path, operation.request_id)
        return accepted

    return await _accept(service, operation, accept)


def _request(
    kind: Kind,
    document: OptimStepRequest | SaveWeightsRequest | SaveWeightsForSamplerRequest,
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


async def _accept(
    service: Service, operation: ledger.Request, accept: Job[Accepted] | None = None
) -> Response:
    job = accept or partial(ledger.accept_operation, request=operation)
    return answer({"request_id": await service.accept(job), "model_id": operation.queue})


ROUTES = [
    endpoint("POST", "/forward_backward", forward_backward),
    endpoint("POST", "/forward", forward),
    endpoint("POST", "/optim_step", optim_step),
    endpoint("POST", "/save_weights", save_weights),
    endpoint("POST", "/save_weights_for_sampler", save_weights_for_sampler),
]
