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
from tinker_actors.journal.layout import Layout, body_of, layout_of
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
from tinker_actors.journal.segments import INLINE_BYTES, Segments, SegmentsInMemory, segments_of

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
                self._segments: Segments | SegmentsInMemory = (
                    SegmentsInMemory() if path is None else Segments(segments_of(path), self._used_segments())
                )
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
        return int((counts[0] - counts[1]) * counts[2]) + self._segments.size()

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
        self._segments.keep(self._used_segments())

    def _put(self, record: Record, totals: db.Totals) -> None:
        layout: Layout[Any] = layout_of(type(record))
        bulk = layout.bulk_of(record)
        place = None if bulk is None or len(bulk) <= INLINE_BYTES else self._segments.append(bulk)
        if self._path is None:
            segment = None if place is None else place[0]
            self._database.execute(layout.insert, layout.unsealed_row(record, segment))
            return
        row, checksum = layout.row(record, body_of(bulk, *place) if place is not None else body_of(bulk))
        count, total = totals.get(layout.table) or self._totals[layout.table]
        replaced = self._database.execute(layout.find_checksum, layout.key_of(record)).fetchone()
        self._database.execute(layout.insert, row)
        totals[layout.table] = (
            (count + 1, total + checksum) if replaced is None else (count, total + checksum - replaced[0])
        )

    def _body(self, segment: int, position: int, length: int) -> bytes:
        if isinstance(self._segments, SegmentsInMemory):
            return self._segments.read(segment)
        return super()._body(segment, position, length)

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
        end = self._segments.end
        try:
            if durable != self._synced and self._path is not None:
                self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._synced = durable
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield totals
                db.write_totals(self._database, totals)
                self._segments.sync()
                self._database.execute("COMMIT")
            except BaseException:
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
        self.marks.abandon()
        self._segments.abandon()

    def close(self) -> None:
        """Close the files."""
        self._database.close()
        self.marks.close()
        self._segments.close()
