"""For tests of supervised actors: a clock that obeys, waiting for events instead of sleeping, and a way to crash."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tinker_actors.supervision.address import Address
from tinker_actors.supervision.clock import Timer, TimerHeap
from tinker_actors.supervision.signals import Crash
from tinker_actors.supervision.tree import ActorTree

__all__ = ["InjectedCrashError", "VirtualClock", "crash", "expect", "wait_for"]

E = TypeVar("E")

_TIMEOUT_S = 10.0


class InjectedCrashError(RuntimeError):
    """What `crash` raises unless told otherwise."""


class VirtualClock:
    """A clock that moves only by `advance`, which runs the due timers in its caller's thread, in order."""

    is_real = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._scheduled = threading.Condition(self._lock)
        self._heap = TimerHeap()
        self._now = 0.0

    def now(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._now

    def schedule(
        self, delay_s: float, callback: Callable[[], object], *, in_background: bool = False
    ) -> Timer:
        """Run `callback` when the clock has advanced by `delay_s`."""
        with self._lock:
            timer = Timer(self._now + max(0.0, delay_s), callback, in_background=in_background)
            self._heap.push(timer)
            self._scheduled.notify_all()
        return timer

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, stopping at each due timer to run it."""
        goal = self._now + seconds
        while True:
            with self._lock:
                timer = self._heap.pop_due(goal)
                self._now = goal if timer is None else max(self._now, timer.due)
            if timer is None:
                return
            timer.fire()

    def pending(self) -> int:
        """How many timers are still to run, the kit's housekeeping aside."""
        with self._lock:
            return self._heap.pending()

    def wait_for_timers(self, count: int = 1, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until at least `count` timers are to run, so that an `advance` meets them.

        Raises:
            AssertionError: there are fewer after `timeout_s` real seconds.
        """
        with self._scheduled:
            if not self._scheduled.wait_for(lambda: self._heap.pending() >= count, timeout_s):
                raise AssertionError(
                    f"expected {count} timers, got {self._heap.pending()} within {timeout_s:g} s"
                )

    def close(self) -> None:
        """Drop all timers."""
        with self._lock:
            self._heap.clear()


class expect(Generic[E]):  # noqa: N801 - reads as a verb: with expect(tree, ChildStarted)
    """Wait, at the end of the block, for events that happen from its beginning on.

    ```python
    with expect(tree, ChildStarted, path="root/worker") as got:
        crash(worker)
    assert got.event.epoch == 2
    ```

    Args:
        tree: whose events.
        kind: their class.
        count: how many.
        timeout_s: real seconds to wait for them.
        fields: what they must say.

    Raises:
        AssertionError: they did not come in time.
    """

    def __init__(
        self, tree: ActorTree, kind: type[E], *, count: int = 1, timeout_s: float = _TIMEOUT_S, **fields: Any
    ) -> None:
        self.events: list[E] = []
        """Those that came, in order."""
        self._tree, self._kind, self._count = tree, kind, count
        self._timeout_s, self._fields = timeout_s, fields
        self._all_there = threading.Event()

    @property
    def event(self) -> E:
        """The first of them."""
        return self.events[0]

    def __enter__(self) -> Self:
        self._unsubscribe = self._tree.events.subscribe(self._on_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        in_time = error is not None or self._all_there.wait(self._timeout_s)
        self._unsubscribe()
        if not in_time:
            wanted = f"{self._count} x {self._kind.__name__} {self._fields or ''}"
            raise AssertionError(f"expected {wanted}, got {self.events} within {self._timeout_s:g} s")

    def _on_event(self, event: object) -> None:
        if isinstance(event, self._kind) and all(
            getattr(event, name, ...) == value for name, value in self._fields.items()
        ):
            self.events.append(event)
            if len(self.events) >= self._count:
                self._all_there.set()


def wait_for(
    tree: ActorTree, wanted: Callable[[ActorTree], bool] | type[object], timeout_s: float = _TIMEOUT_S
) -> None:
    """Wait until `wanted(tree)` holds, looked at now and after each event; or for the next event of a class.

    An event that is already over is not waited for again: use `expect` around the action that brings it.

    Raises:
        AssertionError: not within `timeout_s` real seconds.
    """
    if isinstance(wanted, type):
        with expect(tree, wanted, timeout_s=timeout_s):
            return
    condition: Callable[[ActorTree], bool] = wanted
    holds = threading.Event()

    def look(_event: object) -> None:
        if condition(tree):
            holds.set()

    unsubscribe = tree.events.subscribe(look)
    try:
        look(None)
        if not holds.wait(timeout_s) and not condition(tree):
            raise AssertionError(f"what was waited for did not come true within {timeout_s:g} s")
    finally:
        unsubscribe()


def crash(address: Address, error: BaseException | None = None) -> None:
    """Make the actor behind `address` raise `error` in its own thread, before any message that waits for it.

    An actor that is still starting crashes as soon as it is up.

    Raises:
        NotDeliveredError: it is not running.
    """
    address.tell(Crash(InjectedCrashError("crashed on purpose") if error is None else error))
