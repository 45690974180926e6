"""The journal's SQLite file: made whole, recognised before anything opens it, checked before anything writes to it."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from tinker_actors.errors import JournalError
from tinker_actors.journal.layout import Layout, layout_of
from tinker_actors.journal.records import Record
from tinker_actors.journal.sealing import row_seal
from tinker_actors.journal.segments import read_body, segments_of

__all__ = [
    "DAMAGED",
    "KINDS",
    "SEAL_TABLE",
    "Totals",
    "check",
    "check_header",
    "connect_to_read",
    "create",
    "damage",
    "read_totals",
    "write_totals",
]

APPLICATION_ID = 0x54416A31
"""Marks our SQLite files."""
SCHEMA_VERSION = 7
PAGE_BYTES = 4096

KINDS: tuple[type[Record], ...] = get_args(Record)
SEAL_TABLE = "totals"
"""Of each table, how many rows there are and the sum of their checksums: pages of two ages do not agree with it."""

_MAGIC = b"SQLite format 3\x00"
_USER_VERSION_AT, _APPLICATION_ID_AT = 60, 68
"""Bytes of the file's header; source: the SQLite documentation, "Database File Format"."""

DAMAGED = (sqlite3.Error, ValueError, OverflowError)
"""What reading a damaged file can end in; Python decodes some names of SQLite's strictly."""

Totals = dict[str, tuple[int, int]]
"""By table, the number of rows and the sum of their checksums."""


def schema() -> Iterator[str]:
    """The statements that make an empty journal."""
    yield f"PRAGMA application_id = {APPLICATION_ID}"
    yield f"PRAGMA user_version = {SCHEMA_VERSION}"
    for kind in KINDS:
        yield layout_of(kind).create
    yield (
        f"CREATE TABLE {SEAL_TABLE} (name TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL,"
        " total INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID"
    )


def create(path: Path) -> None:
    """Make an empty journal, all of it or none.

    Raises:
        JournalError: the disk is full or fails.
    """
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(fresh, isolation_level=None)
        try:
            database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            database.execute("BEGIN")
            for statement in schema():
                database.execute(statement)
            write_totals(database, {kind.table: (0, 0) for kind in KINDS})
            database.execute("COMMIT")
        finally:
            database.close()
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, sqlite3.Error) as error:
        for left in (fresh, Path(f"{fresh}-journal")):
            with suppress(OSError):
                left.unlink(missing_ok=True)
        raise JournalError(f"journal {path} cannot be made: {_text(error)}") from error


def check_header(path: Path) -> None:
    """Refuse a file that is not a journal of this version. Reads its header alone, and touches nothing.

    Raises:
        JournalError: it says what the file is.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise JournalError(f"journal {path} cannot be opened: {_text(error)}") from error
    if not header.startswith(_MAGIC) or len(header) < 100:  # noqa: PLR2004 - see the source above
        raise JournalError(f"journal {path} cannot be opened: file is not a database")
    application = int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big")
    version = int.from_bytes(header[_USER_VERSION_AT : _USER_VERSION_AT + 4], "big")
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is a database of another program; name another run directory")
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"journal {path} must be of version {SCHEMA_VERSION}, got {version}; "
            "use the release that wrote it, or a new run directory"
        )


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that can write nothing, not even what a dead process left for the next one to tidy up.

    Raises:
        sqlite3.Error, ValueError, OverflowError: there is none to be had; see `DAMAGED`.
    """
    has_log, has_index = (Path(f"{path}{end}").exists() for end in ("-wal", "-shm"))
    # A rollback journal is of a process that died while it made the file what it is to be; the index of a log that
    # lost it, SQLite would make anew.
    if Path(f"{path}-journal").exists() or (has_log and not has_index):
        return _connect_to_copy(path)
    # Without a log nobody has the file open, and SQLite would make one.
    how = "mode=ro" if has_log else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None)


def _connect_to_copy(path: Path) -> sqlite3.Connection:
    """A connection to a copy, in which SQLite may tidy up what a dead process left in the middle of something."""
    with tempfile.TemporaryDirectory(prefix="tinker-actors-") as folder:
        copy = Path(folder) / path.name
        for end in ("", "-wal", "-journal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        database = sqlite3.connect(copy, isolation_level=None)
        try:
            database.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()  # from here on its files are open
        except BaseException:
            database.close()
            raise
        return database


def check(path: Path) -> None:
    """Refuse a journal that is damaged, having touched nothing.

    Raises:
        JournalError: it names table and key of the first row that is not as it was written.
    """
    for problem in damage(path):
        raise JournalError(
            f"journal {path} is damaged: {problem}; nothing was changed. Restore the run directory from a copy, "
            "or name a new one"
        )


def damage(path: Path) -> Iterator[str]:
    """What is wrong with the journal at `path`; reads only."""
    try:
        database = connect_to_read(path)
    except DAMAGED as error:
        yield _text(error)
        return
    try:
        database.execute("BEGIN")  # one state of it, also beside a writer
        yield from _structure(database)
        for kind in KINDS:
            yield from _rows(database, layout_of(kind), segments_of(path))
    except DAMAGED as error:
        yield _text(error)
    finally:
        database.close()


def _structure(database: sqlite3.Connection) -> Iterator[str]:
    for (problem,) in database.execute("PRAGMA integrity_check(20)"):  # also whether indexes find every row
        if problem != "ok":
            yield " ".join(problem.split())
    tables = {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if tables != {statement.strip() for statement in schema() if statement.startswith("CREATE")}:
        yield "its tables are not those of a journal"
        return
    try:
        totals = read_totals(database)
    except JournalError as error:
        yield str(error)
        return
    for kind in KINDS:
        found = database.execute(layout_of(kind).total).fetchone()
        if tuple(found) != totals.get(kind.table):
            yield f"rows of {kind.table} are missing, or are from another time"


def _rows(database: sqlite3.Connection, layout: Layout[Any], segments: Path) -> Iterator[str]:
    def read(segment: int, position: int, length: int) -> bytes:
        return read_body(segments, segment, position, length)

    for row in database.execute(f"{layout.select} 1"):
        try:
            layout.check(row, read)
        except JournalError as error:
            yield str(error)


def read_totals(database: sqlite3.Connection) -> Totals:
    """What the rows of each table must come to.

    Raises:
        JournalError: that itself is damaged.
    """
    totals: Totals = {}
    for name, count, total, checksum in database.execute(f"SELECT * FROM {SEAL_TABLE}"):  # noqa: S608 - our own name
        if row_seal(SEAL_TABLE, (name, count, total)) != checksum:
            raise JournalError(f"the row of {SEAL_TABLE} with name {name!r} is not as it was written")
        totals[name] = count, total
    return totals


def write_totals(database: sqlite3.Connection, totals: Totals) -> None:
    """Note what the rows of these tables come to, in the transaction that makes it so."""
    for name, (count, total) in totals.items():
        values = name, count, total
        database.execute(
            f"INSERT OR REPLACE INTO {SEAL_TABLE} VALUES (?, ?, ?, ?)",  # noqa: S608 - our own name
            (*values, row_seal(SEAL_TABLE, values)),
        )


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
