"""Results: a poll is held until its request is done, but not for ever."""

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local import completions, ledger
from tinker_actors.local.bodies import LARGEST_ID, decode
from tinker_actors.local.completions import Completion
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.service import Service
from tinker_actors.wire.documents import (
    CancelFutureRequest,
    CompleteMetadata,
    RetrieveFutureRequest,
    RetrieveFuturesRequest,
    TryAgain,
)

__all__ = ["ROUTES"]


async def retrieve_future(service: Service, request: Request) -> Response:
    """A request's result: 408 while it is pending, 410 once it is forgotten."""
    document, _, _ = decode(await read_body(request), RetrieveFutureRequest)
    request_id = document.request_id
    result = await service.result(request_id, service.options.hold_s)
    if result is None:
        state, reason = service.executor.queue_state(request_id)
        pending = TryAgain(
            request_id=request_id, queue_state=state, queue_state_reason=reason or msgspec.UNSET
        )
        return answer(pending, 408)
    media, body = result.render(protobuf="application/x-protobuf" in request.headers.get("accept", ""))
    is_large = len(body) > service.options.inline_kib * 1024 and result.form in ("output", "sample")
    if document.allow_metadata_only and is_large:
        return answer(CompleteMetadata(response_payload_size=len(body)))
    if result.form == "sample":  # nobody waits for that: a count that is lost keeps the result for longer
        service.store.submit(lambda db: completions.fetched(db, request_id), durable=False)
    return Response(body, media_type=media)


async def retrieve_futures(service: Service, request: Request) -> Response:
    """Which samples of a clone have ended after a cursor; held until there is one, but not for ever."""
    document, _, _ = decode(await read_body(request), RetrieveFuturesRequest)
    target, known = document.target, list(document.retrieved_request_ids)
    _check_poll(document)
    if known:
        await service.ask(lambda db: completions.forget(db, target.sampling_session_id, known))
    hold_s = service.options.hold_s
    if isinstance(document.timeout, float | int):
        hold_s = min(hold_s, document.timeout)
    ended, cursor = await _completions(service, document, hold_s)
    return answer({"completions": ended, "cursor": cursor})


def _check_poll(document: RetrieveFuturesRequest) -> None:
    cursor, clone = document.prev_cursor, document.target.cloned_sampler_id
    if not 0 <= cursor <= LARGEST_ID:
        raise RefusedError(422, f"prev_cursor must lie in [0, 2**63), got {cursor}")
    if not 0 <= clone < LARGEST_ID // completions.CLONE_IDS:
        raise RefusedError(422, f"cloned_sampler_id must lie in [0, 2**63 / 10**9), got {clone}")
    if isinstance(document.timeout, float | int) and not document.timeout >= 0:
        raise RefusedError(422, f"timeout must be 0 s or more, got {document.timeout}")


async def _completions(
    service: Service, document: RetrieveFuturesRequest, hold_s: float
) -> tuple[list[Completion], int]:
    sampler, clone = document.target.sampling_session_id, document.target.cloned_sampler_id
    topic = completions.topic(sampler, clone)
    waiter = service.waiters.join(topic)
    try:
        found = await service.ask(lambda db: completions.after(db, sampler, clone, document.prev_cursor))
        if found[0] or hold_s == 0.0:
            return found
        await asyncio.wait_for(asyncio.wrap_future(waiter), hold_s)
    except TimeoutError:
        return found
    finally:
        service.waiters.leave(topic, waiter)
    return await service.ask(lambda db: completions.after(db, sampler, clone, document.prev_cursor))


async def cancel_future(service: Service, request: Request) -> Response:
    """The end of a sample that waits or grows; one that has ended stays as it is."""
    document, _, _ = decode(await read_body(request), CancelFutureRequest)
    kind = await service.ask(lambda db: ledger.kind_of(db, document.request_id))
    if kind is None:
        raise RefusedError(404, f"there is no request {document.request_id}")
    if kind != "sample":
        raise RefusedError(400, f"only samples can be cancelled, {document.request_id} is {kind}")
    service.executor.cancel(document.request_id)
    return answer({})


ROUTES = [
    endpoint("POST", "/retrieve_future", retrieve_future),
    endpoint("POST", "/retrieve_futures", retrieve_futures),
    endpoint("POST", "/cancel_future", cancel_future),
]
