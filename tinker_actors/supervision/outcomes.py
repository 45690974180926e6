"""What a breaker remembers of past calls: the last so many, or those of the last so many seconds. Values only.

Of each call it is known whether it was bad: whether it failed, or was slow, is the breaker's matter.
"""

from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

__all__ = ["BUCKETS", "Outcomes", "OutcomesInTime", "RecentOutcomes"]

BUCKETS = 10
"""Parts of a time window; the oldest leaves it as a whole."""


@dataclass(frozen=True, slots=True)
class RecentOutcomes:
    """The last `size` calls."""

    size: int
    """How many calls are remembered."""
    calls: int = 0
    """How many there are so far, `size` at most."""
    bits: int = 0
    """One bit a call, the latest lowest; set where the call was bad."""

    @property
    def is_settled(self) -> bool:
        """Whether one more good call would change nothing: there are `size` calls, and none was bad."""
        return not self.bits and self.calls == self.size

    def noted(self, now: float, *, bad: bool) -> Self:  # noqa: ARG002 - time does not matter here
        """These and one more; the oldest one is forgotten once there are `size`."""
        bits = ((self.bits << 1) | bad) & ((1 << self.size) - 1)
        return type(self)(self.size, min(self.calls + 1, self.size), bits)

    def counts(self, now: float) -> tuple[int, int]:  # noqa: ARG002 - as above
        """Calls, and bad ones among them."""
        return self.calls, self.bits.bit_count()


@dataclass(frozen=True, slots=True)
class OutcomesInTime:
    """The calls of the last `window_s` seconds, to a tenth of that."""

    window_s: float
    """How long a call is remembered."""
    buckets: tuple[tuple[int, int, int], ...] = ()
    """Number of the tenth since time 0, calls in it, bad ones among them; the oldest first."""

    is_settled: ClassVar = False
    """One more call always changes something."""

    def noted(self, now: float, *, bad: bool) -> Self:
        """These and one more at `now`; those that are too old by then are forgotten."""
        number, calls, bad_ones = self._number(now), 0, 0
        kept = self._kept(number)
        if kept and kept[-1][0] >= number:  # also for a caller that was overtaken on its way here
            number, calls, bad_ones = kept[-1]
            kept = kept[:-1]
        return type(self)(self.window_s, (*kept, (number, calls + 1, bad_ones + bad)))

    def counts(self, now: float) -> tuple[int, int]:
        """Calls, and bad ones among them, that are not too old at `now`."""
        kept = self._kept(self._number(now))
        return sum(bucket[1] for bucket in kept), sum(bucket[2] for bucket in kept)

    def _number(self, now: float) -> int:
        return int(now * BUCKETS // self.window_s)

    def _kept(self, number: int) -> tuple[tuple[int, int, int], ...]:
        oldest = number - BUCKETS
        if self.buckets and self.buckets[0][0] > oldest:
            return self.buckets
        return tuple(bucket for bucket in self.buckets if bucket[0] > oldest)


Outcomes: TypeAlias = RecentOutcomes | OutcomesInTime
