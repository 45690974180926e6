"""The fast transport, on pyqwest: HTTP in compiled code, with threads of its own."""

import asyncio
import os
from collections.abc import AsyncIterator

import pyqwest

from tinker_actors.errors import APIConnectionError, APITimeoutError, TinkerActorsError
from tinker_actors.wire.calls import Answer, ReadParts
from tinker_actors.wire.http import MAX_IN_FLIGHT, HttpTransport, OnSent, Request
from tinker_actors.wire.lanes import Lanes

__all__ = ["HOME", "PyqwestTransport"]

HOME = os.getpid()
"""The process that loaded the library: its threads run there, and in no child that is forked from it."""

WIDTH_OVER_TLS = 50
"""Streams of one HTTP/2 connection, which servers bound; the official SDK opens as many."""
SMALL_BODY_BYTES = 2**16
"""A body that takes no time worth counting to send."""
PART_BYTES = 2**18
"""Of a body whose end is watched: the library takes a few parts ahead of what it has sent."""
_NO_TLS = ("received corrupt message", "invalid peer certificate", "peer is incompatible")
"""What the library's errors say, which have no class of their own, where no repetition helps."""
_NOWHERE = pyqwest.Proxy("http://127.0.0.1:9", no_proxy="*,0.0.0.0/0,::/0")
"""A proxy that no request goes through: with one, those of the environment are not looked at."""


class _Client:
    """A client, and what it must close."""

    __slots__ = ("execute", "stream", "transport")

    def __init__(self, transport: pyqwest.HTTPTransport) -> None:
        self.transport = transport
        client = pyqwest.Client(transport)
        self.execute, self.stream = client.execute, client.stream


class PyqwestTransport(HttpTransport[_Client]):
    """Clients of pyqwest, apart for each kind of traffic.

    The library reads a body as a whole, which halves the cost of a small answer. So a body that is too large as it
    travels is refused once it is there; what a small one unpacks into is bounded before.

    Args:
        options: of the transport.
    """

    def _kind(self, request: Request) -> tuple[float, bool]:
        # The library has one time limit per client, and counts the sending of a body into the wait for the answer.
        read_s = request.timeout_s * (1 if len(request.body or b"") <= SMALL_BODY_BYTES else 2)
        return read_s, request.url.startswith("https:")

    def _new_lanes(self, request: Request) -> Lanes[_Client]:
        read_s, is_over_tls = self._kind(request)
        # Without TLS there is HTTP/1.1: each request has a connection of its own, whatever the width.
        width = WIDTH_OVER_TLS if is_over_tls else MAX_IN_FLIGHT[request.pool]
        return Lanes(lambda: self._client(read_s), _end, width=width)

    def _client(self, read_s: float) -> _Client:
        return _Client(
            pyqwest.HTTPTransport(
                tls_include_system_certs=True,
                proxy=self._options.proxy or (_NOWHERE if self._options.direct else None),
                connect_timeout=self._options.connect_timeout_s,
                read_timeout=read_s,
                pool_max_idle_per_host=max(MAX_IN_FLIGHT.values()),
                enable_gzip=False,
                enable_brotli=False,
                enable_zstd=False,
                follow_redirects=False,
                enable_otel=False,
            )
        )

    async def _exchange(self, request: Request, read: ReadParts | None = None) -> Answer:
        lanes = self._lanes_for(request)
        lane = lanes.enter()
        headers, content = request.headers, _content(request)
        if request.body == b"" or content is not request.body:
            # The library leaves it out.
            headers = {**headers, "content-length": str(len(request.body or b""))}
        try:
            if read is not None:
                return await self._streamed(lane.client, request, read)
            response = await lane.client.execute(request.method, request.url, headers, content)
        except TinkerActorsError:  # of a reader; some are errors of the built-in kinds, too
            raise
        except TimeoutError as error:
            raise APITimeoutError(f"no answer to {request.operation} within {request.timeout_s} s") from error
        except (
            ConnectionError,
            ValueError,
            pyqwest.ReadError,
            pyqwest.RemoteProtocolError,
            pyqwest.WriteError,
        ) as error:
            what = str(error).replace(request.url, request.public_url)
            if any(words in what for words in _NO_TLS):
                raise self._no_tls(request, what) from None
            raise APIConnectionError(f"no answer to {request.operation}: {what}") from None
        finally:
            await lanes.leave(lane)
        body = response.content
        if len(body) > self._options.max_answer_bytes:
            raise self._too_large(request)
        return Answer(status=response.status, headers=dict(response.headers.items()), body=body)

    async def _streamed(self, client: _Client, request: Request, read: ReadParts) -> Answer:
        async with client.stream(request.method, request.url, request.headers, request.body) as response:
            body = b""
            parts = (bytes(part) async for part in response.content)
            if response.status < 300:  # noqa: PLR2004
                await read(parts)
            else:
                body = await self._whole(request, parts)
            return Answer(status=response.status, headers=dict(response.headers.items()), body=body)


def _content(request: Request) -> bytes | AsyncIterator[bytes] | None:
    """The body, for the library; in parts where it takes its time and somebody wants to know when it has left."""
    if not request.body or request.sent is None:
        return request.body
    if len(request.body) <= SMALL_BODY_BYTES:
        asyncio.get_running_loop().call_soon(request.sent)  # in the turn after the one that hands it over
        return request.body
    return _in_parts(request.body, request.sent)


async def _in_parts(body: bytes, sent: OnSent) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PART_BYTES):
        yield body[start : start + PART_BYTES]
    sent()  # asked for more, which it is when it has passed on what there was


async def _end(client: _Client) -> None:
    await client.transport.aclose()
