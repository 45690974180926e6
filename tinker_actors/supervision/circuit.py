"""A circuit that many threads share: the breaker's pure state behind a lock, and word of its changes."""

import random
import threading
from collections import deque
from collections.abc import Callable

from tinker_actors.supervision.breaker import (
    Closed,
    Disabled,
    HalfOpen,
    Outcome,
    Permit,
    Refusal,
    State,
    admit,
    advance,
    first_state,
    force,
    note_slow,
    settle,
)
from tinker_actors.supervision.breaker_settings import BreakerMode, BreakerSettings
from tinker_actors.supervision.callbacks import run_callback

__all__ = ["Circuit"]

_UNTAKEN = 64
"""More changes than an actor misses while it is restarted."""


class Circuit:
    """One circuit breaker, asked without a mailbox in between; thread-safe.

    It outlives whoever watches it: what changed meanwhile is kept until somebody takes it.

    Args:
        settings: of the breaker.
        clock: monotonic seconds.
        generator: of the jitter.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], generator: random.Random
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._random = generator
        self._lock = threading.RLock()  # a finalizer that gives a permit back may interrupt its holder
        self._state = first_state(settings)
        self._standing = _standing(self._state)
        self._refused = 0
        self._changes: deque[State] = deque(maxlen=_UNTAKEN)
        self._watchers: dict[object, Callable[[], object]] = {}

    @property
    def state(self) -> State:
        """As it was after the last call; time may have moved it on since."""
        return self._state

    @property
    def refused(self) -> int:
        """How many calls were ever refused."""
        return self._refused

    def admit(self, ttl_s: float) -> Permit | Refusal:
        """Ask for one call to go; each permit is to be settled, however the call ends.

        Args:
            ttl_s: after so many seconds a probe without an outcome counts as failed; more than the call may last.
        """
        permit = self._standing
        if permit is not None:  # every call of a good day goes this way: no lock, nothing new
            return permit
        with self._lock:
            before = self._state
            after, answer = admit(before, self._clock(), ttl_s, self.settings, self._random)
            self._refused += type(answer) is Refusal
            self._note(before, after)
        self._tell(before, after)
        return answer

    def settle(
        self,
        permit: Permit,
        outcome: Outcome,
        retry_after_s: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        """Say how the call with `permit` ended; the second time changes nothing for a probe.

        Args:
            permit: what the call was admitted with.
            outcome: how it ended.
            retry_after_s: how long the service asked to be left alone.
            duration_s: how long it took; None where that means nothing, or `note_slow` was told of it.
        """
        state, slow_s = self._state, self.settings.slow_call_s
        is_fast = duration_s is None or slow_s is None or duration_s < slow_s
        if is_fast and outcome is Outcome.SUCCESS and type(state) is Closed and state.is_settled:
            return
        with self._lock:
            before = self._state
            after = settle(
                before, permit, outcome, self._clock(), self.settings, self._random, retry_after_s, duration_s
            )
            self._note(before, after)
        self._tell(before, after)

    def note_slow(self, permit: Permit) -> None:
        """Say that the call with `permit` has lasted `slow_call_s` and goes on; once, and `settle` without its duration."""
        with self._lock:
            before = self._state
            after = note_slow(before, permit, self._clock(), self.settings, self._random)
            self._note(before, after)
        self._tell(before, after)

    def force(self, mode: BreakerMode) -> None:
        """Go by `mode` from here on; outcomes of calls under way no longer count if that changes it."""
        with self._lock:
            before = self._state
            after = force(before, mode, self.settings)
            self._note(before, after)
        self._tell(before, after)

    def advance(self) -> State:
        """The state by now, with what time alone has made of it."""
        with self._lock:
            before = self._state
            after = advance(before, self._clock(), self.settings, self._random)
            self._note(before, after)
        self._tell(before, after)
        return after

    def reset(self) -> None:
        """Begin anew as the settings say, with nothing remembered; outcomes of calls under way no longer count."""
        with self._lock:
            before = self._state
            after = first_state(self.settings, before.epoch + 1)
            self._note(before, after)
        self._tell(before, after)

    def take_changes(self) -> list[State]:
        """The states it came to since this was last asked, in order."""
        with self._lock:
            changes = list(self._changes)
            self._changes.clear()
        return changes

    def watch(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when a permit may be had that could not be had before, or the state is another one.

        It runs in the thread that brought the change; what it raises is logged.

        Returns:
            The way to give that up.
        """
        token = object()
        with self._lock:
            self._watchers[token] = callback

        def give_up() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return give_up

    def _note(self, before: State, after: State) -> None:
        self._state = after
        if after.epoch != before.epoch:
            self._standing = _standing(after)
            self._changes.append(after)

    def _tell(self, before: State, after: State) -> None:
        if not _is_news(before, after):
            return
        with self._lock:
            watchers = list(self._watchers.values())
        for callback in watchers:
            run_callback(callback, "supervision.circuit_callback_failed")


def _standing(state: State) -> Permit | None:
    """What every caller gets while the state is this one; None where each is looked at."""
    return Permit(state.epoch) if isinstance(state, Closed | Disabled) else None


def _is_news(before: State, after: State) -> bool:
    """Whether somebody who was refused should ask again, or wants to know."""
    if after.epoch != before.epoch:
        return True
    match before, after:
        case HalfOpen(probes=old), HalfOpen(probes=new):
            return len(new) < len(old)
        case _:
            return False
