"""Logprobs of target tokens, and their gradient, without ever holding all logits at once."""

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats
from tinker_actors.local.engine.lora import Gradient
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["target_logprobs", "target_logprobs_backward"]

BLOCK_VALUES = 131_072
"""Logits held at a time: with float32, what fits a core's second-level cache."""

Ids = npt.NDArray[np.int64]


def target_logprobs(
    hidden: Floats, unembedding: Floats, targets: Ids, scratch: Scratch
) -> tuple[Floats, Floats]:
    """The logprobs of the targets of each row.

    Args:
        hidden: final states, shape (rows, hidden).
        unembedding: shape (vocab, hidden).
        targets: token ids, shape (rows, targets).
        scratch: where intermediate results lie.

    Returns:
        Logprobs in nats, shape (rows, targets), and log normalizers, shape (rows,).
    """
    rows = len(hidden)
    logprobs, normalizers = np.empty(targets.shape, hidden.dtype), np.empty(rows, hidden.dtype)
    ones = np.ones(len(unembedding), hidden.dtype)
    step = _block_rows(unembedding)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        mark = scratch.mark()
        logits = scratch.product(hidden[block], unembedding.T)
        chosen = logits[np.arange(len(logits))[:, None], targets[block]]
        peak = logits.max(axis=1)
        logits -= peak[:, None]
        np.exp(logits, out=logits)
        np.add(np.log(logits @ ones), peak, out=normalizers[block])
        np.subtract(chosen, normalizers[block, None], out=logprobs[block])
        scratch.release(mark)
    return logprobs, normalizers


def target_logprobs_backward(
    slopes: Floats,
    hidden: Floats,
    unembedding: Floats,
    targets: Ids,
    normalizers: Floats,
    *,
    gradient: Gradient,
    scratch: Scratch,
) -> Floats:
    """Gradient by `hidden`, given `slopes` = the loss by each logprob, shape (rows, targets).

    The adapter's goes to `gradient`.

    Logits are computed again: that costs less than keeping them, and rows of slope 0 are left out.
    """
    result = scratch.take(*hidden.shape)
    result[...] = 0
    used = np.flatnonzero(slopes.any(axis=1))
    step = _block_rows(unembedding)
    for start in range(0, len(used), step):
        rows = used[start : start + step]
        inputs = hidden[rows]
        mark = scratch.mark()
        outgoing = scratch.product(inputs, unembedding.T)
        outgoing -= normalizers[rows, None]
        np.exp(outgoing, out=outgoing)
        outgoing *= -slopes[rows].sum(axis=1, keepdims=True)
        # A row may name a token twice: `+=` would count it once.
        np.add.at(outgoing, (np.arange(len(rows))[:, None], targets[rows]), slopes[rows])
        gradient.add(-1, "unembedding", inputs, outgoing)
        result[rows] = scratch.product(outgoing, unembedding)
        scratch.release(mark)
    return result


def _block_rows(unembedding: Floats) -> int:
    return max(16, BLOCK_VALUES // len(unembedding))
