"""Finds handlers that do not return and threads that vanished, without asking any actor.

One look at all incarnations per tick. The watchdog measures in time it was itself awake: a machine that slept, or
an interpreter that gave it no turn, makes nobody look stalled.
"""

import gc
import sys
import threading
import traceback
from enum import Enum, auto
from types import FrameType
from typing import TYPE_CHECKING

from tinker_actors.supervision.clock import Clock, Timer

if TYPE_CHECKING:
    from tinker_actors.supervision.incarnation import Handling, Incarnation

__all__ = ["Finding", "Watchdog", "judge", "stack_of"]

_TICKS_PER_DEADLINE = 8
_LONGEST_TICK_S = 5.0
_LATE = 2.0
_STALLED_AT = 2.0
_looking = threading.Lock()


class Finding(Enum):
    """What there is to say about a handler."""

    FINE = auto()
    LATE = auto()
    """It has run for longer than its deadline: worth a warning."""
    STALLED = auto()
    """It has run for twice as long: it is given up."""


def judge(age_s: float, deadline_s: float) -> Finding:
    """What to think of a handler that has run for `age_s`, with a deadline of `deadline_s`."""
    if age_s >= _STALLED_AT * deadline_s:
        return Finding.STALLED
    return Finding.LATE if age_s >= deadline_s else Finding.FINE


class _Watched:
    """What the watchdog remembers of one incarnation between two looks."""

    __slots__ = ("beats", "handling", "has_warned", "is_reported", "since")

    def __init__(self) -> None:
        self.handling: Handling | None = None
        self.beats = 0
        self.since = 0.0
        self.has_warned = False
        self.is_reported = False


class Watchdog:
    """Ticks on the tree's clock for as long as it has somebody to watch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._watched: dict[Incarnation, _Watched] = {}
        self._tick_s = _LONGEST_TICK_S
        self._timer: Timer | None = None
        self._awake_s = 0.0
        self._last = clock.now()

    def watch(self, incarnation: "Incarnation") -> None:
        """Look at `incarnation` from now on."""
        tick_s = min(_LONGEST_TICK_S, incarnation.spec.handler_deadline_s / _TICKS_PER_DEADLINE)
        with self._lock:
            self._watched[incarnation] = _Watched()
            if self._timer is None or tick_s < self._tick_s:
                self._tick_s = min(self._tick_s, tick_s)
                self._arm()

    def forget(self, incarnation: "Incarnation") -> None:
        """Do not look at `incarnation` any more."""
        with self._lock:
            self._watched.pop(incarnation, None)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._last = self._clock.now()
        self._timer = self._clock.schedule(self._tick_s, self._tick, in_background=True)

    def _tick(self) -> None:
        with self._lock:
            elapsed = self._clock.now() - self._last
            self._awake_s += min(elapsed, _LATE * self._tick_s)
            self._timer = None
            if not self._watched:
                self._tick_s = _LONGEST_TICK_S
                return
            self._arm()
            watched = list(self._watched.items())
        for incarnation, memory in watched:
            self._look(incarnation, memory)

    def _look(self, incarnation: "Incarnation", memory: _Watched) -> None:
        if incarnation.has_vanished:
            incarnation.vanish()
            return
        if incarnation.is_fenced:  # only whether its thread is still there is of interest
            return
        handling = incarnation.handling
        if handling is None or handling.waits:
            memory.handling = None
            return
        if handling is not memory.handling or handling.beats != memory.beats:
            memory.handling, memory.beats, memory.since = handling, handling.beats, self._awake_s
            memory.has_warned = memory.is_reported = False
        age_s = self._awake_s - memory.since
        finding = judge(age_s, incarnation.spec.handler_deadline_s)
        if finding is Finding.STALLED and not memory.is_reported:
            memory.is_reported = True
            incarnation.stalled(handling, age_s)
        elif finding is Finding.LATE and not memory.has_warned:
            memory.has_warned = True
            incarnation.warn(handling, age_s)


def stack_of(thread: threading.Thread | None) -> str:
    """Where `thread` is now, as Python would print it; empty when it runs no more."""
    if thread is None or not thread.is_alive():
        return ""
    # A garbage collection in here would let other threads run while the interpreter holds its list of threads, or
    # while a frame is taken off its stack: a deadlock or a crash before the fix of CPython's gh-106883.
    with _looking:
        collects = gc.isenabled()
        gc.disable()
        try:
            lines = _lines_of(sys._current_frames().get(thread.ident or 0))  # noqa: SLF001 - the way to it
        finally:
            if collects:
                gc.enable()
    summary = traceback.StackSummary.from_list([(file, line, name, None) for file, line, name in lines])
    return "".join(summary.format())


def _lines_of(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """File, line and function of each call, the outermost first."""
    lines = []
    while frame is not None:
        lines.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return lines[::-1]
