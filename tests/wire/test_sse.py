"""Server-sent events, however their bytes are cut."""

import pytest

from tinker_actors.errors import APIResponseValidationError
from tinker_actors.wire.sse import ServerSentEvent, ServerSentEvents

STREAM = "event: token\ndata: é\n\n: a comment\nid: 7\nretry: 5\ndata:two\ndata:  lines\n\nevent: empty\n\ndata: last\n\n"
EVENTS = [
    ServerSentEvent("token", "é"),
    ServerSentEvent("message", "two\n lines"),
    ServerSentEvent("message", "last"),
]


def parsed(*parts: bytes) -> list[ServerSentEvent]:
    events = ServerSentEvents()
    return [event for part in parts for event in events.feed(part)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_come_out_whole_however_their_bytes_are_cut(end: str, size: int) -> None:
    body = STREAM.replace("\n", end).encode()
    assert parsed(*(body[at : at + size] for at in range(0, len(body), size))) == EVENTS


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_is_there_with_its_last_byte(end: bytes) -> None:
    assert parsed(b"data: 1" + end) == [ServerSentEvent("message", "1")]


def test_two_streams_at_once_do_not_mix() -> None:
    one, other = ServerSentEvents(), ServerSentEvents()
    assert list(one.feed(b"data: \xc3")) == []
    assert list(other.feed(b"data: x\n\n")) == [ServerSentEvent("message", "x")]
    assert list(one.feed(b"\xa9\n\n")) == [ServerSentEvent("message", "é")]


def test_an_event_that_is_not_over_is_none() -> None:
    assert parsed(b"data: 1\n") == []


def test_a_byte_order_mark_before_the_first_line_is_left_out() -> None:
    assert parsed(b"\xef\xbb\xbfdata: 1\n\n") == [ServerSentEvent("message", "1")]


@pytest.mark.parametrize("part", [b"data: 12345678", b"data: 1234\ndata: 1234\n"])
def test_an_event_has_a_bound(part: bytes) -> None:
    with pytest.raises(APIResponseValidationError, match="may have 12 bytes"):
        list(ServerSentEvents(most_bytes=12).feed(part))
