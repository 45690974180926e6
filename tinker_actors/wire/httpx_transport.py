"""The reference transport, on httpx."""

import ssl

import httpx

from tinker_actors.errors import APIConnectionError, APITimeoutError
from tinker_actors.wire.calls import Answer, Pool
from tinker_actors.wire.http import MAX_IN_FLIGHT, HttpOptions, HttpTransport, Request
from tinker_actors.wire.lanes import Lanes

__all__ = ["HttpxTransport"]

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED", "RECORD_LAYER_FAILURE"})
"""Reasons of OpenSSL that no repetition changes."""


class HttpxTransport(HttpTransport):
    """Clients of httpx, apart for each kind of traffic, each with one connection.

    A client with many looks at all of them whenever a request begins or ends: at 256 that doubles the cost of each.

    Args:
        options: of the transport.
        handler: an httpx transport to use in place of sockets.
    """

    def __init__(self, options: HttpOptions, handler: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(options)
        self._handler = handler
        self._tls = httpx.create_ssl_context(trust_env=not options.direct) if handler is None else True
        self._lanes = {
            pool: Lanes(self._client, httpx.AsyncClient.aclose, width=1, limit=MAX_IN_FLIGHT[pool])
            for pool in Pool
        }

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._tls,
            proxy=self._options.proxy,
            trust_env=not self._options.direct,
            transport=self._handler,
        )

    async def _exchange(self, request: Request) -> Answer:
        timeout = httpx.Timeout(request.timeout_s, connect=self._options.connect_timeout_s, pool=None)
        lanes = self._lanes[request.pool]
        lane = await lanes.enter()
        try:
            asked = httpx.Request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body,
                extensions={"timeout": timeout.as_dict()},
            )
            response = await lane.client.send(asked, stream=True)
            try:
                body = await self._read(response, request)
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise APITimeoutError(f"no answer to {request.operation} within {request.timeout_s} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if _reason_of_tls(error) in _NO_TLS:
                raise self._no_tls(request, str(error)) from error
            raise APIConnectionError(
                f"no answer to {request.operation}: {type(error).__name__}: {error}"
            ) from error
        finally:
            await lanes.leave(lane)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status_code, headers=headers, body=body)

    async def _read(self, response: httpx.Response, request: Request) -> bytes:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self._options.max_answer_bytes:
                raise self._too_large(request)
        return bytes(body)

    async def _renew(self, pool: Pool) -> None:
        await self._lanes[pool].renew()

    async def close(self) -> None:
        """Close all connections."""
        for lanes in self._lanes.values():
            await lanes.close()


def _reason_of_tls(error: BaseException) -> str | None:
    """What OpenSSL said, where it was the cause."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else cause.reason
