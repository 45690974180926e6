"""The server's directory: private, locked by one process, with room to work in."""

import errno
import fcntl
import os
import secrets
import shutil
import time
from pathlib import Path

from tinker_actors.local.files import put_file
from tinker_actors.local.refusals import StartError

__all__ = ["DataDirectory"]

LOCK_POLL_S = 0.05
ROOM_BYTES = 16 * 2**20
"""Free space without which no server starts."""
SECRET_BYTES = 32


class DataDirectory:
    """A directory of mode 0700, held under a lock from `open` to the end of the process.

    ```text
    server.db                                    the store
    secret                                       what tokens and URLs are signed with
    checkpoints/<model>/<kind>/<name>/           named checkpoints
    models/<model>/<seq_id>.safetensors          the newest snapshot of each live model
    samplers/<sampling session>.safetensors      weights saved without a name
    tmp/                                         files being written
    ```
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        """Where the store lies."""
        return self.path / "server.db"

    def open(self, lock_patience_s: float) -> None:
        """Make the directory if need be, lock it and clear away what a killed process left half-written.

        Args:
            lock_patience_s: how long a dying predecessor may hold the lock.

        Raises:
            StartError: it cannot be written, another server uses it, or the disk is full.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self._take_lock(lock_patience_s)
            if shutil.disk_usage(self.path).free < ROOM_BYTES:
                raise StartError(f"no space left for {self.path}: {ROOM_BYTES} bytes must be free")
            shutil.rmtree(self.path / "tmp", ignore_errors=True)
            for name in ("tmp", "checkpoints", "models", "samplers"):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot use the data directory {self.path}: {error.strerror}") from error

    def _take_lock(self, patience_s: float) -> None:
        # Opened once: closing any descriptor of the file would give the lock up.
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > deadline:
                    raise StartError(f"another server uses the data directory {self.path}") from error
                time.sleep(LOCK_POLL_S)
            else:
                return

    def secret(self) -> bytes:
        """What this server signs with, the same after a restart.

        Raises:
            StartError: it cannot be read or written.
        """
        file = self.path / "secret"
        try:
            if not file.exists():
                put_file(file, secrets.token_bytes(SECRET_BYTES), self.path / "tmp")
            return file.read_bytes()
        except OSError as error:
            raise StartError(f"cannot use the data directory {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Give the lock up."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
