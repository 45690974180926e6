"""The parts of a decoder layer: each forward step and its exact gradient, on 2-D token rows."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats, LayerWeights, ModelConfig
from tinker_actors.local.engine.scratch import Scratch

__all__ = [
    "Complexes",
    "Shares",
    "attend",
    "attend_backward",
    "causal_mask",
    "head_norm",
    "head_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "rotary_table",
    "rotate",
    "softmax_parts",
    "split_heads",
    "swiglu",
    "swiglu_backward",
]

Complexes = npt.NDArray[np.complexfloating[Any, Any]]


def rms_norm(x: Floats, gain: Floats, eps: float, scratch: Scratch) -> tuple[Floats, Floats]:
    """`x / rms(x) * gain` over the last axis, and 1/rms with that axis kept as 1.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    """
    inverse = np.einsum("...i,...i->...", x, x)[..., None]
    inverse /= x.shape[-1]
    inverse += eps
    np.sqrt(inverse, out=inverse)
    np.reciprocal(inverse, out=inverse)
    normed = np.multiply(x, inverse, out=scratch.take(*x.shape))
    normed *= gain
    return normed, inverse


def rms_norm_backward(
    gradient: Floats, x: Floats, normed: Floats, inverse: Floats, gain: Floats, *, into: Floats
) -> None:
    """Add the gradient by `x` to `into`; `gradient` (by `normed`) is overwritten.

    dx = gradient * gain / rms - x * sum(gradient * normed) / (width * rms^2).
    """
    shared = np.einsum("...i,...i->...", gradient, normed)[..., None]
    shared *= inverse * inverse
    shared /= x.shape[-1]
    gradient *= gain
    gradient *= inverse
    into += gradient
    np.multiply(x, shared, out=gradient)
    into -= gradient


def head_norm(
    qkv: Floats, layer: LayerWeights, config: ModelConfig, scratch: Scratch
) -> tuple[Floats, Floats, Floats]:
    """Normalise each query and key head in place (Qwen3's `qk_norm`).

    Returns:
        What `head_norm_backward` reads: the heads before and after, shape (rows, heads + kv_heads,
        head_dim), and their 1/rms.
    """
    gain = _head_gain(layer, config)
    heads = qkv[:, : config.rotated_width].reshape(len(qkv), -1, config.head_dim)
    before = heads.copy()
    normed, inverse = rms_norm(before, gain, config.rms_norm_eps, scratch)
    heads[...] = normed
    return before, normed, inverse


def head_norm_backward(
    gradient: Floats, tape: tuple[Floats, Floats, Floats], layer: LayerWeights, config: ModelConfig
) -> None:
    """Replace the gradient by the normalised heads with the one by the heads before, in place."""
    before, normed, inverse = tape
    heads = gradient[:, : config.rotated_width].reshape(before.shape)
    inner = heads.copy()
    heads[...] = 0
    rms_norm_backward(inner, before, normed, inverse, _head_gain(layer, config), into=heads)


def _head_gain(layer: LayerWeights, config: ModelConfig) -> Floats:
    if layer.q_norm is None or layer.k_norm is None:
        return np.ones((1, 1), layer.qkv.dtype)
    return np.concatenate(
        [np.tile(layer.q_norm, (config.heads, 1)), np.tile(layer.k_norm, (config.kv_heads, 1))]
    )


@lru_cache(maxsize=8)
def rotary_table(config: ModelConfig, dtype: str) -> Complexes:
    """Rotation of each position and dimension pair, shape (context, rotated_width / 2), complex.

    Query columns also carry the 1/sqrt(head_dim) of attention, which spares a pass over the scores.

    Source: Su et al., "RoFormer" (2021).
    """
    half = config.head_dim // 2
    angle = np.arange(config.max_context_length)[:, None] * config.rotary_speeds
    turn = np.tile(np.exp(1j * angle), config.heads + config.kv_heads)
    turn[:, : config.heads * half] /= np.sqrt(config.head_dim)
    return turn.astype(np.result_type(dtype, np.complex64))


def rotate(qkv: Floats, table: Complexes, rows: int) -> None:
    """Multiply query and key columns by `table` in place; its conjugate gives the gradient.

    Args:
        qkv: shape (rows * steps, qkv_width), the last axis contiguous.
        table: one turn a step, shape (steps, rotated_width / 2).
        rows: sequences in the batch.
    """
    steps, pairs = table.shape
    pair_view = qkv[:, : 2 * pairs].view(table.dtype).reshape(rows, steps, pairs)
    pair_view *= table


def split_heads(qkv: Floats, config: ModelConfig, rows: int) -> tuple[Floats, Floats, Floats]:
    """Queries, keys and values as views of `qkv`, no copy.

    Returns:
        Queries (rows, kv_heads, group, steps, head_dim); keys and values (rows, kv_heads, 1, steps,
        head_dim), to be broadcast over the group of query heads that shares them.
    """
    steps, shared = len(qkv) // rows, config.kv_heads
    q = qkv[:, : config.query_width].reshape(rows, steps, shared, -1, config.head_dim)
    k = qkv[:, config.query_width : config.rotated_width].reshape(rows, steps, shared, 1, config.head_dim)
    v = qkv[:, config.rotated_width :].reshape(rows, steps, shared, 1, config.head_dim)
    order = (0, 2, 3, 1, 4)
    return q.transpose(order), k.transpose(order), v.transpose(order)


def causal_mask(steps: int, dtype: str) -> Floats:
    """0 on and under the diagonal, -inf above, shape (steps, steps)."""
    return _whole_mask(1 << (steps - 1).bit_length(), dtype)[:steps, :steps]


@lru_cache(maxsize=32)
def _whole_mask(steps: int, dtype: str) -> Floats:
    mask = np.zeros((steps, steps), dtype)
    mask[np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
    return mask


@dataclass(frozen=True, slots=True)
class Shares:
    """What attention took from where, as `attend_backward` reads it."""

    numerators: Floats
    """Of the softmax, shape (rows, kv_heads, group, steps, steps)."""
    inverse: Floats
    """Of their sums, the last axis 1."""


def attend(
    qkv: Floats, config: ModelConfig, rows: int, scratch: Scratch, *, keep: bool = True
) -> tuple[Floats, Shares | None]:
    """Causal softmax attention within each sequence.

    Args:
        qkv: rotated (and query-scaled) projections, shape (rows * steps, qkv_width).
        config: the model's shape.
        rows: sequences in the batch; each has `len(qkv) / rows` steps.
        scratch: where the results lie.
        keep: whether the shares stay; they take most of a long sequence's memory.

    Returns:
        Mixed values, shape (rows * steps, query_width), and the shares if they stay.
    """
    mixed = scratch.take(len(qkv), config.query_width)
    mark = scratch.mark()
    shares = _shares(qkv, config, rows, scratch)
    by_head = _by_head(mixed, config, rows)
    np.matmul(shares.numerators, split_heads(qkv, config, rows)[2], out=by_head)
    by_head *= shares.inverse
    if keep:
        return mixed, shares
    scratch.release(mark)
    return mixed, None


def _shares(qkv: Floats, config: ModelConfig, rows: int, scratch: Scratch) -> Shares:
    q, k, _ = split_heads(qkv, config, rows)
    steps = q.shape[-2]
    scores = np.matmul(q, k.swapaxes(-1, -2), out=scratch.take(*q.shape[:-1], steps))
    scores += causal_mask(steps, scores.dtype.str)
    inverse = softmax_parts(scores)
    return Shares(scores, inverse)


def softmax_parts(scores: Floats) -> Floats:
    """Turn scores into the numerators of a softmax over the last axis, in place.

    Returns:
        The inverse of their sums: to scale a product by it costs less than to divide every numerator.
    """
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    sums: Floats = (scores @ np.ones(scores.shape[-1], scores.dtype))[..., None]
    return np.reciprocal(sums, out=sums)


def attend_backward(
    gradient: Floats,
    qkv: Floats,
    mixed: Floats,
    shares: Shares | None,
    *,
    config: ModelConfig,
    rows: int,
    scratch: Scratch,
) -> Floats:
    """Gradient of `attend` by `qkv`, shape of `qkv`; `gradient` (by `mixed`) is overwritten.

    Shares that did not stay are computed again, to the same bits.
    The softmax gradient's row sums are taken as gradient . mixed per head: head_dim products instead of
    one for each earlier step.

    Source: Dao et al., "FlashAttention" (2022), appendix B.
    """
    shares = shares or _shares(qkv, config, rows, scratch)
    numerators, inverse = shares.numerators, shares.inverse
    q, k, v = split_heads(qkv, config, rows)
    result = scratch.take(*qkv.shape)
    to_q, to_k, to_v = split_heads(result, config, rows)
    outgoing = _by_head(gradient, config, rows)
    outgoing *= inverse
    scores = np.matmul(outgoing, v.swapaxes(-1, -2), out=scratch.take(*numerators.shape))
    scores -= np.einsum("...i,...i->...", outgoing, _by_head(mixed, config, rows))[..., None]
    scores *= numerators
    np.matmul(scores, k, out=to_q)
    _sum_group(scores.swapaxes(-1, -2), q, to_k, scratch)
    _sum_group(numerators.swapaxes(-1, -2), outgoing, to_v, scratch)
    return result


def _by_head(columns: Floats, config: ModelConfig, rows: int) -> Floats:
    split = columns.reshape(rows, -1, config.kv_heads, config.heads // config.kv_heads, config.head_dim)
    return split.transpose(0, 2, 3, 1, 4)


def _sum_group(left: Floats, right: Floats, out: Floats, scratch: Scratch) -> None:
    """Products summed over the query heads (axis 2) that share one key head."""
    if left.shape[2] == 1:
        np.matmul(left, right, out=out)
    else:
        parts = np.matmul(left, right, out=scratch.take(*right.shape))
        np.add(parts[:, :, :1], parts[:, :, 1:2], out=out)
        for extra in range(2, left.shape[2]):
            out += parts[:, :, extra : extra + 1]


def swiglu(gate_up: Floats, scratch: Scratch) -> tuple[Floats, Floats, Floats]:
    """`silu(gate) * up`, with sigmoid(gate) and silu(gate) for the gradient.

    The sigmoid is taken as (1 + tanh(gate / 2)) / 2, which cannot overflow.

    Args:
        gate_up: gate and up side by side, shape (rows, 2 * intermediate).
        scratch: where the results lie.

    Source: Shazeer, "GLU Variants Improve Transformer" (2020).
    """
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    sigmoid = np.multiply(gate, 0.5, out=scratch.take(*gate.shape))
    np.tanh(sigmoid, out=sigmoid)
    sigmoid *= 0.5
    sigmoid += 0.5
    silu = np.multiply(gate, sigmoid, out=scratch.take(*gate.shape))
    return np.multiply(silu, up, out=scratch.take(*gate.shape)), sigmoid, silu


def swiglu_backward(
    gradient: Floats, gate_up: Floats, sigmoid: Floats, silu: Floats, scratch: Scratch
) -> Floats:
    """Gradient by `gate_up`; d silu / d gate = sigmoid + silu * (1 - sigmoid)."""
    width = gradient.shape[1]
    result = scratch.take(*gate_up.shape)
    to_gate, to_up = result[:, :width], result[:, width:]
    np.multiply(gradient, silu, out=to_up)
    slope = np.subtract(1.0, sigmoid, out=scratch.take(*sigmoid.shape))
    slope *= silu
    slope += sigmoid
    slope *= gradient
    np.multiply(slope, gate_up[:, width:], out=to_gate)
    return result
