"""Large bodies: append-only files beside the database, each body sealed by the row that refers to it."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from tinker_actors.errors import JournalError

__all__ = ["INLINE_BYTES", "Segments", "SegmentsInMemory", "read_body", "segments_of"]

INLINE_BYTES = 64 * 2**10
"""Bodies up to this size stand in the database itself."""
SEGMENT_BYTES = 64 * 2**20
"""A file of this size is not added to."""


def segments_of(journal: Path) -> Path:
    """Where the segments of the journal at `journal` are."""
    return journal.parent / "segments"


def segment_path(directory: Path, number: int) -> Path:
    """Where the segment of that number is."""
    return directory / f"{number:08d}.segment"


def read_body(directory: Path, number: int, position: int, length: int) -> bytes:
    """So many bytes of a segment; fewer where it is too short.

    Raises:
        JournalError: the file is missing, or cannot be read.
    """
    path = segment_path(directory, number)
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(length)
    except OSError as error:
        raise JournalError(f"journal file {path} is damaged or missing: {error.strerror}") from error


class Segments:
    """The segments of one journal. One thread at a time may use it.

    Numbers are used once: what a process wrote before it died, without a row that refers to it, is deleted when the
    next one opens the journal, and nothing is ever added to a file of an earlier process.

    Args:
        directory: made when the first body is added.
        used: segments that rows refer to.

    Raises:
        JournalError: the directory cannot be read.
    """

    def __init__(self, directory: Path, used: Iterable[int]) -> None:
        self._directory = directory
        self._file: int | None = None
        self._is_dirty = False
        self._sizes = self._found()
        self._number = max((*self._sizes, *used), default=0)
        self._position = 0
        self.keep(used)

    def _found(self) -> dict[int, int]:
        try:
            return {
                int(entry.name.partition(".")[0]): entry.stat().st_size
                for entry in os.scandir(self._directory)
                if entry.name.endswith(".segment")
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise JournalError(f"journal files in {self._directory} cannot be read: {error}") from error

    def append(self, body: bytes) -> tuple[int, int]:
        """Add `body`; the number of its segment and its position there.

        Raises:
            OSError: the disk is full or fails; whatever was written counts for nothing.
        """
        if self._file is None or self._position >= SEGMENT_BYTES:
            self._begin()
        assert self._file is not None  # noqa: S101 - just begun
        position, rest = self._position, memoryview(body)
        self._is_dirty = True
        while rest:
            written = os.pwrite(self._file, rest, self._position + len(body) - len(rest))
            rest = rest[written:]
        self._position += len(body)
        self._sizes[self._number] = self._position
        return self._number, position

    def _begin(self) -> None:
        self.sync()
        self._end()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = segment_path(self._directory, self._number + 1)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._number += 1
        self._position = self._sizes[self._number] = 0
        for directory in (self._directory, self._directory.parent):
            _sync_directory(directory)

    def undo(self, number: int, position: int) -> None:
        """What was added since the end was there counts for nothing; the next bodies take its place."""
        if number == self._number and self._file is not None:
            self._position = self._sizes[number] = position

    @property
    def end(self) -> tuple[int, int]:
        """The number of the last segment and the position behind its last body."""
        return self._number, self._position

    def sync(self) -> None:
        """Wait until what was added is on the disk; before the row that refers to it is committed.

        Raises:
            OSError: the disk is full or fails.
        """
        if self._is_dirty and self._file is not None:
            try:
                os.fsync(self._file)
            except OSError:
                self._end()  # a second try would succeed although the bytes are gone
                raise
            self._is_dirty = False

    def keep(self, used: Iterable[int]) -> None:
        """Delete the segments that no row refers to; what cannot be deleted is tried again at the next opening."""
        kept = set(used)
        for number in [one for one in self._sizes if one not in kept]:
            if number == self._number:
                self._end()
            with contextlib.suppress(OSError):
                segment_path(self._directory, number).unlink(missing_ok=True)
            del self._sizes[number]

    def size(self) -> int:
        """Bytes of all of them."""
        return sum(self._sizes.values())

    def abandon(self) -> None:
        """In a forked child: the copy of the file is of no use to it."""
        self._end()

    def close(self) -> None:
        """Close the file."""
        self._end()

    def _end(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._is_dirty = False


class SegmentsInMemory:
    """Large bodies of a journal in memory: each is a segment of its own, and nothing of it is copied."""

    def __init__(self) -> None:
        self._bodies: dict[int, bytes] = {}
        self._number = 0

    def append(self, body: bytes) -> tuple[int, int]:
        """Add `body`; the number of its segment and its position there."""
        self._number += 1
        self._bodies[self._number] = body
        return self._number, 0

    def read(self, number: int) -> bytes:
        """The body in that segment."""
        return self._bodies[number]

    def undo(self, number: int, position: int) -> None:  # noqa: ARG002 - as in a file
        """What was added since the end was there counts for nothing."""
        self._bodies = {one: body for one, body in self._bodies.items() if one <= number}

    @property
    def end(self) -> tuple[int, int]:
        """The number of the last segment, and 0."""
        return self._number, 0

    def sync(self) -> None:
        """There is nothing to wait for."""

    def keep(self, used: Iterable[int]) -> None:
        """Forget the segments that no row refers to."""
        kept = set(used)
        self._bodies = {one: body for one, body in self._bodies.items() if one in kept}

    def size(self) -> int:
        """Bytes of all of them."""
        return sum(map(len, self._bodies.values()))

    def abandon(self) -> None:
        """In a forked child: the copy is of no use to it."""
        self._bodies.clear()

    def close(self) -> None:
        """Forget all of them."""
        self._bodies.clear()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
