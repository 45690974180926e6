"""Whatever a server answers: a pause, a result or a typed error, and never anything large out of something small."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.api import rest, sampling, sessions, setup, training
from tinker_actors.api.futures import Pause, Reserve, follow, output_result, sample_result, with_retries
from tinker_actors.errors import RequestFailedError, TinkerActorsError
from tinker_actors.types import LoraConfig
from tinker_actors.wire.calls import JSON, PROTOBUF, Answer, Call

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
polls = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["try_again", "sample"]) | documents,
        "status": st.sampled_from(["pending", "complete_metadata", "failed", "completed"]) | documents,
        "queue_state": st.sampled_from(["active", "paused_capacity"]) | documents,
        "queue_state_reason": documents,
        "retry_after_ms": documents,
        "response_payload_size": documents,
        "error": documents,
        "category": documents,
        "result": documents,
        "detail": documents,
    },
)
statuses = st.sampled_from([200, 202, 204, 301, 400, 401, 402, 404, 408, 409, 410, 422, 429, 500, 503, 599])
headers = st.fixed_dictionaries(
    {"content-type": st.sampled_from([JSON, PROTOBUF, "text/html", "", "application/json; charset=utf-8"])},
    optional={
        name: st.sampled_from(["", "0", "-1", "nan", "inf", "1e400", "soon", "Mon, 99 Jan", "9" * 5000])
        for name in ("retry-after", "retry-after-ms", "x-should-retry", "date", "content-length")
    },
)
bodies = polls.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=40)
answers = st.builds(Answer, status=statuses, headers=headers, body=bodies)


def drive(steps: Any, outcomes: list[Answer]) -> None:
    waiting = iter(outcomes)
    given: Any = None
    try:
        while True:
            step = steps.send(given)
            if isinstance(step, Pause):
                assert 0.0 <= step.delay_s <= 60.0
            if isinstance(step, Reserve):
                assert step.size >= 0
            given = next(waiting, None) if isinstance(step, Call) else None
            if given is None and isinstance(step, Call):
                return
    except (StopIteration, TinkerActorsError):
        return


@given(st.lists(answers, max_size=4))
def test_no_answer_to_a_poll_is_more_than_a_pause_or_a_typed_error(outcomes: list[Answer]) -> None:
    drive(follow("7", output_result, lambda: 0.0, random.Random(1), max_billing_pause_s=60.0), outcomes)


CALLS: list[Call[Any]] = [
    setup.client_config(),
    setup.dynamic_config(),
    setup.exchange_key(),
    sessions.create_session(),
    sessions.get_server_capabilities(),
    sampling.create_sampling_session("s", 0, base_model="m"),
    training.create_model("s", 0, "m", LoraConfig()),
    training.get_info("m"),
    rest.get_session("s", None),
    rest.list_training_runs(1, 0, None, None),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.operation)
@given(st.lists(answers, max_size=3), documents)
def test_no_answer_to_a_request_is_more_than_a_typed_error(
    call: Call[Any], outcomes: list[Answer], document: Any
) -> None:
    drive(with_retries(call, lambda: 0.0, random.Random(1)), outcomes)
    try:
        call.read(Answer(200, {}, json.dumps(document).encode()))
    except TinkerActorsError:
        return


@pytest.mark.parametrize("read", [output_result.read, sample_result.read], ids=["output", "sample"])
@given(answers)
def test_no_result_is_more_than_a_typed_error(read: Callable[[Answer], Any], answer: Answer) -> None:
    try:
        read(answer)
    except TinkerActorsError:
        return


@pytest.mark.parametrize("size", [10**6, 10**7])
def test_a_failure_of_many_words_is_told_in_a_few(size: int) -> None:
    body = json.dumps({"error": "x" * size, "category": "user"}).encode()
    steps = follow("7", output_result, lambda: 0.0, random.Random(1))
    next(steps)
    with pytest.raises(RequestFailedError) as caught:
        steps.send(Answer(200, {"content-type": JSON}, body))
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("request_id", ["x" * 10**6, "9" * 400, "\u2028", "a/../b", ""])
def test_ids_of_any_kind_come_back_as_they_are(request_id: str) -> None:
    handle = training.unload_model("m").read(Answer(200, {}, json.dumps({"request_id": request_id}).encode()))
    steps = follow(handle.request_id, output_result, lambda: 0.0, random.Random(1))
    call = next(steps)
    assert isinstance(call, Call)
    assert json.loads(call.body)["request_id"] == request_id
