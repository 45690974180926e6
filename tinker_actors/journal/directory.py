"""The run directory: made, checked, and held by one process at a time."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinker_actors.errors import JournalError

__all__ = ["RunDirectory", "holder_of", "kept_from_writers"]

_LOCK = "journal.lock"
_OURS = (_LOCK, "journal.db")
"""What tells a run directory from any other."""

_held: set[tuple[int, int]] = set()
"""Device and inode of each: a directory has many names."""
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
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path = self.path.resolve()
                status = self.path.stat()
                self._key = status.st_dev, status.st_ino
                if self._key in _held:
                    raise JournalError(
                        f"run directory {self.path} is already open in this process; close that client first"
                    )
                self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise JournalError(f"run directory {self.path} must be writable: {error.strerror}") from error
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(self._lock)
                os.close(self._lock)
                raise JournalError(
                    f"run directory {self.path} is held by process {holder or 'unknown'}; wait for it or stop it"
                ) from error
            _held.add(self._key)

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise JournalError(f"a run directory is wanted, got the file {self.path}")
        if not self.path.is_dir():
            return
        try:
            found = sorted(entry.name for entry in self.path.iterdir())
        except OSError as error:
            raise JournalError(f"run directory {self.path} cannot be read: {error.strerror}") from error
        if found and not any(name in found for name in _OURS):
            raise JournalError(
                f"{self.path} is no run directory (it holds {', '.join(found[:3])}); name an empty or a new directory"
            )

    def claim(self) -> None:
        """Write down whose it is, for others to read; once it is known that the directory can be used.

        Raises:
            JournalError: the disk is full or fails.
        """
        mine = f"{self._pid}\n".encode()
        try:
            if os.pread(self._lock, 32, 0) != mine:
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, mine, 0)
        except OSError as error:
            raise JournalError(f"run directory {self.path} cannot be written: {error.strerror}") from error

    def abandon(self) -> None:
        """In a forked child: it has no lock, and is no holder."""
        _held.discard(self._key)
        os.close(self._lock)

    def close(self) -> None:
        """Free the directory; does nothing the second time, nor in a forked child."""
        with _held_lock:
            if self._key in _held and os.getpid() == self._pid:
                _held.discard(self._key)
                os.close(self._lock)


@contextmanager
def kept_from_writers(path: Path) -> Iterator[str | None]:
    """Let nobody begin to write to a run directory meanwhile; changes nothing in it, which may be read-only.

    Gives the process that writes to it already, or "unknown"; None where none does. One without a lock file, a copy
    for instance, is not kept from anybody.

    Raises:
        JournalError: the lock cannot be looked at.
    """
    if _is_held_here(path):
        yield str(os.getpid())  # to close another descriptor of its lock would free it
        return
    try:
        lock = os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise JournalError(f"run directory {path} cannot be looked at: {error.strerror}") from error
    try:
        yield _share(lock)
    finally:
        os.close(lock)


def holder_of(path: Path) -> str | None:
    """The process that writes to a run directory, or "unknown"; None where none does. Changes nothing.

    Raises:
        JournalError: the lock cannot be looked at.
    """
    with kept_from_writers(path) as holder:
        return holder


def _is_held_here(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in _held


def _share(lock: int) -> str | None:
    """Take a lock together with other readers; who has it for itself alone, if somebody has."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _holder(lock) or "unknown"
    return None


def _holder(lock: int) -> str:
    return os.pread(lock, 32, 0).decode(errors="replace").strip()
