"""What training asks for and gives back."""

from typing import Any, Literal, Self

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.checks import finite
from tinker_actors.types.tensors import TensorData

__all__ = [
    "AdamParams",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "LoraConfig",
    "ModelData",
    "OptimStepResponse",
    "OptimizerConfig",
]


class AdamParams(msgspec.Struct, frozen=True, kw_only=True):
    """One AdamW update; the defaults are the API's."""

    learning_rate: float = 1e-4
    """Step size."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    eps: float = 1e-12
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled decay, times the learning rate."""
    grad_clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 is no limit."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = finite(name, getattr(self, name))
            if value < 0:
                raise ValidationError(f"{name} must be 0 or more, got {value!r}")
            msgspec.structs.force_setattr(self, name, value)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValidationError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as Adam parameters: ours, the official SDK's (by structure), or a duck type."""
        if isinstance(value, cls):
            return value
        known = {name: getattr(value, name) for name in cls.__struct_fields__ if hasattr(value, name)}
        if not str(getattr(value, "type", "adam")).startswith("adam"):
            raise ValidationError(f"only AdamW's parameters are known, got those of {value.type!r}")
        if "learning_rate" not in known:
            raise ValidationError(f"optimizer parameters are an AdamParams, got {type(value).__name__}")
        return cls(**known)


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


class OptimizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The optimizer family of a model, fixed when it is created."""

    type: Literal["adamw"] = "adamw"
    """Family."""


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
