"""The database, written by one thread: jobs that wait together share one commit."""

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tinker_actors.local.refusals import StartError, StorageError
from tinker_actors.local.schema import FORMAT_VERSION, SCHEMA

__all__ = ["Connection", "Job", "Store"]

T = TypeVar("T")
Connection = sqlite3.Connection
Job = Callable[[sqlite3.Connection], T]
"""Work on the database; may run twice, so it changes nothing else."""

MOST_JOBS = 256
"""Jobs that may share a commit."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    work: Job[T]
    durable: bool
    outcome: "Future[T]"


class Store:
    """One SQLite database in WAL mode, and the thread that alone touches it.

    Raises:
        StartError: the file is no store of this format, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._database = _open(path)
        self._jobs: queue.SimpleQueue[_Entry[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._thread.start()

    def submit(self, work: Job[T], *, durable: bool = True) -> "Future[T]":
        """Run `work` in a transaction; the future is done once that is committed.

        Args:
            work: raises to be rolled back; other jobs of the same commit are not touched.
            durable: whether the commit must also survive a power cut, not only the process.

        Returns:
            What `work` returns, or what it raises; `StorageError` if the disk is full or broken.
        """
        outcome: Future[T] = Future()
        self._jobs.put(_Entry(work, durable, outcome))
        return outcome

    def ask(self, work: Job[T]) -> T:
        """The result of `work`, after all that was submitted before; not from the event loop."""
        return self.submit(work, durable=False).result()

    def close(self, timeout_s: float = 1.0) -> None:
        """Run what was submitted, then close the database."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        more = True
        while more:
            entries: list[_Entry[Any]] = []
            entry = self._jobs.get()
            while entry is not None:
                if entry.outcome.set_running_or_notify_cancel():
                    entries.append(entry)
                if len(entries) >= MOST_JOBS or self._jobs.empty():
                    break
                entry = self._jobs.get()
            more = entry is not None
            if entries:
                self._commit(entries)
        self._database.close()

    def _commit(self, entries: list[_Entry[Any]]) -> None:
        """One transaction for all; if the database fails, one for each."""
        try:
            outcomes = self._transaction(entries)
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if len(entries) > 1:
                for entry in entries:
                    self._commit([entry])
            else:
                entries[0].outcome.set_exception(StorageError(f"the server's store failed: {error}"))
            return
        for entry, (value, failure) in zip(entries, outcomes, strict=True):
            if failure is None:
                entry.outcome.set_result(value)
            else:
                entry.outcome.set_exception(failure)

    def _transaction(self, entries: list[_Entry[Any]]) -> list[tuple[Any, Exception | None]]:
        database = self._database
        durable = any(entry.durable for entry in entries)
        database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        database.execute("BEGIN IMMEDIATE")
        outcomes: list[tuple[Any, Exception | None]] = []
        for entry in entries:
            database.execute("SAVEPOINT job")
            try:
                outcomes.append((entry.work(database), None))
            except sqlite3.IntegrityError as error:
                database.execute("ROLLBACK TO job")
                outcomes.append((None, error))
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001 - the job's own outcome, for who submitted it
                database.execute("ROLLBACK TO job")
                outcomes.append((None, error))
            database.execute("RELEASE job")
        database.execute("COMMIT")
        return outcomes


def _open(path: Path) -> sqlite3.Connection:
    with contextlib.ExitStack() as undo:
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            undo.callback(database.close)
            _prepare(database, path)
        except sqlite3.Error as error:
            raise StartError(f"cannot use the store {path}: {error}") from error
        undo.pop_all()
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    (found,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (found, tables) != (0, 0) and found != FORMAT_VERSION:
        raise StartError(
            f"{path} has format version {found}, this server reads {FORMAT_VERSION}; use another data directory"
        )
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    if found != FORMAT_VERSION:
        database.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={FORMAT_VERSION};COMMIT;")
