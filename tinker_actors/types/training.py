"""What training asks for and gives back."""

from typing import Literal, TypeAlias

import msgspec

from tinker_actors.types.optimizers import OptimizerFamily
from tinker_actors.types.tensors import TensorData

__all__ = [
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "LoraConfig",
    "LossFnType",
    "ModelData",
    "OptimStepResponse",
]

LossFnType: TypeAlias = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]
"""The losses that services are known to have; the methods take any name."""


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which low-rank matrices are trained."""

    rank: int = 32
    """Rank of each pair of matrices."""
    seed: int | msgspec.UnsetType = msgspec.UNSET
    """Seed of their initial values; the service picks one where it is unset."""
    train_unembed: bool = True
    """Also at the output embedding."""
    train_mlp: bool = True
    """Also in the feed-forward layers."""
    train_attn: bool = True
    """Also in the attention layers."""


class ForwardBackwardOutput(msgspec.Struct, kw_only=True):
    """What a forward_backward gives back, one entry per datum in the order given."""

    loss_fn_outputs: list[dict[str, TensorData]]
    """Per datum, by name; `logprobs` has one value, in nats, per target token."""
    metrics: dict[str, float]
    """Named `name:reduction`; `loss:sum` is the summed loss over all data."""
    loss_fn_output_type: str = "ArrayRecord"
    """The service's name for the kind of output."""


class OptimStepResponse(msgspec.Struct, kw_only=True):
    """What an optimizer step gives back."""

    metrics: dict[str, float] | None = None
    """The service's figures, if it has any."""


class ModelData(msgspec.Struct, kw_only=True):
    """What the service says of a base model."""

    arch: str | None = None
    """Architecture."""
    model_name: str | None = None
    """Name of the base model."""
    tokenizer_id: str | None = None
    """Name under which its tokenizer is found."""


class GetInfoResponse(msgspec.Struct, kw_only=True):
    """What the service says of a model in training."""

    model_id: str
    """The service's id."""
    model_data: ModelData = msgspec.field(default_factory=ModelData)
    """Its base model."""
    is_lora: bool | None = None
    """Whether low-rank matrices are trained."""
    lora_rank: int | None = None
    """Their rank."""
    model_name: str | None = None
    """Name of the base model, where `model_data` lacks it."""
    optimizer_config: OptimizerFamily | None = None
    """Its optimizer, where the service says so."""
