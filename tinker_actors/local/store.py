"""The database, written by one thread: jobs that wait together share one commit."""

import contextlib
import queue
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tinker_actors.local import step_log
from tinker_actors.local.refusals import StartError, StorageError
from tinker_actors.local.threads import vital

__all__ = ["Connection", "Job", "Store"]

T = TypeVar("T")
Connection = sqlite3.Connection
Job = Callable[[sqlite3.Connection], T]
"""Work on the database; may run twice, so what else it changes must bear that."""

MOST_JOBS = 256
"""Jobs that may share a commit."""

FORMAT_VERSION = 3
"""Of the whole data directory; a server of another version refuses it."""

SCHEMA = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    last_beat REAL NOT NULL,        -- the last sign of life, or when the server started after it
    facts BLOB NOT NULL,            -- the create_session document
    project_id TEXT NOT NULL,
    finished BLOB                   -- the first finish document, or that it expired
) WITHOUT ROWID;

CREATE TABLE models (
    model_id TEXT PRIMARY KEY,      -- <session_id>:train:<model_seq_id>
    session_id TEXT NOT NULL,       -- '' for a copy in a project
    created_at REAL NOT NULL,
    last_request_at REAL NOT NULL,
    project_id TEXT,                -- of a copy; NULL: that of its session
    digest BLOB NOT NULL,           -- of the request that made it
    spec BLOB NOT NULL,             -- ModelSpec as JSON
    live INTEGER NOT NULL,          -- 0 once an unload was accepted
    executed INTEGER NOT NULL,      -- seq_id of the last executed operation; creation is 0
    snapshot INTEGER NOT NULL,      -- seq_id the newest snapshot stands after; -1: none
    numerics TEXT NOT NULL          -- what bit-identical replay depends on
) WITHOUT ROWID;
CREATE INDEX models_of_session ON models(session_id);

CREATE TABLE samplers (
    sampling_session_id TEXT PRIMARY KEY,   -- <session_id>:sample:<n>
    session_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    base_model TEXT NOT NULL,
    path TEXT,                      -- tinker:// path it samples from
    model_id TEXT,                  -- the model of an ephemeral save
    ready INTEGER NOT NULL,         -- 0 until an ephemeral save was executed, 2 once its weights were removed
    clones INTEGER NOT NULL DEFAULT 0   -- clones that were given a number
) WITHOUT ROWID;

CREATE TABLE checkpoints (
    path TEXT PRIMARY KEY,          -- tinker://<model_id>/<kind>/<name>
    model_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,                -- NULL: never
    public INTEGER NOT NULL,
    request_id TEXT NOT NULL,       -- the save that wrote it
    size_bytes INTEGER NOT NULL,
    user_metadata BLOB              -- as JSON; NULL: none was given
) WITHOUT ROWID;
CREATE INDEX checkpoints_of_model ON checkpoints(model_id);
CREATE INDEX checkpoints_that_expire ON checkpoints(expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE copies (
    idempotency_key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,           -- of the request
    path TEXT NOT NULL              -- of the copy
) WITHOUT ROWID;

CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,            -- model_id or sampling_session_id
    seq_id INTEGER,                 -- NULL: stands in no order (unload_model)
    digest BLOB NOT NULL,           -- of the body
    media TEXT NOT NULL,            -- json or protobuf
    body BLOB,                      -- NULL once no replay can need it
    seed INTEGER,                   -- drawn for a sample that named none
    form TEXT,                      -- NULL: pending; output, sample, json, error, expired;
                                    -- refused: its place is free
    result BLOB,
    ended INTEGER,                  -- place among the samples of the queue that have ended
    fetched INTEGER NOT NULL DEFAULT 0  -- how often a sample's result was sent
);
CREATE UNIQUE INDEX requests_in_order ON requests(queue, seq_id);
CREATE INDEX requests_ended ON requests(queue, ended) WHERE ended IS NOT NULL;
CREATE INDEX requests_pending ON requests(id) WHERE form IS NULL;
"""

LATER = """
CREATE TABLE IF NOT EXISTS corrupted_runs (
    model_id TEXT PRIMARY KEY       -- shown as corrupted, because a fault said so
) WITHOUT ROWID;
"""
"""Tables that stores of the same format may lack."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    work: Job[T]
    durable: bool
    outcome: "Future[T]"


class Store:
    """One SQLite database in WAL mode, and the thread that alone touches it.

    Args:
        path: of the file.
        now: tells the seconds since the epoch; jobs ask it as `now()` in SQL.

    Raises:
        StartError: the file is no store of this format, or cannot be made.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._database = _open(path)
        self._database.create_function("now", 0, now)
        self._jobs: queue.SimpleQueue[_Entry[Any] | None] = queue.SimpleQueue()
        self._thread = vital("store", self._serve)
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
    database.executescript(f"BEGIN;{LATER}{step_log.SCHEMA}COMMIT;")
