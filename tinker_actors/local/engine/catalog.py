"""The base models the embedded server can load, by name."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.hugging_face import digest_of, read_config, read_weights
from tinker_actors.local.engine.weights import Floats, LayerWeights, ModelConfig, Weights, rope_order

__all__ = [
    "BaseModel",
    "Floats",
    "LayerWeights",
    "ModelConfig",
    "Weights",
    "load_base_model",
    "model_config",
    "model_digest",
    "model_names",
    "random_weights",
    "rope_order",
]

SEED = 20_250_601
"""The seed the models of `_SHAPES` grow from; another value is other models."""

_SHAPES = {
    "local/small": ModelConfig(
        vocab_size=259,
        hidden_size=512,
        layers=8,
        heads=8,
        kv_heads=4,
        head_dim=64,
        intermediate_size=1408,
        max_context_length=2048,
    ),
    "local/tiny": ModelConfig(
        vocab_size=259,
        hidden_size=128,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=32,
        intermediate_size=256,
        max_context_length=1024,
    ),
}
"""Models of random weights: `local/small` has 24 million parameters, `local/tiny` 400 thousand."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class BaseModel:
    """A frozen model under its public name."""

    name: str
    weights: Weights

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.weights.config


def model_names() -> tuple[str, ...]:
    """The names of the models that need no files, sorted."""
    return tuple(sorted(_SHAPES))


@lru_cache(maxsize=64)
def model_config(name: str) -> ModelConfig:
    """The shape of the base model called `name`; of a directory, without reading its weights.

    Args:
        name: one of `model_names()`, or the absolute path of a directory in Hugging Face format.

    Raises:
        ValidationError: no such model, or one that cannot be loaded.
    """
    if name in _SHAPES:
        return _SHAPES[name]
    if not Path(name).is_absolute():
        known = ", ".join(model_names())
        raise ValidationError(
            f"base_model must be one of {known}, or the absolute path of a directory that holds a Llama or Qwen3"
            f" model, got {name!r}"
        )
    return read_config(Path(name))


def model_digest(name: str) -> str:
    """A digest of the files of the base model called `name`; empty for models that have none.

    Raises:
        ValidationError: a file is missing or cannot be read.
    """
    return "" if name in _SHAPES else digest_of(Path(name))


def load_base_model(name: str, dtype: npt.DTypeLike = np.float32) -> BaseModel:
    """The base model called `name`; equal calls give equal bits.

    Args:
        name: as for `model_config`.
        dtype: float32, or float64 for gradient checks.

    Raises:
        ValidationError: as `model_config`.
    """
    config = model_config(name)
    if name in _SHAPES:
        return BaseModel(name, random_weights(config, SEED, dtype))
    return BaseModel(name, read_weights(Path(name), config, dtype))


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
