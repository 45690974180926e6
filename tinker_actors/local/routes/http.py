"""What all endpoints share: the key, the body, and answers that are JSON also when something is wrong."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tinker_actors.local.refusals import RefusedError, StorageError
from tinker_actors.local.reports import report_failure
from tinker_actors.local.service import Service
from tinker_actors.local.specs import as_json

__all__ = ["Handler", "answer", "endpoint", "problem", "read_body"]

Handler = Callable[[Service, Request], Awaitable[Response]]

PREFIX = "/api/v1"
MOST_BODY_BYTES = 64 * 2**20
KEY_PREFIXES = ("tml-", "eyJ")


def answer(document: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(as_json(document), status, media_type="application/json")


def problem(status: int, detail: str) -> Response:
    """The answer to a request that is not accepted."""
    return answer({"detail": detail}, status)


def endpoint(method: str, path: str, handler: Handler) -> Route:
    """A route to `handler`; whatever goes wrong becomes an answer."""

    async def respond(request: Request) -> Response:
        try:
            _check_key(request)
            return await handler(request.app.state.service, request)
        except RefusedError as refusal:
            return problem(refusal.status, refusal.detail)
        except StorageError as error:
            return problem(507, str(error))
        except ClientDisconnect:
            return problem(400, "the body ended early")
        except Exception as error:  # noqa: BLE001 - one request's fault must not reach the server
            report_failure("answer_failed", error, path=request.url.path)
            return problem(500, f"the server failed: {type(error).__name__}")

    return Route(PREFIX + path, respond, methods=[method])


def _check_key(request: Request) -> None:
    if not request.headers.get("x-api-key", "").startswith(KEY_PREFIXES):
        raise RefusedError(401, "X-API-Key must be a key that starts with tml- or eyJ")


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RefusedError: 413, it is too large; 415, it is compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "this server takes no compressed bodies")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise RefusedError(413, f"bodies may have {MOST_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
