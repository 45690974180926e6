"""Turns: of those who want to do something heavy, a few do it at a time, in the order in which they came."""

import threading
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Lets `limit` owners in at a time; thread-safe.

    Whoever was let in must leave, also when it ends before its time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._inside: set[str] = set()
        self._waiting: dict[str, Callable[[], object]] = {}

    def enter(self, owner: str, go: Callable[[], object]) -> None:
        """Call `go` once it is the turn of `owner`: now, or in the thread of whoever leaves."""
        with self._lock:
            is_in = owner in self._inside or len(self._inside) < self._limit
            if is_in:
                self._inside.add(owner)
            else:
                self._waiting[owner] = go
        if is_in:
            go()

    def leave(self, owner: str) -> None:
        """Make room for the next one; nothing happens when `owner` is not there."""
        with self._lock:
            self._waiting.pop(owner, None)
            self._inside.discard(owner)
            calls = []
            while self._waiting and len(self._inside) < self._limit:
                name = next(iter(self._waiting))
                self._inside.add(name)
                calls.append(self._waiting.pop(name))
        for go in calls:
            go()
