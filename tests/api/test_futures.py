"""Submitting and polling as generators: each rule for an answer, with no socket and no clock."""

import contextlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tinker_actors.api.futures import (
    PENDING,
    Outcome,
    Pause,
    QueueChanged,
    Reserve,
    RoundTrips,
    follow,
    json_result,
    output_result,
    with_retries,
)
from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ConflictError,
    FutureExpiredError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RequestFailedError,
    UnprocessableEntityError,
)
from tinker_actors.types import ForwardBackwardOutput, SaveWeightsResponse
from tinker_actors.wire.calls import PROTOBUF, Answer, Call
from tinker_actors.wire.protobuf import encode_output
from tinker_actors.wire.retry import PATIENT

JSON = {"content-type": "application/json"}
DONE = Answer(200, JSON, b'{"path": "tinker://r/weights/n"}')
LATER = Answer(408, JSON, b'{"type": "try_again", "request_id": "7", "queue_state": "active"}')
EXPECTED = json_result("SaveWeights", SaveWeightsResponse)


def drive(steps: RoundTrips[Answer], outcomes: Iterable[Outcome]) -> tuple[Answer, list[Any]]:
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


def poll(*outcomes: Outcome) -> tuple[Answer, list[Any]]:
    return drive(follow("7", EXPECTED, lambda: 0.0, random.Random(1)), list(outcomes))


def calls(seen: list[Any]) -> list[Call[Any]]:
    return [step for step in seen if isinstance(step, Call)]


def test_a_result_ends_the_polling() -> None:
    answer, seen = poll(DONE)
    assert EXPECTED.read(answer).path == "tinker://r/weights/n"
    assert calls(seen)[0].body == b'{"request_id":"7","allow_metadata_only":true}'


def test_polls_are_numbered_and_name_the_request() -> None:
    _, seen = poll(LATER, DONE)
    assert [call.headers["x-tinker-request-iteration"] for call in calls(seen)] == ["0", "1"]
    assert calls(seen)[0].headers["x-tinker-request-type"] == "SaveWeights"


@pytest.mark.parametrize(
    "pending",
    [LATER, Answer(200, JSON, b'{"type":"try_again"}'), Answer(408, {}, b"")],
    ids=["408", "200", "empty"],
)
def test_an_answer_that_comes_at_once_is_not_asked_for_again_at_once(pending: Answer) -> None:
    _, seen = poll(pending, DONE)
    assert isinstance(seen[1], Pause)


@pytest.mark.parametrize("passing", [Answer(503, {}, b""), Answer(429, {}, b""), APIConnectionError("gone")])
def test_what_passes_by_itself_is_polled_through(passing: Outcome) -> None:
    answer, seen = poll(passing, passing, DONE)
    assert answer == DONE
    assert [type(step) for step in seen] == [Call, Pause, Call, Pause, Call]


def test_a_failed_request_keeps_its_category() -> None:
    with pytest.raises(RequestFailedError, match="too long") as caught:
        poll(Answer(200, JSON, b'{"error": "too long", "category": "USER"}'))
    assert (caught.value.category, caught.value.request_id) == ("user", "7")


def test_a_lost_result_is_a_typed_error() -> None:
    with pytest.raises(FutureExpiredError):
        poll(Answer(410, JSON, b'{"detail": "gone"}'))


def test_a_bad_request_is_believed_the_fourth_time() -> None:
    bad = Answer(400, JSON, b'{"detail": "no"}')
    assert poll(bad, bad, bad, DONE)[0] == DONE
    with pytest.raises(BadRequestError):
        poll(bad, bad, bad, bad)


def test_an_unknown_future_is_not_polled_again() -> None:
    with pytest.raises(NotFoundError):
        poll(Answer(404, JSON, b"{}"))


def test_results_are_read_in_protobuf_or_json_as_they_come() -> None:
    output = ForwardBackwardOutput(loss_fn_outputs=[], metrics={"loss:sum": 2.0})
    binary = Answer(200, {"content-type": PROTOBUF}, encode_output(output))
    text = Answer(200, JSON, b'{"loss_fn_outputs": [], "metrics": {"loss:sum": 2.0}}')
    assert output_result.read(binary).metrics == output_result.read(text).metrics == {"loss:sum": 2.0}


CALL: Call[Any] = Call(operation="optim_step", path="optim_step", retry=PATIENT, read=lambda answer: answer)


def submit(*outcomes: Outcome) -> tuple[Answer, list[Any]]:
    return drive(with_retries(CALL, lambda: 0.0, random.Random(1)), list(outcomes))


def test_a_repeated_submit_has_the_same_bytes() -> None:
    _, seen = submit(Answer(500, {}, b""), APIConnectionError("gone"), DONE)
    assert calls(seen) == [CALL, CALL, CALL]


def test_a_conflict_is_never_repeated() -> None:
    with pytest.raises(ConflictError):
        submit(Answer(409, JSON, b"{}"))


def test_the_last_failure_is_told_when_time_is_up() -> None:
    ticks = iter([0.0, 3599.8, 3601.0])
    steps = with_retries(CALL, lambda: next(ticks), random.Random(1))
    with pytest.raises(APIConnectionError, match="second"):
        drive(steps, [APIConnectionError("first"), APIConnectionError("second")])


# Each row of the table of outcomes that a poll can have: what is done about it, and what comes of it when it lasts.


def try_again(**fields: Any) -> Answer:
    return Answer(200, JSON, json.dumps({"type": "try_again", "request_id": "7", **fields}).encode())


def status(code: int, body: bytes = b'{"detail": "no"}', **headers: str) -> Answer:
    return Answer(code, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}, body)


ANNOUNCED = Answer(200, JSON, b'{"status": "complete_metadata", "response_payload_size": 99}')
FAILED_BY_USER = Answer(200, JSON, b'{"error": "too long", "category": "user"}')
FAILED_BY_SERVER = Answer(200, JSON, b'{"error": "a crash", "category": "server"}')
FAILED = Answer(200, JSON, b'{"error": "who knows"}')
BACKOFF = [0.1, 0.2, 0.4]
"""Seconds of a backoff, each times a draw from [0.75, 1)."""


@pytest.mark.parametrize(
    ("outcome", "times", "pauses"),
    [
        pytest.param(Answer(200, JSON, b'{"status": "pending"}'), 3, [0.05, 0.1, 0.2], id="pending"),
        pytest.param(try_again(), 3, [0.05, 0.1, 0.2], id="try_again"),
        pytest.param(try_again(retry_after_ms=2500), 2, [2.5, 2.5], id="try_again that names a pause"),
        pytest.param(try_again(retry_after_ms=1e9), 1, [30.0], id="try_again that names an hour"),
        pytest.param(
            try_again(queue_state="paused_capacity"), 2, [0.05, 0.1], id="try_again while it is paused"
        ),
        pytest.param(status(408), 3, [0.05, 0.1, 0.2], id="408"),
        pytest.param(status(408, b"", retry_after="3"), 1, [3.0], id="408 that names a pause"),
        pytest.param(status(500), 3, BACKOFF, id="500"),
        pytest.param(status(503, b"<html>"), 3, BACKOFF, id="503"),
        pytest.param(status(503, retry_after_ms="7500"), 1, [7.5], id="503 that names a pause"),
        pytest.param(status(429), 3, BACKOFF, id="429"),
        pytest.param(status(429, retry_after="4"), 1, [4.0], id="429 that names a pause"),
        pytest.param(status(400), 3, [0.05, 0.05, 0.05], id="400"),
        pytest.param(status(400, b""), 3, BACKOFF, id="400 of an edge"),
        pytest.param(status(402), 2, [5.0, 5.0], id="402"),
        pytest.param(APIConnectionError("gone"), 3, BACKOFF, id="no connection"),
        pytest.param(APITimeoutError("late"), 3, BACKOFF, id="no answer in time"),
        pytest.param(status(422, x_should_retry="true"), 3, BACKOFF, id="422 that wants another try"),
    ],
)
def test_what_may_pass_is_polled_again_after_a_pause(
    outcome: Outcome, times: int, pauses: list[float]
) -> None:
    steps = follow("7", EXPECTED, lambda: 0.0, random.Random(1), max_billing_pause_s=3600.0)
    answer, seen = drive(steps, [*[outcome] * times, DONE])
    assert answer == DONE
    waited = [step.delay_s for step in seen if isinstance(step, Pause)]
    is_jittered = pauses == BACKOFF
    for delay_s, wanted_s in zip(waited, pauses, strict=True):
        assert (0.75 if is_jittered else 1.0) * wanted_s <= delay_s <= wanted_s


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        pytest.param([ANNOUNCED, ANNOUNCED], APIResponseValidationError, id="complete_metadata twice"),
        pytest.param([FAILED_BY_USER], RequestFailedError, id="failed, category user"),
        pytest.param([FAILED_BY_SERVER], RequestFailedError, id="failed, category server"),
        pytest.param([FAILED], RequestFailedError, id="failed, category unknown"),
        pytest.param([status(410)], FutureExpiredError, id="410"),
        pytest.param([status(400)] * 4, BadRequestError, id="400 for the fourth time"),
        pytest.param([status(400, b"")] * 17, BadRequestError, id="400 of an edge for the 17th time"),
        pytest.param([status(402)], BillingError, id="402 where nobody waits for bills"),
        pytest.param([status(401)], AuthenticationError, id="401"),
        pytest.param([status(403)], PermissionDeniedError, id="403"),
        pytest.param([status(404)], NotFoundError, id="404"),
        pytest.param([status(409)], ConflictError, id="409"),
        pytest.param([status(409, x_should_retry="true")], ConflictError, id="409 that wants another try"),
        pytest.param([status(422)], UnprocessableEntityError, id="422"),
        pytest.param([status(503, x_should_retry="false")], InternalServerError, id="503 for good"),
    ],
)
def test_what_will_not_pass_is_a_typed_error(outcomes: list[Outcome], error: type[Exception]) -> None:
    polls = iter(outcomes)
    with pytest.raises(error):
        drive(follow("7", EXPECTED, lambda: 0.0, random.Random(1)), polls)
    assert list(polls) == []  # not sooner, either


@pytest.mark.parametrize("passing", [status(500), status(429), APIConnectionError("gone")], ids=str)
def test_an_outage_that_outlasts_the_rule_ends_with_its_last_failure(passing: Outcome) -> None:
    clock = itertools.count(0, 600)
    with pytest.raises((APIStatusError, APIConnectionError)):
        drive(follow("7", EXPECTED, lambda: float(next(clock)), random.Random(1)), [passing] * 20)


@pytest.mark.parametrize(
    "pending",
    [
        Answer(200, JSON, b'{"type": "try_again", "request_id": "7"}'),
        Answer(200, JSON, b'{"status": "pending"}'),
        Answer(408, JSON, b'{"detail": "later"}'),
        Answer(408, {}, b""),
    ],
    ids=["try_again", "pending", "408 with words", "408"],
)
def test_what_is_pending_is_asked_for_again_in_silence(pending: Answer) -> None:
    answer, seen = poll(pending, DONE)
    assert answer == DONE
    assert {step.cause for step in seen if isinstance(step, Pause)} <= {PENDING}


def test_polls_that_are_answered_at_once_come_more_and_more_slowly() -> None:
    _, seen = poll(*[LATER] * 8, DONE)
    delays = [step.delay_s for step in seen if isinstance(step, Pause)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_poll_that_the_service_held_is_followed_by_the_next_at_once() -> None:
    ticks = itertools.count(0, 10)
    steps = follow("7", EXPECTED, lambda: float(next(ticks)), random.Random(1))
    _, seen = drive(steps, [LATER, LATER, DONE])
    assert [type(step) for step in seen] == [Call, Call, Call]


def test_a_wish_for_a_pause_is_granted() -> None:
    _, seen = poll(Answer(200, JSON, b'{"type": "try_again", "retry_after_ms": 1500}'), DONE)
    assert seen[1] == Pause(1.5, PENDING)


def test_a_large_result_is_announced_and_fetched_once_there_is_room() -> None:
    announced = Answer(200, JSON, b'{"status": "complete_metadata", "response_payload_size": 99}')
    answer, seen = poll(announced, DONE)
    assert answer == DONE
    assert [type(step) for step in seen] == [Call, Reserve, Call]
    assert seen[1] == Reserve(99)
    assert b'"allow_metadata_only":false' in seen[2].body


@pytest.mark.parametrize("size", [b"99", b'"x"', b"-1", b"null"])
def test_a_result_that_is_only_announced_is_an_error(size: bytes) -> None:
    announced = Answer(200, JSON, b'{"status": "complete_metadata", "response_payload_size": %s}' % size)
    with pytest.raises(APIResponseValidationError, match="got its size again"):
        poll(announced, announced)


@pytest.mark.parametrize(
    ("body", "category"),
    [
        (b'{"error": "no", "category": "user"}', "user"),
        (b'{"error": "no", "category": "SERVER"}', "server"),
        (b'{"error": "no"}', "unknown"),
        (b'{"error": "no", "category": "odd"}', "unknown"),
        (b'{"status": "failed", "error": {"message": "no", "category": "user"}}', "user"),
    ],
)
def test_a_failure_is_final_whatever_its_category(body: bytes, category: str) -> None:
    with pytest.raises(RequestFailedError, match="no") as caught:
        poll(Answer(200, JSON, body))
    assert caught.value.category == category


@pytest.mark.parametrize(
    "body",
    [
        b'{"path": "tinker://r/weights/n"}',
        b'{"status": "completed", "result": {"path": "tinker://r/weights/n"}}',
        b'{"type": "save_weights", "path": "tinker://r/weights/n"}',
    ],
    ids=["bare", "wrapped", "typed"],
)
def test_a_result_may_be_wrapped(body: bytes) -> None:
    assert EXPECTED.read(poll(Answer(200, JSON, body))[0]).path == "tinker://r/weights/n"


@pytest.mark.parametrize("passing", [Answer(500, {}, b""), Answer(429, {}, b""), APIConnectionError("gone")])
def test_failures_that_pass_are_waited_out_ever_longer(passing: Outcome) -> None:
    _, seen = poll(*[passing] * 6, DONE)
    delays = [step.delay_s for step in seen if isinstance(step, Pause)]
    assert delays == sorted(delays)
    assert delays[-1] > 2.0


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422])
def test_other_refusals_of_a_poll_are_final(status: int) -> None:
    with pytest.raises(APIStatusError) as caught:
        poll(Answer(status, JSON, b"{}"))
    assert caught.value.status == status


def test_a_408_with_words_forgives_bad_requests() -> None:
    bad = Answer(400, JSON, b"{}")
    assert poll(bad, bad, bad, LATER, bad, bad, bad, DONE)[0] == DONE


UNPAID = Answer(402, JSON, b'{"detail": "unpaid"}')


def test_an_unpaid_bill_is_waited_out_and_told_once_a_minute() -> None:
    clock = [0.0]
    steps = follow("7", EXPECTED, lambda: clock[0], random.Random(1), max_billing_pause_s=3600.0)
    seen: list[Pause] = []
    given: Outcome = None
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(given)
            given = UNPAID if isinstance(step, Call) and clock[0] < 120 else DONE
            if isinstance(step, Pause):
                seen.append(step)
                clock[0] += step.delay_s
                given = None
    assert {pause.delay_s for pause in seen} == {5.0}
    assert [number for number, pause in enumerate(seen) if pause.cause != PENDING] == [0, 12]


def test_a_bill_that_stays_unpaid_is_an_error_in_the_end() -> None:
    clock = itertools.count(0, 1)
    steps = follow("7", EXPECTED, lambda: float(next(clock)), random.Random(1), max_billing_pause_s=20.0)
    with pytest.raises(BillingError):
        drive(steps, [UNPAID] * 100)


def test_a_submission_waits_for_an_unpaid_bill_too() -> None:
    steps = with_retries(CALL, lambda: 0.0, random.Random(1), max_billing_pause_s=10.0)
    answer, seen = drive(steps, [UNPAID, DONE])
    assert answer == DONE
    assert seen[1].delay_s == 5.0


def test_the_queue_is_told_when_state_or_reason_changed_and_when_it_goes_on() -> None:
    def waiting(state: str, reason: str = "") -> Answer:
        body = {"type": "try_again", "queue_state": state, "queue_state_reason": reason}
        return Answer(408, JSON, json.dumps(body).encode())

    answers = [
        waiting("active"),
        waiting("PAUSED_CAPACITY"),
        waiting("paused_capacity"),
        waiting("paused_capacity", "full"),
        waiting("odd"),
        DONE,
    ]
    _, seen = poll(*answers)
    told = [(step.state, step.reason) for step in seen if isinstance(step, QueueChanged)]
    assert told == [("paused_capacity", ""), ("paused_capacity", "full"), ("unknown", ""), ("active", "")]


def test_a_pause_for_capacity_of_three_hours_is_waited_out() -> None:
    """REC-11: it is no failure, and is told once."""
    paused, end_s = try_again(queue_state="paused_capacity", queue_state_reason="short of GPUs"), 3 * 3600.0
    clock = [0.0]
    steps = follow("7", EXPECTED, lambda: clock[0], random.Random(1))

    def answers() -> Iterator[Outcome]:
        while clock[0] < end_s:
            clock[0] += 30.0  # the service holds the poll
            yield paused
        yield DONE

    answer, seen = drive(steps, answers())
    told = [step.state for step in seen if isinstance(step, QueueChanged)]
    assert (answer, told) == (DONE, ["paused_capacity", "active"])
    assert len(calls(seen)) == end_s / 30.0 + 1


def test_the_first_poll_says_how_long_the_submission_took() -> None:
    steps = follow("7", EXPECTED, lambda: 0.0, random.Random(1), created_in_s=0.25)
    _, seen = drive(steps, [LATER, DONE])
    name = "x-tinker-create-promise-roundtrip-time"
    assert [call.headers.get(name) for call in calls(seen)] == ["0.250000", None]
