"""Event loops, from other threads."""

import asyncio
import contextlib
from collections.abc import Callable

__all__ = ["call_soon"]


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run `callback` on `loop`, from any thread; nothing happens once that is closed."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
        loop.call_soon_threadsafe(callback)
