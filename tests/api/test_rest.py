"""What the service keeps, as data: the requests, what is refused before one is made, and how answers are read."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tinker_actors.api import checkpoints, rest
from tinker_actors.api.futures import Outcome, Pause, RoundTrips
from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    ConfigError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    RequestFailedError,
    TinkerPathError,
    ValidationError,
)
from tinker_actors.types.rest import (
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    ParsedCheckpointTinkerPath,
    SessionSearchCursor,
    SessionSearchOwner,
    SessionSearchRequest,
    SessionStatusQuery,
    TrainingRun,
    WeightsInfoResponse,
    WhoamiResponse,
)
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.retry import BRIEF, PATIENT, is_repeatable

TRAINING = "tinker://s:train:0/weights/a"
SAMPLER = "tinker://s:train:0/sampler_weights/a"
EXTERNAL = "tinker://s:train:0/external_weights/a"
TOKEN = "top-secret"  # noqa: S105 - nobody's
# Values that type checkers would keep from where they are given.
NONE: Any = None
MINE: Any = "mine"
HALF: Any = 1.5
NOW = datetime(2026, 8, 1, tzinfo=UTC)
BUILDING = Answer(503, {}, b'{"detail": "building"}')


def now() -> datetime:
    return NOW


def copy(path: str = TRAINING, project: str | None = "proj", **changes: Any) -> Call[str]:
    given: dict[str, Any] = {
        "ttl_seconds": None,
        "weights_access_token": None,
        "idempotency_key": "k",
        **changes,
    }
    return checkpoints.copy_weights(path, project, **given)


def drive(steps: RoundTrips[Any], outcomes: list[Outcome]) -> tuple[Any, list[Any]]:
    """Answer each call with the next outcome; the result and everything that was yielded."""
    seen: list[Any] = []
    waiting = iter(outcomes)
    given: Outcome = None
    try:
        while True:
            step = steps.send(given)
            seen.append(step)
            given = next(waiting) if isinstance(step, Call) else None
    except StopIteration as done:
        return done.value, seen


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "wanted"),
    [
        (lambda: rest.get_session("", "owned"), ValidationError, "session_id must be a string"),
        (lambda: rest.get_session(NONE, "owned"), ValidationError, "session_id must be"),
        (lambda: rest.get_session("..", "owned"), ValidationError, "session_id must be an id"),
        (lambda: rest.get_session("\ud800", "owned"), ValidationError, "session_id must be text"),
        (lambda: rest.get_session("s", MINE), ValidationError, '"owned" or "accessible", got \'mine\''),
        (lambda: rest.list_sessions(0, 0, "owned"), ValidationError, "limit must be"),
        (lambda: rest.list_sessions(1, -1, "owned"), ValidationError, "offset must be"),
        (lambda: rest.list_sessions(True, 0, "owned"), ValidationError, "limit must be"),
        (lambda: rest.assign_session_project("s", ""), ValidationError, "project_id must be"),
        (lambda: rest.export_session_trace(""), ValidationError, "session_id must be"),
        (lambda: rest.get_sampler(""), ValidationError, "sampler_id must be"),
        (lambda: rest.list_training_runs(1, 0, "owned", ""), ValidationError, "project_id must be"),
        (
            lambda: rest.get_training_run(TRAINING, "owned"),
            TinkerPathError,
            "use the method for tinker paths",
        ),
        (
            lambda: rest.get_training_run_by_tinker_path("run", "owned"),
            TinkerPathError,
            "tinker://<training run>",
        ),
        (lambda: checkpoints.list_checkpoints(""), ValidationError, "training_run_id must be"),
        (lambda: checkpoints.list_user_checkpoints(100, HALF), ValidationError, "offset must be"),
        (lambda: checkpoints.checkpoint_path("run", "a"), ValidationError, "weights/<name>"),
        (lambda: checkpoints.checkpoint_path("", "weights/a"), ValidationError, "training_run_id must be"),
        (lambda: checkpoints.checkpoint_path("run", "weights/"), ValidationError, "weights/<name>"),
        (
            lambda: checkpoints.delete_checkpoint("tinker://run/weights"),
            TinkerPathError,
            "got 'tinker://run/we",
        ),
        (
            lambda: checkpoints.delete_checkpoint("tinker://run/weights/.."),
            ValidationError,
            "checkpoint name",
        ),
        (lambda: checkpoints.delete_checkpoint(NONE), TinkerPathError, "got None"),
        (
            lambda: checkpoints.publish_checkpoint("tinker://run/models/a"),
            TinkerPathError,
            "tinker://<training",
        ),
        (lambda: checkpoints.set_checkpoint_ttl(TRAINING, 3599), ValidationError, "ttl_seconds must be"),
        (lambda: checkpoints.set_checkpoint_ttl(TRAINING, 400_000_000), ValidationError, "from 3600 to"),
        (lambda: checkpoints.get_weights_info(EXTERNAL), TinkerPathError, "cannot be loaded"),
        (lambda: checkpoints.get_external_weights_urls(SAMPLER), TinkerPathError, "save_weights_external"),
        (
            lambda: checkpoints.get_checkpoint_archive_url(EXTERNAL, now),
            TinkerPathError,
            "get_external_weights_urls",
        ),
        (lambda: copy(EXTERNAL), TinkerPathError, "copy what it was exported from"),
        (lambda: copy(project=None), ValidationError, "set TINKER_PROJECT_ID"),
        (lambda: copy(ttl_seconds=10), ValidationError, "ttl_seconds must be"),
        (
            lambda: copy(weights_access_token=f"{TOKEN}\n"),
            ValidationError,
            "weights_access_token is one word",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_what_to_do(
    make: Callable[[], Any], error: type[Exception], wanted: str
) -> None:
    with pytest.raises(error) as caught:
        make()
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (SessionSearchRequest(limit=201), "limit must be"),
        (SessionSearchRequest(owner=SessionSearchOwner(type="user")), "owner_urns are given"),
        (SessionSearchRequest(owner=SessionSearchOwner(owner_urns=["urn:a"])), "owner_urns are given"),
        (SessionSearchRequest(owner=SessionSearchOwner(type="user", owner_urns=[])), "number of owner_urns"),
        ({"statuses": [{"type": "asleep"}]}, "SessionSearchRequest is wanted"),
        ("nightly", "SessionSearchRequest is wanted"),
    ],
)
def test_a_search_that_is_wrong_is_refused(request_: Any, wanted: str) -> None:
    with pytest.warns(FutureWarning), pytest.raises(ValidationError, match=wanted):
        rest.search_sessions(request_)


# Requests -------------------------------------------------------------------------------------------------


def test_an_id_is_quoted_but_for_its_colons() -> None:
    assert rest.get_sampler("s:sample:0").path == "samplers/s:sample:0"
    assert rest.get_sampler("a b/c?d#é").path == "samplers/a%20b%2Fc%3Fd%23%C3%A9"


def test_a_checkpoint_keeps_the_slash_between_kind_and_name() -> None:
    assert checkpoints.delete_checkpoint("tinker://s:train:0/weights/a b").path == (
        "training_runs/s:train:0/checkpoints/weights/a%20b"
    )


def test_no_scope_leaves_the_query_to_the_service() -> None:
    assert rest.get_training_run("r", None).path == "training_runs/r"


def test_a_search_leaves_out_what_is_not_given() -> None:
    with pytest.warns(FutureWarning, match="experimental"):
        call = rest.search_sessions(SessionSearchRequest())
    assert msgspec.json.decode(call.body) == {"user_metadata": {}, "owner": {"type": "own"}, "limit": 50}


def test_a_search_sends_all_that_is_given() -> None:
    cursor = SessionSearchCursor(last_created_at="2026-08-01T00:00:00.123456789Z", last_session_id="s")
    statuses = [SessionStatusQuery(type="client_finished", reasons=["errored"])]
    request = SessionSearchRequest(display_name="nightly", statuses=statuses, cursor=cursor, limit=7)
    with pytest.warns(FutureWarning):
        sent = msgspec.json.decode(rest.search_sessions(request).body)
    assert sent["statuses"] == [{"type": "client_finished", "reasons": ["errored"]}]
    assert sent["cursor"]["last_created_at"] == "2026-08-01T00:00:00.123456789Z"
    assert (sent["display_name"], sent["limit"]) == ("nightly", 7)


def test_a_token_is_in_no_representation_of_its_request() -> None:
    call = copy(weights_access_token=TOKEN)
    assert call.headers["x-tinker-weights-access-token"] == TOKEN
    assert TOKEN not in repr(call)


def test_callers_wait_five_minutes_for_what_fails_in_passing_and_for_no_conflict() -> None:
    assert rest.get_training_run("r", "owned").retry == rest.get_server_capabilities().retry == BRIEF
    assert BRIEF.max_elapsed_s == 300.0 < PATIENT.max_elapsed_s
    assert is_repeatable(BRIEF, APIStatusError.of(503, None))
    assert not is_repeatable(BRIEF, ConflictError("no", status=409))


# Answers --------------------------------------------------------------------------------------------------


CHECKPOINT = {"checkpoint_id": "a", "checkpoint_type": "training", "tinker_path": TRAINING}


def listed(**changes: Any) -> Checkpoint:
    page = {"checkpoints": [{**CHECKPOINT, "time": "2026-08-01T00:00:00Z", **changes}], "new": 1}
    answer = Answer(200, {}, msgspec.json.encode(page))
    return checkpoints.list_checkpoints("r").read(answer).checkpoints[0]


@pytest.mark.parametrize("checkpoint_id", ["a", "weights/a"])
def test_checkpoint_ids_are_read_with_and_without_their_kind(checkpoint_id: str) -> None:
    found = listed(checkpoint_id=checkpoint_id)
    assert (found.checkpoint_id, found.name, found.training_run_id) == (checkpoint_id, "a", "s:train:0")


def test_a_checkpoint_under_a_path_of_another_form_has_no_run() -> None:
    assert listed(tinker_path="tinker://model/a").training_run_id is None


def test_optional_fields_may_be_missing() -> None:
    found = listed()
    assert (found.size_bytes, found.public, found.user_metadata, found.expires_at) == (
        None,
        False,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-08-01T00:00:00Z", NOW),
        ("2026-08-01T02:00:00+02:00", NOW),
        ("2026-08-01T00:00:00", NOW),
        ("yesterday", "yesterday"),
    ],
)
def test_times_are_aware_and_other_texts_stay(written: str, read: Any) -> None:
    assert (listed(time=written).time, listed(expires_at=written).expires_at) == (read, read)


def test_a_cursor_may_have_its_numbers_as_text() -> None:
    cursor = {"offset": "0", "limit": "20", "total_count": "21"}
    answer = Answer(200, {}, msgspec.json.encode({"checkpoints": [], "cursor": cursor}))
    read = checkpoints.list_user_checkpoints(20, 0).read(answer)
    assert read.cursor == Cursor(offset=0, limit=20, total_count=21)


@pytest.mark.parametrize(
    ("offset", "limit", "total", "following"),
    [(0, 20, 21, 20), (0, 20, 20, None), (20, 20, 21, None), (0, 0, 5, None), (0, 20, 0, None)],
)
def test_the_next_page_begins_where_the_total_is_not_reached(
    offset: int, limit: int, total: int, following: int | None
) -> None:
    assert Cursor(offset=offset, limit=limit, total_count=total).next_offset == following


def test_an_answer_of_another_form_is_a_typed_error() -> None:
    with pytest.raises(APIResponseValidationError, match="CheckpointsListResponse was wanted"):
        checkpoints.list_checkpoints("r").read(Answer(200, {}, b"<html>"))
    with pytest.raises(APIResponseValidationError, match=r"TrainingRun was wanted.*base_model"):
        rest.get_training_run("r", "owned").read(Answer(200, {}, b'{"training_run_id": "r"}'))


def test_weights_of_an_optimizer_of_next_year_are_read() -> None:
    body = b'{"base_model": "m", "is_lora": true, "optimizer_config": {"type": "dimuon", "version": 1}}'
    info = checkpoints.get_weights_info(TRAINING).read(Answer(200, {}, body))
    assert isinstance(info, WeightsInfoResponse)
    assert (info.optimizer_config.type, info.lora_rank) == ("dimuon", None)


def test_answers_with_nothing_in_them_are_fine() -> None:
    for body in (b"", b"null", b"gone"):
        checkpoints.delete_checkpoint(TRAINING).read(Answer(204, {}, body))


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        listed().public = True  # type: ignore[misc]
    assert isinstance(TrainingRun.__struct_config__.frozen, bool)
    assert CheckpointsListResponse.__struct_config__.frozen


@pytest.mark.parametrize(
    ("path", "kind", "checkpoint_id"),
    [
        (TRAINING, "training", "weights/a"),
        (SAMPLER, "sampler", "sampler_weights/a"),
        (EXTERNAL, "external", "external_weights/a"),
    ],
)
def test_a_path_of_each_kind_is_taken_apart(path: str, kind: str, checkpoint_id: str) -> None:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parsed.tinker_path, parsed.training_run_id) == (path, "s:train:0")
    assert (parsed.checkpoint_type, parsed.checkpoint_id) == (kind, checkpoint_id)


@pytest.mark.parametrize(
    "path",
    [
        "tinker://external_weights/a",
        "tinker:///external_weights/a",
        "tinker://r/external_weights/",
        "tinker://r/external_weights/a/b",
        "tinker://r/external_weights/external_weights/a",
        "r/weights/a",
        7,
    ],
)
def test_a_malformed_path_is_refused_as_it_was_given(path: Any) -> None:
    with pytest.raises(TinkerPathError) as caught:
        ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert f"got {path!r}" in str(caught.value)


# The archive ----------------------------------------------------------------------------------------------


def archive(*outcomes: Outcome) -> tuple[Any, list[Any]]:
    return drive(checkpoints.get_checkpoint_archive_url(SAMPLER, now), list(outcomes))


def redirect(**headers: str) -> Answer:
    return Answer(302, {"location": "https://store/x?signature=1", **headers}, b"")


def test_a_redirect_is_the_archives_place_and_is_not_followed() -> None:
    found, seen = archive(redirect(expires="Sat, 01 Aug 2026 02:00:00 GMT"))
    assert (found.url, found.expires) == ("https://store/x?signature=1", NOW + timedelta(hours=2))
    (call,) = seen
    assert (call.method, call.path) == (
        "GET",
        "training_runs/s:train:0/checkpoints/sampler_weights/a/archive",
    )


@pytest.mark.parametrize("headers", [{}, {"expires": "0"}, {"expires": "soon"}])
def test_a_place_without_an_end_is_good_for_a_quarter_of_an_hour(headers: dict[str, str]) -> None:
    assert archive(redirect(**headers))[0].expires == NOW + timedelta(minutes=15)


def test_a_document_is_the_archives_place_too() -> None:
    body = b'{"url": "https://store/x", "expires": "2026-08-01T01:00:00Z"}'
    found, _ = archive(Answer(200, {}, body))
    assert (found.url, found.expires) == ("https://store/x", NOW + timedelta(hours=1))


@pytest.mark.parametrize("building", [BUILDING, APIStatusError.of(503, None)], ids=["answer", "error"])
def test_an_archive_that_is_being_built_is_waited_for_half_a_minute(building: Outcome) -> None:
    found, seen = archive(building, building, redirect())
    assert found.url == "https://store/x?signature=1"
    assert [step.delay_s for step in seen if isinstance(step, Pause)] == [30.0, 30.0]


def test_an_archive_is_asked_for_six_times() -> None:
    assert archive(*[BUILDING] * 5, redirect())[0].url
    with pytest.raises(InternalServerError):
        archive(*[BUILDING] * 6)


def test_a_refusal_of_the_archive_is_told_at_once() -> None:
    with pytest.raises(NotFoundError):
        archive(Answer(404, {}, b"{}"))
    with pytest.raises(APIConnectionError):
        archive(APIConnectionError("gone"))


@pytest.mark.parametrize("answer", [Answer(302, {}, b""), redirect(location="/x"), Answer(200, {}, b"{}")])
def test_an_archive_without_a_place_is_a_typed_error(answer: Answer) -> None:
    with pytest.raises(APIResponseValidationError):
        archive(answer)


def test_the_network_does_not_repeat_what_says_that_the_archive_is_being_built() -> None:
    _, (call,) = archive(redirect())
    assert not is_repeatable(call.retry, APIStatusError.of(503, None))
    assert is_repeatable(call.retry, APIStatusError.of(502, None))


# The trace ------------------------------------------------------------------------------------------------


def trace(*documents: dict[str, Any]) -> tuple[str, list[Any]]:
    answers: list[Outcome] = [Answer(200, {}, msgspec.json.encode(document)) for document in documents]
    return drive(rest.export_session_trace("s"), answers)


def test_a_trace_is_looked_at_every_five_seconds() -> None:
    url, seen = trace({"status": "pending"}, {"status": "pending"}, {"status": "ready", "url": "https://t"})
    assert url == "https://t"
    assert [step for step in seen if isinstance(step, Pause)] == [Pause(5.0, "pending")] * 2


def test_a_trace_that_cannot_be_built_is_a_typed_error() -> None:
    with pytest.raises(RequestFailedError, match="session s was not built: too large"):
        trace({"status": "failed", "error": "too large"})


@pytest.mark.parametrize("document", [{"status": "ready"}, {"status": "asleep"}, {}])
def test_a_trace_that_is_in_no_known_state_is_a_typed_error(document: dict[str, Any]) -> None:
    with pytest.raises(APIResponseValidationError):
        trace(document)


def test_nothing_is_asked_before_the_arguments_are_right() -> None:
    assert not inspect.isgeneratorfunction(rest.export_session_trace)
    assert not inspect.isgeneratorfunction(checkpoints.get_checkpoint_archive_url)


# The key --------------------------------------------------------------------------------------------------


CLAIMS = {"iss": "passport-1", "sub": "urn:me", "org_id": "acme", "email": "me@example.com"}


def test_claims_say_who_a_key_belongs_to() -> None:
    who = WhoamiResponse.from_claims(CLAIMS)
    assert who == WhoamiResponse(user_urn="urn:me", org_urn="tml:organization:acme", email="me@example.com")


def test_who_is_no_user_has_no_email() -> None:
    assert WhoamiResponse.from_claims({**CLAIMS, "email": ""}).email is None


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({**CLAIMS, "iss": "somebody"}, "another issuer"),
        ({}, "another issuer"),
        ({**CLAIMS, "sub": None}, "sub and org_id"),
        ({**CLAIMS, "org_id": ""}, "sub and org_id"),
    ],
)
def test_claims_that_do_not_say_it_are_a_typed_error(claims: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        WhoamiResponse.from_claims(claims)
