"""The ASGI application over a service."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local.routes import access, futures, models, sampling, sessions, training
from tinker_actors.local.routes.http import problem
from tinker_actors.local.service import Service

__all__ = ["make_app"]


def make_app(service: Service) -> Starlette:
    """All endpoints over `service`, which its maker starts and stops."""
    routes = [
        *futures.ROUTES,
        *sampling.ROUTES,
        *training.ROUTES,
        *models.ROUTES,
        *sessions.ROUTES,
        *access.ROUTES,
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.state.service = service
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, f"there is no {request.method} {request.url.path}")
