"""What the service keeps and lists: sessions, training runs, samplers."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from tinker_actors.api import sessions
from tinker_actors.api.futures import Outcome, Pause, RoundTrips
from tinker_actors.errors import (
    APIResponseValidationError,
    RequestFailedError,
    TinkerActorsError,
    TinkerPathError,
    ValidationError,
)
from tinker_actors.types import ServerCapabilities
from tinker_actors.types.checks import one_of, shown, text, whole
from tinker_actors.types.rest import (
    AccessScope,
    GetSamplerResponse,
    GetSessionResponse,
    ListSessionsResponse,
    ParsedCheckpointTinkerPath,
    SessionSearchRequest,
    SessionSearchResponse,
    TrainingRun,
    TrainingRunsResponse,
)
from tinker_actors.wire.calls import Answer, Call, Pool, json_body
from tinker_actors.wire.retry import BRIEF

__all__ = [
    "assign_session_project",
    "call_without_answer",
    "export_session_trace",
    "get_sampler",
    "get_server_capabilities",
    "get_session",
    "get_training_run",
    "get_training_run_by_tinker_path",
    "list_sessions",
    "list_training_runs",
    "page",
    "raw",
    "read_leniently",
    "rest_call",
    "search_request",
    "search_sessions",
    "segment",
    "succeeded",
]

T = TypeVar("T")

TRACE_POLL_S = 5.0
"""From one look at a trace that is being built to the next, as the official SDK has it."""
MOST_SEARCHED = 200


# The form of every call -------------------------------------------------------------------------


def read_leniently(kind: type[T]) -> Callable[[Answer], T]:
    """A reader of answers of type `kind`, in which a number may stand as text; unknown fields are ignored.

    The reader raises `APIResponseValidationError` where the answer does not fit.
    """

    def read(answer: Answer) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise APIResponseValidationError(
                f"an answer of type {kind.__name__} was wanted: {error}"
            ) from error

    return read


def rest_call(
    operation: str,
    path: str,
    kind: type[T],
    *,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
) -> Call[T]:
    """A request for a `kind`; repeated for as long as a caller likes to wait. None is left out of the query."""
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return Call(
        operation=operation,
        method=method,
        path=f"{path}?{urlencode(given)}" if given else path,
        body=b"" if body is None else json_body(body),
        pool=Pool.SESSION,
        retry=BRIEF,
        read=read_leniently(kind),
    )


def call_without_answer(
    operation: str, method: str, path: str, body: Mapping[str, Any] | None = None
) -> Call[None]:
    """A request whose success says everything."""
    call: Call[Any] = rest_call(operation, path, object, method=method, body=body)
    return msgspec.structs.replace(call, read=_nothing)


def raw(call: Call[Any]) -> Call[Answer]:
    """The same call, whose answer is still to be read."""
    return msgspec.structs.replace(call, read=_unread)


def succeeded(outcome: Outcome) -> Answer:
    """The successful answer to a call of round trips.

    Raises:
        TinkerActorsError: what came in its place.
    """
    if isinstance(outcome, TinkerActorsError):
        raise outcome
    assert outcome is not None  # noqa: S101 - drivers answer each call
    return outcome.success()


def _nothing(_answer: Answer) -> None:
    return None


def _unread(answer: Answer) -> Answer:
    return answer


def segment(name: str, value: Any) -> str:
    """An id as one segment of a path; `:` stays as it is.

    Raises:
        ValidationError: it is empty, or would be read as a step in the path.
        TinkerPathError: it is a path of a checkpoint.
    """
    known = text(name, value)
    if known.startswith("tinker://"):
        raise TinkerPathError(
            f"{name} is an id, got the path {shown(known)}; use the method for tinker paths, or the path's id"
        )
    quoted = quote(known, safe=":")
    if quoted in (".", ".."):
        raise ValidationError(f"{name} must be an id, got {shown(known)}")
    return quoted


def page(limit: Any, offset: Any) -> dict[str, int]:
    """The part of a query that says which page.

    Raises:
        ValidationError: one is out of range.
    """
    return {"limit": whole("limit", limit, least=1), "offset": whole("offset", offset, least=0)}


def _scope(access_scope: Any) -> dict[str, str]:
    if access_scope is None:
        return {}
    return {"access_scope": one_of("access_scope", access_scope, "owned", "accessible")}


# Sessions ---------------------------------------------------------------------------------------


def get_server_capabilities() -> Call[ServerCapabilities]:
    """The base models on offer."""
    return msgspec.structs.replace(sessions.get_server_capabilities(), retry=BRIEF)


def list_sessions(limit: int, offset: int, access_scope: AccessScope | None) -> Call[ListSessionsResponse]:
    """A page of session ids."""
    query = page(limit, offset) | _scope(access_scope)
    return rest_call("list_sessions", "sessions", ListSessionsResponse, query=query)


def get_session(session_id: str, access_scope: AccessScope | None) -> Call[GetSessionResponse]:
    """What lives in a session."""
    path = f"sessions/{segment('session_id', session_id)}"
    return rest_call("get_session", path, GetSessionResponse, query=_scope(access_scope))


def assign_session_project(session_id: str, project_id: str) -> Call[None]:
    """Move a session into a project."""
    path = f"sessions/{segment('session_id', session_id)}/project"
    body = {"project_id": text("project_id", project_id)}
    return call_without_answer("assign_session_project", "PUT", path, body)


class _TraceExport(msgspec.Struct, frozen=True):
    status: Literal["pending", "ready", "failed"]
    url: str | None = None
    error: str | None = None


def export_session_trace(session_id: str) -> RoundTrips[str]:
    """Ask for a session's trace until it is there; the signed URL of it.

    Raises:
        ValidationError: the id is none.
        RequestFailedError: the service could not build it.
    """
    path = f"sessions/{segment('session_id', session_id)}/trace_export"
    return _until_exported(raw(rest_call("export_session_trace", path, object)), session_id)


def _until_exported(call: Call[Answer], session_id: str) -> RoundTrips[str]:
    read = read_leniently(_TraceExport)
    while True:
        export = read(succeeded((yield call)))
        if export.status == "failed":
            raise RequestFailedError(f"the trace of session {session_id} was not built: {export.error}")
        if export.status == "ready":
            if not export.url:
                raise APIResponseValidationError(
                    f"the trace of session {session_id} is ready, and its URL was wanted, got none"
                )
            return export.url
        yield Pause(TRACE_POLL_S, "pending")


def search_request(value: Any) -> SessionSearchRequest:
    """`value` as a search: ours, the official SDK's (by structure), or a dict of its fields.

    Raises:
        ValidationError: it is none, or asks for what the service cannot search by.
    """
    try:
        given = msgspec.to_builtins(value) if isinstance(value, SessionSearchRequest) else value
        known = msgspec.convert(given, SessionSearchRequest, from_attributes=True)
        msgspec.json.encode(known)
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
        raise ValidationError(f"a SessionSearchRequest is wanted: {error}") from error
    whole("limit", known.limit, least=1, most=MOST_SEARCHED)
    if (known.owner.type == "user") != (known.owner.owner_urns is not None):
        raise ValidationError('owner_urns are given with the owner "user", and with no other')
    if known.owner.owner_urns is not None:
        whole("the number of owner_urns", len(known.owner.owner_urns), least=1, most=10)
    return known


def search_sessions(request: SessionSearchRequest) -> Call[SessionSearchResponse]:
    """A page of the sessions that fit, the newest first; experimental."""
    warnings.warn("search_sessions is experimental: the service may change it", FutureWarning, stacklevel=3)
    document = _without_none(msgspec.to_builtins(search_request(request)))
    return rest_call(
        "search_sessions", "sessions/search", SessionSearchResponse, method="POST", body=document
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value


# Training runs and samplers ---------------------------------------------------------------------


def list_training_runs(
    limit: int, offset: int, access_scope: AccessScope | None, project_id: str | None
) -> Call[TrainingRunsResponse]:
    """A page of training runs."""
    query = page(limit, offset) | _scope(access_scope)
    project = None if project_id is None else text("project_id", project_id)
    return rest_call(
        "list_training_runs", "training_runs", TrainingRunsResponse, query={**query, "project_id": project}
    )


def get_training_run(training_run_id: str, access_scope: AccessScope | None) -> Call[TrainingRun]:
    """One training run."""
    path = f"training_runs/{segment('training_run_id', training_run_id)}"
    return rest_call("get_training_run", path, TrainingRun, query=_scope(access_scope))


def get_training_run_by_tinker_path(tinker_path: str, access_scope: AccessScope | None) -> Call[TrainingRun]:
    """The training run that a checkpoint was saved from."""
    path = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
    return get_training_run(path.training_run_id, access_scope)


def get_sampler(sampler_id: str) -> Call[GetSamplerResponse]:
    """What a sampling session samples from."""
    return rest_call("get_sampler", f"samplers/{segment('sampler_id', sampler_id)}", GetSamplerResponse)
