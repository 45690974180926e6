"""The one thread that computes: it takes tickets in turn and hands results to the store."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from tinker_actors.errors import ValidationError
from tinker_actors.local import ledger, records, step_log
from tinker_actors.local.live_models import Models
from tinker_actors.local.operations import Operations, Outcome
from tinker_actors.local.queues import FairQueue
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.reports import report, report_failure
from tinker_actors.local.specs import Result, Ticket, failure
from tinker_actors.local.store import Connection, Store

__all__ = ["Executor", "Publish"]

Publish = Callable[[str, Result], None]
"""Told of each request id and its result, once that is stored."""

SAMPLES_BETWEEN_PRUNING = 256
RETRY_S = 1.0
"""Pause before results that could not be stored are tried again."""
_Finished = tuple[Ticket, Outcome]


class Executor:
    """Executes accepted requests. `open_model` and `offer` may be called from any thread."""

    def __init__(self, store: Store, operations: Operations, models: Models, publish: Publish) -> None:
        self._store = store
        self._operations = operations
        self._models = models
        self._publish = publish
        self._queue = FairQueue()
        self._changed = threading.Condition()
        self._stopping = False
        self._unsaved: list[_Finished] = []
        self._samples = 0
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)

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

    def _run(self) -> None:
        while (ticket := self._take()) is not None:
            outcome = self._outcome(ticket)
            self._finish(ticket, outcome)
            failed = outcome.result.form == "error"
            if ticket.kind == "unload_model" or (ticket.kind == "create_model" and failed):
                self._fail_rest(ticket.queue)
            elif ticket.kind in ledger.CHANGING and not failed:
                self._models.executed(ticket)

    def _take(self) -> Ticket | None:
        with self._changed:
            while not self._stopping:
                ticket = self._queue.take()
                if ticket is not None:
                    return ticket
                if not self._changed.wait(RETRY_S if self._unsaved else None):
                    self._store_results([])
            return None

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
        for ticket in tickets:
            self._finish(ticket, Outcome(failure(f"there is no model {model_id}", "user")))

    def _finish(self, ticket: Ticket, outcome: Outcome) -> None:
        prune = self._is_time_to_prune(ticket)
        with self._changed:
            self._store_results([(ticket, outcome)], prune=prune)

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
                ledger.prune_samples(db)

        def stored(future: "Future[None]") -> None:
            error = future.exception()
            if error is None:
                for ticket, outcome in entries:
                    self._publish(ticket.request_id, outcome.result)
                return
            report("results_not_stored", error=str(error), results=len(entries))
            with self._changed:
                self._unsaved.extend(entries)
                self._changed.notify()

        self._store.submit(write, durable=False).add_done_callback(stored)

    def _is_time_to_prune(self, ticket: Ticket) -> bool:
        self._samples += ticket.kind == "sample"
        return ticket.kind == "sample" and self._samples % SAMPLES_BETWEEN_PRUNING == 0
