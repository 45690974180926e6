"""A budget of bytes on the network's loop: large answers are fetched a few at a time."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["ByteBudget"]

_Turn = tuple["asyncio.Future[None]", int]


class ByteBudget:
    """Gives bytes as long as it is not overdrawn; one taker may overdraw it. First come, first served.

    Args:
        total: how many there are; read anew each time, since the service may change it.
    """

    def __init__(self, total: Callable[[], int]) -> None:
        self._total = total
        self._taken = 0
        self._waiting: deque[_Turn] = deque()

    async def take(self, size: int) -> None:
        """Take `size` bytes once it is their turn; whoever got them gives them back."""
        if not self._waiting and self._taken <= self._total():
            self._taken += size
            return
        turn: _Turn = (asyncio.get_running_loop().create_future(), size)
        self._waiting.append(turn)
        self._grant()
        try:
            await turn[0]
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn[0].cancelled():  # granted in the same moment
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """What was taken is free again."""
        self._taken -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._taken <= self._total():
            turn, size = self._waiting.popleft()
            if not turn.cancelled():
                self._taken += size
                turn.set_result(None)
