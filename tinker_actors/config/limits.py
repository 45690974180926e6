"""How samples are held back so that a service that is short of room is not overrun."""

import math
from typing import Any

import msgspec

from tinker_actors.errors import ConfigError

__all__ = ["SamplingLimits"]

_COUNTS = ("max_submissions", "throttled_submissions", "max_bytes", "throttled_weight", "large_bytes")
_SECONDS = {"pause_s": 0.01, "large_pause_s": 0.01, "throttled_s": 0.0}
"""Times, and the least of each."""
_MOST_S = 3600.0


class SamplingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be on its way to the service at a time, and what follows when it says 429 ("too many").

    A sample counts while it is being submitted, not while the service works on it. Its bytes are an estimate: 10 for
    each token of its prompt, and those of its images.

    Source of the defaults: the official SDK 0.38, which has no settings for them.

    Raises:
        ConfigError: a field is out of range; the message names it.
    """

    is_enabled: bool = True
    """False sends everything at once, and repeats what is refused each by itself."""
    max_submissions: int = 400
    """Samples being submitted at a time; connections carry 256 of them."""
    max_bytes: int | None = None
    """Their bytes; None takes what the service says, else 10 MiB. One that is larger goes when it is alone."""
    pause_s: float = 1.0
    """After a 429, for so long no sample is submitted; longer where `Retry-After` says so."""
    large_pause_s: float = 5.0
    """The same after the 429 to a large one."""
    large_bytes: int = 128 * 2**10
    """One with more bytes is large."""
    throttled_s: float = 10.0
    """For so long after a pause, less is submitted:"""
    throttled_submissions: int = 10
    """so many at a time,"""
    throttled_weight: int = 20
    """and each byte counts so many times."""

    def __post_init__(self) -> None:
        if not isinstance(self.is_enabled, bool):
            raise _wrong("is_enabled", "a bool", self.is_enabled)
        for name in _COUNTS:
            value = getattr(self, name)
            if name == "max_bytes" and value is None:
                continue
            if type(value) is not int:
                raise _wrong(name, "a whole number", value)
            if value < 1:
                raise _wrong(name, "1 or more", value)
        for name, least_s in _SECONDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _wrong(name, "a number of seconds", value)
            if math.isnan(value) or not least_s <= value <= _MOST_S:
                raise _wrong(name, f"from {least_s:g} to {_MOST_S:g}", value)
        if self.throttled_submissions > self.max_submissions:
            wanted = f"max_submissions ({self.max_submissions}) or less"
            raise _wrong("throttled_submissions", wanted, self.throttled_submissions)


def _wrong(name: str, wanted: str, got: Any) -> ConfigError:
    return ConfigError(f"SamplingLimits.{name} must be {wanted}, got {got!r}")
