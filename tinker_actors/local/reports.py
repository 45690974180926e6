"""What the server says of itself: one JSON line an event."""

import sys
import traceback
from typing import Any

from tinker_actors.local.specs import as_json

__all__ = ["announce", "report", "report_failure"]


def announce(event: str, **facts: Any) -> None:
    """One line on standard output, for the process that started the server."""
    _write(sys.stdout, event, facts)


def report(event: str, **facts: Any) -> None:
    """One line on standard error, for people."""
    _write(sys.stderr, event, facts)


def report_failure(event: str, error: BaseException, **facts: Any) -> None:
    """A failure of the server's own, with where it happened."""
    report(event, error=repr(error), traceback=traceback.format_exception(error), **facts)


def _write(stream: Any, event: str, facts: dict[str, Any]) -> None:
    try:
        stream.write(as_json({"event": event, **facts}).decode() + "\n")
        stream.flush()
    except (OSError, ValueError):  # nobody reads it
        pass
