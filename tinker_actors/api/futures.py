"""Requests that run in the background: submit, then poll until the result is there.

Round trips are generators: they yield a `Call` to send or a `Pause` to keep, and are sent the answer, or the
error that came in its place. Whoever drives them owns sockets and clocks; here is neither.
"""

import random
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

from tinker_actors.errors import (
    APIConnectionError,
    APIStatusError,
    BadRequestError,
    FutureExpiredError,
    RequestFailedError,
    TinkerActorsError,
)
from tinker_actors.types import ForwardBackwardOutput, SampleResponse
from tinker_actors.wire.calls import JSON, PROTOBUF, Answer, Call, Pool, json_body, read_json
from tinker_actors.wire.documents import RetrieveFutureRequest
from tinker_actors.wire.json import read_output_document, read_sample_document
from tinker_actors.wire.protobuf import decode_output, decode_sample
from tinker_actors.wire.retry import PATIENT, RetryRule, delay_after, is_repeatable

__all__ = [
    "Expectation",
    "Pause",
    "RoundTrips",
    "follow",
    "json_result",
    "output_result",
    "sample_result",
    "with_retries",
]

T = TypeVar("T")

POLL_TIMEOUT_S = 45.0
"""The service holds a poll for about 30 s; the official SDK gives it 45."""
MIN_POLL_S = 0.05
"""Answers that come at once must not turn polling into a busy loop."""
MAX_BAD_POLLS = 3
"""A 400 on a poll may be a proxy's; the official SDK repeats it this often."""


class Pause(msgspec.Struct, frozen=True):
    """A wait between two calls."""

    delay_s: float
    """Seconds."""
    cause: str
    """Why, in a word or an error's text."""


Outcome = Answer | TinkerActorsError | None
RoundTrips = Generator[Call[Any] | Pause, Outcome, T]


class Expectation(msgspec.Struct, frozen=True):
    """What a future's result is."""

    operation: str
    """The API's name of the request, for its header."""
    accept: str
    """Media types that can be read."""
    read: Callable[[Answer], Any]
    """Turns the answer into the result."""


def with_retries(
    call: Call[T], clock: Callable[[], float], generator: random.Random, rule: RetryRule | None = None
) -> RoundTrips[Answer]:
    """`call`, repeated as its rule says, until it succeeds.

    Raises:
        TinkerActorsError: the failure that is not worth repeating, or the last one when time is up.
    """
    rule = rule or call.retry
    began = clock()
    attempt = 0
    while True:
        outcome = yield call
        try:
            return _answer(outcome).success()
        except TinkerActorsError as error:
            delay_s = delay_after(rule, error, attempt, clock() - began, generator)
            if delay_s is None:
                raise
            attempt += 1
            yield Pause(delay_s, str(error))


def follow(
    request_id: str, expected: Expectation, clock: Callable[[], float], generator: random.Random
) -> RoundTrips[Answer]:
    """Polls until the request ended; the successful answer, still to be read by `expected.read`.

    Raises:
        RequestFailedError: the request failed while executing.
        FutureExpiredError: the service no longer keeps the result.
        APIStatusError: the service refuses the poll.
        APIConnectionError: no answer for as long as the rule for polls allows.
    """
    iteration, bad_polls, attempt = 0, 0, 0
    quiet_since = clock()
    while True:
        began = clock()
        outcome = yield _poll(request_id, expected, iteration)
        iteration += 1
        if isinstance(outcome, Answer):
            attempt = 0
        try:
            answer = _answer(outcome)
            if answer.status == 408 or _is_pending(answer):  # noqa: PLR2004
                quiet_since = clock()
                if clock() - began < MIN_POLL_S:
                    yield Pause(MIN_POLL_S, "pending")
                continue
            return _ended(answer.success(), request_id)
        except (APIConnectionError, APIStatusError) as error:
            if isinstance(error, FutureExpiredError):
                raise
            if isinstance(error, BadRequestError) and bad_polls < MAX_BAD_POLLS:
                bad_polls += 1
                yield Pause(MIN_POLL_S, str(error))
                continue
            delay_s = None
            if is_repeatable(PATIENT, error):
                delay_s = delay_after(PATIENT, error, attempt, clock() - quiet_since, generator)
            if delay_s is None:
                raise
            attempt += 1
            yield Pause(delay_s, str(error))


def _answer(outcome: Outcome) -> Answer:
    if isinstance(outcome, TinkerActorsError):
        raise outcome
    assert outcome is not None  # noqa: S101 - drivers answer each call
    return outcome


def _poll(request_id: str, expected: Expectation, iteration: int) -> Call[Any]:
    return Call(
        operation="retrieve_future",
        path="retrieve_future",
        body=json_body(RetrieveFutureRequest(request_id=request_id)),
        accept=expected.accept,
        headers={"x-tinker-request-iteration": str(iteration), "x-tinker-request-type": expected.operation},
        timeout_s=POLL_TIMEOUT_S,
        pool=Pool.FUTURE,
        read=expected.read,
    )


def _is_pending(answer: Answer) -> bool:
    if answer.status >= 300 or answer.content_type == PROTOBUF:  # noqa: PLR2004
        return False
    document = answer.document()
    return isinstance(document, dict) and document.get("type") == "try_again"


def _ended(answer: Answer, request_id: str) -> Answer:
    if answer.content_type != PROTOBUF:
        document = answer.document()
        if isinstance(document, dict) and "error" in document:
            category = str(document.get("category", "unknown")).lower()
            raise RequestFailedError(
                f"request {request_id} failed: {document['error']}",
                category=category if category in ("user", "server") else "unknown",
                request_id=request_id,
            )
    return answer


def _read_output(answer: Answer) -> ForwardBackwardOutput:
    return (
        decode_output(answer.body) if answer.content_type == PROTOBUF else read_output_document(answer.body)
    )


def _read_sample(answer: Answer) -> SampleResponse:
    return (
        decode_sample(answer.body) if answer.content_type == PROTOBUF else read_sample_document(answer.body)
    )


output_result = Expectation("ForwardBackward", f"{PROTOBUF}, {JSON}", _read_output)
sample_result = Expectation("Sample", f"{PROTOBUF}, {JSON}", _read_sample)


def json_result(operation: str, kind: type[Any]) -> Expectation:
    """A result in JSON, of type `kind`."""
    return Expectation(operation, JSON, read_json(kind))
