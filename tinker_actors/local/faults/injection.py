"""Faults on the way of a request: before the service sees it, and behind its answer."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias

from starlette.responses import Response

from tinker_actors.local import ledger, step_log
from tinker_actors.local.faults.damage import damage, executed
from tinker_actors.local.faults.plan import DAMAGING, ENDING, Fault
from tinker_actors.local.faults.sight import document_of, path_in, request_id_in, see
from tinker_actors.local.faults.switches import Firing, Seen, Switches
from tinker_actors.local.refusals import StorageError
from tinker_actors.local.reports import report
from tinker_actors.local.service import Service
from tinker_actors.local.specs import as_json
from tinker_actors.local.step_log import FaultFired
from tinker_actors.wire.compression import unpacked

__all__ = ["Connections", "FaultInjector"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PREFIX = "/api/v1/"
MOST_BODY_BYTES = 64 * 2**20
"""What larger bodies name, no fault sees."""


class Connections:
    """The open connections, by their clients' addresses, so that a fault can end one."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def add(self, transport: asyncio.Transport) -> None:
        """A client connected."""
        self._transports[_address(transport)] = transport

    def discard(self, transport: asyncio.Transport) -> None:
        """A client is gone."""
        if self._transports.get(_address(transport)) is transport:
            del self._transports[_address(transport)]

    def end(self, client: tuple[str, int], *, reset: bool) -> None:
        """End the connection of a client: reset it, or close it behind what was written."""
        transport = self._transports.get(client)
        if transport is None:
            return  # it is gone already
        if reset:
            # Closing a socket that lingers for no time resets the connection.
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()


def _address(transport: asyncio.BaseTransport) -> tuple[str, int]:
    host, port = transport.get_extra_info("peername")[:2]
    return host, port


class FaultInjector:
    """An ASGI application: another one, with the faults of a service's switches.

    Without a fault that is set, requests go straight through.
    """

    def __init__(self, app: App, service: Service, switches: Switches, connections: Connections) -> None:
        self._app = app
        self._service = service
        self._switches = switches
        self._connections = connections

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or self._switches.is_quiet or not path.startswith(PREFIX):
            return await self._app(scope, receive, send)
        read, body = await _read(receive)
        received = _Replay(read, receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        plain = await asyncio.to_thread(_plain, body, headers.get("content-encoding", "identity"))
        document = document_of(headers.get("content-type", ""), plain)
        seen = await self._see(path.removeprefix(PREFIX), document)
        firings = self._switches.fire(seen)
        exchange = _Exchange(self._service, self._switches, self._connections, scope, seen, document)
        for firing in firings:
            if firing.fault.moment == "before" and await exchange.suffer(firing, receive, send):
                return None
        if not any(firing.fault.moment == "after" for firing in firings):
            return await self._app(scope, received, send)
        await self._app(scope, received, exchange.keep)
        for firing in firings:
            if firing.fault.moment == "after" and await exchange.suffer(firing, receive, send):
                return None
        return await exchange.answer(send)

    async def _see(self, operation: str, document: Mapping[str, Any]) -> Seen:
        request_id = request_id_in(document)
        of = None
        if request_id is not None and self._switches.wants_kind(operation):
            of = await self._service.ask(lambda db: ledger.kind_of(db, request_id))
        return see(operation, document, of)


class _Exchange:
    """One request and its answer, once the service has given it."""

    def __init__(
        self,
        service: Service,
        switches: Switches,
        connections: Connections,
        scope: MutableMapping[str, Any],
        seen: Seen,
        document: Mapping[str, Any],
    ) -> None:
        self._service = service
        self._switches = switches
        self._connections = connections
        self._scope = scope
        self._seen = seen
        self._document = document
        self._answer: list[Message] = []

    async def keep(self, message: Message) -> None:
        """Keep a part of the service's answer back."""
        self._answer.append(message)

    async def answer(self, send: Send) -> None:
        """Send what was kept back."""
        for message in self._answer:
            await send(message)

    async def suffer(self, firing: Firing, receive: Receive, send: Send) -> bool:
        """Let a fault happen; whether the exchange is over."""
        fault = firing.fault
        request_id, path, target = request_id_in(self._document), path_in(self._document), ""
        if fault.moment == "after":
            reply = document_of("application/json", self._body())
            request_id = request_id_in(reply) or request_id
            result = request_id and await executed(self._service, request_id, fault.patience_s)
            if result:
                target = request_id or ""
                written = document_of("application/json", result.body) if result.form == "json" else {}
                path = path_in(written) or path
        elif fault.effect == "expire_result" and request_id is not None:
            await executed(self._service, request_id, fault.patience_s)
        if fault.effect in DAMAGING:
            target = await damage(
                self._service, fault.effect, self._seen, request_id=request_id, path=fault.path or path
            )
        await self._log(firing, target)
        if fault.effect == "delay":
            await asyncio.sleep(fault.seconds)
        if fault.effect in ENDING:
            await self._end(fault, receive, send)
        return fault.effect in ENDING

    async def _log(self, firing: Firing, target: str) -> None:
        fault = firing.fault
        fired = FaultFired(
            fault=fault.name,
            effect=fault.effect,
            operation=self._seen.operation,
            owner=self._seen.owner,
            seq_id=self._seen.seq_id,
            number=firing.number,
            target=target,
            at=self._service.now(),
        )
        report("fault_fired", fault=fault.name, effect=fault.effect, number=firing.number)
        with suppress(StorageError):  # faults go on when the disk is full
            await self._service.run(lambda db: step_log.add(db, fired), durable=False)

    def _body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self._answer)

    async def _end(self, fault: Fault, receive: Receive, send: Send) -> None:
        match fault.effect:
            case "status":
                await _problem(fault)(self._scope, receive, send)
                return
            case "half_body" if self._answer:
                body = self._body()
                await send(self._answer[0])
                await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            case "hang":
                await self._hang(fault, receive)
        self._connections.end(tuple(self._scope["client"]), reset=fault.effect == "reset")
        await _gone(receive)

    async def _hang(self, fault: Fault, receive: Receive) -> None:
        """Until the client leaves, or the fault is cleared."""
        leaving = asyncio.ensure_future(_gone(receive))
        cleared = asyncio.wrap_future(self._switches.cleared(fault.name))
        try:
            await asyncio.wait((leaving, cleared), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            cleared.cancel()


class _Replay:
    """What was read of a request once more, then what follows."""

    def __init__(self, read: list[Message], receive: Receive) -> None:
        self._read = read
        self._receive = receive

    async def __call__(self) -> Message:
        return self._read.pop(0) if self._read else await self._receive()


async def _read(receive: Receive) -> tuple[list[Message], bytes]:
    """The messages of a body, and the body; no more of it than faults need to see."""
    read: list[Message] = []
    parts: list[bytes] = []
    while sum(map(len, parts)) <= MOST_BODY_BYTES:
        message = await receive()
        read.append(message)
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return read, b"".join(parts)
    return read, b""


def _plain(body: bytes, encoding: str) -> bytes:
    """A body as it is once it is unpacked; nothing if it cannot be."""
    if encoding == "identity":
        return body
    try:
        return unpacked(body, encoding, MOST_BODY_BYTES) or b""
    except ValueError:
        return b""


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _problem(fault: Fault) -> Response:
    headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
    return Response(as_json({"detail": fault.detail}), fault.status, headers, "application/json")
