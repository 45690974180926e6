"""Calling what others left behind to be called: whatever it raises, it ends nobody else's thread."""

import logging
import threading
from collections.abc import Callable

__all__ = ["run_callback"]

logger = logging.getLogger(__name__)


def run_callback(callback: Callable[[], object], failed: str) -> None:
    """Run `callback`; what it raises is logged as the event `failed`.

    Also a `SystemExit` or a cancellation: this thread is not the callback's to end. Only the user's own Ctrl-C,
    which comes in the main thread, goes on.
    """
    try:
        callback()
    except BaseException as error:
        logger.exception(failed)
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
