"""The one seam to the network: send a `Call`, get an `Answer`.

What all transports have in common is here: how a call becomes a request, which redirects are followed, what counts as
no answer at all. A transport exchanges one request for one answer, and maps the errors of its library.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Hashable, Mapping
from importlib.util import find_spec
from typing import Generic, Literal, Protocol, TypeVar
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import msgspec

from tinker_actors.errors import APIConnectionError, APIResponseValidationError, TLSError
from tinker_actors.wire.calls import Answer, Call, Pool, ReadParts
from tinker_actors.wire.compression import accepted_encodings, unpacked
from tinker_actors.wire.lanes import Lanes

__all__ = [
    "NO_HEADERS",
    "HttpOptions",
    "HttpTransport",
    "OnSent",
    "Request",
    "Transport",
    "TransportChoice",
    "make_transport",
    "new_event_loop",
    "url_of",
]

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 2**30
"""More than the largest result of one chunk has; SkyRL takes as much in a request."""
MAX_IN_FLIGHT = {Pool.SESSION: 100, Pool.TRAIN: 100, Pool.SAMPLE: 256, Pool.FUTURE: 1000, Pool.STREAM: 400}
"""Requests under way at a time. A poll and a stream are held for as long as they take; all others are short, so that more
at a time would take more memory and no less time.
"""
NO_HEADERS: Mapping[str, str] = {}
MAX_REDIRECTS = 5
MAX_EDGE_REFUSALS = 16
"""In a row and in one pool; the official SDK believes as many."""
_KEEPS_METHOD = frozenset({307, 308})
_REDIRECTS = frozenset({301, 302, 303}) | _KEEPS_METHOD

TransportChoice = Literal["fast", "httpx"]

OnSent = Callable[[], object]
"""Called on the transport's loop when a body has left, and again when it leaves for another URL."""


class Transport(Protocol):
    """Sends calls; lives on one event loop."""

    async def send(
        self,
        call: Call[object],
        base_url: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        sent: OnSent | None = None,
    ) -> Answer:
        """One try of `call` at the server under `base_url`, with `headers` beside those of the call.

        From `sent` on there is nothing to do but wait; it is not called where the body did not leave.

        Redirects within the server are followed where that changes neither method nor body. Others are answers:
        our key goes to nobody else. An empty 400 comes from something before the service; it counts as no answer,
        and the next try gets another connection.

        Raises:
            APIConnectionError: no answer came.
            APITimeoutError: it did not come in time.
            TLSError: there is no TLS with what listens there, or its certificate is not trusted.
            APIResponseValidationError: it is too large.
        """

    async def stream(
        self, call: Call[object], base_url: str, read: ReadParts, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """One try of `call`, whose answer is read as it arrives.

        Args:
            call: what to send.
            base_url: where to.
            read: given the body of an answer that says success; what it raises ends the exchange.
            headers: beside those of the call.

        Returns:
            The answer, without the body that was read.

        Raises:
            TinkerActorsError: as `send`, also when an answer broke off on the way.
        """

    async def close(self) -> None:
        """Close all connections."""


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport is made with."""

    headers: Mapping[str, str] = {}
    """Sent with every request, unless the call has its own of that name."""
    query: tuple[tuple[str, str], ...] = ()
    """Added to every URL."""
    proxy: str | None = None
    """URL of a proxy; None leaves that to the environment."""
    direct: bool = False
    """Go round proxies that the environment names (for servers on loopback)."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    """Longest wait for a connection."""
    max_answer_bytes: int = MAX_ANSWER_BYTES
    """Of one decompressed body."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it goes to one URL."""

    operation: str
    """What it is for, in messages."""
    method: str
    url: str
    headers: Mapping[str, str]
    """All but those that follow from the others."""
    body: bytes | None
    """None for a method that has none."""
    timeout_s: float
    """Longest wait for the next byte."""
    pool: Pool
    sent: OnSent | None = None
    """Called when the body has left; None where nobody wants to know."""

    @property
    def public_url(self) -> str:
        """Without its query, which may hold secrets."""
        return self.url.partition("?")[0]


C = TypeVar("C")


class HttpTransport(ABC, Generic[C]):
    """What transports over HTTP share, each with clients of its library; see `Transport`."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._query = urlencode(list(options.query))
        self._headers = {"accept-encoding": accepted_encodings(), **options.headers}
        self._refusals = dict.fromkeys(Pool, 0)
        self._lanes: dict[tuple[Pool, Hashable], Lanes[C]] = {}
        self._room = {pool: asyncio.Semaphore(limit) for pool, limit in MAX_IN_FLIGHT.items()}

    async def send(
        self,
        call: Call[object],
        base_url: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        sent: OnSent | None = None,
    ) -> Answer:
        """One try of `call`; see `Transport`."""
        async with self._room[call.pool]:  # who waits here holds nothing that was made for its turn
            return await self._send(self._request(call, base_url, headers, sent), call.answers)

    async def stream(
        self, call: Call[object], base_url: str, read: ReadParts, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """One try of `call`, whose answer is read as it arrives; see `Transport`."""
        plain = {**headers, "accept-encoding": "identity"}  # what is packed is whole only at its end
        async with self._room[call.pool]:
            return await self._send(self._request(call, base_url, plain), call.answers, read)

    async def _send(self, request: Request, answers: frozenset[int], read: ReadParts | None = None) -> Answer:
        for _ in range(1 + MAX_REDIRECTS):
            answer = await self._exchange(request, read)
            url = None if answer.status in answers else _target(request, answer)
            if url is None:
                await self._check_edge(request, answer)
                return self._unpacked(request, answer)
            request = msgspec.structs.replace(request, url=url)
        raise APIConnectionError(f"no answer to {request.operation}: more than {MAX_REDIRECTS} redirects")

    @abstractmethod
    async def _exchange(self, request: Request, read: ReadParts | None = None) -> Answer:
        """The answer to one request, its body still packed; with `read`, what says success is read by that.

        Raises:
            APIConnectionError: no answer came.
            APITimeoutError: it did not come in time.
            TLSError: there is no TLS with what listens there, or its certificate is not trusted.
            APIResponseValidationError: it is too large.
        """

    @abstractmethod
    def _kind(self, request: Request) -> Hashable:
        """What requests of one pool have in common that share clients."""

    @abstractmethod
    def _new_lanes(self, request: Request) -> Lanes[C]:
        """For requests like this one."""

    def _lanes_for(self, request: Request) -> Lanes[C]:
        key = request.pool, self._kind(request)
        lanes = self._lanes.get(key)
        if lanes is None:
            lanes = self._lanes[key] = self._new_lanes(request)
        return lanes

    async def _renew(self, pool: Pool) -> None:
        """Let further requests of `pool` have new connections; those under way keep theirs."""
        for (of_pool, _), lanes in list(self._lanes.items()):  # others begin while old ones close
            if of_pool is pool:
                await lanes.renew()

    async def close(self) -> None:
        """Close all connections."""
        for lanes in list(self._lanes.values()):
            await lanes.close()

    async def _whole(self, request: Request, parts: AsyncIterable[bytes]) -> bytes:
        """A body that comes in parts.

        Raises:
            APIResponseValidationError: it is too large.
        """
        body = bytearray()
        async for part in parts:
            body += part
            if len(body) > self._options.max_answer_bytes:
                raise self._too_large(request)
        return bytes(body)

    def _request(
        self, call: Call[object], base_url: str, more: Mapping[str, str], sent: OnSent | None = None
    ) -> Request:
        url = url_of(call, base_url)
        if self._query:
            url = f"{url}{'&' if '?' in call.path else '?'}{self._query}"
        has_body = call.method != "GET"
        headers = {**self._headers, "accept": call.accept, **call.headers, **more}
        if has_body:
            headers["content-type"] = call.content_type
        return Request(
            operation=call.operation,
            method=call.method,
            url=url,
            headers=headers,
            body=call.body if has_body else None,
            timeout_s=call.timeout_s,
            pool=call.pool,
            sent=sent,
        )

    async def _check_edge(self, request: Request, answer: Answer) -> None:
        """Take an empty 400 for no answer, as often as that can help."""
        if answer.status != 400 or answer.body:  # noqa: PLR2004
            if answer.status < 300:  # noqa: PLR2004
                self._refusals[request.pool] = 0
            return
        self._refusals[request.pool] += 1
        if self._refusals[request.pool] <= MAX_EDGE_REFUSALS:
            await self._renew(request.pool)
            raise APIConnectionError(
                f"no answer to {request.operation}: refused before it reached the service"
            )

    def _unpacked(self, request: Request, answer: Answer) -> Answer:
        encoding = answer.headers.get("content-encoding", "")
        if not encoding:
            return answer
        try:
            body = unpacked(answer.body, encoding, self._options.max_answer_bytes)
        except ValueError as error:
            raise APIConnectionError(
                f"no answer to {request.operation} that can be unpacked: {error}"
            ) from error
        if body is None:
            raise self._too_large(request)
        return msgspec.structs.replace(answer, body=body)

    def _no_tls(self, request: Request, reason: str) -> TLSError:
        return TLSError(
            f"no answer to {request.operation}: {reason}; check base_url: its scheme, its port and the certificate there"
        )

    def _too_large(self, request: Request) -> APIResponseValidationError:
        most = self._options.max_answer_bytes
        return APIResponseValidationError(f"an answer to {request.operation} may have {most} bytes, got more")


def url_of(call: Call[object], base_url: str) -> str:
    """Where a call goes, without what is added to every URL."""
    return f"{base_url}/api/v1/{call.path}"


def make_transport(options: HttpOptions, choice: TransportChoice | None = None) -> Transport:
    """The transport that was chosen; by default the fast one, where it is installed.

    A process that was forked after the fast one was loaded has the other one: the library would hang there.
    """
    if _has("pyqwest", choice):
        from tinker_actors.wire.pyqwest_transport import HOME, PyqwestTransport

        if os.getpid() == HOME:
            return PyqwestTransport(options)
    from tinker_actors.wire.httpcore_transport import HttpcoreTransport

    return HttpcoreTransport(options)


def new_event_loop(choice: TransportChoice | None = None) -> asyncio.AbstractEventLoop:
    """A loop for the transport of that choice; for the fast one in compiled code, too, where it is installed.

    What is answered on another thread wakes it at less cost, and so do other threads that give it something to do.
    """
    if _has("uvloop", choice):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _has(library: str, choice: TransportChoice | None) -> bool:
    """Whether a library of compiled code is to be used, and is there."""
    return choice != "httpx" and find_spec(library) is not None


def _target(request: Request, answer: Answer) -> str | None:
    """Where a redirect leads, if it is one to follow."""
    location = answer.headers.get("location")
    follows = answer.status in (_REDIRECTS if request.method == "GET" else _KEEPS_METHOD)
    if not follows or not location:
        return None
    try:
        url = urljoin(request.url, location)
        return url if _is_same_server(urlsplit(request.url), urlsplit(url)) else None
    except ValueError:  # no URL
        return None


def _is_same_server(here: SplitResult, there: SplitResult) -> bool:
    """Whether both are one origin, or the second is the first over TLS."""
    if here.hostname != there.hostname:
        return False
    schemes = (here.scheme, there.scheme)
    if schemes == ("http", "https"):
        return (here.port or 80, there.port or 443) == (80, 443)
    return here.scheme == there.scheme and here.port == there.port
