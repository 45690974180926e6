"""Pauses after a 429: what one client is told holds for every client of this process with that server and key."""

import math
import os
import threading
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from tinker_actors.config import Settings
from tinker_actors.supervision import Clock

__all__ = ["SharedPause", "shared_pause"]

_PORTS = {"http": 80, "https": 443}


class SharedPause:
    """Until when no samples are to be submitted; thread-safe, and read without a lock."""

    def __init__(self) -> None:
        self._until = -math.inf
        self._lock = threading.Lock()

    @property
    def until(self) -> float:
        """On the clock of those who share it; in the past while there is no pause."""
        return self._until

    def extend(self, now: float, delay_s: float) -> bool:
        """Pause for `delay_s` seconds from `now`, or for longer if that was so before; whether there was no pause."""
        with self._lock:
            is_new = self._until <= now
            self._until = max(self._until, now + delay_s)
        return is_new


class _Registry:
    """The pauses that somebody holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses: WeakValueDictionary[tuple[object, ...], SharedPause] = WeakValueDictionary()

    def get(self, settings: Settings, clock: Clock) -> SharedPause:
        """See `shared_pause`."""
        if settings.is_local:
            return SharedPause()  # each has a server of its own
        # Seconds of one clock mean nothing on another, but all real ones are the same.
        time = None if clock.is_real else clock
        name = (_origin(settings.base_url), settings.credential.digest(), time)
        with self._lock:
            pause = self._pauses.get(name)
            if pause is None:
                pause = self._pauses[name] = SharedPause()
            return pause


_registry = _Registry()


def shared_pause(settings: Settings, clock: Clock) -> SharedPause:
    """The one that all clients in this process share which have this server and this credential."""
    return _registry.get(settings, clock)


def _origin(base_url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(base_url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _begin_anew() -> None:
    """In a forked child: it has clients of its own, and who held the lock is not there."""
    global _registry  # noqa: PLW0603 - a child has its own
    _registry = _Registry()


os.register_at_fork(after_in_child=_begin_anew)
