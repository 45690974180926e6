"""The one kind of future that public methods return."""

import asyncio
import math
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from tinker_actors.actors.futures import check_may_await, check_may_wait, when_settled
from tinker_actors.actors.loops import call_soon
from tinker_actors.errors import APITimeoutError, ForkedProcessError
from tinker_actors.supervision.callbacks import run_callback
from tinker_actors.types.checks import finite

__all__ = ["APIFuture", "ClientFuture"]

T = TypeVar("T")
U = TypeVar("U")


class APIFuture(Generic[T]):
    """A result on its way: block for it with `result`, or `await` it, as often and on as many loops as you like.

    Args:
        future: settled by the runtime.
        is_cancellable: whether cancelling an await cancels the request. Training operations go on: a hole in
            their order would stop the model.
        source: the future of the submission whose result this one is made of; None where it is `future` itself.
    """

    def __init__(
        self, future: "Future[T]", *, is_cancellable: bool = False, source: "Future[Any] | None" = None
    ) -> None:
        self._future = future
        self._source: Future[Any] = source or future
        self._is_cancellable = is_cancellable
        self._pid = os.getpid()

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, at most `timeout` seconds; also on a thread that runs an event loop.

        Raises:
            ValidationError: `timeout` is no number.
            APITimeoutError: it did not come in time; the request goes on.
            WouldDeadlockError: this thread must not wait, because the result depends on it.
            ForkedProcessError: this process was forked from the one that asked.
            TinkerActorsError: why there is no result.
        """
        limit_s = _seconds(timeout)
        if not self._future.done():
            self._check_process()
            check_may_wait(self._source)
        try:
            return self._future.result(limit_s)
        except TimeoutError as error:
            if self._future.done():  # the error is its own, or it was done a moment after the time was over
                return self._future.result()
            raise APITimeoutError(f"no result within {timeout} s; the request goes on") from error

    async def result_async(self, timeout: float | None = None) -> T:
        """Like `result`, without blocking the event loop; the end of `timeout` cancels nothing."""
        limit_s = _seconds(timeout)
        self._check_await()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        when_settled(self._future, lambda _: call_soon(loop, done.set))
        try:
            async with asyncio.timeout(limit_s):
                await done.wait()
        except TimeoutError as error:
            raise APITimeoutError(f"no result within {timeout} s; the request goes on") from error
        except asyncio.CancelledError:
            if self._is_cancellable:
                self._future.cancel()
            raise
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        self._check_await()
        return asyncio.wrap_future(self._copy()).__await__()

    async def coroutine(self) -> T:
        """The same as a coroutine, for `asyncio.gather` and `create_task`."""
        return await self

    def future(self) -> "Future[T]":
        """The `concurrent.futures.Future` behind it, for callbacks; they run on the settling thread."""
        return self._future

    def done(self) -> bool:
        """Whether it has its result or its error."""
        return self._future.done()

    def cancel(self) -> bool:
        """Give the request up, where nothing depends on it; whether that was so.

        Training operations go on: a hole in their order would stop the model.
        """
        return self._is_cancellable and self._future.cancel()

    def add_done_callback(self, callback: Callable[["Future[T]"], object]) -> None:
        """Call `callback` with the future behind it once it is done; what it raises is logged, and ends nobody."""
        self._future.add_done_callback(
            lambda done: run_callback(partial(callback, done), "futures.callback_failed")
        )

    def then(self, change: "Callable[[T], U]") -> "APIFuture[U]":
        """A future of `change(result)`; `change` runs on the settling thread and must be short."""
        changed: Future[U] = Future()
        source, is_cancellable = self._future, self._is_cancellable
        if not is_cancellable:
            changed.set_running_or_notify_cancel()
        # A future keeps its callbacks for good: what they hold must not include the changed result.
        once = [changed]

        def pass_on(done: "Future[T]") -> None:
            future = once.pop()
            if is_cancellable and not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(change(done.result()))
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to who waits
                future.set_exception(error)

        source.add_done_callback(pass_on)
        if is_cancellable:
            changed.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)
        return APIFuture(changed, is_cancellable=is_cancellable, source=self._source)

    def _check_await(self) -> None:
        """Refuse to wait on an event loop for what would never come there."""
        self._check_process()
        if not self._future.done():
            check_may_await(self._source)

    def _check_process(self) -> None:
        """Refuse to wait in a forked child for what only its parent would hear of."""
        if os.getpid() != self._pid and not self._future.done():
            raise ForkedProcessError(
                f"this result comes to process {self._pid}, and not to those forked from it; wait for it there"
            )

    def _copy(self) -> "Future[T]":
        """A future of its own for one await, because cancelling the await cancels it."""
        source, copy = self._future, Future[T]()

        def pass_on(done: "Future[T]") -> None:
            if not copy.set_running_or_notify_cancel():
                return
            if done.cancelled():
                copy.set_exception(asyncio.CancelledError())
            elif (error := done.exception()) is not None:
                copy.set_exception(error)
            else:
                copy.set_result(done.result())

        when_settled(source, pass_on)
        if self._is_cancellable:
            copy.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)
        return copy

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'done' if self.done() else 'pending'}>"


def _seconds(timeout: Any) -> float | None:
    is_endless = isinstance(timeout, float) and timeout == math.inf
    return None if timeout is None or is_endless else finite("timeout", timeout)


class ClientFuture(APIFuture[T]):
    """A client on its way that also works as the client: its attributes wait until it is there.

    Other objects that the official SDK gives at once come in it, too.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.result(), name)
