"""The shape of a model, and its weights as arrays."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError

__all__ = ["Floats", "LayerWeights", "ModelConfig", "RopeScaling", "Weights", "pair_order", "rope_order"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How Llama 3.1 stretches its rotary wavelengths to a longer context.

    Source: Grattafiori et al., "The Llama 3 Herd of Models" (2024); `rope_type` "llama3" of Hugging Face.
    """

    factor: float
    """What long wavelengths are multiplied by."""
    low_freq_factor: float
    """Wavelengths above `original_context_length / low_freq_factor` are long."""
    high_freq_factor: float
    """Wavelengths under `original_context_length / high_freq_factor` stay; between the two lies a slope."""
    original_context_length: int
    """Tokens of the context the model was first trained with."""

    def stretched(self, speeds: Floats) -> Floats:
        """The rotations a position, in radians, after scaling; shape as given."""
        turns = self.original_context_length * speeds / (2.0 * np.pi)
        share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        share = np.clip(share, 0.0, 1.0)
        result: Floats = speeds * (share + (1.0 - share) / self.factor)
        return result


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
    rope_scaling: RopeScaling | None = None
    """How rotary wavelengths are stretched, if they are."""

    @property
    def architecture(self) -> Literal["llama", "qwen3"]:
        """Its name among Hugging Face's model types."""
        return "qwen3" if self.qk_norm else "llama"

    @property
    def rotary_speeds(self) -> Floats:
        """How far each pair of dimensions turns from one position to the next, in radians, shape (head_dim / 2,)."""
        half = self.head_dim // 2
        speeds: Floats = self.rope_theta ** (-np.arange(half) / half)
        return speeds if self.rope_scaling is None else self.rope_scaling.stretched(speeds)

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
    """Shape (vocab, hidden); `embedding` itself where the two are tied."""


def pair_order(head_dim: int) -> npt.NDArray[np.intp]:
    """The dimensions of one head of Hugging Face in the order they have here, shape (head_dim,)."""
    pairs: npt.NDArray[np.intp] = np.arange(head_dim).reshape(2, -1).T.reshape(-1)
    return pairs


def rope_order(config: ModelConfig) -> npt.NDArray[np.intp]:
    """Rows of a Hugging Face `qkv` stack in the order `LayerWeights.qkv` has them.

    Hugging Face rotates dimension i with i + head_dim/2; here the two lie side by side, so that one
    complex product rotates them (Meta's original layout). Values keep their order.

    Returns:
        Indices, shape (qkv_width,).
    """
    pairs = pair_order(config.head_dim)
    heads = np.arange(config.heads + config.kv_heads)[:, None] * config.head_dim
    rotated = (heads + pairs).reshape(-1)
    order: npt.NDArray[np.intp] = np.concatenate([rotated, np.arange(config.rotated_width, config.qkv_width)])
    return order
