"""The answer to an ask: settled exactly once, by the actor, by its end, or by the deadline."""

import threading
from collections.abc import Callable
from typing import Any

from tinker_actors.errors import FencedError, NotDeliveredError, OutcomeUnknownError, WouldDeadlockError
from tinker_actors.supervision.callbacks import run_callback
from tinker_actors.supervision.clock import Clock, Timer
from tinker_actors.supervision.current import current_incarnation

__all__ = ["Reply"]

_WAITING, _BEGUN, _SETTLED = range(3)


class Reply:
    """An answer on its way.

    It ends in one of: a value, the error the handler raised, `NotDeliveredError` (no handler ran, asking
    again is safe), `OutcomeUnknownError` (a handler had begun). Later outcomes are dropped.

    A handler that cannot answer yet returns a `Reply()` of its own and settles it later with `set` or `fail`;
    when its incarnation ends first, the asker gets `OutcomeUnknownError`.
    """

    __slots__ = (
        "_callbacks",
        "_clock",
        "_deadline",
        "_error",
        "_lock",
        "_state",
        "_timer",
        "_value",
        "_waiters",
        "target",
    )

    target: str
    """Path of the actor that was asked; empty when none was."""

    def __init__(
        self, clock: Clock | None = None, *, timeout_s: float | None = None, target: str = ""
    ) -> None:
        self.target = target
        self._clock = clock
        self._deadline = None if clock is None or timeout_s is None else clock.now() + timeout_s
        self._lock = threading.RLock()
        self._state = _WAITING
        self._value: Any = None
        self._error: BaseException | None = None
        self._timer: Timer | None = None
        self._waiters: list[threading.Lock] = []
        self._callbacks: list[Callable[[Reply], object]] = []

    def done(self) -> bool:
        """Whether the outcome is known."""
        self._check_deadline()
        return self._state == _SETTLED

    def result(self) -> Any:
        """Wait for the answer, at most until the ask's deadline; return it or raise its error.

        Raises:
            NotDeliveredError: no handler ran.
            OutcomeUnknownError: a handler had begun when the actor ended or the deadline passed.
            WouldDeadlockError: this is the thread of the actor that shall answer.
            FencedError: this is the thread of an actor that was given up.
        """
        if self._state != _SETTLED:
            self._wait()
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> BaseException | None:
        """Wait like `result`; return the error, or None when there is a value."""
        if self._state != _SETTLED:
            self._wait()
        return self._error

    def add_done_callback(self, callback: Callable[["Reply"], object]) -> None:
        """Call `callback(self)` once the outcome is known: at once, or later on the thread that settles it.

        That thread is an actor's or the timer's, so the callback must be short; what it raises is logged.
        """
        with self._lock:
            settled = self._state == _SETTLED
            if not settled:
                self._callbacks.append(callback)
        if settled:
            self._run(callback)
        else:
            self._arm()

    def begin(self) -> bool:
        """Note that a handler begins; False when the outcome is known already, so that it must not."""
        self._check_deadline()
        with self._lock:
            if self._state == _SETTLED:
                return False
            self._state = _BEGUN
            return True

    def set(self, value: Any = None) -> bool:
        """Settle with `value`; False when it was settled before."""
        return self._settle(value, None)

    def fail(self, error: BaseException) -> bool:
        """Settle with `error`; False when it was settled before."""
        return self._settle(None, error)

    def lose(self, why: str) -> bool:
        """Settle with what is known when nobody will answer any more: not begun or unknown."""
        with self._lock:
            begun = self._state == _BEGUN
            error = OutcomeUnknownError(why) if begun else NotDeliveredError(why)
            finish = self._seal(None, error)
        return finish is not None and finish()

    def take(self, other: "Reply") -> bool:
        """Settle with the outcome of `other`, which is known; False when this one was settled before."""
        error = other.exception()
        return self._settle(other.result() if error is None else None, error)

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        self._check_deadline()
        with self._lock:
            finish = self._seal(value, error)
        return finish is not None and finish()

    def _seal(self, value: Any, error: BaseException | None) -> Callable[[], bool] | None:
        """Fix the outcome, under the lock; what must be done outside of it is returned."""
        if self._state == _SETTLED:
            return None
        self._value, self._error = value, error
        self._state = _SETTLED
        waiters, callbacks, timer = self._waiters, self._callbacks, self._timer
        self._waiters, self._callbacks, self._timer = [], [], None

        def finish() -> bool:
            for waiter in waiters:
                waiter.release()
            if timer is not None:
                timer.cancel()
            for callback in callbacks:
                self._run(callback)
            return True

        return finish

    def _run(self, callback: Callable[["Reply"], object]) -> None:
        run_callback(lambda: callback(self), "supervision.reply_callback_failed")

    def _wait(self) -> None:
        here = current_incarnation()
        is_own = here is not None and here.path == self.target and here.runtime.clock is self._clock
        if is_own and not self.done():
            raise WouldDeadlockError(
                f"{self.target} cannot wait for its own answer; use add_done_callback or a tell"
            )
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            if self._state == _SETTLED:
                return
            self._waiters.append(waiter)
        if here is None:
            self._sleep(waiter)
            return
        with here.interrupts(lambda: self._dismiss(waiter)):
            self._sleep(waiter)
        if self._state != _SETTLED:
            raise FencedError(f"incarnation {here.epoch} of {here.path} was given up while it waited")

    def _sleep(self, waiter: threading.Lock) -> None:
        if self._clock is None or self._deadline is None:
            waiter.acquire()
        elif not self._clock.is_real:
            self._arm()
            self._check_deadline()  # its timer would not run before the next advance
            waiter.acquire()
        else:
            left = self._deadline - self._clock.now()
            if not waiter.acquire(timeout=min(max(0.0, left), threading.TIMEOUT_MAX)):
                self._expire()

    def _dismiss(self, waiter: threading.Lock) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                waiter.release()

    def _arm(self) -> None:
        if self._clock is None or self._deadline is None:
            return
        with self._lock:
            if self._state == _SETTLED or self._timer is not None:
                return
            self._timer = self._clock.schedule(self._deadline - self._clock.now(), self._expire)

    def _check_deadline(self) -> None:
        if self._deadline is None or self._clock is None or self._state == _SETTLED:
            return
        if self._clock.now() >= self._deadline:
            self._expire()

    def _expire(self) -> None:
        self.lose(f"no answer from {self.target} within its time limit; raise timeout_s to wait longer")
