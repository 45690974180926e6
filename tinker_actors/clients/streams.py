"""Samples while they are drawn, for a `for` or an `async for`."""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from tinker_actors.actors.sampling import Sampler
from tinker_actors.actors.streams import Channel
from tinker_actors.clients.future import APIFuture
from tinker_actors.errors import StreamUnsupportedError, TinkerActorsError
from tinker_actors.tokenization import Tokenizer
from tinker_actors.types import SampleResponse, SampleStreamChunk

__all__ = ["SampleStream", "burst_of"]

Ending = SampleStreamChunk | BaseException


class SampleStream(Iterator[SampleStreamChunk], AsyncIterator[SampleStreamChunk]):
    """Chunks as they arrive, once, for one reader at a time; iterating raises what went wrong, behind what came.

    Whoever stops before the end closes it, and the service draws no further: `with`, `async with` and `close` do
    that, as does dropping the last reference.

    Args:
        client: kept for as long as the stream is read.
        sampler: whose stream it is.
        channel: what it comes through.
        future: settled at its end.
        timeout_s: longest wait for a chunk.
        whole: asks for the samples as a whole, where the service cannot stream; None is an error then.
        tokenizer: of the model, for the text of such samples.
    """

    def __init__(
        self,
        client: object,
        sampler: Sampler,
        channel: Channel,
        future: "Future[Any]",
        *,
        timeout_s: float | None,
        whole: Callable[[], APIFuture[SampleResponse]] | None,
        tokenizer: Callable[[], Tokenizer | None],
    ) -> None:
        self._client = client
        self._channel = channel
        self._timeout_s = timeout_s
        self._whole = whole
        self._tokenizer = tokenizer
        self._asked: APIFuture[SampleResponse] | None = None
        self._burst: deque[SampleStreamChunk] | None = None
        self._end: BaseException | None = None
        self._future = future
        future.add_done_callback(lambda done: channel.finish(_end_of(done)))
        self._leave = weakref.finalize(self, sampler.leave, future, channel)
        self._leave.atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SampleStreamChunk:
        if self._end is None and self._burst is None:
            came = None if self._asked is not None else self._channel.get(self._timeout_s)
            if came is None or self._wants_burst(came):
                self._burst = burst_of(self._ask_once().result(self._timeout_s), self._tokenizer())
            else:
                return self._given(came, StopIteration)
        return self._next_of_burst(StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SampleStreamChunk:
        if self._end is None and self._burst is None:
            came = None if self._asked is not None else await self._channel.get_async(self._timeout_s)
            if came is None or self._wants_burst(came):
                response = await self._ask_once().result_async(self._timeout_s)
                self._burst = burst_of(response, await asyncio.to_thread(self._tokenizer))
            else:
                return self._given(came, StopAsyncIteration)
        return self._next_of_burst(StopAsyncIteration)

    def close(self) -> None:
        """End it: the service draws no further. Closing twice is no error."""
        self._end = self._end or _OVER
        self._leave.detach()
        self._future.cancel()
        self._channel.drop()
        if self._asked is not None:
            self._asked.cancel()

    async def aclose(self) -> None:
        """`close`, for those who await."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _wants_burst(self, came: Ending) -> bool:
        return isinstance(came, StreamUnsupportedError) and self._whole is not None

    def _ask_once(self) -> APIFuture[SampleResponse]:
        if self._asked is None:
            assert self._whole is not None  # noqa: S101 - looked up before
            self._asked = self._whole()
        return self._asked

    def _given(self, came: Ending, over: type[Exception]) -> SampleStreamChunk:
        if isinstance(came, SampleStreamChunk):
            return came
        self._end = came
        if came is _OVER:
            raise over
        raise came

    def _next_of_burst(self, over: type[Exception]) -> SampleStreamChunk:
        if self._burst and self._end is None:
            return self._burst.popleft()
        raise over


def burst_of(response: SampleResponse, tokenizer: Tokenizer | None) -> deque[SampleStreamChunk]:
    """The chunks of samples that came as a whole.

    Args:
        response: the samples.
        tokenizer: of their model; without one, tokens have no text.
    """
    chunks: deque[SampleStreamChunk] = deque()
    for number, sequence in enumerate(response.sequences):
        texts = [""] * len(sequence.tokens) if tokenizer is None else _texts(sequence.tokens, tokenizer)
        logprobs: Sequence[float | None] = sequence.logprobs or [None] * len(texts)
        chunks += [
            SampleStreamChunk(token=text, token_id=token, index=index, logprob=logprob, sequence=number)
            for index, (text, token, logprob) in enumerate(
                zip(texts, sequence.tokens, logprobs, strict=False)
            )
        ]
        chunks.append(
            SampleStreamChunk(index=len(sequence.tokens), finish_reason=sequence.stop_reason, sequence=number)
        )
    return chunks


def _texts(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text; the last token of a character adds all of it.

    Each is decoded behind those before it, for what a token means may hang on them: a space, for one.
    """
    texts, before, since = [], list[int](), list[int]()
    for token in tokens:
        since.append(token)
        known, text = tokenizer.decode(before), tokenizer.decode(before + since)
        if text.endswith("\ufffd"):
            texts.append("")
        else:
            texts.append(text[len(known) :])
            before, since = since, []
    return texts


_OVER = TinkerActorsError("the stream is over")
"""The end of a stream in which nothing is wrong."""


def _end_of(done: "Future[Any]") -> BaseException:
    try:
        return done.exception() or _OVER
    except CancelledError:
        return _OVER
