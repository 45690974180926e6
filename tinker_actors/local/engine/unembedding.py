"""Logprobs of target tokens, and their gradient, without ever holding all logits at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats
from tinker_actors.local.engine.lora import Gradient
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["TargetTokens", "target_logprobs", "target_logprobs_backward"]

BLOCK_VALUES = 131_072
"""Logits held at a time: with float32, what fits a core's second-level cache."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TargetTokens:
    """The tokens whose logprobs count, in a flat list: a row may have none, one or many."""

    rows: Ids
    """Row of each, ascending, shape (targets,)."""
    ids: Ids
    """Token of each, shape (targets,)."""

    def between(self, start: int, stop: int) -> slice:
        """Where the targets of rows `start` to `stop` lie."""
        first, last = np.searchsorted(self.rows, (start, stop))
        return slice(int(first), int(last))


def target_logprobs(
    hidden: Floats, unembedding: Floats, targets: TargetTokens, scratch: Scratch
) -> tuple[Floats, Floats]:
    """The logprob of each target.

    Args:
        hidden: final states, shape (rows, hidden).
        unembedding: shape (vocab, hidden).
        targets: of these rows.
        scratch: where intermediate results lie.

    Returns:
        Logprobs, shape (targets,), and log normalizers, shape (rows,), in nats.
    """
    rows = len(hidden)
    logprobs, normalizers = np.empty(len(targets.rows), hidden.dtype), np.empty(rows, hidden.dtype)
    ones = np.ones(len(unembedding), hidden.dtype)
    step = _block_rows(unembedding)
    for start in range(0, rows, step):
        block, own = slice(start, start + step), targets.between(start, start + step)
        mark = scratch.mark()
        logits = scratch.product(hidden[block], unembedding.T)
        chosen = logits[targets.rows[own] - start, targets.ids[own]]
        peak = logits.max(axis=1)
        logits -= peak[:, None]
        np.exp(logits, out=logits)
        np.add(np.log(logits @ ones), peak, out=normalizers[block])
        np.subtract(chosen, normalizers[targets.rows[own]], out=logprobs[own])
        scratch.release(mark)
    return logprobs, normalizers


def target_logprobs_backward(
    slopes: Floats,
    hidden: Floats,
    unembedding: Floats,
    targets: TargetTokens,
    normalizers: Floats,
    *,
    gradient: Gradient,
    scratch: Scratch,
) -> Floats:
    """Gradient by `hidden`, given `slopes` = the loss by each logprob; the adapter's goes to `gradient`.

    Logits are computed again: that costs less than keeping them, and rows of slope 0 are left out.
    """
    result = scratch.take(*hidden.shape)
    result[...] = 0
    counts = slopes != 0
    slopes, targets = slopes[counts], TargetTokens(targets.rows[counts], targets.ids[counts])
    used, places = np.unique(targets.rows, return_inverse=True)
    totals = np.zeros(len(used), hidden.dtype)
    np.add.at(totals, places, slopes)
    listed = TargetTokens(places, targets.ids)
    step = _block_rows(unembedding)
    for start in range(0, len(used), step):
        rows, own = used[start : start + step], listed.between(start, start + step)
        inputs = hidden[rows]
        mark = scratch.mark()
        outgoing = scratch.product(inputs, unembedding.T)
        outgoing -= normalizers[rows, None]
        np.exp(outgoing, out=outgoing)
        outgoing *= -totals[start : start + step, None]
        # A row may name a token twice: `+=` would count it once.
        np.add.at(outgoing, (listed.rows[own] - start, listed.ids[own]), slopes[own])
        gradient.add(-1, "unembedding", inputs, outgoing)
        result[rows] = scratch.product(outgoing, unembedding)
        scratch.release(mark)
    return result


def _block_rows(unembedding: Floats) -> int:
    return max(16, BLOCK_VALUES // len(unembedding))
