"""Streams of samples on their way from the network's loop to one reader, in whatever thread or loop that is."""

import asyncio
import os
import threading
from collections import deque

from tinker_actors.actors.futures import check_may_wait
from tinker_actors.actors.loops import call_soon
from tinker_actors.api.sampling import StreamReader
from tinker_actors.errors import APIConnectionError, APITimeoutError, ForkedProcessError, StreamBrokenError
from tinker_actors.types import SampleStreamChunk
from tinker_actors.wire.calls import Parts
from tinker_actors.wire.sse import ServerSentEvents

__all__ = ["Channel", "broken", "fill"]

MOST_CHUNKS = 64
"""Read from the network ahead of the reader."""


class Channel:
    """Chunks from the network's loop to one reader; bounded, so that a slow reader slows the service down.

    It belongs to the request, not to an incarnation of an actor: a stream goes on while its sampler's actor is
    restarted.

    Args:
        num_samples: how many sequences were asked for.
        most: chunks that may wait for the reader.
    """

    def __init__(self, num_samples: int, most: int = MOST_CHUNKS) -> None:
        self.num_samples = num_samples
        self.tokens = 0
        """How many were put in. Changed on the network's loop."""
        self.is_fed = False
        """Whether a request puts chunks in. Changed on the network's loop."""
        self.is_asked_anew = False
        """Whether its sampling session was made once more for it. Changed by its sampler's actor."""
        self._most = most
        self._chunks: deque[SampleStreamChunk] = deque()
        self._end: BaseException | None = None
        self._changed = threading.Condition()
        self._reader: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._writer: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._pid = os.getpid()

    async def put(self, chunks: list[SampleStreamChunk]) -> None:
        """Put `chunks` in once there is room."""
        while True:
            with self._changed:
                if len(self._chunks) < self._most:
                    self._chunks.extend(chunks)
                    self._wake_reader()
                    return
                room = asyncio.Event()
                self._writer = asyncio.get_running_loop(), room
            await room.wait()

    def finish(self, end: BaseException) -> None:
        """Nothing more comes; the reader gets `end` behind what is here."""
        with self._changed:
            self._end = self._end or end
            self._wake_reader()

    def drop(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._chunks.clear()
            self._wake_writer()

    def get(self, timeout_s: float | None) -> SampleStreamChunk | BaseException:
        """The next chunk, or the end.

        Raises:
            APITimeoutError: it did not come in time.
            WouldDeadlockError: this thread must not wait.
            ForkedProcessError: this process was forked from the stream's.
        """
        with self._changed:
            if not self._chunks and self._end is None:
                self._check_process()
                check_may_wait()
                if not self._changed.wait_for(lambda: self._chunks or self._end is not None, timeout_s):
                    raise _too_late(timeout_s)
            return self._take()

    async def get_async(self, timeout_s: float | None) -> SampleStreamChunk | BaseException:
        """The next chunk, or the end, without blocking the event loop.

        Raises:
            APITimeoutError: it did not come in time.
            ForkedProcessError: this process was forked from the stream's.
        """
        while True:
            with self._changed:
                if self._chunks or self._end is not None:
                    return self._take()
                self._check_process()
                news = asyncio.Event()
                self._reader = asyncio.get_running_loop(), news
            try:
                async with asyncio.timeout(timeout_s):
                    await news.wait()
            except TimeoutError:
                raise _too_late(timeout_s) from None

    def _take(self) -> SampleStreamChunk | BaseException:
        if not self._chunks:
            assert self._end is not None  # noqa: S101 - taken when there is something
            return self._end
        chunk = self._chunks.popleft()
        if len(self._chunks) <= self._most // 2:
            self._wake_writer()
        return chunk

    def _wake_reader(self) -> None:
        self._changed.notify()
        _wake(self._reader)
        self._reader = None

    def _wake_writer(self) -> None:
        _wake(self._writer)
        self._writer = None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                f"this stream comes to process {self._pid}, and not to those forked from it; read it there"
            )


async def fill(channel: Channel, parts: Parts) -> None:
    """Put what a service streams into `channel`, as it arrives.

    Raises:
        APIConnectionError: it ended before it was over.
        RequestFailedError: the service failed while sampling.
        APIResponseValidationError: the service's events make no sense.
    """
    reader, events = StreamReader(channel.num_samples), ServerSentEvents()
    async for part in parts:
        for event in events.feed(part):
            chunks = reader.read(event)
            if chunks:
                await channel.put(chunks)
                channel.tokens = reader.tokens
        if reader.is_done:
            return
    raise APIConnectionError("the stream ended before its last event")


def broken(channel: Channel, why: BaseException) -> StreamBrokenError:
    """The error of a stream that cannot go on, since its reader has some of it already."""
    count = f"{channel.tokens} token{'' if channel.tokens == 1 else 's'}"
    error = StreamBrokenError(f"the stream broke off after {count}: {why}", tokens=channel.tokens)
    error.__cause__ = why
    return error


def _wake(waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None) -> None:
    if waiter is not None:
        loop, event = waiter
        call_soon(loop, event.set)


def _too_late(timeout_s: float | None) -> APITimeoutError:
    return APITimeoutError(f"no token within {timeout_s} s; the stream goes on")
