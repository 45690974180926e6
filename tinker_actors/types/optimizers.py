"""Optimizers: the family a model is created with, and the parameters of one update."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self, TypeAlias

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.checks import finite, metadata, one_of, shown, text

__all__ = [
    "ADAMW",
    "AdamOptimizerConfig",
    "AdamParams",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "OptimParams",
    "OptimizerConfig",
    "OptimizerFamily",
    "family_fields",
    "optimizer_params",
]

ADAMW = "adamw"
"""The family that a model has by default."""


class AdamOptimizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """AdamW, the default family."""

    type: Literal["adamw"] = "adamw"
    """Family."""


class DimuonOptimizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Dimuon; its updates take `DimuonParams`."""

    type: Literal["dimuon"] = "dimuon"
    """Family."""
    version: Literal[1] = 1
    """Of the family."""


OptimizerConfig: TypeAlias = AdamOptimizerConfig | DimuonOptimizerConfig


class OptimizerFamily(msgspec.Struct, frozen=True, kw_only=True):
    """The optimizer of a model, as the service tells it."""

    type: str = ADAMW
    """Family."""


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
        _check_floats(self, self.__struct_fields__)

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as Adam parameters: ours, the official SDK's (by structure), or a duck type.

        Raises:
            ValidationError: they are of another family, or no parameters at all.
        """
        if isinstance(value, cls):
            return value
        known = {name: getattr(value, name) for name in cls.__struct_fields__ if hasattr(value, name)}
        if not str(getattr(value, "type", "adam")).startswith("adam"):
            raise ValidationError(f"only AdamW's parameters are known, got those of {shown(value.type)}")
        if "learning_rate" not in known:
            raise ValidationError(f"optimizer parameters are an AdamParams, got {type(value).__name__}")
        _check_names(cls, _fields(value).keys() - {"type"})
        return cls(**known)


class DimuonParams(msgspec.Struct, frozen=True, kw_only=True):
    """One Dimuon update."""

    family: ClassVar[str] = "dimuon"
    type: Literal["dimuon"] = "dimuon"
    """Family."""
    learning_rate: float
    """Step size."""
    grad_clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 and less is no limit."""
    beta1: float = 0.9
    """Decay of the momentum."""

    def __post_init__(self) -> None:
        one_of("the type of DimuonParams", self.type, self.family)
        _check_floats(self, ("learning_rate", "beta1"))
        msgspec.structs.force_setattr(self, "grad_clip_norm", finite("grad_clip_norm", self.grad_clip_norm))


OptimParams: TypeAlias = AdamParams | DimuonParams


def _check_floats(params: msgspec.Struct, names: tuple[str, ...]) -> None:
    """They are finite and 0 or more, betas below 1; what numpy has for floats becomes them."""
    for name in names:
        value = finite(name, getattr(params, name))
        if value < 0:
            raise ValidationError(f"{name} must be 0 or more, got {value!r}")
        if name.startswith("beta") and value >= 1:
            raise ValidationError(f"{name} must lie in [0, 1), got {value!r}")
        msgspec.structs.force_setattr(params, name, value)


def optimizer_params(value: Any, family: str) -> dict[str, Any]:
    """`value` as the parameters of one update, for JSON.

    Args:
        value: ours, the official SDK's (by structure), or a duck type with `type` and fields of its own.
        family: of the model.

    Raises:
        ValidationError: they are of another family than the model, or wrong.
    """
    _check_made(value)
    named = str(getattr(value, "type", ADAMW))
    named = ADAMW if named.startswith("adam") else named
    if family == ADAMW and named == ADAMW:
        return msgspec.structs.asdict(AdamParams.of(value))
    if named != family:
        wanted = {ADAMW: "AdamParams", "dimuon": "DimuonParams"}.get(family, f"parameters of type {family!r}")
        raise ValidationError(
            f"the model's optimizer is {family}, so an update takes {wanted}, got {type(value).__name__}"
        )
    fields = _fields(value)
    if named == DimuonParams.family:
        return msgspec.structs.asdict(_built(DimuonParams, fields))
    return metadata("optimizer parameters", fields)


def family_fields(value: Any) -> dict[str, Any]:
    """`value` as the optimizer a model is created with, for JSON: its family in `type`, and what else is fixed.

    Args:
        value: ours, the official SDK's (by structure), or a duck type; None is AdamW.

    Raises:
        ValidationError: it names no family, or has what JSON cannot hold.
    """
    if value is None:
        return {"type": ADAMW}
    _check_made(value)
    if not hasattr(value, "type"):
        raise ValidationError(
            f"an optimizer is an AdamOptimizerConfig or a DimuonOptimizerConfig, got {shown(value)}; None is AdamW"
        )
    fields = _fields(value)
    text("an optimizer's type", fields.get("type"))
    return metadata("optimizer", fields)


def _check_made(value: Any) -> None:
    if isinstance(value, type):
        raise ValidationError(
            f"parameters of an optimizer are wanted, got the class; use {value.__name__}(...)"
        )


def _check_names(kind: Any, names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(kind.__struct_fields__))
    if unknown:
        raise ValidationError(
            f"{kind.__name__} has {', '.join(kind.__struct_fields__)}, got also {', '.join(unknown)}"
        )


def _built(kind: Any, fields: Mapping[str, Any]) -> msgspec.Struct:
    _check_names(kind, fields)
    try:
        made: msgspec.Struct = kind(**fields)
    except TypeError as error:
        raise ValidationError(f"{kind.__name__}: {error}") from error
    return made


def _fields(value: Any) -> dict[str, Any]:
    """The fields of one of our types, a pydantic model, a dataclass, or whatever else has attributes."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if callable(getattr(value, "model_dump", None)):
        return dict(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))
