"""The journal's file: records in SQLite (WAL), written in transactions, synced where a commit must survive power loss."""

import ctypes
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal.records import (
    CheckpointRecord,
    ModelRecord,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    RunRecord,
    SendRecord,
    SessionRecord,
)

__all__ = ["RunImage", "Store"]

APPLICATION_ID = 0x54416A31
"""Marks our SQLite files."""
SCHEMA_VERSION = 4

R = TypeVar("R", bound=Record)

_SQL_TYPES = {int: "INTEGER", str: "TEXT", bytes: "BLOB"}


class RunImage(msgspec.Struct, kw_only=True):
    """All that a run's recovery needs."""

    run: RunRecord
    """What it was created with."""
    models: list[ModelRecord]
    """Its generations in order."""
    operations: list[OperationRecord]
    """Those that recovery may still need, in order."""
    parts: list[PartRecord]
    """Their requests, in order."""
    results: list[ResultRecord] = []
    """The answers to these, in order."""
    sends: list[SendRecord]
    """What was sent to the latest generation: of these operations, and the last whatever it was."""
    checkpoints: list[CheckpointRecord]
    """All, oldest first."""
    earlier_steps: int
    """Optimizer steps taken before the first of `operations`."""
    last_place: int
    """The last place given away."""


class Store:
    """Records in one SQLite file, or in memory.

    One thread at a time may use it; the journal actor is the one that does.

    Args:
        path: of the file; None keeps everything in memory.

    Raises:
        JournalError: the file is damaged, of another program or of another version; nothing in it was touched.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._synced = True
        try:
            self._database = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise JournalError(f"journal {path} cannot be opened: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise JournalError(f"journal {path} cannot be opened: {error}") from error
        except JournalError:
            self.close()
            raise

    def _prepare(self) -> None:
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise JournalError(f"{self._path} is a database of another program; name another run directory")
        if tables and version != SCHEMA_VERSION:
            raise JournalError(
                f"journal {self._path} must be of version {SCHEMA_VERSION}, got {version}; "
                "use the release that wrote it, or a new run directory"
            )
        if self._path is not None:
            self._path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if not tables:
            self._database.execute("BEGIN")
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for kind in get_args(Record):
                self._database.execute(_create_table(kind))
            self._database.execute("COMMIT")

    def write(self, records: Sequence[Record], *, durable: bool = True) -> None:
        """Put `records`, each in place of the row with its keys, all or none.

        Args:
            records: in any order.
            durable: whether the commit is on the disk when this returns; otherwise it survives the death of this
                process at once and a power cut after the next durable one.

        Raises:
            JournalError: the disk is full or fails; nothing was written.
        """
        with self._transaction(durable=durable):
            for record in records:
                self._database.execute(_upsert(type(record)), msgspec.structs.astuple(record))

    def size(self) -> int:
        """Bytes that the records take on the disk, or in memory."""
        counts = [
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        ]
        return int((counts[0] - counts[1]) * counts[2])

    def drop_contents(self, run: str, *, spare_checkpoints: int = 1) -> None:
        """Forget the bodies that the newest usable checkpoint and `spare_checkpoints` before it make needless.

        Raises:
            JournalError: the disk is full or fails; nothing was forgotten.
        """
        covered = run, self._covered_place(run, spare_checkpoints)
        with self._transaction(durable=self._synced):
            for table, body in (("parts", "content"), ("results", "body")):
                forget = (
                    f"UPDATE {table} SET {body} = NULL WHERE run = ? AND place <= ? AND {body} IS NOT NULL"  # noqa: S608 - our own names
                )
                self._database.execute(forget, covered)

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        try:
            if durable != self._synced:
                self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._synced = durable
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(f"journal {self._path} cannot be written: {error}") from error

    def _covered_place(self, run: str, spare_checkpoints: int) -> int:
        usable = self._select(CheckpointRecord, "run = ? AND usable = 1 ORDER BY place, rowid", run)
        return usable[-1 - spare_checkpoints].place if len(usable) > spare_checkpoints else 0

    def sessions(self, server: str) -> list[SessionRecord]:
        """Sessions on `server`, oldest first."""
        return self._select(SessionRecord, "server = ? ORDER BY ordinal", server)

    def session(self, session_id: str) -> SessionRecord:
        """One session.

        Raises:
            JournalError: it is not in the journal.
        """
        found = self._select(SessionRecord, "session_id = ?", session_id)
        if not found:
            raise JournalError(f"session {session_id} is not in the journal {self._path}")
        return found[0]

    def count_sessions(self) -> int:
        """How many sessions there ever were."""
        (count,) = self._database.execute("SELECT count(*) FROM sessions").fetchone()
        return int(count)

    def current_models(self, session_id: str) -> list[ModelRecord]:
        """The newest model of each run, of those that live in a session; oldest first."""
        newest = "generation = (SELECT max(generation) FROM models AS other WHERE other.run = models.run)"
        return self._select(ModelRecord, f"session_id = ? AND {newest} ORDER BY model_seq_id", session_id)

    def history(self, run: str) -> list[OperationRecord]:
        """All operations of a run, in order."""
        return self._select(OperationRecord, "run = ? ORDER BY place", run)

    def runs(self) -> list[RunRecord]:
        """All runs by name."""
        return self._select(RunRecord, "1 ORDER BY run")

    def load(self, run: str, *, spare_checkpoints: int = 1) -> RunImage | None:
        """What recovery of `run` needs, or None for a run that is not in the journal.

        Args:
            run: its name.
            spare_checkpoints: how many usable checkpoints before the newest must be able to serve, too.
        """
        found = self._select(RunRecord, "run = ?", run)
        if not found:
            return None
        checkpoints = self._select(CheckpointRecord, "run = ? ORDER BY place, rowid", run)
        since = self._covered_place(run, spare_checkpoints)
        models = self._select(ModelRecord, "run = ? ORDER BY generation", run)
        generation = models[-1].generation if models else 0
        (steps,) = self._database.execute(
            "SELECT count(*) FROM operations WHERE run = ? AND place <= ? AND kind = 'optim_step' AND state IN ('done', 'expired')",
            (run, since),
        ).fetchone()
        (last,) = self._database.execute(
            "SELECT coalesce(max(place), 0) FROM operations WHERE run = ?", (run,)
        ).fetchone()
        return RunImage(
            run=found[0],
            models=models,
            operations=self._select(OperationRecord, "run = ? AND place > ? ORDER BY place", run, since),
            parts=self._select(PartRecord, "run = ? AND place > ? ORDER BY place, part", run, since),
            results=self._select(ResultRecord, "run = ? AND place > ? ORDER BY place, part", run, since),
            sends=self._sends(run, generation, since),
            checkpoints=checkpoints,
            earlier_steps=int(steps),
            last_place=int(last),
        )

    def _sends(self, run: str, generation: int, since: int) -> list[SendRecord]:
        """Those behind `since`, and the last one whatever its place: a long run has too many to read them all."""
        of_model = "run = ? AND generation = ?"
        last = f"SELECT max(seq_id) FROM sends WHERE {of_model}"  # noqa: S608 - our own names
        where = f"{of_model} AND (place > ? OR seq_id = ({last})) ORDER BY seq_id"
        return self._select(SendRecord, where, run, generation, since, run, generation)

    def _select(self, kind: type[R], where: str, *values: Any) -> list[R]:
        columns = ", ".join(kind.__struct_fields__)
        try:
            rows: Iterable[Any] = self._database.execute(
                f"SELECT {columns} FROM {kind.table} WHERE {where}",  # noqa: S608 - names are our own
                values,
            ).fetchall()
            return [
                msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), kind) for row in rows
            ]
        except (sqlite3.Error, msgspec.ValidationError) as error:
            raise JournalError(f"journal {self._path} cannot be read: {error}") from error

    def abandon(self) -> None:
        """In a forked child: never close the database, which would undo locks and files of its owner's."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _create_table(kind: type[Record]) -> str:
    columns = []
    for field in msgspec.structs.fields(kind):
        types = [kind_ for kind_ in (get_args(field.type) or (field.type,)) if kind_ is not type(None)]
        optional = type(None) in get_args(field.type)
        columns.append(f"{field.name} {_SQL_TYPES[types[0]]}{'' if optional else ' NOT NULL'}")
    keys = ", ".join(kind.keys)
    return f"CREATE TABLE {kind.table} ({', '.join(columns)}, PRIMARY KEY ({keys}))"


@cache
def _upsert(kind: type[Record]) -> str:
    names = kind.__struct_fields__
    marks = ", ".join("?" for _ in names)
    return f"INSERT OR REPLACE INTO {kind.table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own names
