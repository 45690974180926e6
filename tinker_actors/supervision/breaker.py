"""The circuit breaker: settings, states, and what a call and time make of them. No clock, no lock, no I/O.

```text
                too many failures                    `until` is over
    Closed ────────────────────────▶ Open ◀───────────────────────────▶ HalfOpen
       ▲                                   a probe too many failed          │
       └────────────────────────────────────────────────────────────────────┘
                              all probes ended, few enough failed
```

Every change of state begins a new epoch. A call is admitted in one epoch, and its outcome counts in that one only:
what began before the trip neither closes nor opens a half-open circuit.
"""

import math
import random
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.backoff import Backoff
from tinker_actors.supervision.checks import check_count, check_finite
from tinker_actors.supervision.outcomes import Outcomes, OutcomesInTime, RecentOutcomes

__all__ = [
    "BreakerSettings",
    "Closed",
    "Disabled",
    "HalfOpen",
    "Open",
    "Outcome",
    "Permit",
    "Refusal",
    "State",
    "admit",
    "advance",
    "first_state",
    "next_change",
    "settle",
]


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
    is_enabled: bool = True
    """False admits every call and counts none."""

    def __post_init__(self) -> None:
        name = "BreakerSettings"
        if self.consecutive_failures is not None:
            check_count(f"{name}.consecutive_failures", self.consecutive_failures, minimum=1)
        for field in ("min_calls", "window_calls", "half_open_permits"):
            check_count(f"{name}.{field}", getattr(self, field), minimum=1)
        _check_share(f"{name}.failure_rate", self.failure_rate, above_zero=True)
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
        if not isinstance(self.is_enabled, bool):
            raise ConfigError(f"{name}.is_enabled must be a bool, got {self.is_enabled!r}")


def _check_share(name: str, value: Any, *, above_zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1 or (above_zero and value == 0):
        wanted = "above 0 and at most 1" if above_zero else "from 0 to 1"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


class Outcome(Enum):
    """What an admitted call says about its endpoint."""

    SUCCESS = auto()
    FAILURE = auto()
    IGNORED = auto()
    """Nothing: the permit goes back, and no count changes."""


@dataclass(frozen=True, slots=True)
class Permit:
    """One call may go; `settle` takes it back."""

    epoch: int
    """The state it was given out in."""
    number: int = 0
    """Among the probes of that state."""
    expires_at: float = math.inf
    """A probe that has no outcome by then counts as failed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call must not go."""

    retry_after_s: float
    """When it is worth another try, in seconds."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Every call is admitted."""

    epoch: int
    outcomes: Outcomes
    failures_in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Every call is refused."""

    epoch: int
    until: float
    """When it becomes half-open, in seconds of the caller's clock."""
    trips: int
    """How often it opened since it was closed, this time included."""


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """So many calls as there are permits are admitted, and decide."""

    epoch: int
    trips: int
    """As in the `Open` before."""
    probes: tuple[Permit, ...] = ()
    """Those under way."""
    issued: int = 0
    """How many were ever given out in this state."""
    succeeded: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Disabled:
    """Every call is admitted, and nothing is counted."""

    epoch: int


State: TypeAlias = Closed | Open | HalfOpen | Disabled


def first_state(settings: BreakerSettings, epoch: int = 0) -> State:
    """The state of a circuit that has not seen a call, with nothing behind it."""
    if not settings.is_enabled:
        return Disabled(epoch)
    if settings.window_s is not None:
        return Closed(epoch, OutcomesInTime(settings.window_s))
    return Closed(epoch, RecentOutcomes(settings.window_calls))


def advance(state: State, now: float, settings: BreakerSettings, generator: random.Random) -> State:
    """What time alone has made of `state` by `now` (monotonic seconds)."""
    match state:
        case Open(epoch, until, trips) if now >= until:
            return HalfOpen(epoch + 1, trips)
        case HalfOpen(probes=probes):
            for probe in probes:
                if now >= probe.expires_at:
                    state = settle(state, probe, Outcome.FAILURE, now, settings, generator)
            return state
        case _:
            return state


def admit(
    state: State, now: float, ttl_s: float, settings: BreakerSettings, generator: random.Random
) -> tuple[State, Permit | Refusal]:
    """The state after one more call asked to go at `now`, and whether it may.

    Args:
        state: before.
        now: monotonic seconds.
        ttl_s: after so many seconds a probe without an outcome counts as failed.
        settings: of the circuit.
        generator: of the jitter.
    """
    state = advance(state, now, settings, generator)
    match state:
        case Open(until=until):
            return state, Refusal(until - now)
        case HalfOpen(epoch, trips, probes, issued, succeeded, failed):
            if len(probes) + succeeded + failed >= settings.half_open_permits:
                first_s = min(probe.expires_at for probe in probes) - now
                return state, Refusal(min(first_s, settings.open_s))
            permit = Permit(epoch, issued, now + ttl_s)
            return HalfOpen(epoch, trips, (*probes, permit), issued + 1, succeeded, failed), permit
        case _:
            return state, Permit(state.epoch)


def settle(
    state: State,
    permit: Permit,
    outcome: Outcome,
    now: float,
    settings: BreakerSettings,
    generator: random.Random,
    retry_after_s: float | None = None,
) -> State:
    """The state after the call with `permit` ended at `now`; `state` itself where that changes nothing.

    Args:
        state: before.
        permit: what the call was admitted with; one of another epoch changes nothing.
        outcome: how it ended.
        now: monotonic seconds.
        settings: of the circuit.
        generator: of the jitter.
        retry_after_s: how long the service asked to be left alone; the circuit opens for no less.
    """
    if permit.epoch != state.epoch:
        return state
    match state:
        case Closed() if outcome is not Outcome.IGNORED:
            is_failure = outcome is Outcome.FAILURE
            outcomes = state.outcomes.noted(now, failed=is_failure)
            after = Closed(state.epoch, outcomes, state.failures_in_a_row + 1 if is_failure else 0)
            if is_failure and _is_too_much(after, now, settings):
                return _opened(state.epoch, 1, now, settings, generator, retry_after_s)
            return after
        case HalfOpen(epoch, trips, probes, issued, succeeded, failed) if permit in probes:
            probes = tuple(probe for probe in probes if probe.number != permit.number)
            succeeded += outcome is Outcome.SUCCESS
            failed += outcome is Outcome.FAILURE
            permits = settings.half_open_permits
            if failed / permits >= settings.failure_rate:
                return _opened(epoch, trips + 1, now, settings, generator, retry_after_s)
            if succeeded + failed == permits:
                return first_state(settings, epoch + 1)
            return HalfOpen(epoch, trips, probes, issued, succeeded, failed)
        case _:
            return state


def next_change(state: State) -> float | None:
    """When time alone changes `state` next, if it does."""
    match state:
        case Open(until=until):
            return until
        case HalfOpen(probes=probes) if probes:
            return min(probe.expires_at for probe in probes)
        case _:
            return None


def _is_too_much(state: Closed, now: float, settings: BreakerSettings) -> bool:
    in_a_row = settings.consecutive_failures
    if in_a_row is not None and state.failures_in_a_row >= in_a_row:
        return True
    calls, failures = state.outcomes.counts(now)
    return calls >= settings.min_calls and failures / calls >= settings.failure_rate


def _opened(
    epoch: int,
    trips: int,
    now: float,
    settings: BreakerSettings,
    generator: random.Random,
    retry_after_s: float | None,
) -> Open:
    backoff = Backoff(settings.open_s, settings.max_open_s, settings.jitter)
    open_s = max(backoff.delay_s(trips - 1, generator), retry_after_s or 0.0)
    return Open(epoch + 1, now + open_s, trips)
