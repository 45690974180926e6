"""Time for the kit: one source of seconds and of timers per tree.

Timer callbacks are quick: they post a message or settle a reply.
"""

import heapq
import math
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Protocol

from tinker_actors.supervision.callbacks import run_callback

__all__ = ["Clock", "MonotonicClock", "Timer", "TimerHeap"]

_COMPACT_ABOVE = 64


class Timer:
    """A callback that is due once; `cancel()` revokes it."""

    __slots__ = ("_callback", "due", "in_background")

    def __init__(self, due: float, callback: Callable[[], object], *, in_background: bool = False) -> None:
        self.due = due
        self.in_background = in_background
        """Whether it is the kit's own housekeeping, which nobody waits for."""
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Make sure that the callback does not begin from here on."""
        self._callback = None

    @property
    def is_pending(self) -> bool:
        """Whether the callback is still to run."""
        return self._callback is not None

    def fire(self) -> None:
        """Run the callback unless cancelled; what it raises is logged."""
        callback, self._callback = self._callback, None
        if callback is not None:
            run_callback(callback, "supervision.timer_failed")


class Clock(Protocol):
    """What the kit needs to know of time."""

    is_real: bool
    """Whether its seconds pass by themselves."""

    def now(self) -> float:
        """Seconds since some fixed instant; never runs backwards."""
        ...

    def schedule(
        self, delay_s: float, callback: Callable[[], object], *, in_background: bool = False
    ) -> Timer:
        """Run `callback` once, `delay_s` seconds from now, in the clock's own thread."""
        ...

    def close(self) -> None:
        """Drop all timers and end the clock's thread."""
        ...


class TimerHeap:
    """Timers in order of their due time; the caller locks."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._limit = _COMPACT_ABOVE

    def push(self, timer: Timer) -> None:
        """Add `timer`; cancelled ones are swept out when the heap has doubled."""
        if len(self._entries) >= self._limit:
            self._entries = [entry for entry in self._entries if entry[2].is_pending]
            heapq.heapify(self._entries)
            self._limit = max(_COMPACT_ABOVE, 2 * len(self._entries))
        heapq.heappush(self._entries, (timer.due, next(self._order), timer))

    def next_due(self) -> float:
        """When the earliest entry is due; infinity when there is none."""
        return self._entries[0][0] if self._entries else math.inf

    def pop_due(self, now: float) -> Timer | None:
        """The earliest pending timer that is due at `now`, removed."""
        while self._entries and self._entries[0][0] <= now:
            timer = heapq.heappop(self._entries)[2]
            if timer.is_pending:
                return timer
        return None

    def pending(self) -> int:
        """How many timers are still to run, housekeeping aside."""
        return sum(entry[2].is_pending and not entry[2].in_background for entry in self._entries)

    def clear(self) -> None:
        """Forget every timer."""
        self._entries.clear()


class MonotonicClock:
    """The machine's monotonic clock, with one daemon thread that sleeps until the next timer is due."""

    is_real = True

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wakeup = threading.Condition(self._lock)
        self._heap = TimerHeap()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def now(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()

    def schedule(
        self, delay_s: float, callback: Callable[[], object], *, in_background: bool = False
    ) -> Timer:
        """Run `callback` once, `delay_s` seconds from now, in the timer thread."""
        timer = Timer(time.monotonic() + max(0.0, delay_s), callback, in_background=in_background)
        with self._lock:
            self._heap.push(timer)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="actor-timers", daemon=True)
                thread.start()  # it waits for this lock
                self._thread = thread
            elif timer.due < self._wakes_at:
                self._wakeup.notify()
        return timer

    def close(self) -> None:
        """Drop all timers and end the thread; a later `schedule` begins another."""
        with self._lock:
            self._thread = None
            self._heap.clear()
            self._wakeup.notify_all()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                timer = self._wait_for_due(me)
            if timer is None:
                return
            timer.fire()

    def _wait_for_due(self, me: threading.Thread) -> Timer | None:
        while self._thread is me:
            timer = self._heap.pop_due(time.monotonic())
            if timer is not None:
                return timer
            self._wakes_at = self._heap.next_due()
            pause = self._wakes_at - time.monotonic()
            self._wakeup.wait(min(max(0.0, pause), threading.TIMEOUT_MAX))
            self._wakes_at = -math.inf
        return None
