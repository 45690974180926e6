"""Sampling sessions and samples."""

import secrets
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records
from tinker_actors.local.bodies import decode, read_sample
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.routes.models import check_base, known_checkpoint
from tinker_actors.local.service import Service
from tinker_actors.local.store import Connection
from tinker_actors.local.validation import check_sample
from tinker_actors.wire.documents import CreateSamplingSessionRequest

__all__ = ["ROUTES"]


async def create_sampling_session(service: Service, request: Request) -> Response:
    """Something to sample from: a base model or saved weights."""
    document, _, digest = decode(await read_body(request), CreateSamplingSessionRequest)
    base, path = document.base_model, document.model_path
    if isinstance(base, str) == isinstance(path, str):
        raise RefusedError(422, "create_sampling_session needs exactly one of base_model and model_path")
    if isinstance(base, str):
        check_base(base)
    sampling_session_id = f"{document.session_id}:sample:{document.sampling_session_seq_id}"

    def add(db: Connection) -> None:
        if isinstance(base, str):
            name, saved = base, None
        else:
            parsed = known_checkpoint(db, str(path), "sampler_weights")
            name, saved = service.checkpoints.facts(parsed).base_model, str(path)
        records.add_sampler(db, sampling_session_id, digest, base=name, path=saved)

    try:
        await service.run(add)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
    return answer({"sampling_session_id": sampling_session_id, "type": "create_sampling_session"})


async def get_sampler(service: Service, request: Request) -> Response:
    """What a sampling session samples from."""
    sampler_id = request.path_params["sampler_id"]
    sampler = await service.ask(lambda db: records.sampler(db, sampler_id))
    paths = {} if sampler.path is None else {"model_path": sampler.path}
    return answer({"sampler_id": sampler_id, "base_model": sampler.base_model, **paths})


async def asample(service: Service, request: Request) -> Response:
    """Samples, in the background; the seed of a request that names none is drawn here and kept."""
    body = await read_body(request)
    document, _, digest = read_sample(body)
    check_sample(document, await service.config_of_sampler(document.sampling_session_id))
    service.executor.check_room(document.sampling_session_id)
    operation = ledger.Request(
        request_id=f"{document.sampling_session_id}:{document.seq_id}",
        kind="sample",
        queue=document.sampling_session_id,
        seq_id=document.seq_id,
        digest=digest,
        body=body,
        seed=secrets.randbits(63) if document.sampling_params.seed is None else None,
    )
    request_id = await service.accept(partial(ledger.accept, request=operation))
    ids = [f"{request_id}:{index}" for index in range(document.num_samples)]
    return answer({"request_id": request_id, "sample_sequence_ids": ids})


ROUTES = [
    endpoint("POST", "/create_sampling_session", create_sampling_session),
    endpoint("GET", "/samplers/{sampler_id}", get_sampler),
    endpoint("POST", "/asample", asample),
]
