"""The journal: records in SQLite (WAL), written in transactions, synced where a commit must survive power loss."""

import ctypes
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal import database as db
from tinker_actors.journal.history import steps_taken
from tinker_actors.journal.layout import Body, Layout, body_of, layout_of
from tinker_actors.journal.marks import Marks
from tinker_actors.journal.reader import Reader, RunImage
from tinker_actors.journal.records import (
    EXECUTED,
    HistoryRecord,
    Kind,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    SendRecord,
)
from tinker_actors.journal.segments import INLINE_BYTES, Segments, segments_of

__all__ = ["RunImage", "Store"]

_EXECUTED = ", ".join(f"'{state}'" for state in sorted(EXECUTED))

WAL_BYTES = 16 * 2**20
"""SQLite's log is cut back to this size."""


class Store(Reader):
    """Records in one SQLite file and the segments beside it, or in memory.

    One thread at a time may use it; the journal actor is the one that does.

    Args:
        path: of the file; None keeps everything in memory.

    Raises:
        JournalError: the file is damaged, of another program or of another version; nothing in it was touched.
    """

    def __init__(self, path: Path | None) -> None:
        self._synced = True
        self._segments: Segments | None = None
        if path is not None:
            if path.exists():
                db.check_header(path)
                db.check(path)
            else:
                db.create(path)
        try:
            database = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            super().__init__(database, path)
            try:
                self._totals = self._prepare()
                if path is not None:
                    self._segments = Segments(segments_of(path), self._used_segments())
                self.marks = Marks(None if path is None else path.with_suffix(".marks"))
                """What is noted beside the records; for any thread."""
            except BaseException:
                self._database.close()
                raise
        except db.DAMAGED as error:
            raise JournalError(f"journal {path} cannot be opened: {error}") from error

    def _prepare(self) -> db.Totals:
        if self._path is None:
            for statement in db.schema():
                self._database.execute(statement)
            return {}
        self._path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        return db.read_totals(self._database)

    def _used_segments(self) -> set[int]:
        used: set[int] = set()
        for kind in (PartRecord, ResultRecord):
            rows = self._database.execute(
                f"SELECT DISTINCT segment FROM {kind.table} WHERE segment IS NOT NULL"  # noqa: S608 - our own names
            )
            used.update(number for (number,) in rows)
        return used

    # Writing -------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, durable: bool = True) -> None:
        """Put `records`, each in place of the row with its keys, all or none.

        Args:
            records: in any order.
            durable: whether the commit is on the disk when this returns; otherwise it survives the death of this
                process at once and a power cut after the next durable one.

        Raises:
            JournalError: the disk is full or fails; nothing was written.
        """
        with self._transaction(durable=durable) as totals:
            for record in records:
                self._put(record, totals)

    def size(self) -> int:
        """Bytes that the records take on the disk, or in memory."""
        counts = [
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        ]
        large = 0 if self._segments is None else self._segments.size()
        return int((counts[0] - counts[1]) * counts[2]) + large

    def compact(self, run: str) -> None:
        """Fold what the newest usable checkpoint and the one before it make needless.

        Of an optimizer step its metrics are left, of a save its path; of an operation that failed, its reason.
        Everything else of them goes, and with it the segments that held nothing else.

        Raises:
            JournalError: the disk is full or fails; nothing was folded.
        """
        base = self._base(run)
        if base is None or base.place <= (folded := self._folded(run)).place:
            return
        up_to = "run = ? AND place <= ?"
        with self._transaction(durable=True) as totals:  # before any segment goes
            steps = steps_taken(
                self._select(OperationRecord, f"{up_to} ORDER BY place", run, base.place), folded.end_step
            )
            self._put(
                HistoryRecord(
                    run=run,
                    place=base.place,
                    end_step=folded.end_step + len(steps),
                    steps=msgspec.msgpack.encode([step.metrics for step in steps]),
                ),
                totals,
            )
            finished = f"{up_to} AND state IN ({_EXECUTED}) AND kind != '{Kind.SAVE_WEIGHTS}'"
            self._delete(OperationRecord, finished, (run, base.place), totals)
            for kind in (PartRecord, ResultRecord):
                self._delete(kind, up_to, (run, base.place), totals)
            # The last one of the latest model tells which id comes next.
            latest = (
                "SELECT generation, seq_id FROM sends WHERE run = ? ORDER BY generation DESC, seq_id DESC"
            )
            spared = f"(generation, seq_id) != ({latest} LIMIT 1)"
            self._delete(SendRecord, f"{up_to} AND {spared}", (run, base.place, run), totals)
        if self._segments is not None:
            self._segments.keep(self._used_segments())

    def _put(self, record: Record, totals: db.Totals) -> None:
        layout: Layout[Any] = layout_of(type(record))
        if self._path is None:
            row, _ = layout.row(record, None)
            self._database.execute(layout.insert, row)
            return
        row, checksum = layout.row(record, self._place(layout.bulk_of(record)))
        count, total = totals.get(layout.table) or self._totals[layout.table]
        replaced = self._database.execute(layout.find_checksum, layout.key_of(record)).fetchone()
        self._database.execute(layout.insert, row)
        totals[layout.table] = (
            (count + 1, total + checksum) if replaced is None else (count, total + checksum - replaced[0])
        )

    def _place(self, bulk: bytes | None) -> Body:
        if bulk is None or len(bulk) <= INLINE_BYTES or self._segments is None:
            return body_of(bulk)
        return body_of(bulk, *self._segments.append(bulk))

    def _delete(self, kind: type[Record], where: str, values: Sequence[Any], totals: db.Totals) -> None:
        layout: Layout[Any] = layout_of(kind)
        gone, sum_of_gone = self._database.execute(f"{layout.total} WHERE {where}", values).fetchone()
        self._database.execute(layout.delete + where, values)
        if self._path is not None:
            count, total = totals.get(layout.table) or self._totals[layout.table]
            totals[layout.table] = count - gone, total - sum_of_gone

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[db.Totals]:
        """A transaction; what it makes of the totals of tables goes into the dictionary that is given out."""
        totals: db.Totals = {}
        end = None if self._segments is None else self._segments.end
        try:
            if durable != self._synced and self._path is not None:
                self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._synced = durable
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield totals
                db.write_totals(self._database, totals)
                if self._segments is not None:
                    self._segments.sync()
                self._database.execute("COMMIT")
            except BaseException:
                if self._segments is not None and end is not None:
                    self._segments.undo(*end)
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"journal {self._path} cannot be written: {error}") from error
        self._totals.update(totals)

    # Ending --------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """In a forked child: never close the database, which would undo locks and files of its owner's."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))
        self.marks.close()
        if self._segments is not None:
            self._segments.abandon()

    def close(self) -> None:
        """Close the files."""
        self._database.close()
        self.marks.close()
        if self._segments is not None:
            self._segments.close()
