"""One request as data: what to send, how to read the answer, when to send it again."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

from tinker_actors.errors import APIResponseValidationError, APIStatusError
from tinker_actors.wire.retry import NEVER, RetryRule, retry_after_s

__all__ = ["Answer", "Call", "Pool", "json_body", "read_json"]

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"


class Pool(StrEnum):
    """Kinds of traffic that must not wait for one another."""

    SESSION = "session"
    TRAIN = "train"
    SAMPLE = "sample"
    FUTURE = "future"


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

    def success(self) -> "Answer":
        """This answer, if its status says success.

        Raises:
            APIStatusError: of the class for the status.
        """
        if self.status >= 300:  # noqa: PLR2004
            raise APIStatusError.of(self.status, self.document(), retry_after_s(self.headers))
        return self


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
    is_compressible: bool = False
    """Whether the body goes in zstd to a server that asks for that."""
    retry: RetryRule = NEVER
    in_json: "Callable[[], Call[T]] | None" = None
    """Makes the same request for a server that reads no protobuf."""
    answers: frozenset[int] = frozenset()
    """Statuses that are answers here, besides those that say success."""


def json_body(document: Any) -> bytes:
    """`document` in JSON, with the fields in the order of its type."""
    return msgspec.json.encode(document)


def read_json(kind: type[T]) -> Callable[[Answer], T]:
    """A reader of answers of type `kind`; unknown fields are ignored.

    The reader raises `APIResponseValidationError` where the answer does not fit.
    """

    def read(answer: Answer) -> T:
        try:
            return msgspec.json.decode(answer.body or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            name = getattr(kind, "__name__", str(kind))
            raise APIResponseValidationError(f"an answer of type {name} was wanted: {error}") from error

    return read
