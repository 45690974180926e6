"""OpenTelemetry: spans of operations, requests, recovery and restarts, and their context in every request.

Loaded where `otel_propagate` is on, and nowhere else. Spans go to the tracer provider that the program has set, and
context travels as its propagators say: W3C trace context and baggage, unless `OTEL_PROPAGATORS` says otherwise.

Attributes follow the semantic conventions (`http.*`, `url.full`, `server.*`, `error.type`, `gen_ai.*`); what they
have no name for is `tinker_actors.*`. No key, no header, no token, no query of a URL is in any of them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tinker_actors.errors import TinkerActorsError
from tinker_actors.supervision import ChildDeleted, ChildExited, ChildRestarting, ChildStarted, EventStream

__all__ = ["OpenTelemetry", "extract_context", "inject_headers"]

T = TypeVar("T")
Fact = str | bool | int | float | Sequence[str]

logger = logging.getLogger(__name__)

_MAX_CHARACTERS = 500
_SAMPLES = frozenset({"sample", "sample_stream"})
_PROVIDER = "tinker"
_NAMES = {
    "model": "gen_ai.request.model",
    "num_samples": "gen_ai.request.choice.count",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "finish_reasons": "gen_ai.response.finish_reasons",
}
"""The conventions' names of what is known."""
_PORTS = {"http": 80, "https": 443}
_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})


class _Call(Protocol):
    """What is asked of a request."""

    @property
    def operation(self) -> str: ...
    @property
    def method(self) -> str: ...


def inject_headers(headers: Mapping[str, str], context: Context | None = None) -> dict[str, str]:
    """`headers` and those of the trace context, which take the place of none that is there.

    Whoever has a `traceparent` is in a trace of its own: it gets no `tracestate` of another one.

    Args:
        headers: of a request; names count in any case.
        context: what goes out; by default that of this thread or task.
    """
    return {**headers, **_carried(context, frozenset(name.lower() for name in headers))}


def extract_context(headers: Mapping[str, str]) -> Context:
    """The trace context that came with a request, for spans of whoever answers it; empty where there is none."""
    return propagate.extract({name.lower(): value for name, value in headers.items()}, context=Context())


class OpenTelemetry:
    """Makes spans.

    Args:
        kept: names of headers that every request has already; trace context takes the place of none of them.
    """

    def __init__(self, *, kept: Iterable[str] = ()) -> None:
        self._tracer = trace.get_tracer("tinker_actors")
        self._kept = frozenset(kept)

    def begin(self, name: str, facts: Mapping[str, Fact]) -> "_Operation":
        """A span below what goes on in this thread or task."""
        return self._operation(name, facts, None)

    def begin_apart(self, name: str, facts: Mapping[str, Fact], *, links: Sequence[Any] = ()) -> "_Operation":
        """A span below nothing, with links to those that wait for it."""
        return self._operation(name, facts, Context(), [Link(one.span.get_span_context()) for one in links])

    def begin_below(self, parent: Any, name: str, facts: Mapping[str, Fact]) -> "_Operation":
        """A span below another."""
        return self._operation(name, facts, parent.context)

    def _operation(
        self, name: str, facts: Mapping[str, Fact], above: Context | None, links: Sequence[Link] = ()
    ) -> "_Operation":
        attributes = _attributes(facts)
        if name in _SAMPLES:
            attributes["gen_ai.operation.name"] = "text_completion"
            attributes["gen_ai.provider.name"] = _PROVIDER
            attributes["gen_ai.request.stream"] = name == "sample_stream"
        span = self._start(name, above, SpanKind.INTERNAL, attributes, links)
        return _Operation(span, trace.set_span_in_context(span, above))

    def attempt(self, parent: Any, call: _Call, url: str, *, resends: int) -> "_Attempt":
        """A span for one HTTP request."""
        place = urlsplit(url)
        attributes: dict[str, Fact] = {
            "http.request.method": call.method,
            "url.full": url.partition("?")[0],
            "server.address": place.hostname or "",
            "server.port": place.port or _PORTS.get(place.scheme, 0),
            "tinker_actors.operation": call.operation,
        }
        if resends:
            attributes["http.request.resend_count"] = resends
        above = Context() if parent is None else parent.context
        span = self._start(f"{call.method} {call.operation}", above, SpanKind.CLIENT, attributes)
        return _Attempt(span, _carried(trace.set_span_in_context(span, above), self._kept))

    def _start(
        self,
        name: str,
        above: Context | None,
        kind: SpanKind,
        attributes: Mapping[str, Fact],
        links: Sequence[Link] = (),
    ) -> trace.Span:
        nothing: trace.Span = trace.INVALID_SPAN
        return _safely(lambda: self._tracer.start_span(name, above, kind, attributes, links), nothing)

    def watch(self, events: EventStream) -> None:
        """Make a span of each restart in a tree, from the end of one incarnation to the start of the next."""
        restarts = _Restarts(self._tracer)
        events.subscribe(restarts.note, ChildExited, ChildRestarting, ChildStarted, ChildDeleted)


class _Operation:
    """A span of ours, and the context in which it goes on."""

    __slots__ = ("_is_ended", "_lock", "context", "span")

    def __init__(self, span: trace.Span, context: Context) -> None:
        self.span = span
        self.context = context
        self._lock = threading.Lock()
        self._is_ended = False

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Keep what has turned out."""
        if self.span.is_recording():
            self.span.set_attributes(_attributes(facts))

    def end(self, error: BaseException | None = None) -> None:
        """It is over, and with which error if it failed. Only the first call counts."""
        with self._lock:
            is_first, self._is_ended = not self._is_ended, True
        if is_first:
            _end(self.span, error)


class _Attempt:
    """One HTTP request, for a `with` block."""

    __slots__ = ("_span", "headers")

    def __init__(self, span: trace.Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self.headers = headers

    def note_answer(self, status: int, *, is_error: bool) -> None:
        """An answer came."""
        self._span.set_attribute("http.response.status_code", status)
        if is_error:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._span, error)


class _Restarts:
    """Ends and starts of a tree's actors; told of them on one thread."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._down: dict[str, tuple[int, dict[str, Fact]]] = {}
        """By path: since when, in nanoseconds of the epoch, and what is known of it."""

    def note(self, event: Any) -> None:
        """One of them."""
        match event:
            case ChildExited(path=path, reason=reason):
                self._down[path] = time.time_ns(), {"path": path, "reason": type(reason).__name__}
            case ChildRestarting(path=path, restarts=restarts) if path in self._down:
                self._down[path][1]["restarts"] = restarts
            case ChildStarted(path=path, epoch=epoch) if path in self._down:
                since, facts = self._down.pop(path)
                span = self._tracer.start_span(
                    "actor.restart",
                    Context(),
                    attributes=_attributes({**facts, "epoch": epoch}),
                    start_time=since,
                )
                span.end()
            case ChildDeleted(path=path):
                self._down.pop(path, None)


def _attributes(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {_NAMES.get(name, f"tinker_actors.{name}"): fact for name, fact in facts.items()}


def _carried(context: Context | None, kept: frozenset[str]) -> dict[str, str]:
    """Headers by which another program finds this context, but for those that are there."""
    carrier: dict[str, str] = {}
    _safely(lambda: propagate.inject(carrier, context), None)
    without = kept | _TRACE_HEADERS if "traceparent" in kept else kept
    return {name: value for name, value in carrier.items() if name.lower() not in without}


def _end(span: trace.Span, error: BaseException | None) -> None:
    if error is not None:
        # Words of others may hold anything; ours hold nothing secret.
        words = str(error)[:_MAX_CHARACTERS] if isinstance(error, TinkerActorsError) else None
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, words))
    _safely(span.end, None)


def _safely(act: Callable[[], T], otherwise: T) -> T:
    """What `act` gives: a processor or propagator of the program's that fails must not take a request with it."""
    try:
        return act()
    except Exception:
        logger.exception("otel.tracing_failed")
        return otherwise
