"""Adapters as PEFT names and describes them: what `adapter_model.safetensors` and `adapter_config.json` hold.

Shapes are PEFT's already (`lora` says so), rows lie in Hugging Face order: only names differ.
"""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.lora import ALPHA

__all__ = ["adapter_config", "from_peft", "to_peft"]

Arrays = Mapping[str, npt.NDArray[Any]]

PREFIX = "base_model.model."
"""What PEFT writes before the path of a module."""
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
MLP = ("down_proj", "gate_proj", "up_proj")
UNEMBEDDING = ("lm_head",)


def to_peft(parameters: Arrays) -> dict[str, npt.NDArray[Any]]:
    """An adapter's parameters (`Adapter.parameters`) by the names of `adapter_model.safetensors`."""
    return {PREFIX + name: array for name, array in parameters.items()}


def from_peft(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `adapter_model.safetensors` by the names of `Adapter.parameters`.

    Raises:
        ValidationError: a name is not PEFT's.
    """
    for name in arrays:
        if not name.startswith(PREFIX):
            raise ValidationError(f"PEFT's arrays are called {PREFIX}..., got {name}")
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}


def adapter_config(
    base_model: str, rank: int, *, train_attn: bool, train_mlp: bool, train_unembed: bool
) -> dict[str, Any]:
    """The document of `adapter_config.json`.

    Args:
        base_model: name or directory of the model the adapter belongs to.
        rank: of the adapter.
        train_attn: whether q, k, v and o are changed.
        train_mlp: whether gate, up and down are changed.
        train_unembed: whether the unembedding is changed.
    """
    switches = ((ATTENTION, train_attn), (MLP, train_mlp), (UNEMBEDDING, train_unembed))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
        "target_modules": sorted(name for names, is_trained in switches if is_trained for name in names),
    }
