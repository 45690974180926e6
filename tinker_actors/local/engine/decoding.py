"""The decoder with a memory: keys and values of earlier tokens are kept, not computed again."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats, LayerWeights, ModelConfig, Weights
from tinker_actors.local.engine.layers import (
    Complexes,
    causal_mask,
    head_norm,
    rms_norm,
    rotary_table,
    rotate,
    softmax_parts,
    split_heads,
    swiglu,
)
from tinker_actors.local.engine.memory import Memory
from tinker_actors.local.engine.products import product, share
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["KVCache", "Prefix", "Row", "advance", "kept_steps", "read", "step_bytes", "steps_at_once"]

LEAST_STEPS = 64
"""Steps a row of the smallest pool has room for; each further pool has twice as many."""
ROWS_AT_ONCE = 8
"""A pool that is full grows by a quarter, but at least by so many rows."""

SCORES_AT_ONCE = 2**24
"""Attention scores of one text in one layer that are held at once."""
SHARED_FROM = 2**20
"""Multiplications from which on the attention of rows is shared between two threads."""
_MEMORY = Memory(most_bytes=2**28)

Ids = npt.NDArray[np.int64]


def step_bytes(config: ModelConfig, itemsize: int = 4) -> int:
    """Memory that the keys and values of one token take, in all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * itemsize


def kept_steps(length: int) -> int:
    """Steps of memory that a row of `length` tokens takes: the next power of two."""
    return max(LEAST_STEPS, 1 << (length - 1).bit_length())


def steps_at_once(config: ModelConfig, length: int, most: int) -> int:
    """So many tokens behind `length` others, at most `most`, that their attention scores take bounded memory."""
    return max(1, min(most, SCORES_AT_ONCE // (config.heads * (length + most))))


class Prefix:
    """Keys and values of one text that is being read, piece by piece."""

    def __init__(self, weights: Weights, capacity: int) -> None:
        config = weights.config
        shape = (config.layers, 2, config.kv_heads, 1, capacity, config.head_dim)
        self.kv: Floats = np.zeros(shape, weights.embedding.dtype)
        """Shape (layers, 2, kv_heads, 1, capacity, head_dim)."""
        self.length = 0
        """Tokens read."""


class Row:
    """One text's place in a cache."""

    __slots__ = ("index", "pool")

    def __init__(self, pool: "_Pool", index: int) -> None:
        self.pool = pool
        self.index = index


class _Pool:
    """Rows of up to `capacity` steps each, without gaps between them."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: npt.DTypeLike) -> None:
        self.capacity = capacity
        self.rows: list[Row] = []
        self.lengths = np.zeros(0, np.int64)
        """Steps read of each row, and of those there is room for."""
        self._shape = (config.layers, 2, 0, config.kv_heads, capacity, config.head_dim)
        self.kv: Floats = np.zeros(self._shape, dtype)

    def reserve(self, rows: int) -> None:
        """Make room for so many further rows, at once instead of piece by piece."""
        used = len(self.rows)
        missing = used + rows - len(self.lengths)
        if missing <= 0:
            return
        more = max(missing, ROWS_AT_ONCE, used // 4)
        shape = (*self._shape[:2], len(self.lengths) + more, *self._shape[3:])
        grown = _MEMORY.take(shape, self.kv.dtype)
        grown[:, :, :used] = self.kv[:, :, :used]
        self._release(grown)
        self.lengths = np.concatenate([self.lengths, np.zeros(more, np.int64)])

    def _release(self, kv: Floats) -> None:
        _MEMORY.give(self.kv)
        self.kv = kv

    def add(self, kv: Floats, length: int) -> Row:
        """A row that begins with the first `length` steps of `kv`, shape (layers, 2, kv_heads, steps, head_dim)."""
        index = len(self.rows)
        self.reserve(1)
        self.kv[:, :, index, :, :length] = kv[..., :length, :]
        self.lengths[index] = length
        self.rows.append(Row(self, index))
        return self.rows[-1]

    def remove(self, row: Row) -> None:
        """Take a row out; the last one takes its place."""
        last = self.rows.pop()
        if last is not row:
            index = row.index
            length = self.lengths[last.index]
            self.kv[:, :, index, :, :length] = self.kv[:, :, last.index, :, :length]
            self.lengths[index] = length
            self.rows[index], last.index = last, index
        if not self.rows:
            self._release(np.zeros(self._shape, self.kv.dtype))
            self.lengths = self.lengths[:0]

    def attend(self, layer: int, qkv: Floats, bias: Floats | None, config: ModelConfig, out: Floats) -> None:
        """Attention of one further token a row, whose keys and values are kept."""
        count = len(self.rows)
        keys, values = self.kv[layer, 0, :count], self.kv[layer, 1, :count]
        rows, lengths = np.arange(count), self.lengths[:count]
        kept = (count, config.kv_heads, config.head_dim)
        keys[rows, :, lengths] = qkv[:, config.query_width : config.rotated_width].reshape(kept)
        values[rows, :, lengths] = qkv[:, config.rotated_width :].reshape(kept)
        steps = int(lengths.max()) + 1
        queries = qkv[:, : config.query_width].reshape(count, config.kv_heads, -1, config.head_dim)

        def mix(some: slice) -> None:
            scores = np.matmul(queries[some], keys[some, :, :steps].swapaxes(-1, -2))
            if bias is not None:
                scores += bias[some]
            inverse = softmax_parts(scores)
            mixed = np.matmul(scores, values[some, :, :steps])
            mixed *= inverse
            out[some] = mixed.reshape(len(mixed), config.query_width)

        half = count // 2
        if not half or 2 * count * steps * config.query_width < SHARED_FROM:
            mix(slice(None))
        else:  # a row's bits are the same whichever thread computes them
            share(lambda: mix(slice(half)), lambda: mix(slice(half, None)))

    def bias(self, dtype: npt.DTypeLike) -> Floats | None:
        """0 where a row has a step, the coming one among them, else -inf, shape (rows, 1, 1, steps); None if all have."""
        lengths = self.lengths[: len(self.rows)]
        longest = lengths.max()
        if lengths.min() == longest:
            return None
        missing = np.arange(longest + 1) > lengths[:, None]
        bias: Floats = np.where(missing, -np.inf, 0.0).astype(dtype)
        return bias[:, None, None]


class KVCache:
    """Keys and values of texts of any lengths that grow together, a token each at a time.

    Rows lie in pools by length, so that neither memory nor attention pays more than twice for short rows
    beside a long one.
    """

    def __init__(self, weights: Weights) -> None:
        self._config = weights.config
        self._dtype = weights.embedding.dtype
        self._pools: dict[int, _Pool] = {}
        self.scratch = Scratch(self._dtype)

    def add(self, prefix: Prefix) -> Row:
        """A row that begins as `prefix`."""
        return self._pool(prefix.length + 1).add(prefix.kv[:, :, :, 0], prefix.length)

    def reserve(self, rows: Mapping[int, int]) -> None:
        """Make room for rows that come next: how many, by the length of their prefix."""
        needed: Counter[int] = Counter()
        for length, count in rows.items():
            needed[kept_steps(length + 1)] += count
        for capacity, count in needed.items():
            self._pool(capacity).reserve(count)

    def remove(self, row: Row) -> None:
        """Forget a row."""
        row.pool.remove(row)

    def rows(self) -> list[Row]:
        """All rows, in the order in which `advance` takes their tokens."""
        for pool in list(self._pools.values()):
            full = [row for row in pool.rows if pool.lengths[row.index] == pool.capacity]
            if full:
                self.reserve({pool.capacity: len(full)})
            for row in full:
                self._lengthen(row)
        return [row for pool in self.pools for row in pool.rows]

    @property
    def pools(self) -> list[_Pool]:
        """Those with rows, the shortest first."""
        return [self._pools[capacity] for capacity in sorted(self._pools) if self._pools[capacity].rows]

    def _lengthen(self, row: Row) -> None:
        old, index = row.pool, row.index
        length = int(old.lengths[index])
        new = self._pool(length + 1)
        moved = new.add(old.kv[:, :, index], length)
        old.remove(row)
        row.pool, row.index = new, moved.index
        new.rows[moved.index] = row

    def _pool(self, length: int) -> _Pool:
        capacity = kept_steps(length)
        if capacity not in self._pools:
            self._pools[capacity] = _Pool(self._config, capacity, self._dtype)
        return self._pools[capacity]


def read(weights: Weights, pieces: Sequence[tuple[Prefix, Ids]], scratch: Scratch) -> Floats:
    """Read the next piece of several texts in one pass.

    Args:
        weights: base weights, or those with an adapter merged in.
        pieces: texts and their next tokens, at least one each; the texts grow by them.
        scratch: working memory, reset here.

    Returns:
        Final normalised states of all tokens, piece after piece, shape (tokens, hidden).
    """
    config = weights.config
    table = rotary_table(config, weights.embedding.dtype.str)
    turns = np.concatenate([table[prefix.length : prefix.length + len(ids)] for prefix, ids in pieces])
    x = weights.embedding[np.concatenate([ids for _, ids in pieces])]
    scratch.reset()
    for index, layer in enumerate(weights.layers):
        mark = scratch.mark()
        qkv = _projected(x, layer, config, turns, scratch)
        mixed, start = scratch.take(len(x), config.query_width), 0
        for prefix, ids in pieces:
            stop = start + len(ids)
            mixed[start:stop] = _attend(qkv[start:stop], prefix, index, config)
            start = stop
        _add_rest(x, mixed, layer, config, scratch)
        scratch.release(mark)
    for prefix, ids in pieces:
        prefix.length += len(ids)
    return rms_norm(x, weights.final_norm, config.rms_norm_eps, scratch)[0].copy()


def advance(weights: Weights, cache: KVCache, tokens: Ids) -> Floats:
    """Read one further token of each row.

    Args:
        weights: base weights, or those with an adapter merged in.
        cache: grows by one step, in place; at least one row.
        tokens: shape (rows,), in the order of `cache.rows()`, which was called since rows last changed.

    Returns:
        Final normalised states, shape (rows, hidden).
    """
    config, scratch, pools = weights.config, cache.scratch, cache.pools
    dtype = weights.embedding.dtype
    biases = [pool.bias(dtype) for pool in pools]
    positions = np.concatenate([pool.lengths[: len(pool.rows)] for pool in pools])
    turns = rotary_table(config, dtype.str)[positions]
    x = weights.embedding[tokens]
    scratch.reset()
    for index, layer in enumerate(weights.layers):
        mark = scratch.mark()
        qkv = _projected(x, layer, config, turns, scratch)
        mixed, start = scratch.take(len(x), config.query_width), 0
        for pool, bias in zip(pools, biases, strict=True):
            stop = start + len(pool.rows)
            pool.attend(index, qkv[start:stop], bias, config, mixed[start:stop])
            start = stop
        _add_rest(x, mixed, layer, config, scratch)
        scratch.release(mark)
    for pool in pools:
        pool.lengths[: len(pool.rows)] += 1
    return rms_norm(x, weights.final_norm, config.rms_norm_eps, scratch)[0].copy()


def _projected(
    x: Floats, layer: LayerWeights, config: ModelConfig, turns: Complexes, scratch: Scratch
) -> Floats:
    """Rotated queries, keys and values of tokens at the positions of `turns`."""
    normed, _ = rms_norm(x, layer.attention_norm, config.rms_norm_eps, scratch)
    qkv = _product(normed, layer.qkv, scratch)
    if config.qk_norm:
        head_norm(qkv, layer, config, scratch)
    rotate(qkv, turns, 1)
    return qkv


def _add_rest(x: Floats, mixed: Floats, layer: LayerWeights, config: ModelConfig, scratch: Scratch) -> None:
    """Add what attention and the MLP give to `x`, in place."""
    x += _product(mixed, layer.o, scratch)
    normed, _ = rms_norm(x, layer.mlp_norm, config.rms_norm_eps, scratch)
    gated, _, _ = swiglu(_product(normed, layer.gate_up, scratch), scratch)
    x += _product(gated, layer.down, scratch)


def _product(left: Floats, weight: Floats, scratch: Scratch) -> Floats:
    return product(left, weight, out=scratch.take(len(left), len(weight)))


def _attend(qkv: Floats, prefix: Prefix, index: int, config: ModelConfig) -> Floats:
    """Causal attention of a text's next tokens, whose keys and values are kept."""
    start, steps = prefix.length, len(qkv)
    end = start + steps
    q, k, v = split_heads(qkv, config, 1)
    keys, values = prefix.kv[index]
    keys[:, :, start:end] = k[0]
    values[:, :, start:end] = v[0]
    scores = np.matmul(q[0], keys[:, :, :end].swapaxes(-1, -2))
    if steps > 1:
        scores[..., start:] += causal_mask(steps, scores.dtype.str)
    inverse = softmax_parts(scores)
    mixed = np.matmul(scores, values[:, :, :end])
    mixed *= inverse
    columns: Floats = mixed.transpose(2, 0, 1, 3).reshape(steps, config.query_width)
    return columns
