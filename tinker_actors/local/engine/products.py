"""Matrix products that two threads share: BLAS has one here, as its own ones spin while they wait."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from tinker_actors.local.engine.catalog import Floats

__all__ = ["product"]

SHARED_FROM = 2**22
"""Multiplications from which on a product is shared: a handover takes about as long as 2**20 of them."""
COLUMNS = 64
"""The place of the cut is a multiple of this, which BLAS computes best."""


@cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="products")


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
    other = _helper().submit(np.matmul, left, weight[cut:].T, out[:, cut:])
    np.matmul(left, weight[:cut].T, out=out[:, :cut])
    other.result()
    return out
