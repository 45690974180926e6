"""The ASGI application over a service."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local.faults.injection import App, Connections, FaultInjector
from tinker_actors.local.routes import (
    access,
    checkpoints,
    control,
    downloads,
    futures,
    models,
    sampling,
    sessions,
    training,
    training_runs,
)
from tinker_actors.local.routes.http import problem
from tinker_actors.local.service import Service

__all__ = ["make_app"]


def make_app(service: Service, connections: Connections | None = None) -> App:
    """All endpoints over `service`, which its maker starts and stops.

    Args:
        service: what the endpoints work with.
        connections: those that faults may end; None: there are none.
    """
    routes = [
        *futures.ROUTES,
        *sampling.ROUTES,
        *training.ROUTES,
        *models.ROUTES,
        *sessions.ROUTES,
        *training_runs.ROUTES,
        *checkpoints.ROUTES,
        *downloads.ROUTES,
        *access.ROUTES,
        *(control.ROUTES if service.options.control else ()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.state.service = service
    return FaultInjector(app, service, service.switches, connections or Connections())


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, f"there is no {request.method} {request.url.path}")
