"""How alive a session is, judged by the age of its last good beat; arithmetic only.

A beat is good from the moment it was *sent*: when the service read it, only the service knows.
"""

import math
import time
from enum import StrEnum

import msgspec

__all__ = ["AT_RISK_S", "BEAT_S", "LATE_S", "LOST_S", "Health", "Pulse", "boot_time", "health_at", "next_due"]

BEAT_S = 10.0
"""Seconds from one beat to the next, as the official SDK keeps it."""
LATE_S = 2 * BEAT_S
LOST_S = 300.0
"""After so long without a beat SkyRL ends a session; the hosted service's limit is not known."""
AT_RISK_S = LOST_S / 2
"""From here on a good beat is no proof that the models of the session are still there."""


class Health(StrEnum):
    """What to think of a session."""

    OK = "ok"
    """Beats arrive."""
    LATE = "late"
    """Two in a row did not."""
    AT_RISK = "at_risk"
    """The service may end it soon, or have ended it."""
    LOST = "lost"
    """The service has surely ended it, or said so."""


class Pulse(msgspec.Struct, frozen=True):
    """A session as its heart sees it; what others read of it."""

    session_id: str
    health: Health
    good_at: float
    """When the last good beat was sent, on the tree's clock."""


def health_at(age_s: float) -> Health:
    """Of a session whose last good beat was sent `age_s` seconds ago."""
    if age_s > LOST_S:
        return Health.LOST
    if age_s > AT_RISK_S:
        return Health.AT_RISK
    return Health.LATE if age_s > LATE_S else Health.OK


def next_due(due: float, now: float) -> float:
    """When the beat after the one of `due` is due: the first multiple of the period behind it that is to come.

    Beats that fell out, because the machine slept or the process was starved, are not made up for.
    """
    missed = max(0, math.floor((now - due) / BEAT_S))
    return due + (missed + 1) * BEAT_S


def boot_time() -> float:
    """Seconds that also count while the machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
