"""How long to wait before a restart, and how many restarts are too many: arithmetic only."""

import random
from collections import deque
from dataclasses import dataclass

from tinker_actors.supervision.checks import check_seconds

__all__ = ["Backoff", "RestartBudget"]

_MAX_DOUBLINGS = 62


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause before a restart: `min(cap_s, base_s * 2**n) * (1 + U(0, jitter))`.

    `n` counts the failures in a row before this one; it returns to 0 after `stable_after_s` of running.
    """

    base_s: float = 0.0
    """The first pause, in seconds; 0 restarts at once."""
    cap_s: float = 30.0
    """The longest pause before jitter, in seconds."""
    jitter: float = 0.1
    """The largest share added by chance, 0 or more."""
    stable_after_s: float = 60.0
    """Seconds of running after which earlier failures are forgotten."""

    def __post_init__(self) -> None:
        for name in ("base_s", "cap_s", "jitter", "stable_after_s"):
            check_seconds(f"Backoff.{name}", getattr(self, name), above_zero=False)

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The pause after `failures` earlier failures in a row."""
        pause = min(self.cap_s, self.base_s * 2.0 ** min(failures, _MAX_DOUBLINGS))
        return pause * (1.0 + rng.uniform(0.0, self.jitter)) if pause > 0 else 0.0


class RestartBudget:
    """A sliding window that admits `max_restarts` restarts within `within_s` seconds."""

    def __init__(self, max_restarts: int, within_s: float) -> None:
        self.max_restarts = max_restarts
        self.within_s = within_s
        self._spent: deque[tuple[float, BaseException | None]] = deque()

    def spend(self, now: float, cause: BaseException | None) -> bool:
        """Take one restart at `now`; False when that is one too many.

        A restart exactly `within_s` old no longer counts.
        """
        while self._spent and now - self._spent[0][0] >= self.within_s:
            self._spent.popleft()
        self._spent.append((now, cause))
        return len(self._spent) <= self.max_restarts

    @property
    def spent(self) -> int:
        """How many restarts the window held when the last one was taken."""
        return len(self._spent)

    @property
    def first_cause(self) -> BaseException | None:
        """The earliest exception among the restarts that still count."""
        return next((cause for _, cause in self._spent if cause is not None), None)
