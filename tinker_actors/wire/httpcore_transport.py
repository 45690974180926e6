"""The reference transport, on httpcore: the engine of httpx, without the client that httpx puts around it."""

import ssl
from collections.abc import Awaitable, Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httpcore

from tinker_actors.errors import APIConnectionError, APITimeoutError, ConfigError, TinkerActorsError
from tinker_actors.wire.calls import Answer, ReadParts
from tinker_actors.wire.http import HttpTransport, OnSent, Request
from tinker_actors.wire.lanes import Lanes

__all__ = ["HttpcoreTransport"]

KEEP_ALIVE_S = 5.0
"""How long an unused connection is kept; httpx's default. Servers close theirs not much later."""
_SOCKS = frozenset({"socks5", "socks5h"})
_PROXIES = frozenset({"http", "https"}) | _SOCKS
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED", "RECORD_LAYER_FAILURE"})
"""Reasons of OpenSSL that no repetition changes."""
_NO_ANSWER = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    ValueError,  # of a URL or a header that is none
)


class HttpcoreTransport(HttpTransport[httpcore.AsyncConnectionPool]):
    """Pools of httpcore, apart for each server and each kind of traffic, each with one connection.

    A pool with many looks at all of them whenever a request begins or ends: at 256 that doubles the cost of each.

    Args:
        options: of the transport.
    """

    def _kind(self, request: Request) -> tuple[str, str]:
        url = urlsplit(request.url)
        return url.scheme, url.netloc

    def _new_lanes(self, request: Request) -> Lanes[httpcore.AsyncConnectionPool]:
        url = urlsplit(request.url)
        tls = self._tls if url.scheme == "https" else None
        proxy = self._proxy_to(url)
        return Lanes(
            lambda: httpcore.AsyncConnectionPool(
                ssl_context=tls, proxy=proxy, max_connections=1, keepalive_expiry=KEEP_ALIVE_S
            ),
            httpcore.AsyncConnectionPool.aclose,
            width=1,
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Trusts what the system trusts, or its environment says, and Mozilla's list."""
        return httpcore.default_ssl_context()

    def _proxy_to(self, url: SplitResult) -> httpcore.Proxy | None:
        proxy = self._options.proxy
        if proxy is None and not self._options.direct:
            proxy = _proxy_of_the_environment(url)
        if not proxy:
            return None
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in _PROXIES or (parts.scheme in _SOCKS and find_spec("socksio") is None):
            raise ConfigError(
                f"a proxy must be of http or https, or of socks5 where socksio is installed, got {parts.scheme};"
                " see proxy= and the environment"
            )
        auth = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        return httpcore.Proxy(parts._replace(netloc=_host(parts)).geturl(), auth=auth)

    async def _exchange(self, request: Request, read: ReadParts | None = None) -> Answer:
        url = urlsplit(request.url)
        lanes = self._lanes_for(request)
        lane = lanes.enter()
        try:
            response = await lane.client.handle_async_request(self._asked(request, url))
            try:
                if read is not None and response.status < 300:  # noqa: PLR2004
                    body = b""
                    await read(response.aiter_stream())
                else:
                    body = await self._whole(request, response.aiter_stream())
            finally:
                await response.aclose()
        except TinkerActorsError:  # of the reader, or as below; some are errors of the built-in kinds, too
            raise
        except httpcore.TimeoutException as error:
            raise APITimeoutError(f"no answer to {request.operation} within {request.timeout_s} s") from error
        except _NO_ANSWER as error:
            if _reason_of_tls(error) in _NO_TLS:
                raise self._no_tls(request, str(error)) from error
            raise APIConnectionError(
                f"no answer to {request.operation}: {type(error).__name__}: {error}"
            ) from error
        finally:
            await lanes.leave(lane)
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
        }
        return Answer(status=response.status, headers=headers, body=body)

    def _asked(self, request: Request, url: SplitResult) -> httpcore.Request:
        headers = [(b"host", _host(url).encode("ascii"))]
        headers.extend(
            (name.encode("ascii"), value.encode("ascii")) for name, value in request.headers.items()
        )
        if request.body is not None:
            headers.append((b"content-length", b"%d" % len(request.body)))
        timeout = {
            "connect": self._options.connect_timeout_s,
            "read": request.timeout_s,
            "write": request.timeout_s,
        }
        extensions: dict[str, Any] = {"timeout": timeout}
        if request.sent is not None:
            extensions["trace"] = _trace(request.sent)
        return httpcore.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.body,
            extensions=extensions,
        )


def _trace(sent: OnSent) -> Callable[[str, Any], Awaitable[None]]:
    """What hears from the library how a request gets on; it names its events after the protocol, too."""
    is_ours = True  # and not what is said to a proxy first

    async def trace(event: str, info: Any) -> None:
        nonlocal is_ours
        if event.endswith(".send_request_body.started"):
            is_ours = info["request"].method != b"CONNECT"
        elif event.endswith(".send_request_body.complete") and is_ours:
            sent()

    return trace


def _host(url: SplitResult) -> str:
    """Host and port, without the name and password that may stand before them."""
    return url.netloc.rpartition("@")[2]


def _proxy_of_the_environment(url: SplitResult) -> str | None:
    """What the environment, or the system's settings, have requests to `url` go through."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(url.netloc) else proxy


def _reason_of_tls(error: BaseException) -> str | None:
    """What OpenSSL said, where it was the cause."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else cause.reason
