"""LoRA adapters: their parameters, what they add to frozen weights, and their gradients.

An adapter adds `alpha / rank * lora_B @ lora_A` to a matrix. Names and shapes are PEFT's without its
`base_model.model.` prefix: `model.layers.0.self_attn.q_proj.lora_A.weight` is (rank, in), its `lora_B`
(out, rank), rows in Hugging Face order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import (
    BaseModel,
    Floats,
    LayerWeights,
    ModelConfig,
    Weights,
    rope_order,
)

__all__ = ["ALPHA", "Adapter", "Gradient", "Target", "check", "merge", "new_adapter", "targets_of"]

ALPHA = 32.0
"""Numerator of the scale; the service's convention whatever the rank."""


@dataclass(frozen=True, slots=True)
class Target:
    """One matrix an adapter changes: rows `start:stop` of a stacked weight."""

    name: str
    """PEFT's module path, such as `model.layers.0.mlp.down_proj`."""
    layer: int
    """Index of the layer; -1 for the unembedding."""
    stack: str
    """Field of `LayerWeights` (or of `Weights` when `layer` is -1) that holds the rows."""
    start: int
    stop: int
    columns: int
    """Width of the matrix's input."""

    @property
    def rows(self) -> slice:
        """The rows of the stack."""
        return slice(self.start, self.stop)


def targets_of(
    config: ModelConfig, *, train_attn: bool = True, train_mlp: bool = True, train_unembed: bool = True
) -> tuple[Target, ...]:
    """The matrices an adapter of these switches changes, in the order of their parameters."""
    return tuple(_targets(config, train_attn, train_mlp, train_unembed))


def _targets(config: ModelConfig, train_attn: bool, train_mlp: bool, train_unembed: bool) -> Iterator[Target]:
    hidden, inner, query = config.hidden_size, config.intermediate_size, config.query_width
    keys = config.rotated_width
    for layer in range(config.layers):
        path = f"model.layers.{layer}"
        if train_attn:
            yield Target(f"{path}.self_attn.q_proj", layer, "qkv", 0, query, hidden)
            yield Target(f"{path}.self_attn.k_proj", layer, "qkv", query, keys, hidden)
            yield Target(f"{path}.self_attn.v_proj", layer, "qkv", keys, config.qkv_width, hidden)
            yield Target(f"{path}.self_attn.o_proj", layer, "o", 0, hidden, query)
        if train_mlp:
            yield Target(f"{path}.mlp.gate_proj", layer, "gate_up", 0, inner, hidden)
            yield Target(f"{path}.mlp.up_proj", layer, "gate_up", inner, 2 * inner, hidden)
            yield Target(f"{path}.mlp.down_proj", layer, "down", 0, hidden, inner)
    if train_unembed:
        yield Target("lm_head", -1, "unembedding", 0, config.vocab_size, hidden)


class Adapter:
    """The parameters of one LoRA adapter: named views of one flat vector.

    Not locked: whoever changes `flat` is alone with the adapter, and counts `version` up.
    """

    def __init__(self, config: ModelConfig, targets: tuple[Target, ...], rank: int, flat: Floats) -> None:
        self.config = config
        self.targets = targets
        self.rank = rank
        self.flat = flat
        """All parameters, shape (parameters,)."""
        self.version = 0
        """Counts changes of `flat`; a merge is kept until it moves."""
        self._merged: tuple[BaseModel, int, Weights] | None = None
        self._shapes = _shapes(targets, rank)

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by."""
        return ALPHA / self.rank

    @property
    def parameters(self) -> dict[str, Floats]:
        """Views of `flat` by PEFT name, in a fixed order."""
        return self.views(self.flat)

    def views(self, flat: Floats) -> dict[str, Floats]:
        """Views, by parameter name, of any vector laid out as `flat` is."""
        views, offset = {}, 0
        for name, shape in self._shapes.items():
            size = shape[0] * shape[1]
            views[name] = flat[offset : offset + size].reshape(shape)
            offset += size
        return views

    def fill(self, flat: Floats, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy `arrays`, one for each parameter name, into a vector laid out as `flat` is.

        Raises:
            ValidationError: a name is missing. Nothing was copied.
            ShapeError: an array has another shape. Nothing was copied.
        """
        for name, shape in self._shapes.items():
            if name not in arrays:
                raise ValidationError(f"adapter state must have {name}, got {len(arrays)} other arrays")
            if arrays[name].shape != shape:
                raise ShapeError(f"{name} must have shape {shape}, got {arrays[name].shape}")
        for name, view in self.views(flat).items():
            view[...] = arrays[name]

    def copy(self) -> "Adapter":
        """An independent adapter of equal parameters."""
        return Adapter(self.config, self.targets, self.rank, self.flat.copy())

    def merged(self, base: BaseModel) -> Weights:
        """The base's weights with this adapter added; kept until the adapter changes."""
        kept = self._merged
        if kept is None or kept[0] is not base or kept[1] != self.version:
            kept = (base, self.version, merge(base, self))
            self._merged = kept
        return kept[2]


def _shapes(targets: tuple[Target, ...], rank: int) -> dict[str, tuple[int, int]]:
    shapes = {}
    for target in targets:
        shapes[f"{target.name}.lora_A.weight"] = (rank, target.columns)
        shapes[f"{target.name}.lora_B.weight"] = (target.stop - target.start, rank)
    return shapes


def check(rank: int, seed: int | None, *, train_attn: bool, train_mlp: bool, train_unembed: bool) -> None:
    """Nothing if an adapter can be made.

    Raises:
        ValidationError: the rank is not positive, the seed negative, or nothing would be trained.
    """
    if rank < 1:
        raise ValidationError(f"LoRA rank must be positive, got {rank}")
    if seed is not None and seed < 0:
        raise ValidationError(f"LoRA seed must not be negative, got {seed}")
    if not (train_attn or train_mlp or train_unembed):
        raise ValidationError("LoRA must train attention, MLP or unembedding, got none of them")


def new_adapter(
    config: ModelConfig,
    *,
    rank: int,
    seed: int | None = None,
    train_attn: bool = True,
    train_mlp: bool = True,
    train_unembed: bool = True,
    dtype: npt.DTypeLike = np.float32,
) -> Adapter:
    """An adapter that changes nothing yet: `lora_A` uniform in ±1/sqrt(in), `lora_B` zero.

    Args:
        config: shape of the base model.
        rank: columns of `lora_B`, positive.
        seed: of `lora_A`, not negative; None draws one.
        train_attn: whether q, k, v and o are changed.
        train_mlp: whether gate, up and down are changed.
        train_unembed: whether the unembedding is changed.
        dtype: of the parameters; that of the base model.

    Raises:
        ValidationError: as `check`.

    Source: Hu et al., "LoRA" (2021); the bounds are PEFT's `kaiming_uniform_(a=sqrt(5))`.
    """
    check(rank, seed, train_attn=train_attn, train_mlp=train_mlp, train_unembed=train_unembed)
    targets = targets_of(config, train_attn=train_attn, train_mlp=train_mlp, train_unembed=train_unembed)
    size = sum(rows * columns for rows, columns in _shapes(targets, rank).values())
    adapter = Adapter(config, targets, rank, np.zeros(size, dtype))
    random = np.random.Generator(np.random.PCG64(seed))
    for name, values in adapter.parameters.items():
        if ".lora_A." in name:
            bound = 1.0 / np.sqrt(values.shape[1])
            values[...] = random.uniform(-bound, bound, values.shape)
    return adapter


def merge(base: BaseModel, adapter: Adapter) -> Weights:
    """Weights equal to `base + scale * lora_B @ lora_A`, one matrix a stack; the base is not changed."""
    config, parameters = base.config, adapter.parameters
    order = rope_order(config)
    layers = [
        {"qkv": layer.qkv, "o": layer.o, "gate_up": layer.gate_up, "down": layer.down}
        for layer in base.weights.layers
    ]
    layers.append({"unembedding": base.weights.unembedding})
    changed: set[tuple[int, str]] = set()
    for target in adapter.targets:
        stacks = layers[target.layer]
        if (target.layer, target.stack) not in changed:
            changed.add((target.layer, target.stack))
            stacks[target.stack] = stacks[target.stack].copy()
        right = parameters[f"{target.name}.lora_B.weight"]
        if target.stack == "qkv":
            right = right[order[target.rows] - target.start]
        delta = right @ parameters[f"{target.name}.lora_A.weight"]
        delta *= adapter.scale
        stacks[target.stack][target.rows] += delta
    return Weights(
        config=config,
        embedding=base.weights.embedding,
        layers=tuple(
            _with_stacks(layer, stacks) for layer, stacks in zip(base.weights.layers, layers, strict=False)
        ),
        final_norm=base.weights.final_norm,
        unembedding=layers[-1]["unembedding"],
    )


def _with_stacks(layer: LayerWeights, stacks: Mapping[str, Floats]) -> LayerWeights:
    return LayerWeights(
        attention_norm=layer.attention_norm,
        mlp_norm=layer.mlp_norm,
        q_norm=layer.q_norm,
        k_norm=layer.k_norm,
        **stacks,
    )


class Gradient:
    """The summed gradient by an adapter's parameters, fed one stacked matrix at a time."""

    def __init__(self, adapter: Adapter) -> None:
        self.flat = np.zeros_like(adapter.flat)
        """Laid out as `Adapter.flat`."""
        self._adapter = adapter
        self._views = adapter.views(self.flat)
        self._parameters = adapter.parameters
        self._order = rope_order(adapter.config)
        self._stacks: dict[tuple[int, str], list[Target]] = {}
        for target in adapter.targets:
            self._stacks.setdefault((target.layer, target.stack), []).append(target)

    def add(self, layer: int, stack: str, inputs: Floats, outgoing: Floats) -> None:
        """Count a use of one stack.

        Args:
            layer: index of the layer, -1 for the unembedding.
            stack: field name of the stacked weight.
            inputs: what the matrix was applied to, shape (tokens, in).
            outgoing: gradient of the loss by its product, shape (tokens, out).
        """
        targets = self._stacks.get((layer, stack))
        if not targets:
            return
        rank, rows, columns = self._adapter.rank, outgoing.shape[1], inputs.shape[1]
        if rows * columns <= 2 * rank * len(targets) * (rows + columns):
            # The dense gradient costs no more than the two thin factors, and is one product.
            dense = outgoing.T @ inputs
            for target in targets:
                self._add_dense(target, dense[target.rows])
        else:
            for target in targets:
                self._add_thin(target, inputs, outgoing[:, target.rows])

    def _factors(self, target: Target) -> tuple[Floats, Floats, Floats, Floats]:
        left, right = f"{target.name}.lora_A.weight", f"{target.name}.lora_B.weight"
        return self._parameters[left], self._parameters[right], self._views[left], self._views[right]

    def _add_dense(self, target: Target, dense: Floats) -> None:
        left, right, to_left, to_right = self._factors(target)
        scaled = dense * self._adapter.scale
        if target.stack == "qkv":
            unordered = np.empty_like(scaled)
            unordered[self._order[target.rows] - target.start] = scaled
            scaled = unordered
        to_left += right.T @ scaled
        to_right += scaled @ left.T

    def _add_thin(self, target: Target, inputs: Floats, outgoing: Floats) -> None:
        left, right, to_left, to_right = self._factors(target)
        order = self._order[target.rows] - target.start if target.stack == "qkv" else slice(None)
        inner = inputs @ left.T
        inner *= self._adapter.scale
        to_right[order] += outgoing.T @ inner
        np.matmul(outgoing, right[order], out=inner)
        inner *= self._adapter.scale
        to_left += inner.T @ inputs
