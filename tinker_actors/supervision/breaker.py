"""The circuit breaker: its states, and what a call, time and force make of them. No clock, no lock, no I/O.

```text
           too many failed or slow                   `until` is over
    Closed ────────────────────────▶ Open ◀───────────────────────────▶ HalfOpen
       ▲                                   a probe too many failed          │
       └────────────────────────────────────────────────────────────────────┘
                         all probes ended, few enough failed or slow

          from each state: ForcedOpen, a Closed that stays so, Disabled; and back to Closed
```

Every change of state begins a new epoch. A call is admitted in one epoch, and its outcome counts in that one only:
what began before the trip neither closes nor opens a half-open circuit.
"""

import math
import random
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TypeAlias

from tinker_actors.supervision.backoff import Backoff
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.outcomes import Outcomes, OutcomesInTime, RecentOutcomes

__all__ = [
    "Closed",
    "Disabled",
    "ForcedOpen",
    "HalfOpen",
    "Open",
    "Outcome",
    "Permit",
    "Refusal",
    "State",
    "admit",
    "advance",
    "first_state",
    "force",
    "mode_of",
    "next_change",
    "note_slow",
    "refusal",
    "settle",
]


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
    is_forced: bool = False
    """Whether the circuit is open because somebody said so, for nobody knows how long."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Every call is admitted."""

    epoch: int
    outcomes: Outcomes
    """Which calls failed."""
    slowness: Outcomes | None = None
    """Which calls were slow; None where none can be."""
    failures_in_a_row: int = 0
    is_forced: bool = False
    """Whether it stays so, whatever it counts."""

    @property
    def is_settled(self) -> bool:
        """Whether one more success that is not slow would change nothing."""
        return self.outcomes.is_settled and (self.slowness is None or self.slowness.is_settled)


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
    slow: int = 0
    """However they end."""


@dataclass(frozen=True, slots=True)
class ForcedOpen:
    """Every call is refused, until somebody says otherwise."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Disabled:
    """Every call is admitted, and nothing is counted."""

    epoch: int


State: TypeAlias = Closed | Open | HalfOpen | ForcedOpen | Disabled


def first_state(settings: BreakerSettings, epoch: int = 0) -> State:
    """The state of a circuit that has not seen a call, with nothing behind it."""
    match settings.mode:
        case BreakerMode.FORCED_OPEN:
            return ForcedOpen(epoch)
        case BreakerMode.DISABLED:
            return Disabled(epoch)
        case mode:
            return _closed(epoch, settings, is_forced=mode is BreakerMode.FORCED_CLOSED)


def force(state: State, mode: BreakerMode, settings: BreakerSettings) -> State:
    """The state after somebody set `mode`; `state` itself if that is its mode already.

    What a closed circuit remembers it keeps when it is forced closed, and when it is let go again.
    """
    if mode is mode_of(state):
        return state
    epoch = state.epoch + 1
    match mode:
        case BreakerMode.FORCED_OPEN:
            return ForcedOpen(epoch)
        case BreakerMode.DISABLED:
            return Disabled(epoch)
    closed = state if isinstance(state, Closed) else _closed(epoch, settings)
    return replace(closed, epoch=epoch, is_forced=mode is BreakerMode.FORCED_CLOSED)


def mode_of(state: State) -> BreakerMode:
    """What a circuit in this state goes by."""
    match state:
        case ForcedOpen():
            return BreakerMode.FORCED_OPEN
        case Disabled():
            return BreakerMode.DISABLED
        case Closed(is_forced=True):
            return BreakerMode.FORCED_CLOSED
        case _:
            return BreakerMode.AUTOMATIC


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


def refusal(state: State, now: float, settings: BreakerSettings) -> Refusal | None:
    """What every call is told at `now`, if nothing but time can let it go."""
    match state:
        case Open(until=until) if now < until:
            return Refusal(until - now)
        case ForcedOpen():
            return Refusal(settings.open_s, is_forced=True)
        case _:
            return None


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
    refused = refusal(state, now, settings)
    if refused is not None:
        return state, refused
    if not isinstance(state, HalfOpen):
        return state, Permit(state.epoch)
    if len(state.probes) + state.succeeded + state.failed >= settings.half_open_permits:
        first_s = min(probe.expires_at for probe in state.probes) - now
        return state, Refusal(min(first_s, settings.open_s))
    permit = Permit(state.epoch, state.issued, now + ttl_s)
    return replace(state, probes=(*state.probes, permit), issued=state.issued + 1), permit


def settle(
    state: State,
    permit: Permit,
    outcome: Outcome,
    now: float,
    settings: BreakerSettings,
    generator: random.Random,
    retry_after_s: float | None = None,
    duration_s: float | None = None,
) -> State:
    """The state after the call with `permit` ended at `now`; `state` itself where that changes nothing.

    A call that was slow counts as that however it ended, also where its outcome counts as nothing.

    Args:
        state: before.
        permit: what the call was admitted with; one of another epoch changes nothing.
        outcome: how it ended.
        now: monotonic seconds.
        settings: of the circuit.
        generator: of the jitter.
        retry_after_s: how long the service asked to be left alone; the circuit opens for no less.
        duration_s: how long the call took; None where that means nothing, or `note_slow` was told of it.
    """
    if permit.epoch != state.epoch:
        return state
    is_failure = None if outcome is Outcome.IGNORED else outcome is Outcome.FAILURE
    is_slow = None
    if duration_s is not None and settings.slow_call_s is not None:
        is_slow = duration_s >= settings.slow_call_s or (None if is_failure is None else False)
    match state:
        case Closed():
            return _noted(state, is_failure, is_slow, now, settings, generator, retry_after_s)
        case HalfOpen(probes=probes) if permit in probes:
            after = replace(
                state,
                probes=tuple(probe for probe in probes if probe.number != permit.number),
                succeeded=state.succeeded + (is_failure is False),
                failed=state.failed + (is_failure is True),
                slow=state.slow + (is_slow is True),
            )
            return _judged(after, now, settings, generator, retry_after_s)
        case _:
            return state


def note_slow(
    state: State, permit: Permit, now: float, settings: BreakerSettings, generator: random.Random
) -> State:
    """The state after the call with `permit` had lasted `slow_call_s` at `now`, and had not ended yet.

    To be told once for a call, which then has no duration for `settle`. The arguments are those of `settle`.
    """
    match state:
        case Closed() if permit.epoch == state.epoch:
            return _noted(state, None, True, now, settings, generator, None)
        case HalfOpen(probes=probes) if permit in probes and settings.slow_call_s is not None:
            return _judged(replace(state, slow=state.slow + 1), now, settings, generator, None)
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


def _closed(epoch: int, settings: BreakerSettings, *, is_forced: bool = False) -> Closed:
    """A closed circuit that remembers nothing."""
    if settings.window_s is None:
        empty: Outcomes = RecentOutcomes(settings.window_calls)
    else:
        empty = OutcomesInTime(settings.window_s)
    return Closed(epoch, empty, None if settings.slow_call_s is None else empty, is_forced=is_forced)


def _noted(
    state: Closed,
    is_failure: bool | None,
    is_slow: bool | None,
    now: float,
    settings: BreakerSettings,
    generator: random.Random,
    retry_after_s: float | None,
) -> State:
    """With one more call, of which None says nothing. A failure opens by failures, a slow call by slow ones."""
    outcomes, slowness, in_a_row = state.outcomes, state.slowness, state.failures_in_a_row
    is_too_much = False
    if is_failure is not None:
        outcomes = outcomes.noted(now, bad=is_failure)
        in_a_row = in_a_row + 1 if is_failure else 0
        most = settings.consecutive_failures
        is_too_much = is_failure and (
            (most is not None and in_a_row >= most)
            or _reaches(outcomes, settings.failure_rate, now, settings)
        )
    if is_slow is not None and slowness is not None:
        slowness = slowness.noted(now, bad=is_slow)
        is_too_much |= is_slow and _reaches(slowness, settings.slow_call_rate, now, settings)
    if is_too_much and not state.is_forced:
        return _opened(state.epoch, 1, now, settings, generator, retry_after_s)
    if outcomes is state.outcomes and slowness is state.slowness:
        return state
    return Closed(state.epoch, outcomes, slowness, in_a_row, state.is_forced)


def _reaches(outcomes: Outcomes, rate: float, now: float, settings: BreakerSettings) -> bool:
    calls, bad = outcomes.counts(now)
    return calls >= settings.min_calls and bad / calls >= rate


def _judged(
    state: HalfOpen,
    now: float,
    settings: BreakerSettings,
    generator: random.Random,
    retry_after_s: float | None,
) -> State:
    """What the probes have decided so far."""
    permits = settings.half_open_permits
    if state.failed / permits >= settings.failure_rate or state.slow / permits >= settings.slow_call_rate:
        return _opened(state.epoch, state.trips + 1, now, settings, generator, retry_after_s)
    if state.succeeded + state.failed == permits:
        return _closed(state.epoch + 1, settings)
    return state


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
