"""Marks of requests whose bytes are being handled: what a process was at when it died.

A mark is set and taken away again within moments, and tells something only to whoever comes after a crash. So it is no
record, and costs no transaction: marks are written in place into a small file, and never synced. They survive the death
of the process. After a power cut they may be some that were there a while before; nobody is blamed by a mark alone.
"""

import hashlib
import os
import struct
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tinker_actors.errors import JournalError

__all__ = ["Marks"]

_SLOT = struct.Struct("<16sqii")
"""Digest of the run's name, place, number of the request, and whether the mark is set; that comes last."""
_IS_SET_AT = _SLOT.size - 4
_CLEAR = bytes(4)

_Mark = tuple[bytes, int, int]


class Marks:
    """The marks of one journal, by run and by place and number of a request; for any thread.

    Args:
        path: of the file, made where there is none; None keeps them in memory.

    Raises:
        JournalError: the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._slots: dict[_Mark, int] = {}
        self._free: list[int] = []
        self._count = 0
        """Slots that the file has."""
        self._file = None if path is None else self._opened(path)

    def _opened(self, path: Path) -> int:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            found = os.pread(file, os.fstat(file).st_size, 0)
        except OSError as error:
            raise JournalError(f"journal file {path} cannot be opened: {error.strerror}") from error
        self._count = len(found) // _SLOT.size
        for slot in range(self._count):
            *mark, is_set = _SLOT.unpack_from(found, slot * _SLOT.size)
            if is_set:
                self._slots[tuple(mark)] = slot
            else:
                self._free.append(slot)
        return file

    def put(self, run: str, place: int, part: int) -> None:
        """Note that a request's bytes are about to be handled.

        Raises:
            JournalError: the disk is full or fails.
        """
        mark = _digest(run), place, part
        with self._lock:
            if mark in self._slots:
                return
            slot = self._free.pop() if self._free else self._count
            self._count = max(self._count, slot + 1)
            try:
                self._write(_SLOT.pack(*mark, 1), slot * _SLOT.size)
            except OSError as error:
                self._free.append(slot)
                raise JournalError(
                    f"journal file {self._path} cannot be written: {error.strerror}"
                ) from error
            self._slots[mark] = slot

    def remove(self, run: str, place: int, part: int) -> None:
        """Note that nobody handles them any more; a disk that fails keeps the mark for those who come after."""
        with self._lock:
            self._remove((_digest(run), place, part))

    def is_set(self, run: str, place: int, part: int) -> bool:
        """Whether a request's bytes are being handled."""
        with self._lock:
            return (_digest(run), place, part) in self._slots

    def take(self, run: str) -> set[tuple[int, int]]:
        """Places and numbers that are marked in a run, and are so no more."""
        with self._lock:
            taken = [mark for mark in self._slots if mark[0] == _digest(run)]
            for mark in taken:
                self._remove(mark)
        return {(place, part) for _, place, part in taken}

    def _remove(self, mark: _Mark) -> None:
        slot = self._slots.pop(mark, None)
        if slot is not None:
            self._free.append(slot)
            with suppress(OSError):
                self._write(_CLEAR, slot * _SLOT.size + _IS_SET_AT)

    def _write(self, data: bytes, position: int) -> None:
        if self._file is not None and os.pwrite(self._file, data, position) < len(data):
            raise OSError(0, "it was written in part")

    def abandon(self) -> None:
        """In a forked child: the copy of the file is of no use to it. It takes no lock, whose holder is not there."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Close the file; what is noted later is kept in memory alone."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


@lru_cache(maxsize=1024)
def _digest(run: str) -> bytes:
    return hashlib.blake2b(run.encode(), digest_size=16).digest()
