"""The control endpoint, for tests on this machine: faults at run time, and what was executed.

Outside of the API's own paths, and only where the server was started with it.
"""

import ipaddress

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinker_actors.errors import ValidationError
from tinker_actors.local import step_log
from tinker_actors.local.faults.plan import read_plan
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import Handler, answer, endpoint, key_needed, read_body
from tinker_actors.local.service import Service

__all__ = ["ROUTES"]

PREFIX = "/control"
MOST_ENTRIES = 10_000
"""Entries of the log in one answer."""


async def set_faults(service: Service, request: Request) -> Response:
    """Arm the faults of a plan, behind those that are set."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RefusedError(415, "a fault plan must come as application/json")  # which no web page may send
    try:
        names = service.switches.arm(read_plan(await read_body(request)))
    except ValidationError as error:
        raise RefusedError(422, str(error)) from error
    return answer({"names": names})


async def list_faults(service: Service, _request: Request) -> Response:
    """Every fault that is set, with how often it matched and fired."""
    return answer({"faults": service.switches.states()})


async def clear_faults(service: Service, _request: Request) -> Response:
    """Disarm all."""
    return answer({"names": service.switches.clear()})


async def clear_fault(service: Service, request: Request) -> Response:
    """Disarm one."""
    name = request.path_params["name"]
    names = service.switches.clear(name)
    if not names:
        raise RefusedError(404, f"no fault {name} is set")
    return answer({"names": names})


async def list_log(service: Service, request: Request) -> Response:
    """Entries of the step log, oldest first: those behind `after`, of one `owner` if named."""
    query = request.query_params
    try:
        after = int(query.get("after", "0"))
    except ValueError as error:
        raise RefusedError(422, f"after must be a place in the log, got {query['after']!r}") from error
    owner = query.get("owner")
    entries = await service.ask(lambda db: step_log.entries(db, owner=owner, after=after, most=MOST_ENTRIES))
    return answer({"entries": entries})


def _this_machine(service: Service, request: Request) -> None:
    if not _is_loopback(request.client.host if request.client else ""):
        raise RefusedError(403, "the control endpoint is for this machine only")
    key_needed(service, request)


def _control(method: str, path: str, handler: Handler) -> Route:
    return endpoint(method, path, handler, _this_machine, PREFIX)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


ROUTES = [
    _control("POST", "/faults", set_faults),
    _control("GET", "/faults", list_faults),
    _control("DELETE", "/faults", clear_faults),
    _control("DELETE", "/faults/{name}", clear_fault),
    _control("GET", "/log", list_log),
]
