"""Checkpoints that are kept: listed, published, given a time to live, copied, fetched, deleted."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from tinker_actors.api.futures import Outcome, Pause, RoundTrips
from tinker_actors.api.rest import (
    call_without_answer,
    page,
    raw,
    read_leniently,
    rest_call,
    segment,
    succeeded,
)
from tinker_actors.errors import APIResponseValidationError, APIStatusError, TinkerPathError, ValidationError
from tinker_actors.types.checks import shown, text, whole
from tinker_actors.types.rest import (
    CheckpointArchiveUrlResponse,
    CheckpointsListResponse,
    CheckpointType,
    ExternalWeightsUrlsResponse,
    ParsedCheckpointTinkerPath,
    Time,
    WeightsInfoResponse,
)
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.retry import BRIEF, retry_after_s

__all__ = [
    "checkpoint_path",
    "copy_weights",
    "delete_checkpoint",
    "get_checkpoint_archive_url",
    "get_external_weights_urls",
    "get_weights_info",
    "list_checkpoints",
    "list_user_checkpoints",
    "publish_checkpoint",
    "set_checkpoint_ttl",
    "unpublish_checkpoint",
]

LEAST_TTL_S = 3600
MOST_TTL_S = 10 * 366 * 86_400
"""Ten years, however many leap days are in them: the service counts exactly."""
ARCHIVE_TRIES = 6
ARCHIVE_PAUSE_S = 30.0
ARCHIVE_LIFE = timedelta(minutes=15)
"""How long a signed URL is taken to work where the service does not say."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ARCHIVE_RULE = msgspec.structs.replace(BRIEF, statuses=frozenset({408, 429, 502, 504}))
"""A 503 is no failure here: the archive is being built."""


def checkpoint_path(training_run_id: str, checkpoint_id: str) -> str:
    """The `tinker://` path of a checkpoint by its two ids.

    Raises:
        ValidationError: an id is empty, or the checkpoint's lacks its kind.
    """
    run, checkpoint = text("training_run_id", training_run_id), text("checkpoint_id", checkpoint_id)
    try:
        return ParsedCheckpointTinkerPath.from_tinker_path(f"tinker://{run}/{checkpoint}").tinker_path
    except TinkerPathError as error:
        raise ValidationError(
            "a training run id has no slash, and a checkpoint id reads weights/<name>, sampler_weights/<name> or"
            f" external_weights/<name>, got {shown(run)} and {shown(checkpoint)}; a Checkpoint's tinker_path has both,"
            " for the method for tinker paths"
        ) from error


def _route(tinker_path: str, *kinds: CheckpointType, instead: str = "") -> str:
    """The path below which the service keeps a checkpoint, if it is of one of `kinds`; of any, without."""
    path = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
    if kinds and path.checkpoint_type not in kinds:
        raise TinkerPathError(
            f"a checkpoint of type {' or '.join(kinds)} is wanted here, got {shown(tinker_path)}; {instead}"
        )
    kind, _, name = path.checkpoint_id.partition("/")
    run = segment("training_run_id", path.training_run_id)
    return f"training_runs/{run}/checkpoints/{kind}/{segment('checkpoint name', name)}"


def _lifetime(ttl_seconds: int | None) -> int | None:
    if ttl_seconds is None:
        return None
    return whole("ttl_seconds", ttl_seconds, least=LEAST_TTL_S, most=MOST_TTL_S)


# Looking ----------------------------------------------------------------------------------------


def list_checkpoints(training_run_id: str) -> Call[CheckpointsListResponse]:
    """All checkpoints of a training run."""
    path = f"training_runs/{segment('training_run_id', training_run_id)}/checkpoints"
    return rest_call("list_checkpoints", path, CheckpointsListResponse)


def list_user_checkpoints(limit: int, offset: int) -> Call[CheckpointsListResponse]:
    """A page of the caller's checkpoints, the newest first."""
    query = page(limit, offset)
    return rest_call("list_user_checkpoints", "checkpoints", CheckpointsListResponse, query=query)


def get_weights_info(tinker_path: str) -> Call[WeightsInfoResponse]:
    """What must be known of a checkpoint to load it."""
    _route(tinker_path, "training", "sampler", instead="weights in an external format cannot be loaded")
    body = {"tinker_path": tinker_path}
    return rest_call("weights_info", "weights_info", WeightsInfoResponse, method="POST", body=body)


def get_external_weights_urls(tinker_path: str) -> Call[ExternalWeightsUrlsResponse]:
    """Where the files of exported weights can be fetched."""
    route = _route(tinker_path, "external", instead="export the weights first, with save_weights_external")
    path = f"{route}/external_weights_urls"
    return rest_call("get_external_weights_urls", path, ExternalWeightsUrlsResponse)


# Changing ---------------------------------------------------------------------------------------


def delete_checkpoint(tinker_path: str) -> Call[None]:
    """Delete a checkpoint. A repetition after a lost answer finds it gone and ends with 404."""
    return call_without_answer("delete_checkpoint", "DELETE", _route(tinker_path))


def publish_checkpoint(tinker_path: str) -> Call[None]:
    """Let everybody read a checkpoint; 409 if everybody may. A repetition after a lost answer gets that, too."""
    return call_without_answer("publish_checkpoint", "POST", f"{_route(tinker_path)}/publish")


def unpublish_checkpoint(tinker_path: str) -> Call[None]:
    """Let only the owner read a checkpoint; 409 if that is so. A repetition after a lost answer gets that, too."""
    return call_without_answer("unpublish_checkpoint", "DELETE", f"{_route(tinker_path)}/publish")


def set_checkpoint_ttl(tinker_path: str, ttl_seconds: int | None) -> Call[None]:
    """Let a checkpoint live so many seconds from now; None, which is sent, for ever."""
    body = {"ttl_seconds": _lifetime(ttl_seconds)}
    return call_without_answer("set_checkpoint_ttl", "PUT", f"{_route(tinker_path)}/ttl", body)


class _Token(str):
    """A header's value that a log or a traceback does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"


class _Copied(msgspec.Struct, frozen=True):
    tinker_path: str


def copy_weights(
    path: str,
    destination_project_id: str | None,
    *,
    ttl_seconds: int | None,
    weights_access_token: str | None,
    idempotency_key: str,
) -> Call[str]:
    """A copy of a checkpoint in another project; its path. One key makes one copy, however often it is sent."""
    _route(path, "training", "sampler", instead="copy what it was exported from")
    if destination_project_id is None:
        raise ValidationError(
            "copy_weights wants a project; pass destination_project_id or set TINKER_PROJECT_ID"
        )
    body: dict[str, Any] = {
        "source_path": path,
        "destination_project_id": text("destination_project_id", destination_project_id),
    }
    if ttl_seconds is not None:
        body["ttl_seconds"] = _lifetime(ttl_seconds)
    headers = {"x-idempotency-key": idempotency_key}
    if weights_access_token is not None:
        headers["x-tinker-weights-access-token"] = _token(weights_access_token)
    call: Call[Any] = rest_call("copy_weights", "copy_weights", _Copied, method="POST", body=body)
    return msgspec.structs.replace(call, headers=headers, read=_copied)


def _copied(answer: Answer) -> str:
    return read_leniently(_Copied)(answer).tinker_path


def _token(value: Any) -> _Token:
    if (
        not isinstance(value, str)
        or not value
        or not (value.isascii() and value.isprintable())
        or " " in value
    ):
        raise ValidationError(
            "weights_access_token is one word of ASCII letters, digits and signs; look for a line end"
        )
    return _Token(value)


# The archive ------------------------------------------------------------------------------------


def get_checkpoint_archive_url(
    tinker_path: str, now: Callable[[], datetime]
) -> RoundTrips[CheckpointArchiveUrlResponse]:
    """Ask for a checkpoint's archive until it is built; where it can be fetched. Nothing is fetched.

    Args:
        tinker_path: of training state or sampler weights.
        now: tells the time, aware.

    Raises:
        TinkerPathError: it is no such path.
        InternalServerError: the archive is still not built after six tries, half a minute apart.
        APIResponseValidationError: the answer says no place.
    """
    route = _route(tinker_path, "training", "sampler", instead="use get_external_weights_urls")
    call = raw(rest_call("get_checkpoint_archive_url", f"{route}/archive", object))
    return _until_built(msgspec.structs.replace(call, retry=_ARCHIVE_RULE, answers=_REDIRECTS), now)


def _until_built(call: Call[Answer], now: Callable[[], datetime]) -> RoundTrips[CheckpointArchiveUrlResponse]:
    for _ in range(ARCHIVE_TRIES - 1):
        outcome = yield call
        if not _is_being_built(outcome):
            return _place(outcome, now())
        yield Pause(_wish_of(outcome) or ARCHIVE_PAUSE_S, "the archive is being built")
    return _place((yield call), now())


def _is_being_built(outcome: Outcome) -> bool:
    return isinstance(outcome, Answer | APIStatusError) and outcome.status == 503  # noqa: PLR2004


def _wish_of(outcome: Outcome) -> float | None:
    return (
        retry_after_s(outcome.headers)
        if isinstance(outcome, Answer)
        else outcome.retry_after_s
        if isinstance(outcome, APIStatusError)
        else None
    )


def _place(outcome: Outcome, now: datetime) -> CheckpointArchiveUrlResponse:
    if not isinstance(outcome, Answer) or outcome.status not in _REDIRECTS:
        found = read_leniently(_Archive)(succeeded(outcome))
        return CheckpointArchiveUrlResponse(url=found.url, expires=found.expires or now + ARCHIVE_LIFE)
    url = outcome.headers.get("location", "")
    if not url.startswith(("http://", "https://")):
        raise APIResponseValidationError(f"a redirect to the archive's whole URL was wanted, got {url!r}")
    return CheckpointArchiveUrlResponse(url=url, expires=_expires(outcome) or now + ARCHIVE_LIFE)


class _Archive(msgspec.Struct, frozen=True):
    url: str
    expires: Time | None = None


def _expires(answer: Answer) -> datetime | None:
    try:
        expires = parsedate_to_datetime(answer.headers["expires"])
    except (KeyError, ValueError):
        return None
    return expires if expires.tzinfo is not None else expires.replace(tzinfo=UTC)
