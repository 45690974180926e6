"""Watching an actor from another: one `Down` for one end, and none once it was given up."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tinker_actors.supervision.exits import ExitReason

__all__ = ["Down", "Monitor", "Monitors", "Scope"]

_ids = itertools.count(1)


class Scope(StrEnum):
    """Which end a monitor waits for."""

    INCARNATION = "incarnation"
    """That of the incarnation that there is; a restart follows it or not."""
    SPEC = "spec"
    """The end for good: the child stays down, its spec is gone, or the tree is."""


@dataclass(frozen=True, slots=True)
class Down:
    """An actor that was watched ended, or was not there; told to the watcher before its other messages."""

    id: int
    """`Monitor.id`."""
    path: str
    """Who."""
    epoch: int
    """Its latest incarnation; 0 when there was none."""
    reason: ExitReason | None
    """How it ended; None when there is no such actor, or none has run yet."""


class Monitor:
    """One watch: fires once, unless it is cancelled before."""

    __slots__ = ("_deliver", "_lock", "_on_cancel", "id", "path", "scope")

    def __init__(self, path: str, scope: Scope, deliver: Callable[[Down], object]) -> None:
        self.id = next(_ids)
        self.path = path
        self.scope = scope
        self._deliver: Callable[[Down], object] | None = deliver
        self._on_cancel: Callable[[], object] | None = None
        self._lock = threading.RLock()

    def bind(self, on_cancel: Callable[[], object]) -> None:
        """Set who is told when it is cancelled."""
        self._on_cancel = on_cancel

    def fire(self, epoch: int, reason: ExitReason | None) -> None:
        """Tell the watcher, once."""
        with self._lock:
            deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(Down(self.id, self.path, epoch, reason))

    def cancel(self) -> None:
        """Give the watch up: no `Down` of it is handled after this, also not one that is on its way."""
        with self._lock:
            self._deliver = None
        if self._on_cancel is not None:
            self._on_cancel()


class Monitors:
    """The watches on one name; the caller's lock guards it."""

    def __init__(self) -> None:
        self._watches: list[Monitor] = []

    def add(self, monitor: Monitor) -> None:
        """Enter a watch."""
        self._watches.append(monitor)

    def discard(self, monitor: Monitor) -> None:
        """Take a watch out, if it is still there."""
        if monitor in self._watches:
            self._watches.remove(monitor)

    def take(self, *scopes: Scope) -> list[Monitor]:
        """Take out those of these scopes; the caller fires them outside of its lock."""
        taken = [one for one in self._watches if one.scope in scopes]
        self._watches = [one for one in self._watches if one.scope not in scopes]
        return taken
