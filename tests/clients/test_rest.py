"""The REST client over real sockets: what is on the wire, what comes back, and how it ends."""

import asyncio
import base64
import contextlib
import gc
import inspect
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import KEY, WAIT_S
from rest_service import ENTRIES, SAVED, Kept, RestService
from starlette.responses import JSONResponse, Response

import tinker_actors as ta
from tinker_actors.api import checkpoints, rest
from tinker_actors.api.futures import Pause, RoundTrips
from tinker_actors.clients.rest import RestClient
from tinker_actors.clients.walk import Walk

SEARCH = ta.SessionSearchRequest(display_name="nightly")
TRAINING = "tinker://nobody:train:0/weights/step-1"
SAMPLER = "tinker://nobody:train:0/sampler_weights/step-1"
LISTED = {
    "checkpoint_id": "weights/step-1",
    "checkpoint_type": "training",
    "time": "2026-08-01T00:00:00Z",
    "tinker_path": TRAINING,
    "size_bytes": "1001",
    "a field of next year": True,
}
TOKEN = "top-secret"  # noqa: S105 - nobody's


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestService]:
    with RestService(tmp_path_factory.mktemp("rest") / "data") as service:
        yield service


@pytest.fixture
def service(running: RestService) -> RestService:
    running.reset()
    return running


@pytest.fixture(scope="module")
def client(running: RestService) -> Iterator[ta.RestClient]:
    with ta.RestClient(base_url=running.url, api_key=KEY) as client:
        yield client


def jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{payload}.signature"


# The table of operations ------------------------------------------------------------------------------------


Row = tuple[str, Callable[[ta.RestClient, Kept], Any], str, Any, Callable[[Any], Any], Callable[[Kept], Any]]
OPERATIONS: list[Row] = [
    (
        "row-3-list-sessions",
        lambda client, _: client.list_sessions(2, 1),
        "GET sessions?limit=2&offset=1&access_scope=owned",
        None,
        lambda page: page.sessions,
        lambda it: list(it.sessions[1:3]),
    ),
    (
        "row-4-get-session",
        lambda client, it: client.get_session(it.session, "accessible"),
        "GET sessions/{it.session}?access_scope=accessible",
        None,
        lambda session: (session.training_run_ids, session.sampler_ids, session.display_name),
        lambda it: ([it.run], [it.sampling_session], "The nightly run"),
    ),
    (
        "row-23-list-user-checkpoints",
        lambda client, _: client.list_user_checkpoints(),
        "GET checkpoints?limit=100&offset=0",
        None,
        lambda page: (len(page.checkpoints), page.cursor.total_count),
        lambda _: (ENTRIES + 1, ENTRIES + 1),
    ),
    (
        "row-24-list-checkpoints",
        lambda client, it: client.list_checkpoints(it.run),
        "GET training_runs/{it.run}/checkpoints",
        None,
        lambda page: (len(page.checkpoints), page.checkpoints[0].time, page.cursor),
        lambda _: (ENTRIES, SAVED, None),
    ),
    (
        "row-25-delete-checkpoint",
        lambda client, it: client.delete_checkpoint(it.spare_run, "weights/step-1"),
        "DELETE training_runs/{it.spare_run}/checkpoints/weights/step-1",
        None,
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-25-delete-checkpoint-by-path",
        lambda client, it: client.delete_checkpoint_from_tinker_path(it.spare),
        "DELETE training_runs/{it.spare_run}/checkpoints/weights/step-1",
        None,
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-26-publish",
        lambda client, it: client.publish_checkpoint_from_tinker_path(it.training),
        "POST training_runs/{it.run}/checkpoints/weights/step-1/publish",
        None,
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-26-unpublish",
        lambda client, it: client.unpublish_checkpoint_from_tinker_path(it.external),
        "DELETE training_runs/{it.run}/checkpoints/external_weights/step-1/publish",
        None,
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-27-set-ttl",
        lambda client, it: client.set_checkpoint_ttl_from_tinker_path(it.training, 3600),
        "PUT training_runs/{it.run}/checkpoints/weights/step-1/ttl",
        lambda _: {"ttl_seconds": 3600},
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-27-clear-ttl-sends-null",
        lambda client, it: client.set_checkpoint_ttl_from_tinker_path(it.training, None),
        "PUT training_runs/{it.run}/checkpoints/weights/step-1/ttl",
        lambda _: {"ttl_seconds": None},
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-28-archive-url",
        lambda client, it: client.get_checkpoint_archive_url(it.run, "sampler_weights/step-1"),
        "GET training_runs/{it.run}/checkpoints/sampler_weights/step-1/archive",
        None,
        lambda archive: (archive.url.startswith("http://127.0.0.1:"), archive.expires - SAVED),
        lambda _: (True, timedelta(hours=1)),
    ),
    (
        "row-29-external-weights-urls",
        lambda client, it: client.get_external_weights_urls(it.external),
        "GET training_runs/{it.run}/checkpoints/external_weights/step-1/external_weights_urls",
        None,
        lambda external: (sorted(external.urls), external.expires - SAVED),
        lambda _: (["adapter_config.json", "adapter_model.safetensors"], timedelta(hours=1)),
    ),
    (
        "row-30-list-training-runs",
        lambda client, _: client.list_training_runs(project_id="proj a"),
        "GET training_runs?limit=20&offset=0&access_scope=owned&project_id=proj+a",
        None,
        lambda page: (len(page.training_runs), page.cursor.offset, page.cursor.total_count),
        lambda _: (0, 0, 0),
    ),
    (
        "row-30-get-training-run",
        lambda client, it: client.get_training_run(it.run),
        "GET training_runs/{it.run}?access_scope=owned",
        None,
        lambda run: (run.training_run_id, run.lora_rank, run.corrupted, run.last_checkpoint.name),
        lambda it: (it.run, 16, False, "step-1"),
    ),
    (
        "row-30-get-training-run-by-path",
        lambda client, it: client.get_training_run_by_tinker_path(it.sampler, "accessible"),
        "GET training_runs/{it.run}?access_scope=accessible",
        None,
        lambda run: run.user_metadata,
        lambda _: {"recipe_name": "pig-latin"},
    ),
    (
        "row-31-weights-info",
        lambda client, it: client.get_weights_info_by_tinker_path(it.training),
        "POST weights_info",
        lambda it: {"tinker_path": it.training},
        lambda info: (info.base_model, info.is_lora, info.lora_rank, info.optimizer_config.type),
        lambda _: ("local/tiny", True, 16, "adamw"),
    ),
    (
        "row-32-sampler-info",
        lambda client, it: client.get_sampler(it.sampling_session),
        "GET samplers/{it.sampling_session}",
        None,
        lambda sampler: (sampler.sampler_id, sampler.base_model, sampler.model_path),
        lambda it: (it.sampling_session, "local/tiny", it.sampler),
    ),
    (
        "row-33-copy-weights",
        lambda client, it: client.copy_weights(it.training, "proj", ttl_seconds=7200),
        "POST copy_weights",
        lambda it: {"source_path": it.training, "destination_project_id": "proj", "ttl_seconds": 7200},
        lambda path: path.endswith("/weights/step-1"),
        lambda _: True,
    ),
    (
        "row-35-capabilities",
        lambda client, _: client.get_server_capabilities(),
        "GET get_server_capabilities",
        None,
        lambda offered: [model.model_name for model in offered.supported_models],
        lambda _: ["local/small", "local/tiny"],
    ),
    (
        "row-41-assign-project",
        lambda client, it: client.assign_session_project(it.session, "proj"),
        "PUT sessions/{it.session}/project",
        lambda _: {"project_id": "proj"},
        lambda nothing: nothing,
        lambda _: None,
    ),
    (
        "row-42-trace-export",
        lambda client, it: client.export_session_trace(it.session),
        "GET sessions/{it.session}/trace_export",
        None,
        lambda url: url.startswith("http://127.0.0.1:"),
        lambda _: True,
    ),
    (
        "row-43-session-search",
        lambda client, _: client.search_sessions(SEARCH),
        "POST sessions/search",
        lambda _: {"user_metadata": {}, "display_name": "nightly", "owner": {"type": "own"}, "limit": 50},
        lambda page: ([one.session_id for one in page.sessions], page.next_cursor),
        lambda it: (list(it.sessions), None),
    ),
]


@pytest.mark.filterwarnings("ignore:search_sessions is experimental:FutureWarning")
@pytest.mark.parametrize(
    ("ask", "target", "body", "look", "expected"),
    [row[1:] for row in OPERATIONS],
    ids=[row[0] for row in OPERATIONS],
)
def test_each_operation_is_one_request_and_its_answer_is_read(
    service: RestService,
    client: ta.RestClient,
    ask: Callable[[ta.RestClient, Kept], Any],
    target: str,
    body: Callable[[Kept], Any] | None,
    look: Callable[[Any], Any],
    expected: Callable[[Kept], Any],
) -> None:
    it = service.spared()
    result = ask(client, it).result(WAIT_S)
    assert service.targets == [target.format(it=it)]
    assert service.seen[0].body == (None if body is None else body(it))
    assert service.seen[0].headers["x-api-key"] == KEY
    assert look(result) == expected(it)


def test_what_a_service_writes_otherwise_is_read_all_the_same(
    service: RestService, client: ta.RestClient
) -> None:
    page = {"checkpoints": [LISTED], "cursor": {"offset": "0", "limit": 100, "total_count": "1"}}
    service.scripted.append(JSONResponse(page))
    found = client.list_user_checkpoints().result(WAIT_S)
    assert found.cursor is not None
    assert (found.cursor.offset, found.cursor.total_count, found.checkpoints[0].size_bytes) == (0, 1, 1001)


def test_every_method_that_gives_a_future_has_a_twin_that_gives_the_value() -> None:
    public = {name for name, _ in inspect.getmembers(RestClient, inspect.isfunction) if name[0] != "_"}
    plain = {name for name in public if not name.endswith("_async")}
    assert {
        f"{name}_async" for name in plain - {"close", "get_telemetry"} if not name.startswith("iter_")
    } == public - plain
    assert all(inspect.iscoroutinefunction(getattr(RestClient, name)) for name in public - plain)
    assert RestClient.list_sessions_async.__name__ == "list_sessions_async"


def test_twins_are_awaited_on_any_loop(service: RestService, client: ta.RestClient) -> None:
    async def main() -> tuple[list[str], str]:
        page, info = await asyncio.gather(
            client.list_sessions_async(limit=1),
            client.get_weights_info_by_tinker_path_async(service.kept.training),
        )
        return page.sessions, info.base_model

    assert [asyncio.run(main()) for _ in "12"] == [([service.kept.sessions[0]], "local/tiny")] * 2
    assert len(service.seen) == 4


# What is refused, what is repeated --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_session(""),
        lambda client: client.list_sessions(access_scope="mine"),
        lambda client: client.iter_sessions(page_size=0),
        lambda client: client.iter_training_runs(access_scope="mine"),
        lambda client: client.iter_user_checkpoints("many"),
        lambda client: client.iter_search_sessions({"limit": 0}),
        lambda client: client.get_external_weights_urls(SAMPLER),
        lambda client: client.set_checkpoint_ttl_from_tinker_path(TRAINING, 1),
        lambda client: client.export_session_trace(""),
        lambda client: client.get_checkpoint_archive_url("nobody:train:0", "step-1"),
    ],
)
def test_what_is_wrong_is_refused_by_the_call_itself(
    service: RestService, client: ta.RestClient, ask: Callable[[Any], Any]
) -> None:
    with pytest.raises(ta.ValidationError):
        ask(client)
    assert service.seen == []


def test_a_conflict_is_told_and_not_repeated(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(JSONResponse({"detail": "already public"}, 409))
    with pytest.raises(ta.ConflictError, match="already public"):
        client.publish_checkpoint_from_tinker_path(TRAINING).result(WAIT_S)
    assert len(service.seen) == 1


def test_what_fails_in_passing_is_asked_again(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(Response(status_code=503))
    run = service.kept.run
    assert client.get_training_run(run).result(WAIT_S).training_run_id == run
    assert len(service.seen) == 2


def test_what_the_service_does_not_know_is_a_typed_error(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(JSONResponse({"detail": "no such run"}, 404))
    with pytest.raises(ta.NotFoundError, match="no such run"):
        client.list_checkpoints("other").result(WAIT_S)


def test_one_copy_has_one_key_however_often_it_is_sent(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(Response(status_code=500))
    for _ in "12":
        client.copy_weights(service.kept.training, "proj", weights_access_token=TOKEN).result(WAIT_S)
    first, repeated, other = (seen.headers["x-idempotency-key"] for seen in service.seen)
    assert first == repeated != other
    assert {seen.headers["x-tinker-weights-access-token"] for seen in service.seen} == {TOKEN}
    assert TOKEN not in str([seen.body for seen in service.seen])


def test_a_copy_goes_to_the_project_of_the_environment(
    service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_PROJECT_ID", "proj-env")
    with ta.RestClient(base_url=service.url, api_key=KEY) as client:
        client.copy_weights(service.kept.training).result(WAIT_S)
    assert service.seen[0].body["destination_project_id"] == "proj-env"


def test_a_copy_without_a_project_is_refused(client: ta.RestClient) -> None:
    with pytest.raises(ta.ValidationError, match="TINKER_PROJECT_ID"):
        client.copy_weights(TRAINING)


# Several round trips ----------------------------------------------------------------------------------------


def test_an_archive_is_waited_for_while_it_is_being_built(
    service: RestService, client: ta.RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "ARCHIVE_PAUSE_S", 0.01)
    service.scripted.extend([Response(status_code=503)] * 5)
    archive = client.get_checkpoint_archive_url_from_tinker_path(service.kept.sampler).result(WAIT_S)
    assert (archive.url.startswith(f"{service.url}/files/"), len(service.seen)) == (True, 6)
    service.scripted.extend([Response(status_code=503)] * 6)
    with pytest.raises(ta.InternalServerError):
        client.get_checkpoint_archive_url_from_tinker_path(SAMPLER).result(WAIT_S)


def test_round_trips_that_fail_by_a_mistake_of_ours_end_with_it(client: ta.RestClient) -> None:
    def mistaken() -> RoundTrips[int]:
        yield Pause(0.0, "nothing")
        raise ZeroDivisionError

    assert isinstance(Walk(client._runtime, mistaken()).future.exception(WAIT_S), ZeroDivisionError)


def test_an_archive_may_be_told_without_a_redirect(service: RestService, client: ta.RestClient) -> None:
    place = {"url": "https://store.example/x.tar", "expires": "2026-08-01T01:00:00Z"}
    service.scripted.append(JSONResponse(place))
    archive = client.get_checkpoint_archive_url_from_tinker_path(SAMPLER).result(WAIT_S)
    assert (archive.url, archive.expires) == (place["url"], datetime(2026, 8, 1, 1, tzinfo=UTC))


def test_a_redirect_to_an_archive_is_told_and_not_followed(
    service: RestService, client: ta.RestClient
) -> None:
    place = f"{service.url}/api/v1/store/x?signature=1"
    headers = {"location": place, "expires": "Sat, 01 Aug 2026 02:00:00 GMT"}
    service.scripted.append(Response(status_code=302, headers=headers))
    archive = client.get_checkpoint_archive_url_from_tinker_path(SAMPLER).result(WAIT_S)
    assert (archive.url, archive.expires) == (place, datetime(2026, 8, 1, 2, tzinfo=UTC))
    assert len(service.seen) == 1


def test_a_trace_is_looked_at_until_it_is_there(
    service: RestService, client: ta.RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "TRACE_POLL_S", 0.01)
    service.scripted.extend(
        [JSONResponse({"status": "pending"}), Response(status_code=502), JSONResponse({"status": "pending"})]
    )
    session = service.kept.session
    assert client.export_session_trace(session).result(WAIT_S).startswith(f"{service.url}/files/")
    assert service.targets == [f"GET sessions/{session}/trace_export"] * 4


def test_a_trace_that_failed_is_a_typed_error(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(JSONResponse({"status": "failed", "error": "too large"}))
    with pytest.raises(ta.RequestFailedError, match="too large"):
        client.export_session_trace("session-1").result(WAIT_S)


def test_waiting_for_a_trace_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "TRACE_POLL_S", 0.01)
    with (
        RestService(tmp_path, entries=0) as service,
        ta.RestClient(base_url=service.url, api_key=KEY) as client,
    ):
        service.scripted.extend([JSONResponse({"status": "pending"})] * 100_000)
        waiting = client.export_session_trace("session-1")
        assert service.came.acquire(timeout=WAIT_S)
        waiting.future().cancel()
        with pytest.raises(CancelledError):
            waiting.result(WAIT_S)
        service.scripted.clear()
        assert client.list_sessions().result(WAIT_S).sessions == []


@pytest.mark.usefixtures("no_thread_left")
def test_a_client_that_is_closed_leaves_nobody_waiting(tmp_path: Path) -> None:
    with RestService(tmp_path, entries=0) as service:
        client = ta.RestClient(base_url=service.url, api_key=KEY)
        service.scripted.append(JSONResponse({"status": "pending"}))
        waiting = client.export_session_trace("session-1")
        assert service.came.acquire(timeout=WAIT_S)
        client.close()
        client.close()
    with pytest.raises(ta.TinkerActorsError):
        waiting.result(WAIT_S)
    with pytest.raises(ta.TinkerActorsError):
        client.list_sessions().result(WAIT_S)


# Pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("take", "offsets"),
    [
        (lambda client: client.iter_training_runs(2), [0, 2, 4]),
        (lambda client: client.iter_user_checkpoints(2), [0, 2, 4]),
        (lambda client: client.iter_sessions(2), [0, 2, 4]),
        (lambda client: client.iter_training_runs(5), [0]),
        (lambda client: client.iter_sessions(5), [0, 5]),
        (lambda client: client.iter_sessions(6), [0]),
    ],
    ids=["runs", "checkpoints", "sessions", "runs-in-one", "sessions-in-one", "sessions-short"],
)
def test_all_pages_are_taken_and_none_twice(
    service: RestService, client: ta.RestClient, take: Callable[[ta.RestClient], Any], offsets: list[int]
) -> None:
    async def gather() -> list[Any]:
        return [entry async for entry in take(client)]

    entries = list(take(client))
    assert len(entries) == len({repr(entry) for entry in entries}) == 5
    assert [f"offset={offset}" for offset in offsets] == [
        seen.target.partition("?")[2].split("&")[1] for seen in service.seen
    ]
    assert asyncio.run(gather()) == entries


@pytest.mark.filterwarnings("ignore:search_sessions is experimental:FutureWarning")
def test_a_search_goes_on_from_the_services_cursor(service: RestService, client: ta.RestClient) -> None:
    cursor = {"last_created_at": "2026-08-01T00:00:00.123456789Z", "last_session_id": "session-1"}
    found = {
        "owner": "urn:me",
        "project_id": "p",
        "checkpoints_count": 0,
        "created_at": "2026-08-01T00:00:00Z",
    }
    for number, following in enumerate([cursor, None]):
        page = {"sessions": [{**found, "session_id": f"session-{number}"}], "next_cursor": following}
        service.scripted.append(JSONResponse(page))
    sessions = client.iter_search_sessions(SEARCH)
    assert service.seen == []
    assert [session.session_id for session in sessions] == ["session-0", "session-1"]
    assert [seen.body.get("cursor") for seen in service.seen] == [None, cursor]


def test_a_page_is_asked_for_when_it_is_needed(service: RestService, client: ta.RestClient) -> None:
    runs = client.iter_training_runs(2, "accessible", "proj")
    assert service.seen == []
    assert list(runs) == []
    assert service.targets == ["GET training_runs?limit=2&offset=0&access_scope=accessible&project_id=proj"]


def test_an_empty_list_has_no_entries(tmp_path: Path) -> None:
    with (
        RestService(tmp_path, entries=0) as service,
        ta.RestClient(base_url=service.url, api_key=KEY) as client,
    ):
        lists = (client.iter_sessions(), client.iter_training_runs(), client.iter_user_checkpoints())
        assert [list(entries) for entries in lists] == [[], [], []]


def test_a_list_of_checkpoints_without_a_cursor_is_whole(service: RestService, client: ta.RestClient) -> None:
    service.scripted.append(JSONResponse({"checkpoints": []}))
    assert list(client.iter_user_checkpoints(1)) == []


def test_a_service_that_gives_one_page_again_and_again_is_not_believed(
    service: RestService, client: ta.RestClient
) -> None:
    service.scripted.extend([JSONResponse({"sessions": ["session-0"]})] * 3)
    with pytest.raises(ta.APIResponseValidationError, match="the same one again"):
        list(client.iter_sessions(1))
    assert len(service.seen) == 2


@pytest.mark.parametrize("entries", [[], [LISTED]], ids=["an empty page", "a page that stays"])
def test_a_cursor_that_does_not_go_on_holds_nobody(
    service: RestService, client: ta.RestClient, entries: list[Any]
) -> None:
    page = {"checkpoints": entries, "cursor": {"offset": 0, "limit": 1, "total_count": 3}}
    service.scripted.extend([JSONResponse(page)] * 3)
    with contextlib.suppress(ta.APIResponseValidationError):
        list(client.iter_user_checkpoints(1))
    assert len(service.seen) == 1 + len(entries)


# The key ----------------------------------------------------------------------------------------------------


def test_whoami_reads_the_key_and_asks_nobody(service: RestService) -> None:
    key = jwt(iss="passport-1", sub="urn:me", org_id="acme", email="me@example.com")
    with ta.RestClient(base_url=service.url, api_key=key) as client:
        who = client.whoami().result(WAIT_S)
    assert (who.user_urn, who.org_urn, who.email) == ("urn:me", "tml:organization:acme", "me@example.com")
    assert service.seen == []


def test_whoami_reads_the_key_that_a_command_prints(
    service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", f"echo {jwt(iss='passport-1', sub='urn:me', org_id='acme')}")
    with ta.RestClient(base_url=service.url) as client:
        assert asyncio.run(client.whoami_async()).user_urn == "urn:me"


@pytest.mark.parametrize(
    ("key", "wanted"), [(KEY, "a plain API key"), ("eyJ.x.y", "issuer"), (jwt(iss="else", sub="u"), "issuer")]
)
def test_whoami_with_a_key_that_does_not_say_it_is_a_typed_error(
    service: RestService, key: str, wanted: str
) -> None:
    with (
        ta.RestClient(base_url=service.url, api_key=key) as client,
        pytest.raises(ta.ConfigError, match=wanted) as caught,
    ):
        client.whoami().result(WAIT_S)
    assert key not in str(caught.value)


# Where it comes from, how it ends ----------------------------------------------------------------------------


@pytest.mark.usefixtures("no_thread_left")
def test_a_client_of_its_own_opens_no_session_and_leaves_no_thread(service: RestService) -> None:
    with ta.RestClient(base_url=service.url, api_key=KEY) as client:
        client.list_sessions().result(WAIT_S)
    assert service.targets == ["GET sessions?limit=20&offset=0&access_scope=owned"]


@pytest.mark.usefixtures("no_thread_left")
def test_a_client_that_nobody_keeps_gives_its_result_and_then_leaves(service: RestService) -> None:
    assert ta.RestClient(base_url=service.url, api_key=KEY).list_sessions(1).result(WAIT_S).sessions
    gc.collect()


@pytest.mark.usefixtures("no_thread_left")
def test_a_client_of_a_service_client_opens_no_session_and_ends_with_it(service: RestService) -> None:
    with ta.ServiceClient(base_url=service.url, api_key=KEY) as service_client:
        client = service_client.create_rest_client()
        client.close()
        assert client.list_sessions(1).result(WAIT_S).sessions == [service.kept.sessions[0]]
        assert service_client.get_console_url() == "https://tinker.thinkingmachines.ai/sessions"
    with pytest.raises(ta.TinkerActorsError):
        client.list_sessions().result(WAIT_S)
    assert service.targets == ["GET sessions?limit=1&offset=0&access_scope=owned"]


def test_a_service_client_copies_into_its_project(service: RestService) -> None:
    with ta.ServiceClient(base_url=service.url, api_key=KEY, project_id="proj-mine") as service_client:
        copying = service_client.copy_weights(
            service.kept.sampler, ttl_seconds=3600, weights_access_token=TOKEN
        )
        assert copying.result(WAIT_S).endswith("/sampler_weights/step-1")
    assert service.seen[0].body["destination_project_id"] == "proj-mine"


def test_a_client_of_its_own_has_no_embedded_server() -> None:
    with pytest.raises(ta.ConfigError, match="create_rest_client"):
        ta.RestClient(base_url="local")


def test_a_client_stays_in_its_process(client: ta.RestClient) -> None:
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(client)


@pytest.mark.parametrize("given", ["http://127.0.0.1:9", 5, {}])
def test_what_is_no_runtime_is_refused_at_once(given: Any) -> None:
    with pytest.raises(ta.ConfigError, match="base_url= and api_key= by name"):
        ta.RestClient(given)
