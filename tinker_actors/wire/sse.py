"""Server-sent events out of the bytes of a stream, however those are cut.

The format is a dozen lines of rules, and no library fits: those that are kept well want a client of httpx for the bytes.

Source: WHATWG HTML, "Server-sent events", sections on parsing and on interpreting an event stream.
"""

import re
from collections.abc import Iterator

import msgspec

from tinker_actors.errors import APIResponseValidationError

__all__ = ["EVENT_STREAM", "ServerSentEvent", "ServerSentEvents"]

EVENT_STREAM = "text/event-stream"
MOST_EVENT_BYTES = 2**20
"""Of one event; a token takes some hundred."""
_LINE_END = re.compile(rb"\r\n|\n|\r")


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event."""

    event: str
    """Its type; "message" where none was given."""
    data: str
    """Its lines, joined by newlines."""


class ServerSentEvents:
    """Parses one stream. Ids and reconnection times are for streams that can be taken up again; they are left out.

    Args:
        most_bytes: of one event.
    """

    def __init__(self, most_bytes: int = MOST_EVENT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._rest = b""
        self._ends_in_cr = self._is_begun = False
        self._event, self._data, self._size = "", list[str](), 0

    def feed(self, part: bytes) -> Iterator[ServerSentEvent]:
        """The events that are complete with these bytes.

        Raises:
            APIResponseValidationError: one is larger than it may be.
        """
        if self._ends_in_cr and part:
            part = part.removeprefix(b"\n")
            self._ends_in_cr = False
        *lines, self._rest = _LINE_END.split(self._rest + part)
        # Of what ends in \r, the line is over; a \n that follows belongs to it.
        self._ends_in_cr = self._ends_in_cr or (part.endswith(b"\r") and not self._rest)
        for line in lines:
            event = self._take(line)
            if event is not None:
                yield event
        self._check(len(self._rest))

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if not self._is_begun:
            self._is_begun, line = True, line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            data, event = self._data, self._event
            self._event, self._data, self._size = "", [], 0
            return ServerSentEvent(event or "message", "\n".join(data)) if data else None
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
            self._size += len(line)
            self._check(0)
        elif name == "event":
            self._event = value.removeprefix(" ")
        return None

    def _check(self, more: int) -> None:
        if self._size + more > self._most_bytes:
            raise APIResponseValidationError(
                f"an event of a stream may have {self._most_bytes} bytes, got more"
            )
