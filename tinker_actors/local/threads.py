"""Threads without which the server must not go on."""

import os
import threading
from collections.abc import Callable

from tinker_actors.local.reports import report_failure

__all__ = ["DIED", "vital"]

DIED = 70
"""Exit code of a server that lost a thread it needs."""


def vital(name: str, work: Callable[[], None]) -> threading.Thread:
    """A daemon thread, not started; what ends it by an error ends the process, as it would be waited for for ever.

    What was accepted is stored, and goes on when the server is started again.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - nothing may be left that still answers
            report_failure("thread_died", error, thread=name)
            os._exit(DIED)

    return threading.Thread(target=run, name=name, daemon=True)
