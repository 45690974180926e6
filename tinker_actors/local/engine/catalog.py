"""The base models the embedded server can load, and their weights as arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError

__all__ = [
    "BaseModel",
    "Floats",
    "LayerWeights",
    "ModelConfig",
    "Weights",
    "load_base_model",
    "model_names",
    "rope_order",
]

Floats = npt.NDArray[np.floating[Any]]

TINY_SEED = 20_250_601
"""The seed `local/tiny` grows from; another value is another model."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder-only transformer of the Llama family."""

    vocab_size: int
    """Number of token ids."""
    hidden_size: int
    """Width of the residual stream."""
    layers: int
    """Number of decoder layers."""
    heads: int
    """Query heads; a multiple of `kv_heads`."""
    kv_heads: int
    """Key and value heads, each shared by `heads / kv_heads` query heads."""
    head_dim: int
    """Width of one head; even."""
    intermediate_size: int
    """Width of the gated MLP."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square before its root."""
    max_context_length: int = 1024
    """Most tokens in one sequence, prompt and sample together."""
    qk_norm: bool = False
    """Whether queries and keys are normalised per head before rotation (Qwen3)."""

    @property
    def query_width(self) -> int:
        """Columns of all query heads together."""
        return self.heads * self.head_dim

    @property
    def rotated_width(self) -> int:
        """Columns of all query and key heads together."""
        return (self.heads + self.kv_heads) * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Columns of all query, key and value heads together."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def check_ids(self, name: str, ids: npt.NDArray[Any]) -> None:
        """Nothing if `ids` lie in the vocabulary; at least one.

        Raises:
            ValidationError: they do not, or are no integers.
        """
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValidationError(f"{name} must be int64, got {ids.dtype}")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValidationError(
                f"{name} must lie in the vocabulary [0, {self.vocab_size}), got {ids.min()} to {ids.max()}"
            )


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; matrices are (out, in), those that read the same input are stacked by rows."""

    attention_norm: Floats
    """Gain before attention, shape (hidden,)."""
    qkv: Floats
    """Query, key and value projections, shape (qkv_width, hidden); rotary pairs are adjacent rows."""
    o: Floats
    """Output projection of attention, shape (hidden, query_width)."""
    mlp_norm: Floats
    """Gain before the MLP, shape (hidden,)."""
    gate_up: Floats
    """Gate and up projections, shape (2 * intermediate, hidden)."""
    down: Floats
    """Down projection, shape (hidden, intermediate)."""
    q_norm: Floats | None = None
    """Gain of each query head, shape (head_dim,), in the order of `qkv`; None without `qk_norm`."""
    k_norm: Floats | None = None
    """Gain of each key head, as `q_norm`."""


@dataclass(frozen=True, slots=True)
class Weights:
    """All arrays a forward pass reads."""

    config: ModelConfig
    embedding: Floats
    """Shape (vocab, hidden)."""
    layers: tuple[LayerWeights, ...]
    final_norm: Floats
    """Shape (hidden,)."""
    unembedding: Floats
    """Shape (vocab, hidden); not tied to `embedding`."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen model under its public name."""

    name: str
    weights: Weights

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.weights.config


def rope_order(config: ModelConfig) -> npt.NDArray[np.intp]:
    """Rows of a Hugging Face `qkv` stack in the order `LayerWeights.qkv` has them.

    Hugging Face rotates dimension i with i + head_dim/2; here the two lie side by side, so that one
    complex product rotates them (Meta's original layout). Values keep their order.

    Returns:
        Indices, shape (qkv_width,).
    """
    half = config.head_dim // 2
    pairs = np.arange(config.head_dim).reshape(2, half).T.reshape(-1)
    heads = np.arange(config.heads + config.kv_heads)[:, None] * config.head_dim
    rotated = (heads + pairs).reshape(-1)
    order: npt.NDArray[np.intp] = np.concatenate([rotated, np.arange(config.rotated_width, config.qkv_width)])
    return order


def model_names() -> tuple[str, ...]:
    """The names `load_base_model` knows, sorted."""
    return tuple(sorted(_CATALOG))


def load_base_model(name: str, dtype: npt.DTypeLike = np.float32) -> BaseModel:
    """The base model called `name`; equal calls give equal bits.

    Args:
        name: one of `model_names()`.
        dtype: float32, or float64 for gradient checks.

    Raises:
        ValidationError: no such model.
    """
    make = _CATALOG.get(name)
    if make is None:
        raise ValidationError(f"base model must be one of {', '.join(model_names())}, got {name!r}")
    return BaseModel(name, make(np.dtype(dtype)))


def random_weights(config: ModelConfig, seed: int, dtype: npt.DTypeLike) -> Weights:
    """Weights drawn from `seed`, scaled so that every sublayer adds to the residual stream alike.

    Embeddings have unit variance, matrices variance 1/in; those that write to the residual stream are
    divided by sqrt(2 * layers) as in GPT-2, and the unembedding by 4 so that the first loss is near
    log(vocab_size).
    """
    random = np.random.Generator(np.random.PCG64(seed))
    hidden, inner = config.hidden_size, config.intermediate_size

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Floats:
        drawn = random.standard_normal((rows, columns)) * (scale / np.sqrt(columns))
        result: Floats = drawn.astype(dtype)
        return result

    def layer() -> LayerWeights:
        residual = 1.0 / np.sqrt(2.0 * config.layers)
        head_gain = np.ones(config.head_dim, dtype) if config.qk_norm else None
        return LayerWeights(
            attention_norm=np.ones(hidden, dtype),
            qkv=matrix(config.qkv_width, hidden),
            o=matrix(hidden, config.query_width, residual),
            mlp_norm=np.ones(hidden, dtype),
            gate_up=matrix(2 * inner, hidden),
            down=matrix(hidden, inner, residual),
            q_norm=head_gain,
            k_norm=head_gain,
        )

    return Weights(
        config=config,
        embedding=matrix(config.vocab_size, hidden, np.sqrt(hidden)),
        layers=tuple(layer() for _ in range(config.layers)),
        final_norm=np.ones(hidden, dtype),
        unembedding=matrix(config.vocab_size, hidden, 0.25),
    )


def _tiny(dtype: npt.DTypeLike) -> Weights:
    config = ModelConfig(
        vocab_size=259,
        hidden_size=128,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=32,
        intermediate_size=256,
        max_context_length=1024,
    )
    return random_weights(config, TINY_SEED, dtype)


_CATALOG: dict[str, Callable[[npt.DTypeLike], Weights]] = {"local/tiny": _tiny}
