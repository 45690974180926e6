"""Sampling sessions and samples."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tinker_actors.errors import ValidationError
from tinker_actors.local import completions, ledger, records
from tinker_actors.local.bodies import decode, read_sample
from tinker_actors.local.engine.batching import Token
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.routes.queries import known_checkpoint
from tinker_actors.local.samplers import Stream
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Result, Ticket, as_json
from tinker_actors.local.store import Connection
from tinker_actors.local.validation import check_sample
from tinker_actors.wire.documents import (
    CreateSamplingSessionRequest,
    JoinSamplingSessionRequest,
    SampleRequest,
)

__all__ = ["ROUTES"]


async def create_sampling_session(service: Service, request: Request) -> Response:
    """Something to sample from: a base model or saved weights."""
    document, _, digest = decode(await read_body(request), CreateSamplingSessionRequest)
    base, path = document.base_model, document.model_path
    if isinstance(base, str) == isinstance(path, str):
        raise RefusedError(422, "create_sampling_session needs exactly one of base_model and model_path")
    if isinstance(base, str):
        await service.in_thread(service.check_base, base)
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


async def join_sampling_session(service: Service, request: Request) -> Response:
    """A number for one more clone of a sampling client."""
    document, _, _ = decode(await read_body(request), JoinSamplingSessionRequest)
    counter = await service.run(lambda db: completions.join(db, document.sampling_session_id))
    return answer({"client_counter": counter, "type": "join_sampling_session"})


async def asample(service: Service, request: Request) -> Response:
    """Samples, in the background; the seed of a request that names none is made here and kept."""
    body = await read_body(request)
    document, values, digest = read_sample(body)
    check_sample(document, await service.config_of_sampler(document.sampling_session_id))
    service.executor.check_room(document.sampling_session_id)
    operation = ledger.Request(
        request_id=f"{document.sampling_session_id}:{document.seq_id}",
        kind="sample",
        queue=document.sampling_session_id,
        seq_id=document.seq_id,
        digest=digest,
        body=body,
        seed=service.seed(values, 63) if document.sampling_params.seed is None else None,
    )
    request_id = await service.accept(partial(_accept, request=operation))
    ids = [f"{request_id}:{index}" for index in range(document.num_samples)]
    return answer({"request_id": request_id, "sample_sequence_ids": ids})


def _accept(db: Connection, request: ledger.Request) -> ledger.Accepted:
    """Keep a sample request; a changed one at a place that is taken is 422: clients repeat a 409."""
    try:
        return ledger.accept(db, request)
    except RefusedError as refusal:
        raise RefusedError(422, refusal.detail) from refusal


async def stream_sample(service: Service, request: Request) -> Response:
    """Samples as server-sent events, a token each as it is made; an extension of ours.

    Nothing is stored: a stream that breaks is gone, and its seq_id stays free. `token` events have `token`
    (the text it adds), `token_id`, `index` (its place), `logprob` and `sequence` (which sample); the last one,
    `done`, has `finish_reason` and `total_tokens`, with several samples also `finish_reasons`. What goes wrong
    on the way is an `error` event with `error` and `category`.
    """
    document, values, _ = read_sample(await read_body(request))
    spec = check_sample(document, await service.config_of_sampler(document.sampling_session_id))
    if not spec.questions.is_empty or spec.topk:
        raise RefusedError(400, "stream_sample tells sampled tokens only; ask asample for other logprobs")
    service.executor.check_room(document.sampling_session_id)
    sampler = document.sampling_session_id
    ticket = Ticket(
        request_id=f"{sampler}:stream-{secrets.token_hex(8)}", kind="sample", queue=sampler, seq_id=None
    )
    events = _stream(service, ticket, document, service.seed(values, 63))
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(
    service: Service, ticket: Ticket, document: SampleRequest, seed: int
) -> AsyncIterator[bytes]:
    """The events of one stream; whoever stops to read them ends it."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Token | None] = asyncio.Queue()

    def tell(token: Token | None) -> None:
        with suppress(RuntimeError):  # the server has stopped
            loop.call_soon_threadsafe(told.put_nowait, token)

    result = service.waiters.join(ticket.request_id)
    result.add_done_callback(lambda _: tell(None))
    service.executor.offer_stream(ticket, Stream(document, seed, tell))
    reasons, total = [""] * document.num_samples, 0
    try:
        while (token := await told.get()) is not None:
            total += 1
            reasons[token.sequence] = token.stop_reason or ""
            yield _event(
                "token",
                token=token.text,
                token_id=token.token_id,
                index=token.index,
                logprob=token.logprob,
                sequence=token.sequence,
            )
        yield _ending(result.result(), reasons, total)
    finally:
        service.waiters.leave(ticket.request_id, result)
        service.executor.cancel(ticket.request_id)


def _ending(result: Result | None, reasons: list[str], total: int) -> bytes:
    if result is None:
        return _event("error", error="the server stops", category="server")
    if result.form == "error":
        return _event("error", **msgspec.json.decode(result.body))
    several = {"finish_reasons": reasons} if len(reasons) > 1 else {}
    return _event("done", finish_reason=reasons[-1], total_tokens=total, **several)


def _event(name: str, **data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + as_json(data) + b"\n\n"


ROUTES = [
    endpoint("POST", "/create_sampling_session", create_sampling_session),
    endpoint("GET", "/samplers/{sampler_id}", get_sampler),
    endpoint("POST", "/join_sampling_session", join_sampling_session),
    endpoint("POST", "/asample", asample),
    endpoint("POST", "/stream_sample", stream_sample),
]
