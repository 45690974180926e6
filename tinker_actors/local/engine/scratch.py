"""Memory a pass computes in, kept from one pass to the next."""

import math

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats

__all__ = ["Scratch"]

ALIGNMENT = 32
"""Values between the starts of two arrays: whole cache lines, in float32 and float64."""


class Scratch:
    """Arrays handed out one after the other from one block, and taken back all together.

    Large arrays that are freed and made anew cost a page fault each 4 KiB, which takes as long as the
    arithmetic of a small model. A pass that outgrows the block gets fresh memory, and the block grows
    to that size at the next `reset`. One thread at a time.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._block: Floats = np.empty(0, dtype)
        self._used = 0
        self._most_used = 0

    def reset(self) -> None:
        """Take everything back: arrays handed out so far must not be read again."""
        if self._most_used > len(self._block):
            self._block = np.empty(self._most_used, self._block.dtype)
        self._used = 0

    def mark(self) -> int:
        """The place to `release` to."""
        return self._used

    def release(self, mark: int) -> None:
        """Take back what was handed out since `mark`."""
        self._used = mark

    def take(self, *shape: int) -> Floats:
        """An array of any content."""
        size = math.prod(shape)
        start = self._used
        self._used = start + -(-size // ALIGNMENT) * ALIGNMENT
        self._most_used = max(self._most_used, self._used)
        if self._used > len(self._block):
            return np.empty(shape, self._block.dtype)
        return self._block[start : start + size].reshape(shape)

    def product(self, left: Floats, right: Floats) -> Floats:
        """The matrix product of two 2-D arrays."""
        return np.matmul(left, right, out=self.take(len(left), right.shape[1]))
