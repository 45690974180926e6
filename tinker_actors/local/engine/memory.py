"""Large blocks that are kept when they are no longer used, for who needs one next."""

import math
import threading

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats

__all__ = ["Memory"]


class Memory:
    """Zeroed arrays. Any thread may call it.

    Fresh pages cost a fault each 4 KiB, which takes several times as long as to clear a block that is there.

    Args:
        most_bytes: what may be kept unused.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._blocks: list[Floats] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Floats:
        """An array of zeros."""
        size = math.prod(shape)
        with self._lock:
            fitting = [block for block in self._blocks if block.dtype == dtype and block.size >= size]
            block = min(fitting, key=lambda one: one.size, default=None)
            if block is not None:
                self._blocks = [one for one in self._blocks if one is not block]
        if block is None:
            return np.zeros(size, dtype).reshape(shape)
        array = block[:size].reshape(shape)
        array.fill(0)
        return array

    def give(self, array: Floats) -> None:
        """Keep the block of an array that nobody reads any more, if it came from here and there is room."""
        block = array.base
        if block is None or not block.size:
            return
        with self._lock:
            if sum(one.nbytes for one in self._blocks) + block.nbytes <= self._most_bytes:
                self._blocks.append(block)
