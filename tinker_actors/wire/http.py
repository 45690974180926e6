"""The one seam to the network: send a `Call`, get an `Answer`. Errors of the library are mapped here."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlencode

import httpx

from tinker_actors.errors import APIConnectionError, APIResponseValidationError, APITimeoutError
from tinker_actors.wire.calls import Answer, Call, Pool

__all__ = ["HttpxTransport", "Transport"]

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 2**30
"""More than the largest result of one chunk has; SkyRL takes as much in a request."""


class Transport(Protocol):
    """Sends calls; lives on one event loop."""

    async def send(self, call: Call[object], base_url: str) -> Answer:
        """One try of `call` at the server under `base_url`.

        Raises:
            APIConnectionError: no answer came.
            APITimeoutError: it did not come in time.
            APIResponseValidationError: it is too large.
        """

    async def close(self) -> None:
        """Close all connections."""


class HttpxTransport:
    """The reference transport, on httpx: a client per kind of traffic.

    Args:
        headers: sent with every request, unless the call has its own of that name.
        query: added to every URL.
        proxy: URL of a proxy; None leaves that to the environment.
        direct: go round proxies that the environment names (for servers on loopback).
        handler: an httpx transport to use in place of sockets.
        max_answer_bytes: of one decompressed body.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        query: Sequence[tuple[str, str]] = (),
        proxy: str | None = None,
        direct: bool = False,
        handler: httpx.AsyncBaseTransport | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._query = urlencode(list(query))
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=20)
        self._clients = {
            pool: httpx.AsyncClient(
                headers=dict(headers),
                limits=limits,
                proxy=proxy,
                trust_env=not direct,
                transport=handler,
            )
            for pool in Pool
        }

    async def send(self, call: Call[object], base_url: str) -> Answer:
        """One try of `call`; see `Transport`."""
        kind = {} if call.method == "GET" else {"content-type": call.content_type}
        try:
            async with self._clients[call.pool].stream(
                call.method,
                f"{base_url}/api/v1/{self._with_query(call.path)}",
                content=call.body if call.method != "GET" else None,
                headers={**kind, "accept": call.accept, **call.headers},
                timeout=httpx.Timeout(call.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            ) as response:
                body = await self._read(response, call.operation)
        except httpx.TimeoutException as error:
            raise APITimeoutError(f"no answer to {call.operation} within {call.timeout_s} s") from error
        except httpx.HTTPError as error:
            raise APIConnectionError(
                f"no answer to {call.operation}: {type(error).__name__}: {error}"
            ) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status_code, headers=headers, body=body)

    def _with_query(self, path: str) -> str:
        if not self._query:
            return path
        return f"{path}{'&' if '?' in path else '?'}{self._query}"

    async def _read(self, response: httpx.Response, operation: str) -> bytes:
        """The decompressed body; a small one that unpacks into a flood ends here."""
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > self._max_answer_bytes:
                raise APIResponseValidationError(
                    f"an answer to {operation} may have {self._max_answer_bytes} bytes, got more"
                )
        return bytes(body)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
