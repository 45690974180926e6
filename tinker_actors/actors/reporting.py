"""What is to be told to the service of this client, where its user wants that: queued by anybody, sent by one actor."""

import contextlib
import functools
import inspect
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from tinker_actors.api import telemetry as api
from tinker_actors.errors import ValidationError
from tinker_actors.events import ModelRestored, QueueStateChanged, RequestEnded, RunHalted
from tinker_actors.supervision import ChildRestarting
from tinker_actors.types.checks import finite, one_of, shown, text

__all__ = ["MOST_WAITING", "REPORTED", "Telemetry"]

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Events that may wait to be sent; the official SDK's number."""
DRAIN_TIMEOUT_S = 30.0
REPORTED: tuple[type[object], ...] = (
    ChildRestarting,
    ModelRestored,
    QueueStateChanged,
    RequestEnded,
    RunHalted,
)
"""Events of the runtime that are passed on; of requests, those that failed."""


class Telemetry:
    """Tells the service of a program: what the program wants told, how it fails, what its runtime had to do.

    Nothing waits for it unless it asks for that, and nothing fails with it. What is queued survives a crash of the actor
    that sends it, and not the death of the process.

    Args:
        session: says which session there is, if any.
        now: the time of day, with its zone.
    """

    def __init__(
        self, session: Callable[[], str | None], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.process_uuid = str(uuid.uuid4())
        self._sessionless = f"sessionless-{uuid.uuid4()}"
        self._look_up = session
        self._session_id: str | None = None
        """The latest one that there was."""
        self._pid = os.getpid()
        self._now = now
        self._began = now()
        self._changed = threading.Condition()
        self._waiting: deque[dict[str, Any]] = deque()
        self._sending: list[dict[str, Any]] = []
        self._indexes: dict[str, int] = {}
        """By session, the number of its next event."""
        self._is_over = False
        """Whether nothing more is taken."""
        self._dropped = 0
        self._wake: Callable[[], None] | None = None

    @property
    def dropped(self) -> int:
        """Events that the service never heard of: there were too many, or it did not take them."""
        return self._dropped

    # For programs --------------------------------------------------------------------------------

    def log(
        self, event_name: str, event_data: Mapping[str, Any] | None = None, severity: str = "INFO"
    ) -> bool:
        """Tell of an event of the program's own, with whatever belongs to it.

        Args:
            event_name: what happened.
            event_data: about it; what JSON cannot hold is told as text.
            severity: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL", in any case.

        Returns:
            Whether it was queued.

        Raises:
            ValidationError: an argument is wrong.
        """
        if event_data is not None and not isinstance(event_data, Mapping):
            raise ValidationError(f"event_data is a mapping of names to values, got {shown(event_data)}")
        name = text("event_name", event_name)
        return self._add(api.generic_event(name, event_data or {}, _severity(severity)))

    def log_exception(self, exception: BaseException, severity: str = "ERROR") -> bool:
        """Tell of an exception, soon: its class, its words and where it was raised.

        One behind which there is a mistake of the caller's is told as that, and no more of it than what the service said.

        Returns:
            Whether it was queued.

        Raises:
            ValidationError: an argument is wrong.
        """
        if not isinstance(exception, BaseException):
            raise ValidationError(f"an exception is wanted, got {shown(exception)}")
        is_queued = self._add(api.exception_event(exception, _severity(severity)))
        self.flush()
        return is_queued

    def log_fatal_exception(
        self,
        exception: BaseException,
        severity: str = "CRITICAL",
        timeout: float = DRAIN_TIMEOUT_S,
    ) -> bool:
        """Tell of an exception that ends the program, and that the session is over; wait until that is told.

        Returns:
            Whether it was queued. Nothing is, later.

        Raises:
            ValidationError: an argument is wrong.
        """
        limit_s = finite("timeout", timeout)
        is_queued = self.log_exception(exception, severity)
        if is_queued and self._session() is not None:
            logger.info("telemetry.session_ended: session %s", self._session_id)
            self._add(api.session_end_event(self._now() - self._began))
        with self._changed:
            self._is_over = True
        self.wait_until_drained(limit_s)
        return is_queued

    def flush(self) -> None:
        """Have what waits sent now, and not within ten seconds."""
        wake = self._wake
        if wake is not None:
            wake()

    def wait_until_drained(self, timeout: float = DRAIN_TIMEOUT_S) -> bool:
        """Have everything sent, and wait until nothing waits any more; whether that is so in time.

        Raises:
            ValidationError: `timeout` is no number.
        """
        limit_s = finite("timeout", timeout)
        self.flush()
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._sending, limit_s)

    def capture_exceptions(self, *, fatal: bool = False, severity: str | None = None) -> "_Capture":
        """Tell of what is raised in a `with` block, or in a function or coroutine that this decorates; it is raised on.

        Args:
            fatal: the program ends of it, as in `log_fatal_exception`.
            severity: of it; by default "CRITICAL" for what is fatal, and "ERROR" for other exceptions.
        """
        known = _severity(severity or ("CRITICAL" if fatal else "ERROR"))
        tell = self.log_fatal_exception if fatal else self.log_exception
        return _Capture(functools.partial(tell, severity=known))

    # For the runtime -----------------------------------------------------------------------------

    def note(self, event: object) -> None:
        """Pass on an event of the runtime."""
        match event:
            case RequestEnded(operation="telemetry"):
                return
            case RequestEnded() if not event.is_success:
                facts = {"operation": event.operation, "status": event.status, "error": event.error}
                self._add(api.generic_event("http.request.exception", facts, "ERROR"))
            case QueueStateChanged():
                facts = {
                    "operation": event.operation,
                    "request_id": event.request_id,
                    "queue_state": event.state,
                    "queue_state_reason": event.reason,
                }
                self._add(api.generic_event("queue.state_change", facts, "INFO"))
            case ModelRestored():
                facts = {"run": event.run, "checkpoint": event.checkpoint, "replayed": event.replayed}
                self._add(api.generic_event("recovery.completed", facts, "WARNING"))
            case RunHalted():
                self._add(api.generic_event("recovery.exhausted", {"run": event.run}, "ERROR"))
                self.flush()
            case ChildRestarting():
                facts = {"path": event.path, "restarts": event.restarts}
                self._add(api.generic_event("actor.restarted", facts, "WARNING"))

    def bind(self, wake: Callable[[], None]) -> None:
        """A new incarnation sends from now on: what its predecessor was at is sent again, and `wake` calls it."""
        with self._changed:
            self._waiting.extendleft(reversed(self._sending))
            self._sending = []
            self._wake = wake

    def take(self) -> tuple[str, list[dict[str, Any]]] | None:
        """The next batch and the session that it is told to; None while there is none, or one is on its way.

        The first batch of a session begins with its start. Without a session there is neither start nor end.
        """
        with self._changed:
            if self._sending or not self._waiting:
                return None
            session_id = self._session()
            known = session_id or self._sessionless
            if known not in self._indexes and session_id is not None:
                self._waiting.appendleft(self._stamped(api.session_start_event()))
            number = self._indexes.get(known, 0)
            count = min(api.MOST_EVENTS, len(self._waiting))
            for _ in range(count):
                event = self._waiting.popleft()
                # One that is sent again has its number already.
                number += "event_session_index" not in event
                self._sending.append({"event_session_index": number - 1, **event})
            self._indexes[known] = number
            return known, list(self._sending)

    def settle(self, *, is_taken: bool) -> None:
        """The batch on its way is done with: the service took it, or will not."""
        with self._changed:
            self._dropped += 0 if is_taken else len(self._sending)
            self._sending = []
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Have everything told within `timeout_s`; what was not is lost, and nothing is taken any more."""
        with contextlib.suppress(ValidationError):
            self.wait_until_drained(timeout_s)
        with self._changed:
            self._is_over = True
            self._dropped += len(self._waiting) + len(self._sending)
            self._waiting.clear()
            self._sending = []
            self._wake = None
            self._changed.notify_all()

    def _session(self) -> str | None:
        self._session_id = self._look_up() or self._session_id
        return self._session_id

    def _add(self, event: dict[str, Any]) -> bool:
        if (
            os.getpid() != self._pid
        ):  # a forked child has nobody who sends, and perhaps a lock that nobody opens
            return False
        with self._changed:
            self._session()
            if self._is_over:
                return False
            if len(self._waiting) >= MOST_WAITING:
                self._dropped += 1
                if self._dropped == 1:
                    logger.warning("telemetry.overflow: more than %d events wait", MOST_WAITING)
                return False
            self._waiting.append(self._stamped(event))
            is_full = len(self._waiting) == api.MOST_EVENTS
        if is_full:
            self.flush()
        return True

    def _stamped(self, event: dict[str, Any]) -> dict[str, Any]:
        return {"event_id": str(uuid.uuid4()), "timestamp": self._now().isoformat(), **event}


def _severity(given: Any) -> api.Severity:
    known: Any = given.upper() if isinstance(given, str) else given
    one_of("severity", known, *api.SEVERITIES)
    severity: api.Severity = known
    return severity


class _Capture(AbstractContextManager["_Capture"]):
    """Tells of exceptions, for a `with` block, a function or a coroutine function."""

    def __init__(self, tell: Callable[[BaseException], object]) -> None:
        self._tell = tell

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._tell(error)

    def __call__(self, function: F) -> F:
        wrapped: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*arguments: Any, **options: Any) -> Any:
                with self:
                    return await function(*arguments, **options)

        else:

            @functools.wraps(function)
            def wrapped(*arguments: Any, **options: Any) -> Any:
                with self:
                    return function(*arguments, **options)

        decorated: F = wrapped
        return decorated
