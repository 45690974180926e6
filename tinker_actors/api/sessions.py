"""Service and session endpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from tinker_actors.types import ServerCapabilities
from tinker_actors.wire.calls import Answer, Call, Pool, WhenOpen, json_body, read_json
from tinker_actors.wire.documents import CreateSessionRequest, SessionCreated, SessionRequest
from tinker_actors.wire.retry import BRIEF, PATIENT

__all__ = [
    "CHECK_URL",
    "SDK_VERSION",
    "create_session",
    "finish_session",
    "get_server_capabilities",
    "healthz",
    "session_heartbeat",
]

SDK_VERSION = "0.38.0"
"""The version of the official SDK whose protocol we speak; the service chooses features by it."""
CHECK_URL = "this may be no Tinker server: check base_url and its path"
"""What to do about a server that lacks what every one has."""
HEARTBEAT_TIMEOUT_S = 10.0
_HURRIED = msgspec.structs.replace(BRIEF, max_elapsed_s=5.0)
"""For the last word of a program that wants to end; without it the session ends for want of beats."""


class _Health(msgspec.Struct, frozen=True):
    status: str


def healthz() -> Call[str]:
    """The service's word for how it is; "ok" when it serves."""
    read = read_json(_Health)
    return Call(
        operation="healthz",
        method="GET",
        path="healthz",
        pool=Pool.SESSION,
        retry=BRIEF,
        read=lambda answer: read(answer).status,
    )


def get_server_capabilities() -> Call[ServerCapabilities]:
    """The base models on offer."""
    return Call(
        operation="get_server_capabilities",
        method="GET",
        path="get_server_capabilities",
        pool=Pool.SESSION,
        retry=PATIENT,
        read=read_json(ServerCapabilities, CHECK_URL),
        hint=CHECK_URL,
    )


def create_session(
    *,
    user_metadata: Mapping[str, Any] | None = None,
    project_id: str | None = None,
    display_name: str | None = None,
    tags: Sequence[str] = (),
) -> Call[SessionCreated]:
    """A new session."""
    request = CreateSessionRequest(
        tags=tags,
        user_metadata=user_metadata or {},
        sdk_version=SDK_VERSION,
        project_id=project_id or UNSET,
        display_name=display_name or UNSET,
    )
    return Call(
        operation="create_session",
        path="create_session",
        body=json_body(request),
        pool=Pool.SESSION,
        retry=PATIENT,
        read=read_json(SessionCreated, CHECK_URL),
        hint=CHECK_URL,
    )


def session_heartbeat(session_id: str) -> Call[None]:
    """A sign of life. Never repeated: the next beat is the repetition."""
    return Call(
        operation="session_heartbeat",
        path="session_heartbeat",
        body=json_body(SessionRequest(session_id=session_id)),
        pool=Pool.SESSION,
        timeout_s=HEARTBEAT_TIMEOUT_S,
        when_open=WhenOpen.SEND,
        read=_nothing,
    )


def finish_session(session_id: str, reason: str, detail: str | None = None) -> Call[None]:
    """The session's end; `reason` is "success", "errored" or "interrupted"."""
    return Call(
        operation="finish_session",
        path=f"sessions/{session_id}/finish",
        body=json_body({"reason": {"type": reason}, "detail": detail}),
        pool=Pool.SESSION,
        timeout_s=HEARTBEAT_TIMEOUT_S,
        retry=_HURRIED,
        read=_nothing,
    )


def _nothing(_answer: Answer) -> None:
    return None
