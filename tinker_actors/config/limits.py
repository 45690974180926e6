"""How samples are held back so that a service that is short of room is not overrun."""

import msgspec

from tinker_actors.config.checks import check_bool, check_count, check_number, wrong

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
        check_bool(self, "is_enabled")
        for name in _COUNTS:
            if name != "max_bytes" or self.max_bytes is not None:
                check_count(self, name, 1)
        for name, least_s in _SECONDS.items():
            check_number(self, name, least_s, _MOST_S)
        if self.throttled_submissions > self.max_submissions:
            raise wrong(self, "throttled_submissions", f"max_submissions ({self.max_submissions}) or less")
