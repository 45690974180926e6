"""Training runs: the models that are or were, listed with their newest checkpoints."""

from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local import listings
from tinker_actors.local.routes.http import answer, endpoint
from tinker_actors.local.routes.queries import check_scope, page_in
from tinker_actors.local.service import Service

__all__ = ["ROUTES"]

USUAL_LIMIT = 20


async def list_training_runs(service: Service, request: Request) -> Response:
    """A page of them, the newest first."""
    check_scope(request)
    page, project_id = page_in(request, USUAL_LIMIT), request.query_params.get("project_id")
    return answer(await service.ask(lambda db: listings.training_runs(db, page, project_id)))


async def get_training_run(service: Service, request: Request) -> Response:
    """One of them."""
    check_scope(request)
    run = request.path_params["run"]
    return answer(await service.ask(lambda db: listings.training_run(db, run)))


ROUTES = [
    endpoint("GET", "/training_runs", list_training_runs),
    endpoint("GET", "/training_runs/{run}", get_training_run),
]
