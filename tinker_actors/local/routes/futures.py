"""Results: a poll is held until its request is done, but not for ever."""

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local import ledger
from tinker_actors.local.bodies import decode
from tinker_actors.local.routes.http import answer, endpoint, read_body
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Result
from tinker_actors.wire.documents import RetrieveFutureRequest, TryAgain

__all__ = ["ROUTES"]


async def retrieve_future(service: Service, request: Request) -> Response:
    """A request's result: 408 while it is pending, 410 once it is forgotten."""
    document, _, _ = decode(await read_body(request), RetrieveFutureRequest)
    result = await _result(service, document.request_id)
    if result is None:
        state, reason = service.executor.queue_state(document.request_id)
        pending = TryAgain(
            request_id=document.request_id, queue_state=state, queue_state_reason=reason or msgspec.UNSET
        )
        return answer(pending, 408)
    accept = request.headers.get("accept", "")
    media, body = result.render(protobuf="application/x-protobuf" in accept)
    return Response(body, media_type=media)


async def _result(service: Service, request_id: str) -> Result | None:
    """The result, or None if it is not there in time."""
    waiter = service.waiters.join(request_id)  # first: a result published meanwhile must not be missed
    try:
        found = await service.ask(lambda db: ledger.look_up(db, request_id))
        if found.result is not None:
            return found.result
        return await asyncio.wait_for(asyncio.wrap_future(waiter), service.options.hold_s)
    except TimeoutError:
        return None
    finally:
        service.waiters.leave(request_id, waiter)


ROUTES = [endpoint("POST", "/retrieve_future", retrieve_future)]
