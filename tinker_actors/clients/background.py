"""Work that blocks, on a thread of its own, for a future."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tinker_actors.actors.runtime import Runtime

__all__ = ["work_for"]

T = TypeVar("T")


def work_for(future: "Future[T]", runtime: Runtime, name: str, work: Callable[[], T]) -> None:
    """Settle `future` with what `work` gives or raises; it runs on a thread called `name`."""
    settler = runtime.settler

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            settler.fail(future, error)
        else:
            settler.settle(future, result)

    threading.Thread(target=run, name=name, daemon=True).start()
