"""Streams between the network's loop and their reader."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tinker_actors.actors.futures import forbid_waiting
from tinker_actors.actors.streams import Channel, fill
from tinker_actors.errors import APIConnectionError, APIResponseValidationError, WouldDeadlockError
from tinker_actors.types import SampleStreamChunk

WAIT_S = 30.0
CHUNKS = [SampleStreamChunk(token_id=number, index=number) for number in range(6)]


async def parts(*texts: str) -> AsyncIterator[bytes]:
    for text in texts:
        yield text.encode()


def test_a_slow_reader_holds_the_writer_up() -> None:
    async def main() -> tuple[bool, bool]:
        channel = Channel(1, most=2)
        await channel.put(CHUNKS[:2])
        put = asyncio.create_task(channel.put(CHUNKS[2:3]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        was_done = put.done()
        assert [await channel.get_async(WAIT_S)] == CHUNKS[:1]
        await asyncio.wait_for(put, WAIT_S)
        return was_done, put.done()

    assert asyncio.run(main()) == (False, True)


def test_who_stops_reading_lets_the_writer_go_on() -> None:
    async def main() -> None:
        channel = Channel(1, most=1)
        await channel.put(CHUNKS[:1])
        put = asyncio.create_task(channel.put(CHUNKS[1:2]))
        await asyncio.sleep(0)
        channel.drop()
        await asyncio.wait_for(put, WAIT_S)

    asyncio.run(main())


def test_what_came_is_read_before_the_end() -> None:
    channel, end = Channel(1), ValueError("over")
    asyncio.run(channel.put(CHUNKS))
    channel.finish(end)
    channel.finish(ValueError("later"))
    assert [channel.get(WAIT_S) for _ in range(8)] == [*CHUNKS, end, end]


def test_a_reader_in_another_thread_is_woken() -> None:
    channel, got = Channel(1), list[object]()
    reader = threading.Thread(target=lambda: got.append(channel.get(WAIT_S)))
    reader.start()
    asyncio.run(channel.put(CHUNKS[:1]))
    reader.join(WAIT_S)
    assert got == CHUNKS[:1]


def test_a_thread_that_feeds_streams_must_not_wait_for_one() -> None:
    caught = list[BaseException]()

    def read() -> None:
        forbid_waiting("this thread")
        try:
            Channel(1).get(WAIT_S)
        except WouldDeadlockError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(WAIT_S)
    assert len(caught) == 1


def test_events_without_a_document_are_no_chunks_and_no_errors() -> None:
    channel = Channel(1)
    body = [
        'data: \n\ndata: [DONE]\n\n: ping\n\ndata: {"token_id": 7}\n\n',
        'data: {"finish_reason": "stop"}\n\n',
    ]
    asyncio.run(fill(channel, parts(*body)))
    first, end = channel.get(WAIT_S), channel.get(WAIT_S)
    assert first == SampleStreamChunk(token_id=7, index=0)
    assert end == SampleStreamChunk(index=1, finish_reason="stop")
    assert channel.tokens == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('data: {"token_id": "x"}\n\n', APIResponseValidationError),
        ('data: {"token_id": 1, "sequence": 4}\n\n', APIResponseValidationError),
        ("data: {\n\n", APIResponseValidationError),
        ('data: {"token_id": 1}\n\n', APIConnectionError),
    ],
)
def test_a_stream_that_makes_no_sense_is_an_error(body: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        asyncio.run(fill(Channel(1), parts(body)))
