"""Those who wait for a result, and how the threads that make results reach them."""

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from tinker_actors.local.specs import Result

__all__ = ["Waiters"]


class Waiters:
    """Polls that are held, by request id. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Future[Result | None]]] = {}
        self._released = False

    def join(self, request_id: str) -> "Future[Result | None]":
        """A future of the next result published under `request_id`; None once the server stops."""
        waiter: Future[Result | None] = Future()
        with self._lock:
            if self._released:
                waiter.set_result(None)
            else:
                self._waiting.setdefault(request_id, set()).add(waiter)
        return waiter

    def leave(self, request_id: str, waiter: "Future[Result | None]") -> None:
        """Forget a waiter."""
        with self._lock:
            waiters = self._waiting.get(request_id, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(request_id, None)

    def publish(self, request_id: str, result: Result) -> None:
        """Hand a result to all who wait for it."""
        with self._lock:
            waiters = self._waiting.pop(request_id, set())
        for waiter in waiters:
            with suppress(InvalidStateError):  # it gave up a moment ago
                waiter.set_result(result)

    def release(self) -> None:
        """Let everybody go, now and later: the server stops."""
        with self._lock:
            self._released = True
            everybody = [waiter for waiters in self._waiting.values() for waiter in waiters]
            self._waiting.clear()
        for waiter in everybody:
            with suppress(InvalidStateError):
                waiter.set_result(None)
