"""What the server says of itself: one JSON line an event, and shell lines for the person who starts it."""

import ipaddress
import socket
import sys
import traceback
from typing import Any

from tinker_actors.local.engine.catalog import model_names
from tinker_actors.local.options import Options
from tinker_actors.local.specs import as_json

__all__ = ["announce", "greet", "report", "report_failure"]


def announce(event: str, **facts: Any) -> None:
    """One line on standard output, for the process that started the server."""
    _write(sys.stdout, event, facts)


def greet(options: Options, host: str, port: int) -> None:
    """What a person needs to use the server, as lines for a shell; a key is not repeated."""
    address = ipaddress.ip_address(host)
    name = socket.gethostname() if address.is_unspecified else f"[{host}]" if address.version == 6 else host  # noqa: PLR2004
    key = "tml-local" if options.api_key is None else "..."
    lines = (
        f"# serving {', '.join(model_names())} from {options.data}; Ctrl-C stops it, what it has stays there",
        f"export TINKER_BASE_URL=http://{name}:{port}",
        f"export TINKER_API_KEY={key}"
        + ("" if options.api_key is None else "  # the one named with --api-key"),
    )
    _print(sys.stdout, "\n".join(lines))


def report(event: str, **facts: Any) -> None:
    """One line on standard error, for people."""
    _write(sys.stderr, event, facts)


def report_failure(event: str, error: BaseException, **facts: Any) -> None:
    """A failure of the server's own, with where it happened."""
    report(event, error=repr(error), traceback=traceback.format_exception(error), **facts)


def _write(stream: Any, event: str, facts: dict[str, Any]) -> None:
    _print(stream, as_json({"event": event, **facts}).decode())


def _print(stream: Any, text: str) -> None:
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):  # nobody reads it
        pass
