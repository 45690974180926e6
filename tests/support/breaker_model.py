"""A naive breaker, for tests to hold the real one against."""

import math
from dataclasses import dataclass, field

from tinker_actors.supervision.breaker import Closed, Disabled, ForcedOpen, HalfOpen, Open, Outcome, State
from tinker_actors.supervision.breaker_settings import BreakerSettings

TTL_S = 30.0
"""What probes have."""


MODES = {
    "automatic": "closed",
    "forced_open": "forced open",
    "forced_closed": "forced closed",
    "disabled": "disabled",
}
"""What the breaker is in at first."""


@dataclass
class Probe:
    """One call that a half-open circuit let through."""

    expires_at: float
    outcome: Outcome | None = None
    is_slow: bool = False


@dataclass
class Model:
    """A breaker as one would tell it: it keeps every call it ever saw, and looks through all of them each time."""

    settings: BreakerSettings
    mode: str = "closed"
    calls: list[tuple[float, bool]] = field(default_factory=list)
    """When each ended, and whether it failed."""
    times: list[tuple[float, bool]] = field(default_factory=list)
    """When it was known of each whether it was slow, and whether it was."""
    probes: list[Probe] = field(default_factory=list)
    trips: int = 0
    until: float = 0.0
    life: int = 0
    """Counts changes of `mode`."""

    def __post_init__(self) -> None:
        self.mode = MODES[self.settings.mode]

    def become(self, mode: str) -> None:
        self.mode = mode
        self.life += 1
        self.calls, self.times, self.probes = [], [], []
        if mode == "closed":
            self.trips = 0

    def reset(self) -> None:
        self.become(MODES[self.settings.mode])

    def force(self, mode: str) -> None:
        wanted = MODES[mode]
        if self.mode == wanted or (wanted == "closed" and self.mode in ("open", "half open")):
            return
        calls, times = self.calls, self.times
        is_kept = "closed" in self.mode and "closed" in wanted
        self.become(wanted)
        if is_kept:
            self.calls, self.times = calls, times

    def trip(self, now: float, wish_s: float | None) -> None:
        self.trips += 1
        open_s = min(self.settings.max_open_s, self.settings.open_s * 2 ** (self.trips - 1))
        self.until = now + max(open_s, wish_s or 0.0)
        self.become("open")

    def pass_time(self, now: float) -> None:
        if self.mode == "open" and now >= self.until:
            self.become("half open")
        if self.mode == "half open":
            for probe in list(self.probes):
                if self.mode == "half open" and probe.outcome is None and now >= probe.expires_at:
                    probe.outcome = Outcome.FAILURE
                    self.judge_probes(now, None)

    def judge_probes(self, now: float, wish_s: float | None) -> None:
        count = self.settings.half_open_permits
        failed = sum(probe.outcome is Outcome.FAILURE for probe in self.probes)
        ended = sum(probe.outcome in (Outcome.FAILURE, Outcome.SUCCESS) for probe in self.probes)
        slow = sum(probe.is_slow for probe in self.probes)
        if failed / count >= self.settings.failure_rate or slow / count >= self.settings.slow_call_rate:
            self.trip(now, wish_s)
        elif ended == count:
            self.become("closed")

    def remembered(self, noted: list[tuple[float, bool]], now: float) -> list[bool]:
        window_s = self.settings.window_s
        if window_s is None:
            return [is_bad for _, is_bad in noted[-self.settings.window_calls :]]
        tenth = math.floor(now * 10 / window_s)
        return [is_bad for at, is_bad in noted if math.floor(at * 10 / window_s) > tenth - 10]

    def ask(self, now: float) -> Probe | int | None:
        """A probe, the life of a call that no probe is, or None for a refusal."""
        self.pass_time(now)
        if self.mode in ("open", "forced open"):
            return None
        if self.mode == "half open":
            taken = [probe for probe in self.probes if probe.outcome is not Outcome.IGNORED]
            if len(taken) >= self.settings.half_open_permits:
                return None
            self.probes.append(Probe(now + TTL_S))
            return self.probes[-1]
        return self.life

    def end(
        self,
        call: Probe | int,
        outcome: Outcome,
        now: float,
        wish_s: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        slow_s = self.settings.slow_call_s
        is_timed = duration_s is not None and slow_s is not None
        is_slow = duration_s is not None and slow_s is not None and duration_s >= slow_s
        if isinstance(call, Probe):
            if self.is_under_way(call):
                call.outcome, call.is_slow = outcome, call.is_slow or is_slow
                self.judge_probes(now, wish_s)
        elif call == self.life and self.mode in ("closed", "forced closed"):
            if outcome is not Outcome.IGNORED:
                self.calls.append((now, outcome is Outcome.FAILURE))
            if is_slow or (is_timed and outcome is not Outcome.IGNORED):
                self.times.append((now, is_slow))
            self.judge_calls(now, wish_s, is_failure=outcome is Outcome.FAILURE, is_slow=is_slow)

    def overrun(self, call: Probe | int, now: float) -> None:
        if self.settings.slow_call_s is None:
            return
        if isinstance(call, Probe):
            if self.is_under_way(call):
                call.is_slow = True
                self.judge_probes(now, None)
        elif call == self.life and self.mode in ("closed", "forced closed"):
            self.times.append((now, True))
            self.judge_calls(now, None, is_failure=False, is_slow=True)

    def is_under_way(self, call: Probe) -> bool:
        return call.outcome is None and any(probe is call for probe in self.probes)

    def judge_calls(self, now: float, wish_s: float | None, *, is_failure: bool, is_slow: bool) -> None:
        in_a_row = self.settings.consecutive_failures
        latest = [failed for _, failed in self.calls[-in_a_row:]] if in_a_row is not None else []
        too_many_failed = (len(latest) == in_a_row and all(latest)) or self.reaches(
            self.calls, self.settings.failure_rate, now
        )
        too_many_slow = self.reaches(self.times, self.settings.slow_call_rate, now)
        is_too_much = (is_failure and too_many_failed) or (is_slow and too_many_slow)
        if is_too_much and self.mode == "closed":
            self.trip(now, wish_s)

    def reaches(self, noted: list[tuple[float, bool]], rate: float, now: float) -> bool:
        remembered = self.remembered(noted, now)
        enough = len(remembered) >= self.settings.min_calls
        return enough and sum(remembered) / len(remembered) >= rate

    def agrees_with(self, state: State, now: float) -> bool:
        """Whether the real breaker is where this one is."""
        if (self.mode, self.life) != (_name(state), state.epoch):
            return False
        match state:
            case Closed(outcomes=outcomes, slowness=slowness):
                pairs = [(outcomes, self.calls), *([(slowness, self.times)] if slowness is not None else [])]
                remembered = [(real, self.remembered(naive, now)) for real, naive in pairs]
                return all(real.counts(now) == (len(naive), sum(naive)) for real, naive in remembered)
            case HalfOpen(probes=probes, succeeded=succeeded, failed=failed, slow=slow):
                outcomes_here = [probe.outcome for probe in self.probes]
                return (len(probes), succeeded, failed, slow) == (
                    outcomes_here.count(None),
                    outcomes_here.count(Outcome.SUCCESS),
                    outcomes_here.count(Outcome.FAILURE),
                    sum(probe.is_slow for probe in self.probes),
                )
            case _:
                return True


def _name(state: State) -> str:
    match state:
        case Closed(is_forced=is_forced):
            return "forced closed" if is_forced else "closed"
        case Open():
            return "open"
        case HalfOpen():
            return "half open"
        case ForcedOpen():
            return "forced open"
        case Disabled():
            return "disabled"
