"""Clients of an HTTP library, shared by requests."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tinker_actors.wire import lanes as lanes_module
from tinker_actors.wire.lanes import Lane, Lanes


class Clients:
    """Numbers in place of clients, and which of them were closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[int] = []

    def make(self) -> int:
        self.made += 1
        return self.made

    async def end(self, client: int) -> None:
        self.closed.append(client)

    def lanes(self, *, width: int = 2) -> Lanes[int]:
        return Lanes(self.make, self.end, width=width)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_client_is_made_when_all_others_are_full() -> None:
    async def scenario() -> None:
        lanes = Clients().lanes(width=2)
        entered = [lanes.enter() for _ in range(5)]
        assert [lane.client for lane in entered] == [1, 1, 2, 2, 3]

    run(scenario())


def test_the_client_used_last_is_used_first() -> None:
    async def scenario() -> None:
        lanes = Clients().lanes(width=1)
        first, second = lanes.enter(), lanes.enter()
        await lanes.leave(second)
        await lanes.leave(first)
        assert lanes.enter() is first

    run(scenario())


def test_renewed_clients_are_closed_when_their_last_request_is_over() -> None:
    async def scenario() -> None:
        clients = Clients()
        lanes = clients.lanes(width=2)
        busy = [lanes.enter() for _ in range(3)]
        await lanes.leave(busy[2])
        await lanes.renew()
        assert clients.closed == [2]
        assert lanes.enter().client == 3
        await lanes.leave(busy[0])
        assert clients.closed == [2]
        await lanes.leave(busy[1])
        assert clients.closed == [2, 1]

    run(scenario())


def test_what_was_idle_for_long_is_closed_and_never_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MAX_IDLE_S", 0.0)

    async def scenario() -> None:
        clients, closed = Clients(), asyncio.Event()

        async def end(client: int) -> None:
            await clients.end(client)
            closed.set()

        lanes = Lanes(clients.make, end, width=1)
        busy: Lane[int] = lanes.enter()
        await lanes.leave(lanes.enter())
        await asyncio.wait_for(closed.wait(), 10)
        assert clients.closed == [2]
        assert lanes.enter().client == 3
        await lanes.leave(busy)
        await lanes.close()
        assert sorted(clients.closed) == [1, 2, 3]

    run(scenario())
