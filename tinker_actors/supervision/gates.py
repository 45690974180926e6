"""A gate before a restart: while what a child depends on is away, the child is not started into the same wall."""

import threading
from collections.abc import Callable

from tinker_actors.supervision.callbacks import run_callback

__all__ = ["Gate"]


class Gate:
    """Open or closed; whoever waits at a closed one is told once it opens. Thread-safe."""

    def __init__(self, *, is_open: bool = True) -> None:
        self._lock = threading.RLock()
        self._is_open = is_open
        self._waiting: dict[object, Callable[[], object]] = {}

    @property
    def is_open(self) -> bool:
        """Whether nobody has to wait."""
        return self._is_open

    def open(self) -> None:
        """Let everybody through who waits, and whoever comes; what a callback raises is logged."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for callback in waiting:
            run_callback(callback, "supervision.gate_callback_failed")

    def close(self) -> None:
        """Let nobody through from here on."""
        with self._lock:
            self._is_open = False

    def when_open(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` once the gate is open, now or later; returns the way to give that up."""
        token = object()
        with self._lock:
            is_open = self._is_open
            if not is_open:
                self._waiting[token] = callback
        if is_open:
            callback()

        def give_up() -> None:
            with self._lock:
                self._waiting.pop(token, None)

        return give_up
