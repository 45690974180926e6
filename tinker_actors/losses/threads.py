"""Functions of callers side by side, each with a time limit."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from time import monotonic
from typing import TypeVar

__all__ = ["run_all"]

T = TypeVar("T")


def run_all(jobs: Sequence[Callable[[], T]], *, limit: int, timeout_s: float | None) -> list[T]:
    """The results of `jobs`, in their order.

    Each runs in a thread of its own, so that one that hangs can be given up: its thread is left behind, and does not
    keep the program from ending.

    Args:
        jobs: functions.
        limit: how many run at a time; 1 runs them one after another.
        timeout_s: for each; None lets them take as long as they will.

    Raises:
        TimeoutError: one took longer; its number is in `args[0]`.
        Exception: the first one that a job raised; none is begun after that.
    """
    futures: list[Future[T]] = [Future() for _ in jobs]
    waiting = deque(range(len(jobs)))
    deadlines: dict[Future[T], float] = {}
    while waiting or deadlines:
        while waiting and len(deadlines) < limit:
            number = waiting.popleft()
            deadlines[futures[number]] = monotonic() + (float("inf") if timeout_s is None else timeout_s)
            _start(jobs[number], futures[number])
        left_s = max(0.0, min(deadlines.values()) - monotonic())
        done = wait(
            deadlines, timeout=None if timeout_s is None else left_s, return_when=FIRST_COMPLETED
        ).done
        for future in done:
            future.result()
            del deadlines[future]
        late = [future for future, due in deadlines.items() if due <= monotonic() and not future.done()]
        if late:
            raise TimeoutError(futures.index(late[0]))
    return [future.result() for future in futures]


def _start(job: Callable[[], T], future: "Future[T]") -> None:
    def run() -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to who waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="regularizer", daemon=True).start()
