"""The decoder one step at a time: keys and values of earlier tokens are kept, not computed again."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats, LayerWeights, ModelConfig, Weights
from tinker_actors.local.engine.layers import (
    causal_mask,
    head_norm,
    rms_norm,
    rotary_table,
    rotate,
    softmax_parts,
    split_heads,
    swiglu,
)
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["KVCache", "extend", "new_cache"]


@dataclass(slots=True)
class KVCache:
    """Keys and values of the tokens read so far, per layer."""

    keys: list[Floats]
    """Per layer, shape (rows, kv_heads, 1, capacity, head_dim)."""
    values: list[Floats]
    """As `keys`."""
    length: int = 0
    """Steps read."""

    def repeat(self, rows: int) -> "KVCache":
        """A cache whose `rows` sequences all begin as this one's only sequence."""
        return KVCache(
            [np.repeat(part, rows, axis=0) for part in self.keys],
            [np.repeat(part, rows, axis=0) for part in self.values],
            self.length,
        )


def new_cache(weights: Weights, capacity: int) -> KVCache:
    """An empty cache of one sequence with room for `capacity` steps."""
    config = weights.config
    shape = (1, config.kv_heads, 1, capacity, config.head_dim)
    dtype = weights.embedding.dtype
    return KVCache(
        [np.zeros(shape, dtype) for _ in weights.layers], [np.zeros(shape, dtype) for _ in weights.layers]
    )


def extend(weights: Weights, cache: KVCache, tokens: npt.NDArray[np.int64]) -> Floats:
    """Read further tokens of each sequence.

    Args:
        weights: base weights, or those with an adapter merged in.
        cache: grows by `steps`, in place.
        tokens: shape (rows, steps), with the cache's number of rows.

    Returns:
        Final normalised states of these tokens, shape (rows * steps, hidden).
    """
    config = weights.config
    scratch = Scratch(weights.embedding.dtype)
    steps, start = tokens.shape[1], cache.length
    table = rotary_table(config, weights.embedding.dtype.str)[start : start + steps]
    x = weights.embedding[tokens.reshape(-1)]
    for index, layer in enumerate(weights.layers):
        normed, _ = rms_norm(x, layer.attention_norm, config.rms_norm_eps, scratch)
        qkv = normed @ layer.qkv.T
        if config.qk_norm:
            head_norm(qkv, layer, config, scratch)
        rotate(qkv, table, len(tokens))
        x += _attend(qkv, cache, index, steps, config) @ layer.o.T
        x += _mlp(x, layer, config, scratch)
    cache.length += steps
    return rms_norm(x, weights.final_norm, config.rms_norm_eps, scratch)[0]


def _mlp(x: Floats, layer: LayerWeights, config: ModelConfig, scratch: Scratch) -> Floats:
    normed, _ = rms_norm(x, layer.mlp_norm, config.rms_norm_eps, scratch)
    gated, _, _ = swiglu(normed @ layer.gate_up.T, scratch)
    result: Floats = gated @ layer.down.T
    return result


def _attend(qkv: Floats, cache: KVCache, index: int, steps: int, config: ModelConfig) -> Floats:
    rows, start, end = len(qkv) // steps, cache.length, cache.length + steps
    q, k, v = split_heads(qkv, config, rows)
    keys, values = cache.keys[index], cache.values[index]
    keys[:, :, :, start:end] = k
    values[:, :, :, start:end] = v
    scores = np.matmul(q, keys[:, :, :, :end].swapaxes(-1, -2))
    if steps > 1:
        scores += causal_mask(end, scores.dtype.str)[start:]
    inverse = softmax_parts(scores)
    mixed = np.matmul(scores, values[:, :, :, :end])
    mixed *= inverse
    columns: Floats = mixed.transpose(0, 3, 1, 2, 4).reshape(len(qkv), config.query_width)
    return columns
