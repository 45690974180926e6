"""Grouping of what repeats: a crash loop fills no log."""

from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["Repeats"]

Key: TypeAlias = tuple[str, str]
"""What happened, and to whom."""


class Repeats:
    """Lets the first `limit` equal entries of each `within_s` seconds through, and counts the rest.

    Time comes with the entries, so that it is the time of those who made them.
    """

    def __init__(self, limit: int = 10, within_s: float = 1.0) -> None:
        self._limit = limit
        self._within_s = within_s
        self._windows: dict[Key, tuple[float, int]] = {}

    def admits(self, key: Key, at: float) -> bool:
        """Whether an entry with this key, made at `at` seconds, is to be written; call `over` before."""
        begin, count = self._windows.get(key, (at, 0))
        self._windows[key] = begin, count + 1
        return count < self._limit

    def over(self, at: float | None = None) -> Iterator[tuple[Key, int]]:
        """The keys whose window is over at `at` (all when None) and how many of their entries were kept back."""
        ended = [
            key for key, (begin, _) in self._windows.items() if at is None or at - begin >= self._within_s
        ]
        for key in ended:
            _, count = self._windows.pop(key)
            if count > self._limit:
                yield key, count - self._limit
