"""Models: making them from a seed or a checkpoint, describing and unloading them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import decode
from tinker_actors.local.engine.catalog import model_config, model_digest
from tinker_actors.local.ledger import Accepted
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.routes.queries import facts_of, known_checkpoint
from tinker_actors.local.routes.training import operation
from tinker_actors.local.service import Service
from tinker_actors.local.specs import ModelSpec
from tinker_actors.local.store import Connection
from tinker_actors.local.validation import check_lora
from tinker_actors.types import CheckpointPath
from tinker_actors.wire.documents import CreateModelRequest, GetInfoRequest, LoadWeightsRequest

__all__ = ["ROUTES"]


def _metadata(given: Mapping[str, Any] | UnsetType) -> Mapping[str, Any]:
    return {} if isinstance(given, UnsetType) else given


async def create_model(service: Service, request: Request) -> Response:
    """A new model from a seed; the same (session_id, model_seq_id) is the same model."""
    document, values, digest = decode(await read_body(request), CreateModelRequest)
    await service.in_thread(service.check_base, document.base_model)
    lora = document.lora_config
    check_lora(lora)
    seed = service.seed(values, 31) if isinstance(lora.seed, UnsetType) else lora.seed
    spec = ModelSpec.of(document.base_model, lora, seed, _metadata(document.user_metadata))
    return await _create(service, document.session_id, document.model_seq_id, digest, spec)


async def _create(
    service: Service, session_id: str, model_seq_id: int, digest: bytes, spec: ModelSpec
) -> Response:
    model_id = f"{session_id}:train:{model_seq_id}"
    base_digest = await service.in_thread(_digest_of, spec.base_model)
    spec = msgspec.structs.replace(spec, base_digest=base_digest)
    made = ledger.Request(
        request_id=f"{model_id}:0", kind="create_model", queue=model_id, seq_id=0, digest=digest, body=b""
    )
    request_id = await service.accept(
        lambda db: records.add_model(db, session_id, made, spec, service.numerics),
        before=partial(service.model_added, model_id, spec.base_model),
    )
    return answer({"request_id": request_id, "model_id": model_id})


def _digest_of(base_model: str) -> str:
    """The digest of a base model's files; takes its time, so not on the event loop."""
    try:
        return model_digest(base_model)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error


async def load_weights(service: Service, _media: str, body: bytes) -> Response:
    """A checkpoint, into a model that has done nothing yet or as a new model."""
    document, _, digest = decode(body, LoadWeightsRequest)
    if isinstance(document.model_id, str):
        return await _load_into(service, document, digest, body)
    if not isinstance(document.session_id, str) or not isinstance(document.model_seq_id, int):
        raise RefusedError(422, "load_weights needs model_id and seq_id, or session_id and model_seq_id")
    path = await service.ask(lambda db: known_checkpoint(db, document.path, "weights"))
    facts = await service.in_thread(facts_of, service, path)
    if isinstance(document.base_model, str) and document.base_model != facts.base_model:
        raise RefusedError(400, f"{path} is of base model {facts.base_model}, not {document.base_model}")
    spec = facts.spec(document.path, _metadata(document.user_metadata), optimizer=document.optimizer)
    return await _create(service, document.session_id, document.model_seq_id, digest, spec)


async def _load_into(service: Service, document: LoadWeightsRequest, digest: bytes, body: bytes) -> Response:
    model_id, seq_id = str(document.model_id), document.seq_id
    if seq_id != 1:
        raise RefusedError(
            400, f"load_weights is not permitted with seq_id {seq_id}: only as the first operation"
        )
    load = ledger.Request(
        request_id=f"{model_id}:{seq_id}",
        kind="load_weights",
        queue=model_id,
        seq_id=seq_id,
        digest=digest,
        body=body,
    )

    def accept(db: Connection) -> Accepted:
        accepted = ledger.accept_operation(db, load)
        if accepted.ticket is not None:
            path = known_checkpoint(db, document.path, "weights")
            _check_shape(service, path, records.model(db, model_id).spec)
        return accepted

    return answer({"request_id": await service.accept(accept), "model_id": model_id})


def _check_shape(service: Service, path: CheckpointPath, spec: ModelSpec) -> None:
    names = ("base_model", "rank", "train_attn", "train_mlp", "train_unembed")
    facts = facts_of(service, path)
    for name in names:
        wanted, found = getattr(spec, name), getattr(facts, name)
        if wanted != found:
            raise RefusedError(400, f"{path} has {name} {found}, the model has {wanted}")


async def get_info(service: Service, request: Request) -> Response:
    """What a model is."""
    document, _, _ = decode(await read_body(request), GetInfoRequest)
    spec = (await service.ask(lambda db: records.model(db, document.model_id))).spec
    return answer(
        {
            "model_id": document.model_id,
            "model_data": {
                "arch": model_config(spec.base_model).architecture,
                "model_name": spec.base_model,
                "tokenizer_id": spec.base_model,
            },
            "optimizer_config": {"type": "adamw"},
            "is_lora": True,
            "lora_rank": spec.rank,
            "model_name": spec.base_model,
            "type": "get_info",
        }
    )


async def unload_model(service: Service, request: Request) -> Response:
    """The end of a model; its checkpoints stay."""
    document, _, digest = decode(await read_body(request), GetInfoRequest)
    request_id = await service.accept(lambda db: records.unload(db, document.model_id, digest))
    return answer({"request_id": request_id, "model_id": document.model_id})


ROUTES = [
    endpoint("POST", "/create_model", create_model),
    operation("/load_weights", load_weights),
    endpoint("POST", "/get_info", get_info),
    endpoint("POST", "/unload_model", unload_model),
]
