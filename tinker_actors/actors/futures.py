"""What outlives an actor's crash: the requests that callers submitted, and the futures they hold."""

import contextlib
import itertools
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Generic, TypeVar

from tinker_actors.actors.tracing import Span
from tinker_actors.errors import (
    ForkedProcessError,
    WouldDeadlockError,
)
from tinker_actors.supervision.callbacks import run_callback
from tinker_actors.supervision.current import current_incarnation

__all__ = [
    "Settler",
    "Submission",
    "Submissions",
    "check_may_await",
    "check_may_wait",
    "forbid_waiting",
    "ticket_of",
    "when_settled",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_thread = threading.local()


def forbid_waiting(name: str) -> None:
    """Say that this thread settles futures or feeds what settles them, so that it must not wait for one."""
    _thread.name = name


def check_may_wait(future: "Future[Any] | None" = None) -> None:
    """Refuse to block this thread on an unfinished future if that could never end.

    Raises:
        WouldDeadlockError: this is the thread of an actor, of the I/O loop or of the settler; or as `check_may_await`.
    """
    check_may_await(future)
    here = current_incarnation()
    name = here.path if here is not None else getattr(_thread, "name", None)
    if name is not None:
        raise WouldDeadlockError(
            f"waiting here would block {name}, which the result depends on; use a callback"
        )


def check_may_await(future: "Future[Any] | None") -> None:
    """Refuse to wait in this thread for an unfinished future, also on an event loop, if that could never end.

    Raises:
        WouldDeadlockError: the thread computes a loss that `future` stands behind.
    """
    held: tuple[Submissions[Any], str] | None = getattr(_thread, "held", None)
    if held is not None and isinstance(future, _CallersFuture):
        submissions, ticket = held
        if submissions.is_behind(future.ticket, ticket):
            raise WouldDeadlockError(
                "waiting here would never end: the result comes after what this thread computes; wait elsewhere"
            )


class Settler:
    """Settles futures on a thread of its own, so that callbacks of callers run in no actor.

    Once it is closed, whoever settles a future does it in its own thread: no future is left open.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # a finalizer may interrupt its holder
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="future-settler", daemon=True)
        self._thread.start()

    def settle(self, future: "Future[Any]", value: Any) -> None:
        """Give `future` its result, soon."""
        self._put(lambda: _settle(future.set_result, value))

    def fail(self, future: "Future[Any]", error: BaseException) -> None:
        """Give `future` its error, soon."""
        self._put(lambda: _settle(future.set_exception, error))

    def run(self, job: Callable[[], object]) -> None:
        """Run a short `job`, soon. Callable from anywhere, also from a finalizer."""
        self._put(job)

    def close(self, timeout_s: float) -> None:
        """Settle what is waiting, then end the thread."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _put(self, job: Callable[[], object]) -> None:
        with self._lock:
            if not self._is_closed:
                self._queue.put(job)
                return
        job()

    def _run(self) -> None:
        forbid_waiting("the thread that settles futures")
        while (job := self._queue.get()) is not None:
            run_callback(job, "futures.job_failed")  # it must not end the settling of others


def _settle(put: Callable[[Any], None], outcome: Any) -> None:
    try:
        put(outcome)
    except InvalidStateError:
        return  # cancelled by its holder, or settled when the tree went down
    except BaseException:  # a callback of the caller's; SystemExit, too, must not end the settling of others
        logger.exception("futures.callback_failed")


class _CallersFuture(Future[T]):
    """A future that any thread may settle: its callbacks run on the settling thread all the same.

    So whoever waits for it is woken at once, and no caller's code runs in an actor.
    """

    def __init__(self, settler: Settler, ticket: str) -> None:
        super().__init__()
        self._settler = settler
        self.ticket = ticket

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` once it is done: at once in this thread, or later on the settling one."""
        if self.done():
            super().add_done_callback(fn)
        else:
            call = partial(run_callback, partial(fn, self), "futures.callback_failed")
            super().add_done_callback(lambda _: self._settler.run(call))

    def call_at_once(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)`, which is short and no caller's, in the thread that settles it, or now."""
        super().add_done_callback(fn)


def when_settled(future: "Future[T]", fn: "Callable[[Future[T]], object]") -> None:
    """Call `fn(future)`, which is short and no caller's, once it is done; no callback of a caller holds that up."""
    if isinstance(future, _CallersFuture):
        future.call_at_once(fn)
    else:
        future.add_done_callback(fn)


def ticket_of(future: "Future[Any]") -> str:
    """The ticket of the submission that a future was given out for."""
    if not isinstance(future, _CallersFuture):
        raise TypeError(f"a future of a submission is wanted, got {type(future).__name__}")
    return future.ticket


class Submission(Generic[T]):
    """One request of a caller, and the future it holds for the result."""

    __slots__ = ("future", "request", "span", "ticket")

    def __init__(self, ticket: str, request: T, settler: Settler, span: Span | None = None) -> None:
        self.ticket = ticket
        """Unique among all clients that ever used the journal."""
        self.request = request
        self.span = span
        """Of the operation, which lasts as long as the future; None without a tracer."""
        self.future: Future[Any] = _CallersFuture(settler, ticket)


class Submissions(Generic[T]):
    """The unsettled requests to one child, in the order of the calls; thread-safe.

    It belongs to the child, not to an incarnation: a new one finds here what its predecessor left.

    Args:
        settler: runs the callbacks of the futures.
        cancellable: whether cancelling a future takes its request back.
    """

    def __init__(self, settler: Settler, *, cancellable: bool) -> None:
        self._settler = settler
        self._cancellable = cancellable
        self._lock = threading.Lock()
        self._open: dict[str, Submission[T]] = {}
        self._untaken: dict[str, Submission[T]] = {}
        self._closed: BaseException | None = None
        self._wake: Callable[[], None] | None = None
        self._is_woken = False
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._pid = os.getpid()

    def is_own(self, ticket: str | None) -> bool:
        """Whether it was given out here, and not by an earlier client of the same journal."""
        return ticket is not None and ticket.startswith(f"{self._name}-")

    def bind(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is something to take; once, until it is taken.

        Where it wakes nobody, the next incarnation looks, or the end of the tree settles everything.
        """
        with self._lock:
            self._wake = wake

    def add(self, request: T, span: Span | None = None) -> "Future[Any]":
        """Reserve the next place for `request`; the future of its result.

        Args:
            request: what is asked for.
            span: of the operation.

        Raises:
            TinkerActorsError: whatever this was closed with.
            ForkedProcessError: this process was forked from the client's; nothing was reserved.
        """
        (submission,) = self._add(Submission(self._ticket(), request, self._settler, span))
        return submission.future

    def add_pair(
        self, first: T, second: T, mark: str, span: Span | None = None
    ) -> tuple[Submission[T], Submission[T]]:
        """Reserve two places with nothing between them; the ticket of the first is that of the second, and `mark`.

        Raises:
            TinkerActorsError: as `add`.
        """
        ticket = self._ticket()
        one, two = self._add(
            Submission(f"{ticket}{mark}", first, self._settler, span),
            Submission(ticket, second, self._settler, span),
        )
        return one, two

    @contextlib.contextmanager
    def held_up(self, ticket: str) -> Iterator[None]:
        """What stands at `ticket` and behind it waits for this thread to leave the block."""
        _thread.held = self, ticket
        try:
            yield
        finally:
            _thread.held = None

    def is_behind(self, ticket: str, other: str) -> bool:
        """Whether `ticket` is open and stands at `other` or behind it."""
        with self._lock:
            places = list(self._open)
        return ticket in places and other in places and places.index(ticket) >= places.index(other)

    def replace(self, ticket: str, request: T) -> None:
        """Let another request have the place of one that was not taken; nothing happens if it is settled."""
        with self._lock:
            submission = self._open.get(ticket)
            if submission is not None:
                submission.request = request
        if submission is not None:
            self._wake_up()

    def _ticket(self) -> str:
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                f"this client belongs to process {self._pid}; create one of your own after the fork"
            )
        return f"{self._name}-{next(self._numbers)}"

    def _add(self, *submissions: Submission[T]) -> tuple[Submission[T], ...]:
        if not self._cancellable:
            for submission in submissions:
                submission.future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed is not None:
                raise self._closed.with_traceback(None)  # else each caller's frames would stay with it
            for submission in submissions:
                self._open[submission.ticket] = self._untaken[submission.ticket] = submission
        self._wake_up()
        return submissions

    def _wake_up(self) -> None:
        with self._lock:
            wake = None if self._is_woken else self._wake
            self._is_woken = True
        if wake is not None:
            wake()

    def restart(self, known: set[str]) -> None:
        """A new incarnation begins: everything unsettled can be taken again, but for the tickets it knows."""
        with self._lock:
            self._untaken = {ticket: one for ticket, one in self._open.items() if ticket not in known}
            self._is_woken = False

    def untaken(self) -> list[Submission[T]]:
        """What waits to be taken, in order."""
        with self._lock:
            self._is_woken = False
            waiting = list(self._untaken.values())
        for submission in waiting:
            if submission.future.cancelled():
                self._remove(submission.ticket)
        return [submission for submission in waiting if not submission.future.cancelled()]

    def is_open(self, ticket: str | None) -> bool:
        """Whether a future of this process waits behind `ticket`."""
        with self._lock:
            return ticket in self._open

    def take(self, ticket: str) -> None:
        """Note that the incarnation has it."""
        with self._lock:
            self._untaken.pop(ticket, None)

    def settle(self, ticket: str | None, value: Any) -> None:
        """Give the future behind `ticket` its result, if a future of this process is behind it."""
        submission = self._remove(ticket)
        if submission is not None:
            _settle(submission.future.set_result, value)

    def fail(self, ticket: str | None, error: BaseException) -> None:
        """Give the future behind `ticket` its error, if a future of this process is behind it."""
        submission = self._remove(ticket)
        if submission is not None:
            _settle(submission.future.set_exception, error)

    def drop(self, ticket: str) -> None:
        """Forget a request whose future was cancelled by its holder."""
        self._remove(ticket)

    def close(self, error: BaseException) -> None:
        """Fail all that is open, and refuse what comes later, with `error`."""
        with self._lock:
            self._closed = self._closed or error
            abandoned = list(self._open.values())
            self._open.clear()
            self._untaken.clear()
        for submission in abandoned:
            _settle(submission.future.set_exception, error)

    def refuse(self, error: BaseException) -> None:
        """Refuse what comes later; what is open goes on."""
        with self._lock:
            self._closed = self._closed or error

    def span_of(self, ticket: str | None) -> Span | None:
        """Of the operation behind `ticket`, if a future of this process is behind it, and there is a tracer."""
        with self._lock:
            submission = None if ticket is None else self._open.get(ticket)
        return None if submission is None else submission.span

    def spans(self) -> list[Span]:
        """Of all that is open."""
        with self._lock:
            return [one.span for one in self._open.values() if one.span is not None]

    def is_idle(self) -> bool:
        """Whether nothing is open."""
        with self._lock:
            return not self._open

    def count(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._open)

    def _remove(self, ticket: str | None) -> Submission[T] | None:
        if ticket is None:
            return None
        with self._lock:
            self._untaken.pop(ticket, None)
            return self._open.pop(ticket, None)
