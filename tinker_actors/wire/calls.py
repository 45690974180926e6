"""One request as data: what to send, how to read the answer, when to send it again."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from tinker_actors.errors import APIResponseValidationError, APIStatusError
from tinker_actors.wire.retry import NEVER, RetryRule, retry_after_s

__all__ = [
    "NO_ENDPOINT",
    "Answer",
    "Call",
    "Parts",
    "Pool",
    "ReadParts",
    "WhenOpen",
    "json_body",
    "read_json",
]

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"


NO_ENDPOINT = frozenset({404, 405, 501})
"""Statuses that say so."""
_TRUTH = {"true": True, "false": False}


Parts = AsyncIterator[bytes]
"""A body as it arrives; no part is empty. Read to its end, or given up by whoever reads it."""
ReadParts = Callable[[Parts], Awaitable[None]]
"""Reads one."""


class Pool(StrEnum):
    """Kinds of traffic that must not wait for one another."""

    SESSION = "session"
    TRAIN = "train"
    SAMPLE = "sample"
    FUTURE = "future"
    STREAM = "stream"


class WhenOpen(StrEnum):
    """What becomes of a call whose circuit is open."""

    WAIT = "wait"
    """It waits, for as long as it would be repeated."""
    FAIL = "fail"
    """It fails at once."""
    SEND = "send"
    """It goes nevertheless."""


class Answer(msgspec.Struct, frozen=True):
    """What came back, whatever its status."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    """Decompressed."""

    @property
    def content_type(self) -> str:
        """Media type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def document(self) -> Any:
        """The body as JSON, or as text where it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.body.decode("utf-8", "replace")

    def success(self, hint: str = "") -> "Answer":
        """This answer, if its status says success.

        Args:
            hint: what to do when the service knows no such endpoint.

        Raises:
            APIStatusError: of the class for the status.
        """
        if self.status >= 300:  # noqa: PLR2004
            raise self.failure(hint)
        return self

    def failure(self, hint: str = "") -> APIStatusError:
        """The error that a status says which is no success."""
        return APIStatusError.of(
            self.status,
            self.document(),
            retry_after_s(self.headers),
            should_retry=_TRUTH.get(self.headers.get("x-should-retry", "").lower()),
            hint=hint if self.status in NO_ENDPOINT else self._elsewhere(),
        )

    def _elsewhere(self) -> str:
        place = urlsplit(self.headers.get("location", "")) if self.status < 400 else None  # noqa: PLR2004
        if place is None or not place.hostname:
            return ""
        return f"it points to {place.scheme}://{place.netloc}; set base_url to where the service is"

    def __repr__(self) -> str:
        return f"Answer({self.status}, {self.content_type}, {len(self.body)} bytes)"  # a body may hold tokens


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One request of the API."""

    operation: str
    """Its name in the API, such as "forward_backward"."""
    path: str
    """Below `/api/v1/`."""
    read: Callable[[Answer], T]
    """Turns the successful answer into the result."""
    method: str = "POST"
    body: bytes = b""
    content_type: str = JSON
    accept: str = JSON
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Beside those that every request has."""
    timeout_s: float = 60.0
    """Longest wait for the next byte."""
    pool: Pool = Pool.TRAIN
    size: int = 0
    """Estimated bytes, of a call that is held back where too many of them are on their way."""
    is_compressible: bool = False
    """Whether the body goes in zstd to a server that asks for that."""
    retry: RetryRule = NEVER
    when_open: WhenOpen = WhenOpen.WAIT
    """What to do while too many calls of this operation fail."""
    in_json: "Callable[[], Call[T]] | None" = None
    """Makes the same request for a server that reads no protobuf."""
    answers: frozenset[int] = frozenset()
    """Statuses that are answers here, besides those that say success."""
    hint: str = ""
    """What to do when the service knows no such endpoint."""

    def __repr__(self) -> str:
        # Neither a body nor a header is for logs.
        return f"Call({self.operation}: {self.method} {self.path}, {len(self.body)} bytes)"


def json_body(document: Any) -> bytes:
    """`document` in JSON, with the fields in the order of its type."""
    return msgspec.json.encode(document)


def read_json(kind: type[T], hint: str = "") -> Callable[[Answer], T]:
    """A reader of answers of type `kind`; unknown fields are ignored.

    The reader raises `APIResponseValidationError` where the answer does not fit; `hint` says what to do then.
    """

    def read(answer: Answer) -> T:
        try:
            return msgspec.json.decode(answer.body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            name = getattr(kind, "__name__", str(kind))
            raise APIResponseValidationError(
                f"an answer of type {name} was wanted: {error}{'; ' if hint else ''}{hint}"
            ) from error

    return read
