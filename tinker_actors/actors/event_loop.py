"""An event loop on a thread of its own, which an actor owns and ends."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from tinker_actors.actors.futures import forbid_waiting
from tinker_actors.supervision.callbacks import run_callback

__all__ = ["EventLoop"]


class EventLoop:
    """A thread that runs `loop`, and closes it in the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        forbid_waiting("the network's thread")
        asyncio.set_event_loop(self._loop)
        while not self._is_over:  # what calls for an exit ends itself, and not the work of all others
            run_callback(self._loop.run_forever, "transport.loop_interrupted")
        self._loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` on the loop, soon."""
        self._loop.call_soon_threadsafe(function)

    def finish(self, farewell: Callable[[], Coroutine[Any, Any, None]], timeout_s: float) -> None:
        """Cancel everything, run `farewell`, end the thread; wait for that at most `timeout_s`."""

        async def wind_up() -> None:
            await _cancel_others()
            await farewell()

        future = asyncio.run_coroutine_threadsafe(wind_up(), self._loop)
        future.add_done_callback(lambda _: self.call(self._stop))
        self._thread.join(timeout_s)

    def _stop(self) -> None:
        self._is_over = True
        self._loop.stop()


async def _cancel_others() -> None:
    """Cancel each other task once, and return when all have ended, with those that they began meanwhile.

    A task is cancelled after its first step only: before that, nobody would close what it was made to run (anyio wraps
    the coroutines that it spawns).
    """
    told: set[asyncio.Task[Any]] = set()
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks - told:
            if _has_begun(task):
                task.cancel()
                told.add(task)
        if tasks <= told:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0)


def _has_begun(task: "asyncio.Task[Any]") -> bool:
    coroutine = task.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED
