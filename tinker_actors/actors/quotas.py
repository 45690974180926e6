"""How many requests are on their way at a time, and with how many bytes. On the network's loop only.

Clients that wait take turns: one with thousands of requests holds up another's single one no longer than it takes
until the next place is free.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable

__all__ = ["Quota"]

FEW = 10
"""Places that a client may have when only reserved ones are left."""


class _Turn:
    """Somebody who waits."""

    __slots__ = ("granted", "price", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.price = 0
        """What was taken for it."""
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Queue:
    """Those of one client who wait: who comes back first, then the others; each in the order in which they came."""

    __slots__ = ("again", "first")

    def __init__(self) -> None:
        self.again: dict[_Turn, None] = {}
        self.first: dict[_Turn, None] = {}

    def pop(self) -> _Turn:
        turns = self.again or self.first
        turn = next(iter(turns))
        del turns[turn]
        return turn

    def remove(self, turn: _Turn) -> None:
        self.again.pop(turn, None)
        self.first.pop(turn, None)

    def __len__(self) -> int:
        return len(self.again) + len(self.first)


class Quota:
    """Gives places, and bytes as long as they are not overdrawn: one taker may overdraw them.

    All limits are read anew each time, since the service may change them.

    Args:
        places: how many there are.
        each: how many of them a client may have.
        budget: how many bytes there are.
        weight: how many times each byte counts.
        changes_at: when time alone changes these limits next; infinity for never.
        alarm: calls a function on the loop at such a time.
        reserved: places that only clients with few others get.
    """

    def __init__(
        self,
        *,
        places: Callable[[], float] = lambda: math.inf,
        each: Callable[[], float] = lambda: math.inf,
        budget: Callable[[], float] = lambda: math.inf,
        weight: Callable[[], int] = lambda: 1,
        changes_at: Callable[[], float] = lambda: math.inf,
        alarm: Callable[[float, Callable[[], object]], object] | None = None,
        reserved: int = 0,
    ) -> None:
        self._places = places
        self._each = each
        self._budget = budget
        self._weight = weight
        self._changes_at = changes_at
        self._alarm = alarm
        self._reserved = reserved
        self._inside: Counter[str] = Counter()
        """Places taken, by client."""
        self._count = 0
        self._taken = 0
        self._queues: dict[str, _Queue] = {}
        """By client, in the order of their turns."""
        self._looks_at = math.inf
        """When the next alarm is due."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._queues.values()))

    @property
    def taken(self) -> tuple[int, int]:
        """Places and bytes that are taken."""
        return self._count, self._taken

    def try_enter(self, client: str, size: int = 0) -> int | None:
        """Take a place and `size` bytes if nobody has to wait: the price that `leave` is told, else None."""
        if self._queues or not self._is_open() or not self._has_place(client):
            return None
        return self._take(client, size)

    async def wait(self, client: str, size: int = 0, *, again: bool = False) -> int:
        """Take them in turn; the price that `leave` is told.

        Args:
            client: whose turn it is to be.
            size: in bytes.
            again: go before all others of this client.
        """
        turn, queue = _Turn(size), self._queues.setdefault(client, _Queue())
        (queue.again if again else queue.first)[turn] = None
        self._grant()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                self._remove(client, turn)
            else:  # granted in the same moment
                self.leave(client, turn.price)
            raise
        return turn.price

    def leave(self, client: str, price: int) -> None:
        """Give a place and its bytes back."""
        self._count -= 1
        self._taken -= price
        self._inside[client] -= 1
        if not self._inside[client]:
            del self._inside[client]
        if self._queues:
            self._grant()

    def _take(self, client: str, size: int) -> int:
        price = size * self._weight()
        self._count += 1
        self._taken += price
        self._inside[client] += 1
        return price

    def _remove(self, client: str, turn: _Turn) -> None:
        queue = self._queues.get(client)
        if queue is not None:  # else it was taken out already
            queue.remove(turn)
            if not queue:
                del self._queues[client]

    def _grant(self) -> None:
        while self._queues and self._is_open():
            client = next(filter(self._has_place, self._queues), None)
            if client is None:
                return
            queue = self._queues.pop(client)
            turn = queue.pop()
            if queue:
                self._queues[client] = queue  # behind all others
            if not turn.granted.cancelled():
                turn.price = self._take(client, turn.size)
                turn.granted.set_result(None)

    def _is_open(self) -> bool:
        if self._count < self._places() and self._taken <= self._budget():
            return True
        if self._alarm is not None and (changes_at := self._changes_at()) < self._looks_at:
            self._looks_at = changes_at
            self._alarm(changes_at, self._look_again)
        return False

    def _look_again(self) -> None:
        self._looks_at = math.inf
        self._grant()

    def _has_place(self, client: str) -> bool:
        """Whether one of the free places is for `client`."""
        inside = self._inside[client]
        return inside < self._each() and (self._count < self._places() - self._reserved or inside < FEW)
