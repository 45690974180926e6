"""What supervisors, children and timers tell each other on the control lane; no part of the public API."""

from dataclasses import dataclass
from typing import Any, Protocol

from tinker_actors.supervision.exits import ExitReason, Stalled
from tinker_actors.supervision.replies import Reply

__all__ = [
    "Crash",
    "Exited",
    "Parent",
    "RetryDue",
    "StallDetected",
    "StartTimedOut",
    "Started",
    "StopRequest",
    "StopTimedOut",
]


class Parent(Protocol):
    """Whoever is told about a child: its supervisor's mailbox, or the tree for the root."""

    def post(self, message: Any, reply: Reply | None = None) -> bool:
        """Take a signal; False when nobody is there any more. Never blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """An incarnation is up."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Exited:
    """An incarnation ended; its mailbox is closed. The only one of its kind per incarnation."""

    id: str
    epoch: int
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A supervisor wants the child to end; its own clock time limit comes with it."""

    deadline: float
    """When the whole shutdown must be over, in clock seconds; may be infinite."""


@dataclass(frozen=True, slots=True)
class StartTimedOut:
    """A child had its time to start."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StopTimedOut:
    """A child had its time to end."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StallDetected:
    """The watchdog found a handler that does not return."""

    id: str
    epoch: int
    after_s: float
    """How long it had run."""
    reason: Stalled


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The pause before a restart is over."""

    id: str
    ticket: int
    """Which pause; a cancelled one is ignored."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Raise this error in the actor's own thread."""

    error: BaseException
