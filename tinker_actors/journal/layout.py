"""How records lie in tables: columns, statements, and rows that are checked when they are read.

A row has the record's fields, and a checksum of them. A record with a bulk (a field that may be large) has the length
and the checksum of that instead, covered by the row's own, and where it is: in the row, or in a segment.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_args

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal.records import Record
from tinker_actors.journal.sealing import body_seal, row_seal

__all__ = ["Body", "Layout", "body_of", "layout_of"]

R = TypeVar("R", bound=Record)

_SQL_TYPES = {int: "INTEGER", str: "TEXT", bytes: "BLOB"}


class Body(msgspec.Struct, frozen=True, array_like=True):
    """Where a bulk is, and how it is told from a damaged one. Its fields are columns."""

    length: int | None = None
    """In bytes; None where there is no bulk."""
    seal: int | None = None
    segment: int | None = None
    """The number of the segment it is in; None where it is in the row."""
    position: int | None = None
    """In the segment."""


NO_BODY = Body()
_BODY_COLUMNS = ("length", "seal", "segment", "position")

ReadBody = Callable[[int, int, int], bytes]
"""Segment, position and length to bytes."""


class Layout(Generic[R]):
    """The table of one kind of record.

    Args:
        kind: of record.
    """

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        self.table: str = kind.table
        self.keys: tuple[str, ...] = kind.keys
        self.bulk: str | None = getattr(kind, "bulk", None)
        self._names = names = kind.__struct_fields__
        self._plain = tuple(name for name in names if name != self.bulk)
        of_body = () if self.bulk is None else _BODY_COLUMNS
        # The checksum stands before the bulk, so that it can be read without that.
        columns = (*self._plain, *of_body, "checksum", *(() if self.bulk is None else (self.bulk,)))
        self._plain_of: Callable[[R], tuple[Any, ...]] = attrgetter(*self._plain)
        self._bulk_at = None if self.bulk is None else names.index(self.bulk)
        self._own_key = {name: index for index, name in enumerate(self._plain)}
        marks = ", ".join("?" for _ in columns)
        which = " AND ".join(f"{key} = ?" for key in self.keys)
        # All names are our own.
        self.select = f"SELECT {', '.join(columns)} FROM {self.table} WHERE "  # noqa: S608
        self.insert = f"INSERT OR REPLACE INTO {self.table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        self.find_checksum = f"SELECT checksum FROM {self.table} WHERE {which}"  # noqa: S608
        self.total = f"SELECT count(*), coalesce(sum(checksum), 0) FROM {self.table}"  # noqa: S608
        self.delete = f"DELETE FROM {self.table} WHERE "  # noqa: S608
        self.create = self._create(of_body)

    def _create(self, of_body: Sequence[str]) -> str:
        fields = {field.name: field.type for field in msgspec.structs.fields(self.kind)}
        declared = [_declare(name, fields[name]) for name in self._plain]
        declared.extend(f"{name} INTEGER" for name in of_body)
        declared.append("checksum INTEGER NOT NULL")
        if self.bulk is not None:
            declared.append(
                _declare(self.bulk, fields[self.bulk] | None)
            )  # in a segment, it is not in the row
        keys = ", ".join(self.keys)
        # Large rows are slow in the tree of their key; source: SQLite, "Clustered Indexes and WITHOUT ROWID".
        options = "WITHOUT ROWID" if self.bulk is None else ""
        return f"CREATE TABLE {self.table} ({', '.join(declared)}, PRIMARY KEY ({keys})) {options}"

    def key_of(self, record: R) -> tuple[Any, ...]:
        """What names its row."""
        return tuple(getattr(record, key) for key in self.keys)

    def bulk_of(self, record: R) -> bytes | None:
        """Its bulk, if it has one."""
        return None if self.bulk is None else getattr(record, self.bulk)

    def unsealed_row(self, record: R, segment: int | None) -> tuple[Any, ...]:
        """The row of a record that never leaves the memory of this process.

        Args:
            record: to be written.
            segment: the number of the one that its bulk is in; None where it is in the row.
        """
        plain = self._plain_of(record)
        if self.bulk is None:
            return (*plain, 0)
        return (*plain, None, None, segment, 0, 0, self.bulk_of(record) if segment is None else None)

    def row(self, record: R, body: Body) -> tuple[tuple[Any, ...], int]:
        """The row of a record, and its checksum.

        Args:
            record: to be written.
            body: of its bulk.
        """
        values = tuple(map(_stored, self._plain_of(record)))
        if self.bulk is None:
            checksum = row_seal(self.table, values)
            return (*values, checksum), checksum
        values = (*values, *msgspec.structs.astuple(body))
        checksum = row_seal(self.table, values)
        return (*values, checksum, self.bulk_of(record) if body.segment is None else None), checksum

    def read_unsealed(self, row: Sequence[Any], read_body: ReadBody) -> R:
        """The record of a row that never left the memory of this process."""
        if self._bulk_at is None:
            return self._make(row[:-1])
        plain = row[: len(self._plain)]
        _, _, segment, position = row[len(self._plain) : -2]
        bulk = row[-1] if segment is None else read_body(segment, position, 0)
        return self._make((*plain[: self._bulk_at], bulk, *plain[self._bulk_at :]))

    def check(self, row: Sequence[Any], read_body: ReadBody) -> bytes | None:
        """The bulk of a row that is as it was written.

        Raises:
            JournalError: the row, or its bulk, is not; the message names table and key.
        """
        if self.bulk is None:
            if row_seal(self.table, row[:-1]) != row[-1]:
                raise self._damaged(row, "the row")
            return None
        if row_seal(self.table, row[:-2]) != row[-2]:
            raise self._damaged(row, "the row")
        bulk: bytes | None = row[-1]
        length, seal, segment, position = row[len(self._plain) : -2]
        if segment is not None:
            bulk = read_body(segment, position, length)
        if not _is_as_sealed(bulk, length, seal):
            raise self._damaged(row, f"{self.bulk} of the row")
        return bulk

    def read(self, row: Sequence[Any], read_body: ReadBody) -> R:
        """The record of a row.

        Raises:
            JournalError: see `check`.
        """
        bulk = self.check(row, read_body)
        if self._bulk_at is None:
            return self._make(row[:-1])
        plain = row[: len(self._plain)]
        return self._make((*plain[: self._bulk_at], bulk, *plain[self._bulk_at :]))

    def _make(self, values: Sequence[Any]) -> R:
        return self.kind(**dict(zip(self._names, values, strict=True)))

    def _damaged(self, row: Sequence[Any], what: str) -> JournalError:
        key = ", ".join(f"{name} {row[self._own_key[name]]!r}" for name in self.keys)
        return JournalError(f"{what} of {self.table} with {key} is not as it was written")


def body_of(bulk: bytes | None, segment: int | None = None, position: int | None = None) -> Body:
    """What is noted of a bulk that is there."""
    if bulk is None:
        return NO_BODY
    return Body(len(bulk), body_seal(bulk), segment, position)


def _is_as_sealed(bulk: Any, length: int | None, seal: int | None) -> bool:
    """Whether a bulk is the one that was written; SQLite gives text or a number where a byte says so."""
    if bulk is None:
        return length is None
    return isinstance(bulk, bytes) and len(bulk) == length and body_seal(bulk) == seal


def _stored(value: Any) -> Any:
    """What SQLite makes of a value; the checksum is of that."""
    return int(value) if value.__class__ is bool else value


def _declare(name: str, annotation: Any) -> str:
    types = [one for one in (get_args(annotation) or (annotation,)) if one is not type(None)]
    optional = type(None) in get_args(annotation)
    return f"{name} {_SQL_TYPES[types[0]]}{'' if optional else ' NOT NULL'}"


_layouts: dict[type[Any], Layout[Any]] = {kind: Layout(kind) for kind in get_args(Record)}


def layout_of(kind: type[R]) -> Layout[R]:
    """The table of that kind of record."""
    return _layouts[kind]
