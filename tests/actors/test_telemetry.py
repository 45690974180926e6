"""What a program tells the service of itself, when it is to."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server, client, step
from recorder import BASE_MODEL, Recorder

import tinker_actors as ta
from tinker_actors.actors import reporting
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.api.telemetry import MOST_EVENTS
from tinker_actors.config import Settings
from tinker_actors.errors import APIStatusError, ValidationError
from tinker_actors.events import QueueStateChanged, RequestEnded
from tinker_actors.supervision.testing import crash

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Desk:
    """A queue without an actor: the test takes its batches."""

    def __init__(self, session_id: str | None = "s1") -> None:
        self.session_id = session_id
        self.now = NOON
        self.wakes = 0
        self.telemetry = Telemetry(lambda: self.session_id, lambda: self.now)
        self.telemetry.bind(self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def batch(self) -> list[dict[str, Any]]:
        """The next one, which the service takes."""
        taken = self.telemetry.take()
        self.telemetry.settle(is_taken=True)
        return [] if taken is None else taken[1]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


def opened(recorder: Recorder, **arguments: Any) -> ta.ServiceClient:
    return ta.ServiceClient(base_url=recorder.url, api_key=KEY, telemetry=True, **arguments)


def told(recorder: Recorder) -> list[dict[str, Any]]:
    return [event for request in recorder.to("telemetry") for event in request.document["events"]]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("event_name", event["event"]) for event in events]


# On the wire -----------------------------------------------------------------------------------------


def test_a_session_begins_and_what_a_program_logs_is_told_to_it(recorder: Recorder) -> None:
    with opened(recorder) as service:
        sampler = service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
        telemetry = service.get_telemetry()
        assert telemetry is not None
        assert sampler.get_telemetry() is service.create_rest_client().get_telemetry() is telemetry
        assert telemetry.log("epoch", {"number": 3, "path": Path("x")}, "warning")
        assert telemetry.wait_until_drained(WAIT_S)
        session_id = service.holder.get_session_id()
    bodies = [request.document for request in recorder.to("telemetry")]
    assert {body["session_id"] for body in bodies} == {session_id}
    assert {body["process_uuid"] for body in bodies} == {telemetry.process_uuid}
    start, epoch = told(recorder)[:2]
    assert (start["event"], start["event_session_index"], start["severity"]) == ("SESSION_START", 0, "INFO")
    assert (epoch["event_name"], epoch["severity"], epoch["event_session_index"]) == ("epoch", "WARNING", 1)
    assert epoch["event_data"]["number"] == 3
    assert "x" in epoch["event_data"]["path"]
    assert datetime.fromisoformat(epoch["timestamp"]).tzinfo is not None


def test_an_error_that_leaves_the_block_ends_the_session_once(recorder: Recorder) -> None:
    def program() -> None:
        with opened(recorder) as service:
            service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
            raise ZeroDivisionError("no data")

    with pytest.raises(ZeroDivisionError):
        program()
    events = told(recorder)
    assert names(events).count("SESSION_END") == 1
    (failed,) = [event for event in events if event["event"] == "UNHANDLED_EXCEPTION"]
    assert (failed["error_type"], failed["error_message"]) == ("ZeroDivisionError", "no data")
    assert failed["severity"] == "CRITICAL"
    assert 'raise ZeroDivisionError("no data")' in failed["traceback"]


def test_without_a_session_there_is_neither_start_nor_end(recorder: Recorder) -> None:
    with opened(recorder) as service:
        telemetry = service.get_telemetry()
        assert telemetry is not None
        telemetry.log_fatal_exception(ValueError("early"))
        assert not telemetry.log("late")
    (request,) = recorder.to("telemetry")
    assert re.fullmatch(r"sessionless-[0-9a-f-]{36}", request.document["session_id"])
    assert names(request.document["events"]) == ["UNHANDLED_EXCEPTION"]


def test_what_waits_when_its_actor_crashes_is_told_by_the_next(server: Server, recorder: Recorder) -> None:
    with opened(recorder) as service:
        telemetry = service.get_telemetry()
        assert telemetry is not None
        for _ in range(6):  # more often than a supervisor would stand
            crash(service.address("service/telemetry"))
        telemetry.log("after")
        while not telemetry.wait_until_drained(0.05):
            pass  # each asks anew: the first ones may have asked an incarnation that was going
        tree = service.tree()
    assert "after" in names(told(recorder))
    assert tree.find("service/telemetry") is not None
    assert server is not None


def test_a_service_that_takes_none_holds_nobody_up(server: Server) -> None:
    with client(server, None, telemetry=True) as service:
        telemetry = service.get_telemetry()
        assert telemetry is not None
        server.control.arm({"effect": "status", "status": 400, "operation": "telemetry", "count": "always"})
        telemetry.log("lost")
        assert telemetry.wait_until_drained(WAIT_S)
        assert telemetry.dropped >= 1
        step(service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S), 0)
        server.control.clear()


def test_failed_requests_are_passed_on_without_secrets(server: Server) -> None:
    batches: list[Any] = []
    noted = threading.Event()
    take, note = Telemetry.take, Telemetry.note

    def note_and_tell(telemetry: Telemetry, event: object) -> None:
        note(telemetry, event)
        if isinstance(event, RequestEnded) and not event.is_success:
            noted.set()

    def taken(telemetry: Telemetry) -> Any:
        batch = take(telemetry)
        batches.extend([] if batch is None else batch[1])
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telemetry, "take", taken)
        patch.setattr(Telemetry, "note", note_and_tell)
        with client(server, None, telemetry=True) as service:
            server.control.arm({"effect": "status", "status": 503, "operation": "get_server_capabilities"})
            service.get_server_capabilities().result(WAIT_S)
            assert noted.wait(WAIT_S)
    failed = [event for event in batches if event.get("event_name") == "http.request.exception"]
    assert [event["event_data"] for event in failed] == [
        {"operation": "get_server_capabilities", "status": 503, "error": ""}
    ]
    assert [event["severity"] for event in failed] == ["ERROR"]
    assert KEY not in repr(batches)


# The queue -------------------------------------------------------------------------------------------


def test_events_are_numbered_by_session_and_sent_a_hundred_at_a_time() -> None:
    desk = Desk()
    for number in range(150):
        desk.telemetry.log(f"e{number}")
    first, second, third = desk.batch(), desk.batch(), desk.batch()
    assert (len(first), len(second), third) == (MOST_EVENTS, 51, [])
    assert [event["event_session_index"] for event in [*first, *second]] == list(range(151))
    assert desk.wakes == 1  # once there were a hundred
    desk.session_id = "s2"
    desk.telemetry.log("later")
    assert [(name, e["event_session_index"]) for e in desk.batch() for name in names([e])] == [
        ("SESSION_START", 0),
        ("later", 1),
    ]


def test_a_batch_on_its_way_is_sent_again_with_its_ids_by_the_next_actor() -> None:
    desk = Desk()
    desk.telemetry.log("first")
    sent = desk.telemetry.take()
    desk.telemetry.log("second")
    assert desk.telemetry.take() is None  # one at a time
    desk.telemetry.bind(lambda: None)
    again = desk.telemetry.take()
    assert sent is not None
    assert again is not None
    assert again[1][:2] == sent[1]
    assert [event["event_session_index"] for event in again[1]] == [0, 1, 2]


def test_what_is_too_much_is_dropped_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporting, "MOST_WAITING", 3)
    desk = Desk()
    assert [desk.telemetry.log("e") for _ in range(5)] == [True, True, True, False, False]
    assert desk.telemetry.dropped == 2
    assert len([one for one in caplog.records if "telemetry.overflow" in one.message]) == 1


def test_the_end_says_how_long_the_session_was_and_nothing_comes_behind_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.now += timedelta(hours=1, seconds=5)
    with caplog.at_level("INFO"):
        assert desk.telemetry.log_fatal_exception(ValueError("x"), timeout=0.0)
    assert not desk.telemetry.log_fatal_exception(ValueError("y"), timeout=0.0)
    events = desk.batch()
    assert names(events) == ["SESSION_START", "UNHANDLED_EXCEPTION", "SESSION_END"]
    assert events[-1]["duration"] == "1:00:05"
    assert "session s1" in caplog.text


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_mistake_of_the_callers_behind_an_exception_is_told_as_that(link: str) -> None:
    desk, error = Desk(), RuntimeError("it failed")
    mistake = APIStatusError.of(422, {"detail": "no such loss"})
    setattr(error, link, mistake)
    setattr(mistake, link, error)  # a ring
    assert desk.telemetry.log_exception(error)
    event = desk.batch()[-1]
    assert (event["event_name"], event["severity"]) == ("user_error", "WARNING")
    assert event["event_data"] == {
        "error_type": "UnprocessableEntityError",
        "error_message": "the service answered 422: no such loss",
        "status_code": 422,
    }


@pytest.mark.parametrize("status", [408, 410, 429, 503])
def test_what_the_service_must_mend_is_no_mistake_of_the_callers(status: int) -> None:
    desk = Desk()
    desk.telemetry.log_exception(APIStatusError.of(status, None))
    event = desk.batch()[-1]
    assert (event["event"], event["severity"]) == ("UNHANDLED_EXCEPTION", "ERROR")
    assert desk.wakes == 1


def test_events_of_the_runtime_are_passed_on_and_not_those_of_telling() -> None:
    desk = Desk()
    ended: dict[str, Any] = {"method": "POST", "path": "p", "took_s": 0.1}
    for event in (
        RequestEnded(operation="telemetry", status=500, error="", is_success=False, **ended),
        RequestEnded(operation="asample", status=200, error="", is_success=True, **ended),
        RequestEnded(operation="asample", status=None, error="APITimeoutError", is_success=False, **ended),
        QueueStateChanged(
            operation="asample", client="c", request_id="7", state="paused_capacity", reason="short"
        ),
    ):
        desk.telemetry.note(event)
    assert names(desk.batch()) == ["SESSION_START", "http.request.exception", "queue.state_change"]


def test_whoever_waits_is_told_whether_all_was_sent() -> None:
    desk = Desk()
    assert desk.telemetry.wait_until_drained(0.0)
    desk.telemetry.log("e")
    assert not desk.telemetry.wait_until_drained(0.0)
    waited: list[bool] = []
    waiter = threading.Thread(target=lambda: waited.append(desk.telemetry.wait_until_drained(WAIT_S)))
    waiter.start()
    desk.batch()
    waiter.join(WAIT_S)
    assert waited == [True]


def test_after_its_end_nothing_is_taken_and_what_waited_is_counted_as_lost() -> None:
    desk = Desk()
    desk.telemetry.log("e")
    desk.telemetry.close(0.0)
    assert not desk.telemetry.log("late")
    assert (desk.telemetry.dropped, desk.telemetry.take()) == (1, None)


# Capturing -------------------------------------------------------------------------------------------


def test_exceptions_of_blocks_functions_and_coroutines_are_told_and_raised_on() -> None:
    desk = Desk()

    @desk.telemetry.capture_exceptions()
    def function(what: str) -> str:
        if what == "bad":
            raise ValueError(what)
        return what

    @desk.telemetry.capture_exceptions(severity="CRITICAL")
    async def coroutine() -> None:
        raise KeyError("bad")

    assert function("good") == "good"
    with pytest.raises(ValueError, match="bad"):
        function("bad")
    with pytest.raises(KeyError):
        asyncio.run(coroutine())
    with pytest.raises(OSError, match="disk"), desk.telemetry.capture_exceptions():
        raise OSError("disk")
    found = [(event["error_type"], event["severity"]) for event in desk.batch()[1:]]
    assert found == [("ValueError", "ERROR"), ("KeyError", "CRITICAL"), ("OSError", "ERROR")]


def test_a_fatal_exception_is_captured_with_the_end_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Telemetry, "wait_until_drained", lambda *_: True)
    desk = Desk()
    with pytest.raises(ValueError, match="fatal"), desk.telemetry.capture_exceptions(fatal=True):
        raise ValueError("fatal")
    events = desk.batch()
    assert names(events) == ["SESSION_START", "UNHANDLED_EXCEPTION", "SESSION_END"]
    assert events[1]["severity"] == "CRITICAL"


# Off, and wrong arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "variable", "is_on"),
    [(None, "", False), (None, "1", True), (None, "Yes", True), (None, "what", False), (False, "1", False)],
)
def test_it_is_off_unless_somebody_says_so(argument: bool | None, variable: str, is_on: bool) -> None:
    variables = {"TINKER_TELEMETRY": variable}
    assert Settings.resolve(base_url="local", telemetry=argument, environment=variables).telemetry is is_on


def test_where_it_is_off_there_is_no_actor_for_it_and_nothing_is_sent(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
        assert service.tree().find("service/telemetry") is None
    assert recorder.to("telemetry") == []


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.log(""),
        lambda one: one.log(7),
        lambda one: one.log("e", [1]),
        lambda one: one.log("e", None, "loud"),
        lambda one: one.log_exception("no exception"),
        lambda one: one.log_fatal_exception(ValueError(), timeout="soon"),
        lambda one: one.wait_until_drained(None),
        lambda one: one.capture_exceptions(severity=5),
    ],
)
def test_a_wrong_argument_is_refused(call: Callable[[Telemetry], object]) -> None:
    desk = Desk()
    with pytest.raises(ValidationError):
        call(desk.telemetry)
    assert desk.batch() == []
