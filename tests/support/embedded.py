"""The embedded server in this process, over real sockets and on a clock that a test moves."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp

from tinker_actors.local.app import make_app
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.options import Options
from tinker_actors.local.service import Service

NOON = 1_800_000_000.0
"""What the clock says at first, seconds since the epoch."""


class WallClock:
    """Seconds since the epoch, as a test has it."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Embedded:
    """A server for a `with` block.

    Args:
        data: its directory.
        clock: what tells it the time.
        wrap: what stands before its application.
        options: as `Options`.
    """

    def __init__(
        self,
        data: Path,
        clock: WallClock,
        wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
        **options: Any,
    ) -> None:
        self.clock = clock
        self.data = data
        self._directory = DataDirectory(data)
        self._directory.open(lock_patience_s=0)
        self.service = Service(Options(data=data, **{"hold_s": 0.2, **options}), self._directory, clock)
        self.service.start()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(wrap(make_app(self.service)), log_level="error", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="embedded"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self.service.waiters.release()
        self._thread.join(10.0)
        self.service.stop()
        self._directory.close()
        self._socket.close()
