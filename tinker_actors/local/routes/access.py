"""Keys: what they are exchanged for, and whose they are. Both ask for the key itself."""

from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, key_needed, key_of
from tinker_actors.local.service import Service

__all__ = ["ROUTES"]


async def exchange(service: Service, _request: Request) -> Response:
    """A token that expires, in place of a key."""
    if not service.options.jwt:
        raise RefusedError(404, "this server takes keys as they are, and exchanges none")
    return answer({"jwt": service.access.token()})


async def get_own_key(service: Service, request: Request) -> Response:
    """The record of the key that was sent."""
    return answer(service.access.describe(key_of(request)))


async def delete_own_key(_service: Service, _request: Request) -> Response:
    """No key is deleted: this server gave none out."""
    raise RefusedError(403, "this server gave no keys out, so it takes none back; forget the key instead")


ROUTES = [
    endpoint("POST", "/auth/token", exchange, key_needed),
    endpoint("GET", "/auth/apikey/me", get_own_key, key_needed),
    endpoint("DELETE", "/auth/apikey/me", delete_own_key, key_needed),
]
