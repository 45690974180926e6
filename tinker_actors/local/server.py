"""The server as a process: start or say why not, serve, leave when told to."""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tinker_actors.local.app import make_app
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.faults.injection import Connections
from tinker_actors.local.options import Options
from tinker_actors.local.refusals import StartError, StorageError
from tinker_actors.local.reports import announce, greet
from tinker_actors.local.service import Service

__all__ = ["serve"]

IDLE_S = 120
"""How long a connection may be idle: longer than any client's pool keeps one."""
LEAVE_S = 1.5
"""Longest an orderly stop may take; what is stored is safe whatever happens after."""
FORCED = 130
"""Exit code after a second signal."""


def serve(options: Options) -> int:
    """Serve until a signal, or until the owner is gone; the exit code."""
    # What is not finite is refused where it would do harm, by the name of the request.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"tinker_actors\.local\.engine")
    data = DataDirectory(options.data)
    try:
        data.open(options.lock_patience_s)
        listener = _bind(options)
        service = Service(options, data)
        service.start()
    except (StartError, StorageError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    asyncio.run(_Server(service).serve(sockets=[listener]))
    service.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the executor may be in the middle of a request, which is stored and can wait


def _bind(options: Options) -> socket.socket:
    host, port = options.host, options.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if (
            options.api_key is None
            and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        ):
            raise StartError(f"other machines can reach {host}: name the key they must have with --api-key")
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        hint = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}{hint}") from error
    return listener


class _Server(uvicorn.Server):
    """Says when it listens, and ends with exit code 0."""

    def __init__(self, service: Service) -> None:
        connections = Connections()
        super().__init__(
            uvicorn.Config(
                make_app(service, connections),
                http=_protocol(connections),
                log_level="error",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=1,
            )
        )
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT, instead of raising them again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        options = self._service.options
        if options.greeting == "json":
            announce("listening", host=host, port=port, pid=os.getpid())
        else:
            greet(options, host, port)
        if options.owned:
            loop = asyncio.get_running_loop()
            _watch_owner(lambda: loop.call_soon_threadsafe(self.leave))

    def leave(self) -> None:
        """Stop in order; exit anyway if that takes too long, or at once when told to leave again."""
        if self.should_exit:
            os._exit(FORCED)
        self.should_exit = True
        self._service.waiters.release()
        self._service.switches.clear()
        deadline = threading.Timer(LEAVE_S, os._exit, args=(0,))
        deadline.daemon = True
        deadline.start()


def _protocol(connections: Connections) -> type[asyncio.Protocol]:
    """The protocol of uvicorn that tells of its connections."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]  # chosen when it is imported
        def connection_made(self, transport: asyncio.Transport) -> None:
            connections.add(transport)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.discard(self.transport)
            super().connection_lost(exc)

    return Protocol


def _watch_owner(gone: Callable[[], object]) -> None:
    """Call `gone` when standard input ends, which is when the owner does."""

    def watch() -> None:
        with contextlib.suppress(OSError, RuntimeError):  # no input at all, or the loop has ended
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):
            gone()

    threading.Thread(target=watch, name="owner", daemon=True).start()
