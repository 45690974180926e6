"""What one rendering of a template may cost: steps taken, and the size of what it makes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError

__all__ = [
    "ITEM",
    "MOST_SIZE",
    "MOST_STEPS",
    "MOST_WORK",
    "Budget",
    "Counted",
    "OverBudgetError",
    "budget",
    "budgeted",
]

MOST_STEPS = 1_000_000
"""Passes of loops, calls and filters of one rendering; a conversation of a thousand messages takes some ten thousand."""
MOST_SIZE = 2**24
"""Characters of the longest text that a template may make; far more than a model reads."""
MOST_WORK = 2**30
"""Characters that all texts and lists made or read by one rendering have together."""
ITEM = 64
"""What an item of a list or mapping counts for, in characters: about what it takes in memory."""
_MOST_BITS = 4096
"""Of an integer."""


class OverBudgetError(SecurityError):
    """A template wants more than it may have."""


class Budget:
    """What is left for one rendering. Everything is counted before it is made wherever its size can be told."""

    __slots__ = ("loop_size", "steps", "work")

    def __init__(self) -> None:
        self.loop_size = 0
        """Characters that the loop with the longest body makes in one pass."""
        self.steps = MOST_STEPS
        self.work = MOST_WORK

    def step(self) -> None:
        """Count one pass of a loop, one call or one filter."""
        self.steps -= 1
        if self.steps < 0:
            raise OverBudgetError(f"a template may take {MOST_STEPS} steps, and wants more")

    def make(self, size: int) -> None:
        """Count a text or list of that size."""
        if size > MOST_SIZE:
            raise OverBudgetError(
                f"a template may make texts of {MOST_SIZE} characters, and wants longer ones"
            )
        self.work -= max(size, 0)
        if self.work < 0:
            raise OverBudgetError(f"a template may work through {MOST_WORK} characters, and wants more")

    def measure(self, value: Any) -> None:
        """Count `value` without a look at what is in its items."""
        if isinstance(value, str | bytes):
            self.make(len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.make(8 * len(value))
        elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise OverBudgetError(f"a template may have integers of {_MOST_BITS} bits, and wants longer ones")

    def weigh(self, value: Any) -> None:
        """Count `value` with all that is in it, as often as it is in there, as whoever prints or compares it must."""
        total, waiting = 0, [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str | bytes):
                total += len(one)
            elif isinstance(one, list | tuple | set | frozenset | Mapping):
                total += ITEM * len(one)
                waiting += one if total <= MOST_SIZE else ()
                if isinstance(one, Mapping):
                    waiting += one.values()
            else:
                self.measure(one)
            if total > MOST_SIZE:
                break
        self.make(total)


class Counted:
    """Items of a loop, each of which is a step and makes a text of `size` characters."""

    __slots__ = ("_budget", "_items", "_size")

    def __init__(self, items: Iterable[Any], size: int, of: Budget) -> None:
        self._items, self._size, self._budget = items, size, of
        of.loop_size = max(of.loop_size, size)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.step()
            self._budget.make(self._size)
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError where there is none, as of the items


_budget: ContextVar[Budget] = ContextVar("budget")


def budget() -> Budget:
    """That of the rendering in this thread."""
    return _budget.get()


@contextmanager
def budgeted() -> Iterator[Budget]:
    """A block that renders one template with a budget of its own."""
    token = _budget.set(Budget())
    try:
        yield _budget.get()
    finally:
        _budget.reset(token)
