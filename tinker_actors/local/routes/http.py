"""What all endpoints share: the key, the body, and answers that are JSON also when something is wrong."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tinker_actors.local.refusals import BusyError, RefusedError, StorageError
from tinker_actors.local.reports import report_failure
from tinker_actors.local.service import Service
from tinker_actors.local.specs import as_json
from tinker_actors.wire.compression import accepted_encodings, unpacked

__all__ = [
    "Guard",
    "Handler",
    "answer",
    "endpoint",
    "key_needed",
    "key_of",
    "problem",
    "read_body",
    "token_needed",
]

Handler = Callable[[Service, Request], Awaitable[Response]]
Guard = Callable[[Service, Request], None]
"""Raises `RefusedError` if a request may not be answered."""

PREFIX = "/api/v1"
MOST_BODY_BYTES = 64 * 2**20


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(as_json(document), status, headers, media_type="application/json")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is not accepted."""
    return answer({"detail": detail}, status, headers)


def _busy(error: BusyError) -> Response:
    body = {
        "detail": error.detail,
        "queue_state": error.queue_state,
        "queue_state_reason": error.detail,
        "retry_after_ms": round(1000 * error.retry_after_s),
    }
    return answer(body, error.status, error.headers)


def key_of(request: Request) -> str:
    """The key that a request carries, or nothing."""
    return request.headers.get("x-api-key", "")


def token_needed(service: Service, request: Request) -> None:
    """The guard of most endpoints: a key, or the token that it was exchanged for.

    Raises:
        RefusedError: 401, there is none that is accepted.
    """
    service.access.check(key_of(request))


def key_needed(service: Service, request: Request) -> None:
    """The guard of endpoints that take the key itself.

    Raises:
        RefusedError: 401, there is none that is accepted.
    """
    service.access.check_key(key_of(request))


def endpoint(
    method: str, path: str, handler: Handler, guard: Guard = token_needed, prefix: str = PREFIX
) -> Route:
    """A route to `handler`; whatever goes wrong becomes an answer."""

    async def respond(request: Request) -> Response:
        service = request.app.state.service
        try:
            guard(service, request)
            return await handler(service, request)
        except BusyError as busy:
            return _busy(busy)
        except RefusedError as refusal:
            return problem(refusal.status, refusal.detail, refusal.headers)
        except StorageError as error:
            return problem(507, str(error))
        except ClientDisconnect:
            return problem(400, "the body ended early")
        except Exception as error:  # noqa: BLE001 - one request's fault must not reach the server
            report_failure("answer_failed", error, path=request.url.path)
            return problem(500, f"the server failed: {type(error).__name__}")

    return Route(prefix + path, respond, methods=[method])


async def read_body(request: Request) -> bytes:
    """The whole body, unpacked.

    Raises:
        RefusedError: 413, it is too large, packed or not; 415, it cannot be unpacked.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise RefusedError(413, f"bodies may have {MOST_BODY_BYTES} bytes")
        parts.append(part)
    body, encoding = b"".join(parts), request.headers.get("content-encoding", "identity")
    return body if encoding == "identity" else await asyncio.to_thread(_unpacked, body, encoding)


def _unpacked(body: bytes, encoding: str) -> bytes:
    try:
        plain = unpacked(body, encoding, MOST_BODY_BYTES)
    except ValueError as error:
        raise RefusedError(
            415, f"a body in {accepted_encodings()} is wanted, got {encoding[:64]!r}: {error}"
        ) from error
    if plain is None:
        raise RefusedError(413, f"bodies may have {MOST_BODY_BYTES} bytes once they are unpacked")
    return plain
