"""When a failed request is sent again."""

import random

import pytest

from tinker_actors.errors import APIConnectionError, APIStatusError, APITimeoutError, TLSError
from tinker_actors.wire.calls import Answer
from tinker_actors.wire.retry import NEVER, PATIENT, RetryRule, delay_after, is_repeatable, retry_after_s


@pytest.mark.parametrize(
    ("status", "repeatable"),
    [
        (400, False),
        (401, False),
        (402, False),
        (404, False),
        (408, True),
        (409, False),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_patient_calls_repeat_what_passes_by_itself(status: int, repeatable: bool) -> None:
    assert is_repeatable(PATIENT, APIStatusError.of(status, "no")) is repeatable


@pytest.mark.parametrize(
    ("status", "should_retry", "repeatable"),
    [
        (400, True, True),
        (422, None, False),
        (503, False, False),
        (503, True, True),
        (429, False, False),
        (409, True, False),
    ],
)
def test_the_service_knows_best_but_for_conflicts(
    status: int, should_retry: bool | None, repeatable: bool
) -> None:
    error = APIStatusError.of(status, "no", should_retry=should_retry)
    assert is_repeatable(PATIENT, error) is repeatable
    assert not is_repeatable(NEVER, error)


@pytest.mark.parametrize(
    ("header", "should_retry"),
    [({}, None), ({"x-should-retry": "True"}, True), ({"x-should-retry": "false"}, False)],
)
def test_its_word_is_in_a_header(header: dict[str, str], should_retry: bool | None) -> None:
    with pytest.raises(APIStatusError) as caught:
        Answer(503, header, b"").success()
    assert caught.value.should_retry is should_retry


def test_a_400_without_a_word_is_a_proxys_and_repeated_sixteen_times() -> None:
    error = APIStatusError.of(400, "")
    delays = [delay_after(PATIENT, error, attempt, 0.0, random.Random(1)) for attempt in range(18)]
    assert [delay is None for delay in delays] == [False] * 16 + [True] * 2
    assert not is_repeatable(NEVER, error)
    assert not is_repeatable(PATIENT, APIStatusError.of(400, {"detail": "no"}))


def test_two_that_speak_no_tls_with_one_another_never_will() -> None:
    assert not is_repeatable(PATIENT, TLSError("no answer"))


def test_a_lost_connection_is_repeated_only_where_the_rule_says_so() -> None:
    assert is_repeatable(PATIENT, APITimeoutError("late"))
    assert not is_repeatable(NEVER, APIConnectionError("gone"))


def test_delays_double_up_to_the_cap_with_a_quarter_of_jitter() -> None:
    rule = RetryRule(connection=True, base_s=1.0, max_s=8.0, max_elapsed_s=1e9)
    generator = random.Random(1)
    for attempt in range(2000):
        delay_s = delay_after(rule, APIConnectionError(""), attempt, 0.0, generator)
        ceiling = min(8.0, 2.0 ** min(attempt, 30))
        assert delay_s is not None
        assert 0.75 * ceiling <= delay_s < ceiling


def test_the_wish_of_the_service_is_kept() -> None:
    error = APIStatusError.of(429, "", retry_after_s=7.0)
    assert delay_after(PATIENT, error, 0, 0.0, random.Random(1)) == 7.0


def test_no_repetition_begins_after_the_time_allowed() -> None:
    assert delay_after(PATIENT, APIConnectionError(""), 9, 3599.9, random.Random(1)) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "3600"}, 60.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:05 GMT", "date": "Mon, 01 Jan 2024 00:00:00 GMT"}, 5.0),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds
