"""The network: one thread with one event loop, owned by one actor. Answers come back as messages."""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from tinker_actors.actors.admission import Admission
from tinker_actors.actors.event_loop import EventLoop
from tinker_actors.actors.identity import Identity, is_token_rejected
from tinker_actors.actors.limits import Limits
from tinker_actors.actors.published import Published
from tinker_actors.actors.requests import Request
from tinker_actors.actors.streams import Channel, broken, fill
from tinker_actors.actors.tracing import Span, below, told, traced
from tinker_actors.api.codecs import Codec, in_a_known_codec
from tinker_actors.api.futures import (
    PENDING,
    Expectation,
    Pause,
    QueueChanged,
    Reserve,
    RoundTrips,
    cancel_future,
    follow,
    with_retries,
)
from tinker_actors.api.setup import (
    NO_FLAGS,
    DynamicConfig,
    client_config,
    dynamic_config,
    exchange_key,
    has_no_flags,
)
from tinker_actors.config import Secret
from tinker_actors.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    OutcomeUnknownError,
    TinkerActorsError,
)
from tinker_actors.events import (
    OperationDeprecated,
    QueueStateChanged,
    RequestBegan,
    RequestEnded,
    RequestRetried,
)
from tinker_actors.supervision import Address, ExitReason, Reply, SupervisedActor
from tinker_actors.wire.calls import JSON, Answer, Call, Parts, ReadParts
from tinker_actors.wire.compression import compressed
from tinker_actors.wire.documents import FutureHandle
from tinker_actors.wire.http import HttpOptions, OnSent, Transport, make_transport, new_event_loop, url_of

__all__ = [
    "Accepted",
    "Answered",
    "Cancel",
    "CancelAll",
    "EndpointChanged",
    "Failed",
    "Fetch",
    "Send",
    "Stream",
    "TransportActor",
]

T = TypeVar("T")

Once = Callable[[Call[Any]], Awaitable[Answer]]
"""One try of a call."""

HANDLING_S = 0.25
"""Bytes that have not left by then, while this thread does its work, wait for somebody else: a breaker that is open,
room beside others, a server that takes none. A thread that is stuck in them does not get to this.
"""


@dataclass(frozen=True, slots=True)
class Send:
    """Send `call`, by its retry rule; with `expected`, follow the future it gives to its end."""

    call: Call[Any]
    tag: Any
    """Comes back with each answer."""
    reply_to: Address
    owner: str = ""
    """All requests of one owner can be cancelled together."""
    expected: Expectation | None = None
    sent: OnSent | None = None
    """Called on the event loop, once, when nobody handles its bytes: they have left, or wait to be sent, or a try of
    sending them failed.
    """
    span: Span | None = None
    """Of the operation that the request belongs to."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Send `call`, by its retry rule until a token came, and put what it streams into `channel`.

    While a request fills that channel, another one for it does nothing. `Answered` tells of the end.
    """

    call: Call[Any]
    tag: Any
    reply_to: Address
    owner: str
    channel: Channel
    span: Span | None = None
    """Of the operation that the request belongs to."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send `call`, by its retry rule; answered with what its `read` makes of the answer."""

    call: Call[Any]
    span: Span | None = None
    """Of the operation that the request belongs to."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up all requests of an owner; nothing more is answered to them."""

    owner: str


@dataclass(frozen=True, slots=True)
class CancelAll:
    """Give up all requests that were sent from a path, but for streams: the actor there begins anew."""

    client: str


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """The published endpoint is another one, or none."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The service took the request and works on it."""

    tag: Any
    handle: FutureHandle


@dataclass(frozen=True, slots=True)
class Answered:
    """The result is there, still to be read."""

    tag: Any
    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no result."""

    tag: Any
    error: TinkerActorsError
    accepted: bool
    """Whether the service had taken the request."""


@dataclass(frozen=True, slots=True)
class _Broke:
    """A request ended by an error that is nobody's answer."""

    error: BaseException


class _Greeting:
    """What is done once, by the first who needs it, and again by the next one when it failed."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._task is not None and self._task.done() and self._task.exception() is None

    async def wait_for(self, greet: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Return once it was done.

        Raises:
            TinkerActorsError: it failed just now.
        """
        if self._task is None or (self._task.done() and self._task.exception() is not None):
            self._task = asyncio.create_task(greet())
        await asyncio.shield(self._task)


class TransportActor(SupervisedActor):
    """Owns connections and the requests under way.

    When it ends, each request under way fails with `OutcomeUnknownError`: whoever sent it sends it again.
    """

    def __init__(self, published: Published, make_transport: Callable[[], Transport] | None = None) -> None:
        super().__init__()
        self._published = published
        self._make_transport = make_transport or partial(_http_transport, published)
        self._under_way: dict[asyncio.Task[None], tuple[Request, Send | Stream | None]] = {}
        """Filled and emptied on the event loop."""

    def on_start(self) -> None:
        self._ready = asyncio.Event()
        self._transport = self._make_transport()
        self._random = random.Random(self.context.random.random())
        self._identity = Identity(
            self._published.settings.credential, self._exchange, self.context.clock.now, self._random
        )
        self._greeting = _Greeting()
        self._admission = Admission(self._published, self.context, self._random)
        self._limits = Limits(self._published, self.context, self._admission.check)
        self._guarded = partial(self._admission.attempt, send=self._once)
        self._flags_due = math.inf
        self._farewells: set[asyncio.Task[None]] = set()
        self._deprecations: set[tuple[str, str]] = set()
        self._is_ending = False
        self._loop = EventLoop(new_event_loop(self._published.settings.transport))  # once nothing can fail
        self._published.under_way = self._requests
        self._note_endpoint()

    def _requests(self) -> list[Request]:
        """Those under way. Callable from anywhere."""
        return [request for request, _ in self._under_way.copy().values()]

    def on_receive(self, message: Any) -> Reply | None:
        match message:
            case Send(call):
                request = Request(call, message.reply_to.path, message.owner, self.context.clock.now())
                work = self._run(message, request)
                self._loop.call(partial(self._begin, work, request, message, message.span))
            case Stream(call):
                request = Request(call, message.reply_to.path, message.owner, self.context.clock.now())
                work = self._stream(message, request)
                self._loop.call(partial(self._begin, work, request, message, message.span))
            case Fetch(call, span):
                reply = Reply()
                request = Request(call, "", "", self.context.clock.now())
                self._loop.call(partial(self._begin, self._fetch(call, reply, request), request, None, span))
                return reply
            case Cancel(owner):
                self._loop.call(partial(self._cancel, lambda request: request.owner == owner))
            case CancelAll(client):
                self._loop.call(
                    partial(
                        self._cancel,
                        lambda request: request.client == client and request.operation != "stream_sample",
                    )
                )
            case EndpointChanged():
                self._note_endpoint()
            case _Broke(error):
                raise error
        return None

    def on_exit(self, reason: ExitReason) -> None:  # noqa: ARG002 - the same for each reason
        """Close connections; tell whoever waits that no answer will come."""
        if hasattr(self, "_loop"):
            self._is_ending = True
            self._admission.close()
            self._loop.finish(self._transport.close, timeout_s=2.0)
        for _, send in self._under_way.copy().values():
            if send is not None:
                error = OutcomeUnknownError("the transport was restarted")
                send.reply_to.tell_if_there(Failed(send.tag, error, accepted=False))

    def _note_endpoint(self) -> None:
        self._loop.call(self._ready.clear if self._published.endpoint is None else self._ready.set)

    # On the event loop ---------------------------------------------------------------------------

    def _begin(
        self,
        work: Coroutine[Any, Any, None],
        request: Request,
        send: Send | Stream | None,
        span: Span | None,
    ) -> None:
        context = None if self._published.tracing is None else below(span)
        task = asyncio.create_task(work, context=context)
        self._under_way[task] = request, send  # from here on it can be cancelled
        task.add_done_callback(self._note_ended)

    def _cancel(self, is_meant: Callable[[Request], bool]) -> None:
        for task, (request, _) in self._under_way.items():
            if is_meant(request):
                task.cancel()

    def _note_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.context.me.tell(_Broke(error))
        elif not self._is_ending:
            del self._under_way[task]  # of the others nobody was told yet how they ended

    async def _run(self, send: Send, request: Request) -> None:
        handle: FutureHandle | None = None
        clock, operation = self.context.clock.now, send.call.operation
        try:
            submit = self._drive if send.call.in_json is None else partial(self._drive_in_room, send.call)
            async with self._limits.at_work_for(request, send.call):
                began = clock()
                with self._watch(send) as once:
                    answer = await submit(request, self._submit(send.call), once)
                if send.expected is not None:
                    handle = send.call.read(answer)
                    request.is_accepted = True
                    send.reply_to.tell_if_there(Accepted(send.tag, handle))
                    steps = follow(
                        handle.request_id,
                        self._readable(send.expected),
                        clock,
                        self._random,
                        created_in_s=clock() - began,
                        max_billing_pause_s=self._published.config.billing_exception_max_pause_duration_sec,
                    )
                    answer = await self._drive(request, steps)
            send.reply_to.tell_if_there(Answered(send.tag, answer))
        except TinkerActorsError as error:
            send.reply_to.tell_if_there(Failed(send.tag, error, accepted=handle is not None))
        except asyncio.CancelledError:
            if handle is not None and operation == "asample":
                self._cancel_on_service(handle.request_id)
            raise

    @contextlib.contextmanager
    def _watch(self, send: Send) -> Iterator[Once | None]:
        """How its call is tried where its sender hears, once, when nobody handles its bytes; None where it does not."""
        tell = send.sent
        if tell is None:
            yield None
            return

        def sent() -> None:
            if not waits.cancelled():
                waits.cancel()
                tell()

        waits = asyncio.get_running_loop().call_later(HANDLING_S, sent)

        async def once(call: Call[Any]) -> Answer:
            try:
                return await self._once(call, sent=sent)
            except TinkerActorsError:
                sent()
                raise

        try:
            yield once
        finally:
            waits.cancel()

    async def _stream(self, order: Stream, request: Request) -> None:
        channel = order.channel
        if channel.is_fed:
            return

        async def read(parts: Parts) -> None:
            request.is_accepted = True
            await fill(channel, parts)

        async def once(call: Call[Any]) -> Answer:
            try:
                return await self._once(call, read)
            except APIConnectionError as error:
                raise (broken(channel, error) if channel.tokens else error) from error.__cause__

        channel.is_fed = True
        try:
            if channel.tokens:
                raise broken(channel, OutcomeUnknownError("the transport was restarted"))
            answer = await self._drive(request, self._submit(order.call), once)
            order.reply_to.tell_if_there(Answered(order.tag, answer))
        except TinkerActorsError as error:
            order.reply_to.tell_if_there(Failed(order.tag, error, accepted=request.is_accepted))
        finally:
            channel.is_fed = False

    def _readable(self, expected: Expectation) -> Expectation:
        """What is expected, without protobuf where settings do without it."""
        if self._published.settings.codec != "json":
            return expected
        return msgspec.structs.replace(expected, accept=JSON)

    def _submit(self, call: Call[Any]) -> RoundTrips[Answer]:
        if call.in_json is None:
            return self._repeat(call)
        return in_a_known_codec(call, lambda: self._published.capabilities, self._note_codec, self._repeat)

    def _repeat(self, call: Call[Any]) -> RoundTrips[Answer]:
        limit_s = self._published.config.billing_exception_max_pause_duration_sec
        return with_retries(call, self.context.clock.now, self._random, max_billing_pause_s=limit_s)

    def _note_codec(self, codec: Codec) -> None:
        self._published.capabilities = msgspec.structs.replace(self._published.capabilities, codec=codec)

    def _cancel_on_service(self, request_id: str) -> None:
        """Tell a service that wants to know that nobody waits for this result any more; best effort."""
        if not self._published.dynamic_config.sample_cancel_enabled or self._is_ending:
            return

        async def send() -> None:
            cancels = self._limits.cancels
            price = await cancels.wait("")
            try:
                with contextlib.suppress(TinkerActorsError):
                    await self._once(cancel_future(request_id))
            finally:
                cancels.leave("", price)

        task = asyncio.create_task(send())
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _fetch(self, call: Call[Any], reply: Reply, request: Request) -> None:
        try:
            reply.set(call.read(await self._drive(request, self._submit(call))))
        except TinkerActorsError as error:
            reply.fail(error)

    async def _drive(self, request: Request, steps: RoundTrips[Answer], once: Once | None = None) -> Answer:
        """Do what `steps` yield, and send it the outcomes; what was reserved is given back with the last one."""
        outcome: Answer | TinkerActorsError | None = None
        send = self._guarded if once is None else partial(self._admission.attempt, send=once)
        reserved: list[int] = []
        try:
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration as done:
                    answer: Answer = done.value
                    return answer
                outcome = None
                if isinstance(step, Call):
                    try:
                        outcome = await self._limits.attempt(request, step, send)
                    except TinkerActorsError as error:
                        outcome = error
                elif isinstance(step, Reserve):
                    reserved.append(await self._limits.enter(self._limits.answers, request, step.size))
                else:
                    await self._note(request, step)
        finally:
            for price in reserved:
                self._limits.answers.leave(request.client, price)

    async def _drive_in_room(
        self, call: Call[Any], request: Request, steps: RoundTrips[Answer], once: Once | None
    ) -> Answer:
        """Drive the submission of training data, a few megabytes at a time over all models."""
        size = len(call.body)
        await self._limits.enter(self._limits.training, request, size)
        try:
            return await self._drive(request, steps, once)
        finally:
            self._limits.training.leave(request.client, size)

    async def _note(self, request: Request, step: Pause | QueueChanged) -> None:
        """Tell of a pause, and keep it; tell of a change in the service's queue."""
        match step:
            case Pause(delay_s, cause):
                if cause != PENDING:
                    self.context.emit(
                        RequestRetried(operation=request.operation, reason=cause, delay_s=delay_s)
                    )
                    request.repeats = self.context.clock.now() + delay_s, cause
                await asyncio.sleep(delay_s)
                request.repeats = None
            case QueueChanged(request_id, state, reason):
                request.queue = None if state == "active" else (state, reason)
                self.context.emit(
                    QueueStateChanged(
                        operation=request.operation,
                        client=request.client,
                        request_id=request_id,
                        state=state,
                        reason=reason,
                    )
                )

    async def _once(
        self, call: Call[Any], read: ReadParts | None = None, sent: OnSent | None = None
    ) -> Answer:
        """One try of `call`; the first one asks the server for its flags before."""
        if not self._greeting.is_done:
            await self._greeting.wait_for(self._greet)
        if self.context.clock.now() >= self._flags_due:
            self._flags_due = math.inf
            self._refreshing = asyncio.create_task(self._refresh_flags())
        secret = await self._identity.secret()
        answer = await self._send(call, secret, read, sent)
        if is_token_rejected(answer) and await self._identity.replace(secret):
            self.context.emit(
                RequestRetried(operation=call.operation, reason="its token was rejected", delay_s=0.0)
            )
            answer = await self._send(call, await self._identity.secret(), read, sent)
        self._note_deprecation(call.operation, answer)
        return answer

    def _note_deprecation(self, operation: str, answer: Answer) -> None:
        """Tell, once for each, what the service will do without before long."""
        note = answer.headers.get("x-deprecation-note")
        if note is not None and (operation, note) not in self._deprecations:
            self._deprecations.add((operation, note))
            level = answer.headers.get("x-deprecation-level", "")
            is_urgent = level.lower() == "error"
            self.context.emit(OperationDeprecated(operation=operation, note=note, is_urgent=is_urgent))

    async def _greet(self) -> None:
        """Ask for the flags, with the key itself; a server that has none has them at their defaults."""
        key = (await self._identity.key()).reveal()
        self._published.config = config = await self._ask(client_config(), key, NO_FLAGS)
        if config is NO_FLAGS:
            self._published.capabilities = msgspec.structs.replace(
                self._published.capabilities, has_flags=False
            )
        self._identity.uses_tokens = config.pjwt_auth_enabled
        self._identity.prefers_command = config.credential_default_source == "credential_cmd"
        await self._refresh_flags()

    async def _refresh_flags(self) -> None:
        """Ask for the flags that may change; while there is no answer, the old ones hold."""
        old = self._published.dynamic_config
        with contextlib.suppress(TinkerActorsError):
            flags = await self._ask(dynamic_config(), await self._identity.secret(), DynamicConfig())
            self._published.dynamic_config = old = flags
        self._flags_due = self.context.clock.now() + max(10.0, old.refresh_interval_sec)

    async def _ask(self, call: Call[T], secret: str, default: T) -> T:
        try:
            return call.read((await self._send(call, secret)).success())
        except APIStatusError as error:
            if has_no_flags(error):
                return default
            raise

    async def _exchange(self, key: Secret) -> str:
        call = exchange_key()
        return call.read((await self._send(call, key.reveal())).success())

    async def _send(
        self, call: Call[Any], secret: str, read: ReadParts | None = None, sent: OnSent | None = None
    ) -> Answer:
        if not self._ready.is_set():
            await self._wait_for_server(call)
        endpoint = self._published.endpoint
        if endpoint is None:
            raise APIConnectionError("the embedded server is not up")
        headers = {"x-api-key": secret}
        if call.is_compressible and self._published.config.proto_compress_fwdbwd:
            packed = compressed(call.body)
            if packed is not None:
                headers["content-encoding"] = "zstd"
                call = msgspec.structs.replace(call, body=packed)
        tracing = self._published.tracing
        if tracing is None:
            exchange = self._send_once(call, endpoint.base_url, headers, read, sent)
        else:
            exchange = traced(
                tracing,
                call,
                url_of(call, endpoint.base_url),
                lambda more: self._send_once(call, endpoint.base_url, {**headers, **more}, read, sent),
            )
        if self.context.wants(RequestBegan, RequestEnded):
            return await told(self.context, call, exchange)
        return await exchange

    async def _send_once(
        self,
        call: Call[Any],
        base_url: str,
        headers: Mapping[str, str],
        read: ReadParts | None,
        sent: OnSent | None,
    ) -> Answer:
        if read is not None:
            return await self._transport.stream(call, base_url, read, headers)
        return await self._transport.send(call, base_url, headers, sent=sent)

    async def _wait_for_server(self, call: Call[Any]) -> None:
        try:
            await asyncio.wait_for(self._ready.wait(), call.timeout_s)
        except TimeoutError:
            raise APITimeoutError(
                f"no server to send {call.operation} to within {call.timeout_s} s"
            ) from None


def _http_transport(published: Published) -> Transport:
    settings = published.settings
    return make_transport(
        HttpOptions(
            headers={
                "user-agent": "tinker-actors",
                **{name: value.reveal() for name, value in settings.headers},
            },
            query=settings.query,
            proxy=None if settings.proxy is None else settings.proxy.reveal(),
            direct=settings.is_local,
        ),
        settings.transport,
    )
