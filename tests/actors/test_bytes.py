"""The budget for large answers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tinker_actors.actors.bytes import ByteBudget


class Fetches:
    """Takes bytes under names, and gives them back when told to."""

    def __init__(self, total: int) -> None:
        self.budget = ByteBudget(lambda: total)
        self.fetching: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.done: dict[str, asyncio.Event] = {}

    async def fetch(self, name: str, size: int) -> None:
        self.done[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._fetch(name, size))
        await settle()

    async def _fetch(self, name: str, size: int) -> None:
        await self.budget.take(size)
        try:
            self.fetching.append(name)
            await self.done[name].wait()
            self.fetching.remove(name)
        finally:
            self.budget.give_back(size)

    async def end(self, name: str) -> None:
        self.done[name].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_one_may_overdraw_the_budget_and_the_next_waits() -> None:
    async def work() -> None:
        fetches = Fetches(10)
        await fetches.fetch("huge", 1000)
        await fetches.fetch("small", 1)
        assert fetches.fetching == ["huge"]
        await fetches.end("huge")
        assert fetches.fetching == ["small"]
        await fetches.end("small")

    run(work())


def test_they_come_in_the_order_in_which_they_asked() -> None:
    async def work() -> None:
        fetches = Fetches(10)
        for name, size in [("a", 11), ("b", 11), ("c", 1)]:
            await fetches.fetch(name, size)
        await fetches.end("a")
        assert fetches.fetching == ["b"]
        await fetches.end("b")
        assert fetches.fetching == ["c"]
        await fetches.end("c")

    run(work())


def test_who_stops_waiting_holds_up_nobody() -> None:
    async def work() -> None:
        fetches = Fetches(10)
        for name in ("a", "b", "c"):
            await fetches.fetch(name, 11)
        fetches.tasks["b"].cancel()
        await fetches.end("a")
        assert fetches.fetching == ["c"]
        await fetches.end("c")

    run(work())


def test_who_is_cancelled_in_the_moment_of_its_turn_gives_the_bytes_back() -> None:
    async def work() -> None:
        fetches = Fetches(10)
        for name in ("a", "b", "c"):
            await fetches.fetch(name, 11)
        fetches.tasks["a"].cancel()
        await asyncio.sleep(0)  # a gives back, b gets its turn and has not run yet
        fetches.tasks["b"].cancel()
        await settle()
        assert fetches.fetching[-1] == "c"
        await fetches.end("c")

    run(work())


def test_ten_thousand_that_are_given_up_leak_nothing() -> None:
    async def work() -> None:
        fetches = Fetches(10)
        await fetches.fetch("first", 11)
        tasks = [asyncio.create_task(fetches._fetch("x", 5)) for _ in range(10_000)]
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await fetches.end("first")
        assert (fetches.budget._taken, len(fetches.budget._waiting)) == (0, 0)

    run(work())
