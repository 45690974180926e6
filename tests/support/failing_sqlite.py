"""Writes of SQLite that fail on order: its own calls of the system are replaced, as its test suite does.

Source: SQLite, "OS Interface", `sqlite3_vfs.xSetSystemCall`.
"""

import ctypes
import importlib
from types import TracebackType
from typing import Any, Self

__all__ = ["FailingWrites"]

_HOOKS = "open delete access full_path dl_open dl_error dl_sym dl_close random sleep time last_error time_64 set get next"
_NAMES = (b"pwrite64", b"pwrite", b"write", b"ftruncate")
"""How SQLite may change a file, by its names; which of them it uses depends on how it was built."""


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("path_bytes", ctypes.c_int),
        ("next_vfs", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        *((hook, ctypes.c_void_p) for hook in _HOOKS.split()),
    )


_CALL = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
"""Wide enough for each of the calls: what one does not take, it does not look at."""
_SET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_GET = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


class FailingWrites:
    """While it is open, counts what SQLite writes in this process, and lets one write fail."""

    def __init__(self) -> None:
        library = ctypes.CDLL(importlib.import_module("_sqlite3").__file__)
        library.sqlite3_vfs_find.restype = ctypes.c_void_p
        self._vfs = library.sqlite3_vfs_find(None)
        hooks = _Vfs.from_address(self._vfs)
        self._set, get = _SET(hooks.set), _GET(hooks.get)
        found = {name: get(self._vfs, name) for name in _NAMES}
        self._calls = {name: self._wrapped(_CALL(call)) for name, call in found.items() if call is not None}
        self.writes = 0
        """Since the last order."""
        self._nth, self._error = 0, 0

    def order(self, nth: int, error: int) -> None:
        """Let the `nth` write from now on fail with a number of `errno`, once; 0 is none."""
        self.writes, self._nth, self._error = 0, nth, error

    def _wrapped(self, original: Any) -> Any:
        def call(file: int, buffer: int, count: int, position: int) -> int:
            self.writes += 1
            if self.writes == self._nth:
                ctypes.set_errno(self._error)
                return -1
            return int(original(file, buffer, count, position))

        return _CALL(call)

    def __enter__(self) -> Self:
        for name, call in self._calls.items():
            self._set(self._vfs, name, ctypes.cast(call, ctypes.c_void_p))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._calls:
            self._set(self._vfs, name, None)
