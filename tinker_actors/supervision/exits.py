"""Why an incarnation ended or did not run, and how a handler ends its own.

Only values and the `Stop` signal live here.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from tinker_actors.errors import ConfigError

__all__ = [
    "IGNORED",
    "NORMAL",
    "Error",
    "ExitReason",
    "Ignored",
    "Killed",
    "Normal",
    "Shutdown",
    "ShutdownWith",
    "Stalled",
    "StartFailed",
    "Stop",
    "cause_of",
    "is_clean",
]


@dataclass(frozen=True, slots=True)
class Normal:
    """The actor ended because its work was done."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The actor was asked to end, or its supervisor gave up."""

    detail: str = "asked to stop"
    """What asked for it, for a reader."""
    cause: BaseException | None = None
    """The first exception of those that spent the restart budget; None when nothing failed."""
    last: BaseException | None = None
    """The exception that was one too many."""


@dataclass(frozen=True, slots=True)
class ShutdownWith:
    """The actor ended cleanly and left a word about it."""

    detail: Any
    """Whatever the actor wanted to say."""


@dataclass(frozen=True, slots=True)
class Error:
    """The actor crashed."""

    error: BaseException
    """What its handler raised."""


@dataclass(frozen=True, slots=True)
class Killed:
    """The actor did not end in its time and was abandoned; its thread may still run, fenced."""

    after_s: float
    """The seconds it was given."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The actor never came up."""

    error: BaseException
    """What its factory or `on_start` raised, or the time-out."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """A handler did not return in twice its time, and the incarnation was given up; its thread may still run."""

    error: TimeoutError
    """Which handler, and for how long it had run."""
    stack: str
    """Where its thread was then."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The factory said that there is nothing to run; neither a failure nor a start."""


ExitReason: TypeAlias = Normal | Shutdown | ShutdownWith | Error | Killed | StartFailed | Stalled | Ignored

NORMAL = Normal()
IGNORED = Ignored()


def is_clean(reason: ExitReason) -> bool:
    """Whether a transient child that ended with `reason` stays down."""
    return isinstance(reason, Normal | Shutdown | ShutdownWith | Ignored)


def cause_of(reason: ExitReason) -> BaseException | None:
    """The exception behind `reason`: for a supervisor that gave up, the first of them."""
    match reason:
        case Error(error) | StartFailed(error) | Stalled(error):
            return error
        case Shutdown(cause=cause):
            return cause
        case _:
            return None


class Stop(BaseException):
    """Raise it in a handler to end the actor on purpose.

    It is no `Exception`, so that `except Exception` in a handler does not swallow it.

    Args:
        reason: how the supervisor shall see the end.
        reply: the answer to the ask being handled; without one its outcome is unknown.

    Raises:
        ConfigError: `reason` is none.
    """

    def __init__(self, reason: ExitReason = NORMAL, *, reply: Any = ...) -> None:
        if not isinstance(reason, ExitReason):
            raise ConfigError(f"Stop must have an exit reason, such as NORMAL or Shutdown(), got {reason!r}")
        super().__init__(reason)
        self.reason = reason
        self.reply = reply
