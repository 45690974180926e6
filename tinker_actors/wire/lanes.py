"""How the requests of one kind of traffic share clients of an HTTP library."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Lane", "Lanes"]

C = TypeVar("C")

MAX_IDLE_S = 30.0
"""A client that had nothing to do for so long is closed."""


class Lane(Generic[C]):
    """A client and how many requests it has in flight."""

    __slots__ = ("client", "idle_since", "in_flight", "is_retired")

    def __init__(self, client: C) -> None:
        self.client = client
        self.in_flight = 0
        self.idle_since = 0.0
        self.is_retired = False


class Lanes(Generic[C]):
    """Clients with a bounded number of requests in flight each; more are made when all are full.

    The one used last is used first, so that those which are not needed become idle, and are closed.

    Args:
        make: makes a client.
        end: closes one.
        width: requests in flight of one client.
    """

    def __init__(self, make: Callable[[], C], end: Callable[[C], Awaitable[object]], *, width: int) -> None:
        self._make = make
        self._end = end
        self._width = width
        self._lanes: set[Lane[C]] = set()
        self._with_room: list[Lane[C]] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()

    def enter(self) -> Lane[C]:
        """A lane for one request, which must `leave` it."""
        if not self._with_room:
            lane = Lane(self._make())
            self._lanes.add(lane)
            self._with_room.append(lane)
        lane = self._with_room[-1]
        lane.in_flight += 1
        if lane.in_flight == self._width:
            self._with_room.pop()
        return lane

    async def leave(self, lane: Lane[C]) -> None:
        """The request is over."""
        lane.in_flight -= 1
        if lane.is_retired:
            if lane.in_flight == 0:
                await self._close([lane])
            return
        if lane.in_flight == self._width - 1:
            self._with_room.append(lane)
        if lane.in_flight == 0:
            loop = asyncio.get_running_loop()
            lane.idle_since = loop.time()
            if self._sweep is None:
                self._sweep = loop.call_later(MAX_IDLE_S, self._close_idle)

    async def renew(self) -> None:
        """Give further requests new clients; the old ones close when their last request is over."""
        self._with_room = []
        for lane in self._lanes:
            lane.is_retired = True
        await self._close([lane for lane in self._lanes if lane.in_flight == 0])

    async def close(self) -> None:
        """Close all clients."""
        if self._sweep is not None:
            self._sweep.cancel()
        await self._close(list(self._lanes))
        await asyncio.gather(*self._endings)

    def _close_idle(self) -> None:
        now, self._sweep = asyncio.get_running_loop().time(), None
        idle = [lane for lane in self._lanes if lane.in_flight == 0]
        old = {lane for lane in idle if now - lane.idle_since >= MAX_IDLE_S}
        self._with_room = [lane for lane in self._with_room if lane not in old]
        if old:
            task = asyncio.create_task(self._close(list(old)))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)
        if len(old) < len(idle):
            self._sweep = asyncio.get_running_loop().call_later(MAX_IDLE_S, self._close_idle)

    async def _close(self, lanes: list[Lane[C]]) -> None:
        self._lanes.difference_update(lanes)
        for lane in lanes:
            await self._end(lane.client)
