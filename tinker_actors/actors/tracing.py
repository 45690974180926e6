"""The port that a tracer fits into, and how spans travel with operations. Without a tracer nothing is kept.

A span is begun in the thread of whoever asks, so that it is the child of what is going on there. It lies beside the
request from then on, so it is still there when an actor sends that later, and when another incarnation sends it again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, TypeAlias, TypeVar

from tinker_actors.errors import TinkerActorsError
from tinker_actors.events import RequestBegan, RequestEnded
from tinker_actors.supervision import Context as SupervisedContext
from tinker_actors.supervision import EventStream
from tinker_actors.wire.calls import Answer, Call, Pool

__all__ = [
    "Attempt",
    "Fact",
    "Facts",
    "RecoverySpans",
    "Span",
    "Tracing",
    "below",
    "followed",
    "told",
    "traced",
]

T = TypeVar("T")

Fact: TypeAlias = str | bool | int | float | Sequence[str]
Facts: TypeAlias = Mapping[str, Fact]
"""What is known of an operation, by our own names. No tokens, prompts or keys."""


class Span(Protocol):
    """One operation as it goes on; thread-safe."""

    def note(self, facts: Facts) -> None:
        """Keep what has turned out."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over, and with which error if it failed. Only the first call counts."""


class Attempt(Protocol):
    """One HTTP request of an operation."""

    @property
    def headers(self) -> Mapping[str, str]:
        """To be sent with it, beside its own."""

    def note_answer(self, status: int, *, is_error: bool) -> None:
        """An answer came."""


class Tracing(Protocol):
    """Makes spans."""

    def begin(self, name: str, facts: Facts) -> Span:
        """A span below what goes on in this thread or task."""

    def begin_apart(self, name: str, facts: Facts, *, links: Sequence[Span] = ()) -> Span:
        """A span below nothing, which others wait for."""

    def begin_below(self, parent: Span, name: str, facts: Facts) -> Span:
        """A span below another."""

    def attempt(
        self, parent: Span | None, call: Call[Any], url: str, *, resends: int
    ) -> AbstractContextManager[Attempt]:
        """A span for one HTTP request, for a `with` block; what is raised there is how it failed.

        Args:
            parent: the operation's; None where nobody asked for it.
            call: what is sent.
            url: where to, without its query.
            resends: how many requests of the same kind failed before it.
        """

    def watch(self, events: EventStream) -> None:
        """Tell of restarts in the tree, too."""


class _Trail:
    """What the requests of one task on the network's loop have in common."""

    __slots__ = ("failures", "span")

    def __init__(self, span: Span | None) -> None:
        self.span = span
        self.failures: dict[str, int] = {}
        """Tries in a row that failed, by operation."""


_trail: ContextVar[_Trail] = ContextVar("trail")
"""Of the task that is running, and of those that it begins."""


def below(span: Span | None) -> Context:
    """The context of a task whose requests belong to `span`."""
    context = copy_context()
    context.run(_trail.set, _Trail(span))
    return context


async def traced(
    tracing: Tracing, call: Call[Any], url: str, send: Callable[[Mapping[str, str]], Awaitable[Answer]]
) -> Answer:
    """One try of `call`, with a span of its own below that of the task.

    Args:
        tracing: makes it.
        call: what is sent.
        url: where to.
        send: sends it, with further headers.
    """
    trail = _trail.get(None) or _Trail(None)
    resends = trail.failures.get(call.operation, 0)
    trail.failures[call.operation] = resends + 1
    with tracing.attempt(trail.span, call, url, resends=resends) as attempt:
        answer = await send(attempt.headers)
        is_bad = _is_error(call, answer)
        attempt.note_answer(answer.status, is_error=is_bad)
    if not is_bad:
        trail.failures[call.operation] = 0
    return answer


async def told(context: SupervisedContext, call: Call[Any], exchange: Awaitable[Answer]) -> Answer:
    """What `exchange` gives, one try of `call`; its begin and its end are events."""
    path, now = call.path.partition("?")[0], context.clock.now
    began = now()
    answer: Answer | None = None
    error = ""
    context.emit(RequestBegan(operation=call.operation, method=call.method, path=path))
    try:
        answer = await exchange
    except BaseException as raised:
        error = type(raised).__name__
        raise
    else:
        return answer
    finally:
        context.emit(
            RequestEnded(
                operation=call.operation,
                method=call.method,
                path=path,
                took_s=now() - began,
                status=None if answer is None else answer.status,
                error=error,
                is_success=answer is not None and not _is_error(call, answer),
            )
        )


def _is_error(call: Call[Any], answer: Answer) -> bool:
    """Whether an answer is one that the caller hoped not to get; "not yet" is the answer to most polls."""
    is_not_yet = answer.status == 408 and call.pool is Pool.FUTURE  # noqa: PLR2004
    return answer.status >= 400 and not is_not_yet and answer.status not in call.answers  # noqa: PLR2004


def followed(span: Span, submit: "Callable[[], Future[T]]") -> "Future[T]":
    """The future that `submit` gives; `span` ends with it."""
    try:
        future = submit()
    except BaseException as error:
        span.end(error)
        raise
    future.add_done_callback(lambda done: span.end(_error_of(done)))
    return future


def _error_of(done: "Future[Any]") -> BaseException | None:
    return CancelledError("its holder gave it up") if done.cancelled() else done.exception()


class RecoverySpans:
    """How one run gets its model back, whatever incarnation is at it: all of it, and the replay below that.

    Args:
        tracing: None tells nothing.
        facts: of the run.
    """

    def __init__(self, tracing: Tracing | None, facts: Facts) -> None:
        self._tracing = tracing
        self._facts = facts
        self._whole: Span | None = None
        self._replay: Span | None = None

    @property
    def span(self) -> Span | None:
        """What a request of recovery belongs to, or one that is repeated; None while there is no recovery."""
        return self._replay or self._whole

    @property
    def is_replaying(self) -> bool:
        """Whether it is to be told when all is repeated."""
        return self._replay is not None

    def begin(self, reason: str, waiting: Callable[[], Sequence[Span]]) -> None:
        """A model is to be found again, or another one made; what was under way came to nothing.

        Args:
            reason: why.
            waiting: gives the operations that wait for it.
        """
        if self._tracing is None:
            return
        self.end(TinkerActorsError("it began anew"))
        facts = {**self._facts, "reason": reason}
        self._whole = self._tracing.begin_apart("recovery", facts, links=waiting())

    def note_model(self, facts: Facts, *, replayed: int) -> None:
        """There is a model; so many operations are repeated on it that have their results already."""
        if self._tracing is None or self._whole is None:
            return
        self._whole.note(facts)
        if replayed:
            self._replay = self._tracing.begin_below(
                self._whole, "replay", {**self._facts, "replayed": replayed}
            )
        else:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""
        replay, self._replay = self._replay, None
        whole, self._whole = self._whole, None
        for span in (replay, whole):
            if span is not None:
                span.end(error)
