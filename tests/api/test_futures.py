"""Submitting and polling as generators: each rule for an answer, with no socket and no clock."""

import random
from typing import Any

import pytest

from tinker_actors.api.futures import (
    Outcome,
    Pause,
    RoundTrips,
    follow,
    json_result,
    output_result,
    with_retries,
)
from tinker_actors.errors import (
    APIConnectionError,
    BadRequestError,
    ConflictError,
    FutureExpiredError,
    NotFoundError,
    RequestFailedError,
)
from tinker_actors.types import ForwardBackwardOutput, SaveWeightsResponse
from tinker_actors.wire.calls import PROTOBUF, Answer, Call
from tinker_actors.wire.protobuf import encode_output
from tinker_actors.wire.retry import PATIENT

JSON = {"content-type": "application/json"}
DONE = Answer(200, JSON, b'{"path": "tinker://r/weights/n"}')
PENDING = Answer(408, JSON, b'{"type": "try_again", "request_id": "7", "queue_state": "active"}')
EXPECTED = json_result("SaveWeights", SaveWeightsResponse)


def drive(steps: RoundTrips[Answer], outcomes: list[Outcome]) -> tuple[Answer, list[Any]]:
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
    assert calls(seen)[0].body == b'{"request_id":"7","allow_metadata_only":false}'


def test_polls_are_numbered_and_name_the_request() -> None:
    _, seen = poll(PENDING, DONE)
    assert [call.headers["x-tinker-request-iteration"] for call in calls(seen)] == ["0", "1"]
    assert calls(seen)[0].headers["x-tinker-request-type"] == "SaveWeights"


@pytest.mark.parametrize(
    "pending",
    [PENDING, Answer(200, JSON, b'{"type":"try_again"}'), Answer(408, {}, b"")],
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
