"""Work that two threads share: BLAS has one here, as its own ones spin while they wait."""

import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue

import numpy as np

from tinker_actors.local.engine.catalog import Floats

__all__ = ["product", "share"]

SHARED_FROM = 2**22
"""Multiplications from which on a product is shared: a handover takes about as long as 2**20 of them."""
COLUMNS = 64
"""The place of the cut is a multiple of this, which BLAS computes best."""


class _Task:
    """Something to be done in the other thread: a lock and two references, a tenth of what a future costs."""

    __slots__ = ("_done", "_error", "_work")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._done.release()

    def join(self) -> None:
        """Wait until it is done.

        Raises:
            BaseException: what the work raised.
        """
        self._done.acquire()
        if self._error is not None:
            raise self._error


@cache
def _tasks() -> SimpleQueue[_Task]:
    """What the one helping thread takes its work from."""
    tasks: SimpleQueue[_Task] = SimpleQueue()

    def help_out() -> None:
        while True:
            tasks.get().run()

    threading.Thread(target=help_out, name="products", daemon=True).start()
    return tasks


def share(here: Callable[[], object], there: Callable[[], object]) -> None:
    """Do two things side by side, which touch nothing of each other's; both have ended then."""
    task = _Task(there)
    _tasks().put(task)
    try:
        here()
    finally:
        task.join()


def product(left: Floats, weight: Floats, out: Floats) -> Floats:
    """`left @ weight.T`; where it is cut depends on the shapes alone, and so do its bits.

    Args:
        left: shape (rows, in).
        weight: shape (out, in).
        out: where the result goes, shape (rows, out).
    """
    cut = len(weight) // 2 // COLUMNS * COLUMNS
    if not cut or len(left) * weight.size < SHARED_FROM:
        return np.matmul(left, weight.T, out=out)
    share(
        lambda: np.matmul(left, weight[:cut].T, out=out[:, :cut]),
        lambda: np.matmul(left, weight[cut:].T, out=out[:, cut:]),
    )
    return out
