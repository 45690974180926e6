"""The service itself, and sessions."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tinker_actors.local import listings, records, step_log
from tinker_actors.local.bodies import decode, parse
from tinker_actors.local.engine.catalog import model_config, model_names
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.routes.http import answer, endpoint, key_needed, read_body
from tinker_actors.local.routes.queries import check_scope, page_in
from tinker_actors.local.service import Service
from tinker_actors.local.session_search import SearchRequest, search
from tinker_actors.local.store import Connection
from tinker_actors.wire.documents import CreateSessionRequest, SessionRequest

__all__ = ["ROUTES"]

USUAL_LIMIT = 20
REASONS = ("success", "errored", "interrupted")


async def healthz(_service: Service, _request: Request) -> Response:
    """Whether the server answers."""
    return answer({"status": "ok"})


async def get_server_capabilities(_service: Service, _request: Request) -> Response:
    """The base models."""
    models = [
        {
            "model_name": name,
            "max_context_length": model_config(name).max_context_length,
            "trainable": True,
            "sampleable": True,
        }
        for name in model_names()
    ]
    return answer({"supported_models": models})


async def client_config(service: Service, _request: Request) -> Response:
    """Flags for clients: those that are not at their defaults."""
    flags = {
        "pjwt_auth_enabled": service.options.jwt,
        "sample_use_retrieve_futures": service.options.batched_futures,
        "sample_join_sampling_session": service.options.join_samplers,
    }
    return answer({name: True for name, is_on in flags.items() if is_on})


async def dynamic_config(_service: Service, _request: Request) -> Response:
    """Flags that may change while clients run: samples may be cancelled."""
    return answer({"sample_cancel_enabled": True})


async def telemetry(_service: Service, request: Request) -> Response:
    """Clients' telemetry, which nobody here reads."""
    await read_body(request)
    return answer({"status": "accepted"})


async def create_session(service: Service, request: Request) -> Response:
    """A new session."""
    body = await read_body(request)
    document, _, _ = decode(body, CreateSessionRequest)
    project_id = document.project_id if isinstance(document.project_id, str) else records.DEFAULT_PROJECT
    session_id = await service.run(lambda db: records.add_session(db, body, project_id))
    return answer({"session_id": session_id, "type": "create_session"})


async def session_heartbeat(service: Service, request: Request) -> Response:
    """A sign of life: 404 for an unknown session, 410 for a finished one."""
    document, _, _ = decode(await read_body(request), SessionRequest)

    def beat(db: Connection) -> None:
        records.beat(db, document.session_id)
        step_log.beat(db, document.session_id)

    await service.run(beat, durable=False)
    return answer({"type": "session_heartbeat"})


async def finish_session(service: Service, request: Request) -> Response:
    """The end of a session and of its models; only the first one counts."""
    body = await read_body(request)
    reason: Any = parse(body).get("reason")
    if not isinstance(reason, dict) or reason.get("type") not in REASONS:
        raise RefusedError(422, f"reason.type must be one of {', '.join(REASONS)}, got {reason!r}")
    session_id = request.path_params["session_id"]
    await service.finish_session(session_id, body)
    return answer({})


async def list_sessions(service: Service, request: Request) -> Response:
    """A page of their ids, the newest first."""
    check_scope(request)
    page = page_in(request, USUAL_LIMIT)
    return answer(await service.ask(lambda db: listings.sessions(db, page)))


async def get_session(service: Service, request: Request) -> Response:
    """What lives in one."""
    check_scope(request)
    session_id = request.path_params["session_id"]
    return answer(await service.ask(lambda db: listings.session(db, session_id)))


async def search_sessions(service: Service, request: Request) -> Response:
    """A page of those that fit a search, the newest first."""
    wanted, _, _ = decode(await read_body(request), SearchRequest)
    return answer(await service.ask(lambda db: search(db, wanted)))


async def assign_project(service: Service, request: Request) -> Response:
    """Another project for a session, and so for its models."""
    project_id = parse(await read_body(request)).get("project_id")
    if not isinstance(project_id, str) or not project_id:
        raise RefusedError(422, f"project_id must be a text, got {project_id!r}")
    session_id = request.path_params["session_id"]
    await service.run(lambda db: records.assign_project(db, session_id, project_id))
    return Response(status_code=204)


ROUTES = [
    endpoint("GET", "/healthz", healthz),
    endpoint("GET", "/get_server_capabilities", get_server_capabilities),
    endpoint("POST", "/client/config", client_config, key_needed),
    endpoint("POST", "/client/dynamic_config", dynamic_config),
    endpoint("POST", "/telemetry", telemetry),
    endpoint("POST", "/create_session", create_session),
    endpoint("POST", "/session_heartbeat", session_heartbeat),
    endpoint("POST", "/sessions/{session_id}/finish", finish_session),
    endpoint("GET", "/sessions", list_sessions),
    endpoint("POST", "/sessions/search", search_sessions),
    endpoint("GET", "/sessions/{session_id}", get_session),
    endpoint("PUT", "/sessions/{session_id}/project", assign_project),
]
