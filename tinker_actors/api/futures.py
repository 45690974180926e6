"""Requests that run in the background: submit, then poll until the result is there.

Round trips are generators: they yield a `Call` to send or a `Pause` to keep, and are sent the answer, or the
error that came in its place. Whoever drives them owns sockets and clocks; here is neither.
"""

import math
import random
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import msgspec

from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    BadRequestError,
    BillingError,
    FutureExpiredError,
    RequestFailedError,
    TinkerActorsError,
)
from tinker_actors.types import ForwardBackwardOutput, SampleResponse
from tinker_actors.wire.calls import JSON, PROTOBUF, Answer, Call, Pool, json_body, read_json
from tinker_actors.wire.documents import FutureHandle, RetrieveFutureRequest
from tinker_actors.wire.json import read_output_document, read_sample_document
from tinker_actors.wire.protobuf import decode_output, decode_sample
from tinker_actors.wire.retry import PATIENT, delay_after, retry_after_s

__all__ = [
    "PENDING",
    "Expectation",
    "Pause",
    "QueueChanged",
    "Reserve",
    "RoundTrips",
    "Step",
    "cancel_future",
    "follow",
    "forward_result",
    "json_result",
    "output_result",
    "read_handle",
    "sample_result",
    "with_retries",
]

T = TypeVar("T")

POLL_TIMEOUT_S = 45.0
"""The service holds a poll for about 30 s; the official SDK gives it 45."""
QUICK_POLL_S = 0.5
"""An answer that comes sooner was not held by the service."""
MIN_POLL_S = 0.05
"""Pause after the first answer that comes at once; doubles, so that polling is no busy loop."""
MAX_POLL_S = 1.0
"""Longest of these pauses."""
MAX_POLL_PAUSE_S = 30.0
"""Longest pause that an answer may ask for."""
CANCEL_TIMEOUT_S = 30.0
BILLING_PAUSE_S = 5.0
BILLING_QUIET_S = 300.0
BILLING_TOLD_S = 60.0
PENDING = "pending"
"""Cause of a pause in which nothing is wrong."""
_QUEUE_STATES = frozenset({"active", "paused_capacity", "paused_rate_limit"})
MOST_WORDS = 4000
"""Characters of the service's reason that an error repeats: a traceback, and no flood."""
MAX_BAD_POLLS = 3
"""A 400 on a poll may be a proxy's; the official SDK repeats it this often."""


class Pause(msgspec.Struct, frozen=True):
    """A wait between two calls."""

    delay_s: float
    """Seconds."""
    cause: str
    """Why, in a word or an error's text; `PENDING` when nothing went wrong."""


class Reserve(msgspec.Struct, frozen=True):
    """Room wanted for a large answer before it is fetched; given back when the round trips are over."""

    size: int
    """Bytes."""


class QueueChanged(msgspec.Struct, frozen=True):
    """News for observers: where the request waits, as the service sees it."""

    request_id: str
    state: str
    """active, paused_capacity, paused_rate_limit or unknown."""
    reason: str
    """The service's words for it; may be empty."""


Step = Call[Any] | Pause | Reserve | QueueChanged
Outcome = Answer | TinkerActorsError | None
RoundTrips = Generator[Step, Outcome, T]


class Expectation(msgspec.Struct, frozen=True):
    """What a future's result is."""

    operation: str
    """The API's name of the request, for its header."""
    accept: str
    """Media types that can be read."""
    read: Callable[[Answer], Any]
    """Turns the answer into the result."""


class Billing:
    """Waits out a 402 for a while: somebody may be paying the bill just now.

    Source: the official SDK 0.38, which asks again every 5 s, for an hour unless the service says otherwise, and
    takes a 402 after 5 minutes without one for a new incident.
    """

    def __init__(self, clock: Callable[[], float], max_pause_s: float) -> None:
        self._clock = clock
        self._max_pause_s = max_pause_s
        self._began = self._latest = self._told = -math.inf

    def pause(self, error: Exception) -> Pause | None:
        """How to wait for `error` to pass; None when it is no 402, or has lasted too long."""
        if not isinstance(error, BillingError):
            return None
        now = self._clock()
        if now - self._latest > BILLING_QUIET_S:
            self._began = now
        self._latest = now
        if now - self._began >= self._max_pause_s:
            return None
        is_news = now - self._told >= BILLING_TOLD_S
        if is_news:
            self._told = now
        return Pause(BILLING_PAUSE_S, str(error) if is_news else PENDING)


def with_retries(
    call: Call[T],
    clock: Callable[[], float],
    generator: random.Random,
    *,
    max_billing_pause_s: float = 0.0,
) -> RoundTrips[Answer]:
    """`call`, repeated as its rule says, until it succeeds.

    Args:
        call: what to send.
        clock: monotonic seconds.
        generator: of the jitter.
        max_billing_pause_s: for how long a 402 is waited out.

    Raises:
        TinkerActorsError: the failure that is not worth repeating, or the last one when time is up.
    """
    billing = Billing(clock, max_billing_pause_s)
    failed_at: float | None = None
    attempt = 0
    while True:
        outcome = yield call
        try:
            answer = _answer(outcome)
            return answer if answer.status in call.answers else answer.success(call.hint)
        except TinkerActorsError as error:
            pause = billing.pause(error)
            if pause is None:
                failed_at = clock() if failed_at is None else failed_at
                delay_s = delay_after(call.retry, error, attempt, clock() - failed_at, generator)
                if delay_s is None:
                    raise
                attempt += 1
                pause = Pause(delay_s, str(error))
            yield pause


def follow(
    request_id: str,
    expected: Expectation,
    clock: Callable[[], float],
    generator: random.Random,
    *,
    created_in_s: float | None = None,
    max_billing_pause_s: float = 0.0,
) -> RoundTrips[Answer]:
    """Polls until the request ended; the successful answer, still to be read by `expected.read`.

    Args:
        request_id: the future's.
        expected: what its result is.
        clock: monotonic seconds.
        generator: of the jitter.
        created_in_s: how long its submission took, which the service wants to know.
        max_billing_pause_s: for how long a 402 is waited out.

    Raises:
        RequestFailedError: the request failed while executing.
        FutureExpiredError: the service no longer keeps the result.
        APIStatusError: the service refuses the poll.
        APIConnectionError: no answer for as long as the rule for polls allows.
        APIResponseValidationError: the service announced the result and did not give it.
    """
    return _Poll(request_id, expected, clock, generator, created_in_s, max_billing_pause_s).run()


class _Poll:
    """What is remembered from one poll of a future to the next."""

    def __init__(
        self,
        request_id: str,
        expected: Expectation,
        clock: Callable[[], float],
        generator: random.Random,
        created_in_s: float | None,
        max_billing_pause_s: float,
    ) -> None:
        self._request_id, self._expected = request_id, expected
        self._clock, self._random = clock, generator
        self._created_in_s = created_in_s
        self._billing = Billing(clock, max_billing_pause_s)
        self._iteration = self._bad_polls = self._attempt = self._quick = 0
        self._takes_metadata = True
        self._quiet_since = clock()
        self._queue = ("active", "")

    def run(self) -> RoundTrips[Answer]:
        """Poll until there is a result."""
        while True:
            began = self._clock()
            outcome = yield self._call()
            self._iteration += 1
            try:
                answer = _answer(outcome)
                document = _json_object(answer)
                if answer.status == 408 or _is_pending(answer, document):  # noqa: PLR2004
                    self._quiet_since, self._attempt = self._clock(), 0
                    if answer.status == 408 and document:  # noqa: PLR2004
                        self._bad_polls = 0
                    yield from self._note_queue(document)
                    yield from self._wait_after(answer, document, self._clock() - began)
                    continue
                answer.success()
                if document.get("status") == "complete_metadata":
                    yield self._reserve(document)
                    continue
                ended = _ended(answer, document, self._request_id)
            except (APIConnectionError, APIStatusError) as error:
                yield self._pause_after(error)
            else:
                yield from self._note_queue({"queue_state": "active"})
                return ended

    def _call(self) -> Call[Any]:
        headers = {
            "x-tinker-request-iteration": str(self._iteration),
            "x-tinker-request-type": self._expected.operation,
        }
        if self._iteration == 0 and self._created_in_s is not None:
            headers["x-tinker-create-promise-roundtrip-time"] = f"{self._created_in_s:.6f}"
        request = RetrieveFutureRequest(request_id=self._request_id, allow_metadata_only=self._takes_metadata)
        return Call(
            operation="retrieve_future",
            path="retrieve_future",
            body=json_body(request),
            accept=self._expected.accept,
            headers=headers,
            timeout_s=POLL_TIMEOUT_S,
            pool=Pool.FUTURE,
            retry=PATIENT,
            read=self._expected.read,
        )

    def _note_queue(self, document: dict[str, Any]) -> Iterator[QueueChanged]:
        if "queue_state" not in document:
            return
        state = str(document["queue_state"]).lower()
        news = (state if state in _QUEUE_STATES else "unknown", str(document.get("queue_state_reason") or ""))
        if news != self._queue:
            self._queue = news
            yield QueueChanged(self._request_id, *news)

    def _wait_after(self, answer: Answer, document: dict[str, Any], took_s: float) -> Iterator[Pause]:
        """A pause after an answer that came at once; one that the service held has waited already."""
        wish_ms = document.get("retry_after_ms")
        wish_s = wish_ms / 1000 if isinstance(wish_ms, int | float) else retry_after_s(answer.headers)
        if wish_s is not None and wish_s > 0:
            yield Pause(min(wish_s, MAX_POLL_PAUSE_S), PENDING)
        elif took_s < QUICK_POLL_S:
            delay_s = min(MIN_POLL_S * 2.0 ** min(self._quick, 10), MAX_POLL_S)
            self._quick += 1
            yield Pause(delay_s, PENDING)
        else:
            self._quick = 0

    def _reserve(self, document: dict[str, Any]) -> Reserve:
        size = document.get("response_payload_size")
        if not self._takes_metadata or not isinstance(size, int) or size < 0:
            raise APIResponseValidationError(
                f"the result of request {self._request_id} was wanted, got its size again: {size!r}"
            )
        self._takes_metadata = False
        return Reserve(size)

    def _pause_after(self, error: APIConnectionError | APIStatusError) -> Pause:
        """How to wait for `error` to pass; raises it when it will not."""
        if isinstance(error, FutureExpiredError):
            raise error
        pause = self._billing.pause(error)
        if pause is not None:
            return pause
        if isinstance(error, BadRequestError) and not error.is_of_an_edge and self._bad_polls < MAX_BAD_POLLS:
            self._bad_polls += 1
            return Pause(MIN_POLL_S, str(error))
        quiet_s = self._clock() - self._quiet_since
        delay_s = delay_after(PATIENT, error, self._attempt, quiet_s, self._random)
        if delay_s is None:
            raise error
        self._attempt += 1
        return Pause(delay_s, str(error))


def cancel_future(request_id: str) -> Call[None]:
    """Word that nobody waits for a result any more."""
    return Call(
        operation="cancel_future",
        path="cancel_future",
        body=json_body({"request_id": request_id}),
        timeout_s=CANCEL_TIMEOUT_S,
        pool=Pool.FUTURE,
        read=lambda _: None,
    )


read_handle = read_json(FutureHandle)
"""Reads the answer to a request that runs in the background."""


def _answer(outcome: Outcome) -> Answer:
    if isinstance(outcome, TinkerActorsError):
        raise outcome
    assert outcome is not None  # noqa: S101 - drivers answer each call
    return outcome


def _json_object(answer: Answer) -> dict[str, Any]:
    """What a poll was answered in JSON; empty for results in protobuf and for anything else."""
    if answer.content_type == PROTOBUF:
        return {}
    document = answer.document()
    return document if isinstance(document, dict) else {}


def _is_pending(answer: Answer, document: dict[str, Any]) -> bool:
    is_success = answer.status < 300  # noqa: PLR2004
    return is_success and (document.get("type") == "try_again" or document.get("status") == "pending")


def _ended(answer: Answer, document: dict[str, Any], request_id: str) -> Answer:
    """The answer with the result alone; servers wrap it in different ways."""
    failure: Any = document
    if document.get("status") == "failed" and isinstance(document.get("error"), dict):
        failure = document["error"] | {"error": document["error"].get("message", "no reason given")}
    if "error" in failure:
        category = str(failure.get("category", "unknown")).lower()
        raise RequestFailedError(
            f"request {request_id} failed: {str(failure['error'])[:MOST_WORDS]}",
            category=category if category in ("user", "server") else "unknown",
            request_id=request_id,
        )
    if document.get("status") == "completed" and "result" in document:
        return msgspec.structs.replace(answer, body=json_body(document["result"]))
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
forward_result = msgspec.structs.replace(output_result, operation="Forward")
sample_result = Expectation("Sample", f"{PROTOBUF}, {JSON}", _read_sample)


def json_result(operation: str, kind: type[Any]) -> Expectation:
    """A result in JSON, of type `kind`."""
    return Expectation(operation, JSON, read_json(kind))
