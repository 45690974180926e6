"""The network's event loop: whatever runs there when it ends is ended, and nothing is left half begun."""

import asyncio
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from tinker_actors.actors.event_loop import EventLoop
from tinker_actors.wire.http import new_event_loop

WAIT_S = 30.0


class Log:
    """What happened on the loop, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def child(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.entries.append("child ended")

    async def parent(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.child)
            await asyncio.Event().wait()

    async def stubborn(self) -> None:
        """Begins something else when it is to end."""
        try:
            await asyncio.Event().wait()
        finally:
            self.spawn(self.child())
            await asyncio.sleep(0)
            self.entries.append("stubborn ended")

    async def farewell(self) -> None:
        self.entries.append("farewell")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(params=["fast", "httpx"])
def loop(request: pytest.FixtureRequest) -> EventLoop:
    """That of either transport."""
    return EventLoop(new_event_loop(request.param))


@contextmanager
def at_once(loop: EventLoop) -> Iterator[None]:
    """What is called on the loop inside the block runs there in one turn."""
    gate, is_held = threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        gate.wait(WAIT_S)

    loop.call(hold)
    assert is_held.wait(WAIT_S)
    yield
    gate.set()


def finish(loop: EventLoop, log: Log) -> None:
    loop.finish(log.farewell, timeout_s=0.0)


def ended(loop: EventLoop) -> bool:
    loop._thread.join(WAIT_S)
    return not loop._thread.is_alive()


def test_what_was_spawned_in_the_very_turn_in_which_the_loop_ends_is_ended_too(
    loop: EventLoop, log: Log
) -> None:
    with at_once(loop):
        loop.call(lambda: log.spawn(log.parent()))
        finish(loop, log)
    assert ended(loop)
    assert log.entries == ["child ended", "farewell"]


def test_what_tasks_begin_while_they_are_ended_is_ended_before_the_farewell(
    loop: EventLoop, log: Log
) -> None:
    loop.call(lambda: log.spawn(log.stubborn()))
    finish(loop, log)
    assert ended(loop)
    assert log.entries == ["stubborn ended", "child ended", "farewell"]


def test_a_loop_with_nothing_to_do_ends(loop: EventLoop, log: Log) -> None:
    finish(loop, log)
    assert ended(loop)
    assert log.entries == ["farewell"]


@pytest.mark.parametrize("in_a_task", [False, True])
def test_an_exit_on_the_loop_ends_nobody_else(loop: EventLoop, log: Log, in_a_task: bool) -> None:
    async def leave() -> None:
        sys.exit(3)

    loop.call(lambda: log.spawn(log.child()))
    loop.call((lambda: log.spawn(leave())) if in_a_task else (lambda: sys.exit(3)))
    loop.call(lambda: log.entries.append("later"))
    finish(loop, log)
    assert ended(loop)
    assert log.entries == ["later", "child ended", "farewell"]
    assert loop._loop.is_closed()
