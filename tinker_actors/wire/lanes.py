"""How the requests of one kind of traffic share clients of an HTTP library."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Lane", "Lanes"]

C = TypeVar("C")


class Lane(Generic[C]):
    """A client and how many requests it has in flight."""

    __slots__ = ("client", "in_flight", "is_retired")

    def __init__(self, client: C) -> None:
        self.client = client
        self.in_flight = 0
        self.is_retired = False


class Lanes(Generic[C]):
    """Clients with a bounded number of requests in flight each; more are made when all are full.

    Args:
        make: makes a client.
        end: closes one.
        width: requests in flight of one client.
        limit: requests in flight of all; more wait, first come, first served.
    """

    def __init__(
        self, make: Callable[[], C], end: Callable[[C], Awaitable[object]], *, width: int, limit: int
    ) -> None:
        self._make = make
        self._end = end
        self._width = width
        self._permits = asyncio.Semaphore(limit)
        self._lanes: list[Lane[C]] = []
        self._retired: list[Lane[C]] = []

    async def enter(self) -> Lane[C]:
        """A lane for one request, which must `leave` it."""
        await self._permits.acquire()
        lane = self._free()
        lane.in_flight += 1
        return lane

    async def leave(self, lane: Lane[C]) -> None:
        """The request is over."""
        lane.in_flight -= 1
        self._permits.release()
        if lane.is_retired:
            await self._end_retired()

    async def renew(self) -> None:
        """Give further requests new clients; the old ones close when their last request is over."""
        for lane in self._lanes:
            lane.is_retired = True
        self._retired.extend(self._lanes)
        self._lanes = []
        await self._end_retired()

    async def close(self) -> None:
        """Close all clients."""
        lanes = [*self._lanes, *self._retired]
        self._lanes, self._retired = [], []
        for lane in lanes:
            await self._end(lane.client)

    def _free(self) -> Lane[C]:
        for lane in self._lanes:
            if lane.in_flight < self._width:
                return lane
        lane = Lane(self._make())
        self._lanes.append(lane)
        return lane

    async def _end_retired(self) -> None:
        idle = [lane for lane in self._retired if lane.in_flight == 0]
        self._retired = [lane for lane in self._retired if lane.in_flight]
        for lane in idle:
            await self._end(lane.client)
