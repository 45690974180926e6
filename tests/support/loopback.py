"""An HTTP server on loopback that does what a test says, byte by byte; for what no well-behaved server does."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["Behaviour", "Loopback", "Seen", "answer", "in_turn", "serving"]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    connection: int
    """Which one it came on."""


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]
"""What is done about a request; a writer that is closed ends the connection."""


@dataclass
class Loopback:
    """The server, while it runs."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request is there."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed a connection."""


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Behaviour:
    """A whole answer; underscores in names of headers stand for dashes."""
    fields = {"content_length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value)

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Told\r\n{head}\r\n".encode() + body)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after the other, the last one for ever."""
    numbers = itertools.count()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await behaviours[min(next(numbers), len(behaviours) - 1)](seen, writer)

    return behave


@asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[Loopback]:
    """A server that does `behave` about each request."""
    server, numbers = Loopback(), itertools.count()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        with suppress(ConnectionError, asyncio.CancelledError):
            while (seen := await _request(reader, number)) is not None and not writer.is_closing():
                server.seen.append(seen)
                server.arrived.set()
                await behave(seen, writer)
                await writer.drain()
        server.gone.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _request(reader: asyncio.StreamReader, connection: int) -> Seen | None:
    """The next request; None when the client is gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, target, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, target, headers, body, connection)
