"""Settings of a circuit breaker."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.checks import check_choice, check_count, check_finite

__all__ = ["BreakerMode", "BreakerSettings"]


class BreakerMode(StrEnum):
    """What a circuit goes by."""

    AUTOMATIC = "automatic"
    """What becomes of its calls."""
    FORCED_OPEN = "forced_open"
    """It refuses every call until somebody sets another mode."""
    FORCED_CLOSED = "forced_closed"
    """It admits every call, and counts what becomes of it."""
    DISABLED = "disabled"
    """It admits every call, and counts none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a circuit opens, and how it closes again.

    Raises:
        ConfigError: a field is wrong; the message names it.
    """

    consecutive_failures: int | None = 5
    """So many failures in a row open the circuit; None looks at the rate alone."""
    failure_rate: float = 0.5
    """This share of failures among the remembered calls opens it, above 0, at most 1."""
    slow_call_s: float | None = None
    """A call that lasts so long or longer is slow, as soon as it does; None: none is."""
    slow_call_rate: float = 1.0
    """This share of slow calls among the remembered ones opens it, above 0, at most 1."""
    min_calls: int = 10
    """Fewer remembered calls have no rate."""
    window_calls: int = 100
    """How many calls are remembered."""
    window_s: float | None = None
    """Remember the calls of so many seconds instead."""
    open_s: float = 5.0
    """How long the circuit stays open after the first trip; doubles with each probe that fails."""
    max_open_s: float = 60.0
    """Longest of these times, jitter and the service's own wish aside."""
    jitter: float = 0.1
    """Largest share of that time added by chance, from 0 to 1."""
    half_open_permits: int = 1
    """How many calls probe a half-open circuit; all others are refused until these have ended."""
    mode: BreakerMode | str = BreakerMode.AUTOMATIC
    """What it goes by at first."""

    def __post_init__(self) -> None:
        name = "BreakerSettings"
        if self.consecutive_failures is not None:
            check_count(f"{name}.consecutive_failures", self.consecutive_failures, minimum=1)
        for field in ("min_calls", "window_calls", "half_open_permits"):
            check_count(f"{name}.{field}", getattr(self, field), minimum=1)
        _check_share(f"{name}.failure_rate", self.failure_rate, above_zero=True)
        if self.slow_call_s is not None:
            check_finite(f"{name}.slow_call_s", self.slow_call_s, above_zero=True)
        _check_share(f"{name}.slow_call_rate", self.slow_call_rate, above_zero=True)
        _check_share(f"{name}.jitter", self.jitter, above_zero=False)
        if self.window_s is not None:
            check_finite(f"{name}.window_s", self.window_s, above_zero=True)
        elif self.window_calls < self.min_calls:
            raise ConfigError(
                f"{name}.window_calls must be min_calls ({self.min_calls}) or more, got {self.window_calls}"
            )
        check_finite(f"{name}.open_s", self.open_s, above_zero=True)
        check_finite(f"{name}.max_open_s", self.max_open_s, above_zero=True)
        if self.max_open_s < self.open_s:
            raise ConfigError(
                f"{name}.max_open_s must be open_s ({self.open_s:g}) or more, got {self.max_open_s:g}"
            )
        object.__setattr__(self, "mode", check_choice(f"{name}.mode", self.mode, BreakerMode))


def _check_share(name: str, value: Any, *, above_zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (above_zero and value == 0):
        wanted = "above 0 and at most 1" if above_zero else "from 0 to 1"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")
