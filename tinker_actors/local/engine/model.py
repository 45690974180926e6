"""The whole decoder on one rectangle of tokens: forward with a tape, and exact backward."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinker_actors.local.engine.catalog import Floats, LayerWeights, ModelConfig, Weights
from tinker_actors.local.engine.layers import (
    Complexes,
    Shares,
    attend,
    attend_backward,
    head_norm,
    head_norm_backward,
    rms_norm,
    rms_norm_backward,
    rotary_table,
    rotate,
    swiglu,
    swiglu_backward,
)
from tinker_actors.local.engine.lora import Gradient
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["LayerTape", "Tape", "backward", "forward"]

KEPT_SHARES = 2**26
"""Most values that all layers may keep of what attention took from where: those of longer sequences, which grow
with the square of the length, are computed twice instead."""


@dataclass(slots=True)
class LayerTape:
    """What a layer's gradient reads; rows are tokens."""

    before_attention: Floats
    attention_input: Floats
    attention_inverse: Floats
    heads: tuple[Floats, Floats, Floats] | None
    qkv: Floats
    mixed: Floats
    shares: Shares | None
    before_mlp: Floats
    mlp_input: Floats
    mlp_inverse: Floats
    gate_up: Floats
    sigmoid: Floats
    silu: Floats
    gated: Floats


@dataclass(slots=True)
class Tape:
    """What the gradient of a forward pass reads."""

    layers: list[LayerTape]
    last: Floats
    """The residual stream after the last layer, shape (tokens, hidden)."""
    hidden: Floats
    """Final normalised states, shape (tokens, hidden): what the unembedding reads."""
    inverse: Floats
    """1/rms of `last`, shape (tokens, 1)."""
    rows: int
    """Sequences side by side."""


def forward(weights: Weights, tokens: npt.NDArray[np.int64], scratch: Scratch) -> Tape:
    """Run the decoder over sequences of one length.

    Args:
        weights: base weights, or those with an adapter merged in.
        tokens: shape (rows, steps). Shorter sequences are filled up at the end with any id: causal
            attention keeps the filling from what stands before it.
        scratch: where the tape lies.

    Returns:
        The tape; `tape.hidden` has shape (rows * steps, hidden).
    """
    config = weights.config
    steps = tokens.shape[1]
    table = rotary_table(config, weights.embedding.dtype.str)[:steps]
    x = scratch.take(tokens.size, config.hidden_size)
    # The ids are known to be good; mode="raise" would gather into a buffer first.
    np.take(weights.embedding, tokens.reshape(-1), axis=0, out=x, mode="clip")
    tapes = []
    for layer in weights.layers:
        tapes.append(_layer_forward(x, layer, config, table, scratch))
        x = scratch.product(tapes[-1].gated, layer.down.T)
        x += tapes[-1].before_mlp
    hidden, inverse = rms_norm(x, weights.final_norm, config.rms_norm_eps, scratch)
    return Tape(tapes, x, hidden, inverse, len(tokens))


def _layer_forward(
    x: Floats, layer: LayerWeights, config: ModelConfig, table: Complexes, scratch: Scratch
) -> LayerTape:
    rows = len(x) // len(table)
    attention_input, attention_inverse = rms_norm(x, layer.attention_norm, config.rms_norm_eps, scratch)
    qkv = scratch.product(attention_input, layer.qkv.T)
    heads = head_norm(qkv, layer, config, scratch) if config.qk_norm else None
    rotate(qkv, table, rows)
    keep = config.layers * config.heads * len(x) * len(table) <= KEPT_SHARES
    mixed, shares = attend(qkv, config, rows, scratch, keep=keep)
    middle = scratch.product(mixed, layer.o.T)
    middle += x
    mlp_input, mlp_inverse = rms_norm(middle, layer.mlp_norm, config.rms_norm_eps, scratch)
    gate_up = scratch.product(mlp_input, layer.gate_up.T)
    gated, sigmoid, silu = swiglu(gate_up, scratch)
    return LayerTape(
        before_attention=x,
        attention_input=attention_input,
        attention_inverse=attention_inverse,
        heads=heads,
        qkv=qkv,
        mixed=mixed,
        shares=shares,
        before_mlp=middle,
        mlp_input=mlp_input,
        mlp_inverse=mlp_inverse,
        gate_up=gate_up,
        sigmoid=sigmoid,
        silu=silu,
        gated=gated,
    )


def backward(weights: Weights, tape: Tape, outgoing: Floats, gradient: Gradient, scratch: Scratch) -> None:
    """Add the adapter's gradient below the unembedding to `gradient`.

    Args:
        weights: those of the forward pass.
        tape: of the forward pass.
        outgoing: gradient of the loss by `tape.hidden`; overwritten.
        gradient: receives each stack's part.
        scratch: where intermediate results lie.
    """
    flow = scratch.take(*outgoing.shape)
    flow[...] = 0
    rms_norm_backward(outgoing, tape.last, tape.hidden, tape.inverse, weights.final_norm, into=flow)
    for index in reversed(range(len(weights.layers))):
        place, kept = (
            _Place(index, weights.layers[index], weights.config, tape.rows, gradient, scratch),
            tape.layers[index],
        )
        mark = scratch.mark()
        _mlp_backward(place, kept, flow)
        scratch.release(mark)
        _attention_backward(place, kept, flow)
        scratch.release(mark)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the model a backward step stands, and where its results go."""

    index: int
    layer: LayerWeights
    config: ModelConfig
    rows: int
    gradient: Gradient
    scratch: Scratch


def _mlp_backward(place: _Place, kept: LayerTape, flow: Floats) -> None:
    layer, gradient, scratch = place.layer, place.gradient, place.scratch
    gradient.add(place.index, "down", kept.gated, flow)
    to_gated = scratch.product(flow, layer.down)
    to_gate_up = swiglu_backward(to_gated, kept.gate_up, kept.sigmoid, kept.silu, scratch)
    gradient.add(place.index, "gate_up", kept.mlp_input, to_gate_up)
    to_input = scratch.product(to_gate_up, layer.gate_up)
    rms_norm_backward(to_input, kept.before_mlp, kept.mlp_input, kept.mlp_inverse, layer.mlp_norm, into=flow)


def _attention_backward(place: _Place, kept: LayerTape, flow: Floats) -> None:
    layer, config, gradient, scratch = place.layer, place.config, place.gradient, place.scratch
    gradient.add(place.index, "o", kept.mixed, flow)
    to_mixed = scratch.product(flow, layer.o)
    to_qkv = attend_backward(
        to_mixed, kept.qkv, kept.mixed, kept.shares, config=config, rows=place.rows, scratch=scratch
    )
    table = rotary_table(config, flow.dtype.str)[: len(flow) // place.rows]
    rotate(to_qkv, table.conj(), place.rows)
    if kept.heads is not None:
        head_norm_backward(to_qkv, kept.heads, layer, config)
    gradient.add(place.index, "qkv", kept.attention_input, to_qkv)
    if place.index == 0:
        return  # the embedding is frozen: nothing below reads the gradient
    to_input = scratch.product(to_qkv, layer.qkv)
    rms_norm_backward(
        to_input,
        kept.before_attention,
        kept.attention_input,
        kept.attention_inverse,
        layer.attention_norm,
        into=flow,
    )
