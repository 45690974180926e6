"""Places and bytes, and whose turn it is."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from tinker_actors.actors.quotas import Quota


class Fetches:
    """Takes places and bytes under names, and gives them back when told to."""

    def __init__(self, total: float = math.inf, **limits: Any) -> None:
        self.quota = Quota(budget=lambda: total, **limits)
        self.fetching: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.done: dict[str, asyncio.Event] = {}

    async def fetch(self, name: str, size: int = 0, client: str = "", *, again: bool = False) -> None:
        self.done[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._fetch(name, size, client, again=again))
        await settle()

    async def _fetch(self, name: str, size: int, client: str = "", *, again: bool = False) -> None:
        price = self.quota.try_enter(client, size)
        if price is None:
            price = await self.quota.wait(client, size, again=again)
        try:
            self.fetching.append(name)
            await self.done[name].wait()
            self.fetching.remove(name)
        finally:
            self.quota.leave(client, price)

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
        assert (fetches.quota.taken, fetches.quota.waiting) == ((0, 0), 0)

    run(work())


def test_no_client_has_more_places_than_each_may_have() -> None:
    async def work() -> None:
        fetches = Fetches(each=lambda: 2)
        for name, client in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")]:
            await fetches.fetch(name, client=client)
        assert fetches.fetching == ["a1", "a2", "b1"]
        await fetches.end("b1")
        assert fetches.fetching == ["a1", "a2"]
        await fetches.end("a1")
        assert fetches.fetching == ["a2", "a3"]

    run(work())


def test_clients_that_wait_take_turns() -> None:
    async def work() -> None:
        fetches = Fetches(places=lambda: 1)
        for name, client in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")]:
            await fetches.fetch(name, client=client)
        order = []
        while fetches.fetching:
            order += fetches.fetching
            await fetches.end(fetches.fetching[0])
        assert order == ["a1", "a2", "b1", "c1", "a3"]

    run(work())


def test_who_comes_back_goes_before_the_others_of_its_client() -> None:
    async def work() -> None:
        fetches = Fetches(places=lambda: 1)
        await fetches.fetch("a1")
        await fetches.fetch("a2")
        for name in ("again 1", "again 2"):
            await fetches.fetch(name, again=True)
        order = []
        while fetches.fetching:
            order += fetches.fetching
            await fetches.end(fetches.fetching[0])
        assert order == ["a1", "again 1", "again 2", "a2"]

    run(work())


def test_places_that_are_reserved_go_to_who_has_few() -> None:
    async def work() -> None:
        fetches = Fetches(places=lambda: 30, reserved=12)
        for number in range(40):
            await fetches.fetch(f"many {number}", client="a")
        assert len(fetches.fetching) == 18
        for number in range(12):
            await fetches.fetch(f"few {number}", client="b")
        assert len(fetches.fetching) == 28  # ten of b
        for task in fetches.tasks.values():
            task.cancel()
        await settle()
        assert (fetches.quota.taken, fetches.quota.waiting) == ((0, 0), 0)

    run(work())


def test_nobody_goes_before_it_opens() -> None:
    async def work() -> None:
        opens_at: list[float] = [5.0]
        alarms: list[tuple[float, Callable[[], object]]] = []
        fetches = Fetches(
            places=lambda: 0 if opens_at else 2,
            changes_at=lambda: opens_at[0] if opens_at else math.inf,
            alarm=lambda at, call: alarms.append((at, call)),
        )
        for name in ("a", "b"):
            await fetches.fetch(name)
        assert (fetches.fetching, [at for at, _ in alarms]) == ([], [5.0])
        opens_at[0] = 7.0  # later than it seemed
        alarms[0][1]()
        opens_at[0] = 6.0  # and sooner after all
        await fetches.fetch("c")
        assert (fetches.fetching, [at for at, _ in alarms]) == ([], [5.0, 7.0, 6.0])
        opens_at.clear()
        alarms[2][1]()
        await settle()
        assert fetches.fetching == ["a", "b"]
        for name in ("a", "b", "c"):
            await fetches.end(name)

    run(work())


def test_what_is_taken_at_one_weight_is_given_back_at_that() -> None:
    async def work() -> None:
        weight = [20]
        fetches = Fetches(100, weight=lambda: weight[0])
        await fetches.fetch("a", 5)
        weight[0] = 1
        await fetches.fetch("b", 5)
        assert fetches.quota.taken == (2, 105)
        for name in ("a", "b"):
            await fetches.end(name)
        assert fetches.quota.taken == (0, 0)

    run(work())
