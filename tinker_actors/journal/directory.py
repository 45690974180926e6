"""The run directory: made, checked, and held by one process at a time."""

import fcntl
import os
import threading
from pathlib import Path

from tinker_actors.errors import JournalError

__all__ = ["RunDirectory"]

_held: set[Path] = set()
_held_lock = threading.Lock()


class RunDirectory:
    """A run directory that this process alone may write to, until `close`.

    The lock is the operating system's: the death of the process frees it, a forked child does not have it. It is
    taken once per process, because closing any second descriptor of the file would free it.

    Args:
        path: made with mode 0700 where it does not exist.

    Raises:
        JournalError: it cannot be made or written to, holds something else, or is held by another client.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._pid = os.getpid()
        self._check()
        with _held_lock:
            if self.path in _held:
                raise JournalError(
                    f"run directory {self.path} is already open in this process; close that client first"
                )
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = os.open(self.path / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise JournalError(f"run directory {self.path} must be writable: {error.strerror}") from error
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
                os.close(self._lock)
                raise JournalError(
                    f"run directory {self.path} is held by process {holder or 'unknown'}; wait for it or stop it"
                ) from error
            try:
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, f"{self._pid}\n".encode(), 0)
            except OSError as error:
                os.close(self._lock)
                raise JournalError(
                    f"run directory {self.path} cannot be written: {error.strerror}"
                ) from error
            _held.add(self.path)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise JournalError(f"a run directory is wanted, got the file {self.path}")
        if self.path.is_dir() and not (self.path / "journal.lock").exists():
            strangers = sorted(entry.name for entry in self.path.iterdir())
            if strangers:
                raise JournalError(
                    f"{self.path} is no run directory (it holds {', '.join(strangers[:3])}); "
                    "name an empty or a new directory"
                )

    def abandon(self) -> None:
        """In a forked child: it has no lock, and is no holder."""
        _held.discard(self.path)
        os.close(self._lock)

    def close(self) -> None:
        """Free the directory; does nothing the second time, nor in a forked child."""
        with _held_lock:
            if self.path in _held and os.getpid() == self._pid:
                _held.discard(self.path)
                os.close(self._lock)
