"""The one thread that computes: operations and samples share its time, results go to the store."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from tinker_actors.errors import ValidationError
from tinker_actors.local import completions, ledger, records, step_log
from tinker_actors.local.live_models import Models
from tinker_actors.local.operations import Operations, Outcome
from tinker_actors.local.queues import FairQueue, Shares, session_of
from tinker_actors.local.refusals import BusyError, RefusedError
from tinker_actors.local.reports import report, report_failure
from tinker_actors.local.samplers import Samplers, Stream
from tinker_actors.local.specs import Result, Ticket, failure
from tinker_actors.local.store import Connection, Store
from tinker_actors.local.threads import vital

__all__ = ["Executor", "Limits", "Publish"]

Publish = Callable[[Ticket, Result], None]
"""Told of each request and its result, once that is stored; of a stream's once there is one."""

SAMPLES_BETWEEN_PRUNING = 256
RETRY_S = 1.0
"""Pause before results that could not be stored are tried again."""
OPERATIONS, SAMPLES = "operations", "samples"
_Finished = tuple[Ticket, Outcome]


class Limits:
    """How many samples may wait.

    Half of a limit and more is said to those who poll for what waits, all of it refuses further ones.
    """

    def __init__(self, *, most: int, most_of_session: int) -> None:
        self.most = most
        self.most_of_session = most_of_session

    def check(self, waiting: int, of_session: int) -> None:
        """Nothing if one more may wait.

        Raises:
            BusyError: it may not.
        """
        if of_session >= self.most_of_session:
            raise BusyError(
                f"a session may have {self.most_of_session} samples waiting, this one has {of_session}; "
                "send it again later",
                "paused_rate_limit",
            )
        if waiting >= self.most:
            raise BusyError(
                f"this server lets {self.most} samples wait, {waiting} do; send it again later",
                "paused_capacity",
            )

    def state(self, waiting: int, of_session: int) -> tuple[str, str | None]:
        """Queue state of a sample that waits, and why it is not `active`."""
        if 2 * of_session >= self.most_of_session:
            return "paused_rate_limit", f"{of_session} samples of this session wait"
        if 2 * waiting >= self.most:
            return "paused_capacity", f"{waiting} samples wait for this server"
        return "active", None


class Executor:
    """Executes accepted requests. Any thread may call its public methods.

    Args:
        store: where results go.
        operations: what all requests but samples do.
        samplers: where samples grow.
        models: told of what was executed.
        publish: told of results.
        limits: of what may wait.
        clock: seconds, to share the time by.
    """

    def __init__(
        self,
        store: Store,
        operations: Operations,
        samplers: Samplers,
        models: Models,
        publish: Publish,
        limits: Limits,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._operations = operations
        self._samplers = samplers
        self._models = models
        self._publish = publish
        self._limits = limits
        self._clock = clock
        self._queue = FairQueue()
        self._shares = Shares(OPERATIONS, SAMPLES)
        self._streams: dict[str, Stream] = {}
        self._cancelled: deque[str] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._unsaved: list[_Finished] = []
        self._samples = 0
        self._thread = vital("executor", self._run)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the request at hand, if that takes no longer than `timeout_s`; what waits stays stored."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def open_model(self, model_id: str, executed: int) -> None:
        """Take a model's operations in order after `executed`."""
        with self._changed:
            self._queue.open_model(model_id, executed)

    def offer(self, tickets: Iterable[Ticket]) -> None:
        """Line accepted requests up."""
        with self._changed:
            for ticket in tickets:
                self._queue.put(ticket)
            self._changed.notify()

    def offer_stream(self, ticket: Ticket, stream: Stream) -> None:
        """Line up a sample of which nothing is stored."""
        with self._changed:
            self._streams[ticket.request_id] = stream
            self._queue.put(ticket)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """End a sample that waits or grows; one that has ended stays as it is."""
        with self._changed:
            self._cancelled.append(request_id)
            self._changed.notify()

    def check_room(self, sampling_session_id: str) -> None:
        """Nothing if one more sample may wait.

        Raises:
            BusyError: it may not.
        """
        with self._changed:
            of_session = self._queue.samples_of(session_of(sampling_session_id))
            self._limits.check(self._queue.samples_waiting, of_session)

    def queue_state(self, request_id: str) -> tuple[str, str | None]:
        """Queue state of a pending request, and why it is not `active`."""
        queue = request_id.rpartition(":")[0]
        with self._changed:
            if not self._queue.waits(queue, request_id):
                return "active", None
            of_session = self._queue.samples_of(session_of(queue))
            return self._limits.state(self._queue.samples_waiting, of_session)

    def _run(self) -> None:
        while (kind := self._next()) is not None:
            began = self._clock()
            if kind == SAMPLES:
                self._sample()
            else:
                self._operate()
            self._shares.charge(kind, self._clock() - began)

    def _next(self) -> str | None:
        """The kind of work whose turn it is, once there is any; None if the executor is to end."""
        with self._changed:
            while not self._stopping:
                ready = [OPERATIONS] if self._queue.has_operation else []
                if self._samplers.is_busy or self._queue.samples_waiting or self._cancelled:
                    ready.append(SAMPLES)
                kind = self._shares.next(ready)
                if kind is not None:
                    return kind
                if not self._changed.wait(RETRY_S if self._unsaved else None):
                    self._store_results([])
            return None

    # Samples

    def _sample(self) -> None:
        """One token for one batch, after those who leave and before those who come."""
        self._cancel()
        finished = self._samplers.admit(self._take_sample, self._streams)
        finished += self._samplers.step()
        self._finish([(ticket, Outcome(result)) for ticket, result in finished])

    def _take_sample(self) -> Ticket | None:
        with self._changed:
            return self._queue.take_sample(self._samplers.may_take)

    def _cancel(self) -> None:
        while self._cancelled:
            request_id = self._cancelled.popleft()
            queue = request_id.rpartition(":")[0]
            with self._changed:
                ticket = self._queue.remove_sample(queue, request_id)
            self._streams.pop(request_id, None)
            ticket = ticket or self._samplers.cancel(request_id)
            if ticket is not None:
                self._finish([(ticket, Outcome(failure("the request was cancelled", "user")))])

    # Operations

    def _operate(self) -> None:
        with self._changed:
            ticket = self._queue.take()
        if ticket is None:
            return
        outcome = self._outcome(ticket)
        self._finish([(ticket, outcome)])
        failed = outcome.result.form == "error"
        if ticket.kind == "unload_model" or (ticket.kind == "create_model" and failed):
            self._fail_rest(ticket.queue)
        elif ticket.kind in ledger.CHANGING and not failed:
            self._models.executed(ticket)

    def _outcome(self, ticket: Ticket) -> Outcome:
        try:
            return self._operations.execute(ticket)
        except (ValidationError, RefusedError) as error:
            result = failure(str(error), "user")
        except Exception as error:  # noqa: BLE001 - the executor outlives whatever one request does
            report_failure("request_failed", error, request_id=ticket.request_id)
            result = failure(f"{ticket.kind} failed: {type(error).__name__}: {error}", "server")
        if ticket.kind in ledger.CHANGING:
            self._models.forget(ticket.queue)
        if ticket.kind == "create_model":
            return Outcome(result, lambda db: records.bury(db, ticket.queue))
        return Outcome(result)

    def _fail_rest(self, model_id: str) -> None:
        """Fail what still waited for a model that is gone."""
        with self._changed:
            tickets = self._queue.close_model(model_id)
        gone = failure(f"there is no model {model_id}", "user")
        self._finish([(ticket, Outcome(gone)) for ticket in tickets])

    # Results

    def _finish(self, finished: list[_Finished]) -> None:
        """Store what was accepted durably; publish it then, and streams' ends at once."""
        stored = [(ticket, outcome) for ticket, outcome in finished if not is_stream(ticket)]
        for ticket, outcome in finished:
            if is_stream(ticket):
                self._publish(ticket, outcome.result)
        if stored:
            samples = sum(ticket.kind == "sample" for ticket, _ in stored)
            before, self._samples = self._samples, self._samples + samples
            prune = before // SAMPLES_BETWEEN_PRUNING != self._samples // SAMPLES_BETWEEN_PRUNING
            with self._changed:
                self._store_results(stored, prune=prune)

    def _store_results(self, results: list[_Finished], *, prune: bool = False) -> None:
        """Store results, with those a full disk kept from being stored; publish them once they are.

        What is never stored is executed again after a restart, and comes to the same.
        """
        entries = sorted([*self._unsaved, *results], key=lambda entry: entry[0].seq_id or 0)
        self._unsaved = []

        def write(db: Connection) -> None:
            for ticket, outcome in entries:
                if outcome.also is not None:
                    outcome.also(db)
                step_log.note(db, ticket, outcome.result)
                ledger.finish(db, ticket, outcome.result)
            if prune:
                completions.prune(db)

        def stored(future: "Future[None]") -> None:
            error = future.exception()
            if error is None:
                for ticket, outcome in entries:
                    self._publish(ticket, outcome.result)
                return
            report("results_not_stored", error=str(error), results=len(entries))
            with self._changed:
                self._unsaved.extend(entries)
                self._changed.notify()

        self._store.submit(write, durable=False).add_done_callback(stored)


def is_stream(ticket: Ticket) -> bool:
    """Whether nothing of a request is stored."""
    return ticket.seq_id is None and ticket.kind == "sample"
