"""What sampling asks for and gives back."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.checks import finite, whole

__all__ = ["SampleResponse", "SampledSequence", "SamplingParams", "StopReason"]

StopReason = Literal["stop", "length"]
_LEAST_SEED, _MOST_SEED = -(2**63), 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn."""

    max_tokens: int | None = None
    """Most tokens a sequence gets; None is as many as the context holds."""
    seed: int | None = None
    """Seed of the draws; None draws afresh each time."""
    stop: str | Sequence[str | int] | None = None
    """Strings or token ids that end a sequence; None ends at end-of-text, an empty list never."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = -1
    """Only the `top_k` likeliest tokens; -1 is all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""

    def __post_init__(self) -> None:
        plain: dict[str, Any] = {
            "temperature": finite("temperature", self.temperature),
            "top_p": finite("top_p", self.top_p),
            "top_k": whole("top_k", self.top_k, least=-1),
            "stop": _stop(self.stop),
        }
        if self.max_tokens is not None:
            plain["max_tokens"] = whole("max_tokens", self.max_tokens, least=1)
        if self.seed is not None:
            plain["seed"] = whole("seed", self.seed, least=_LEAST_SEED, most=_MOST_SEED)
        if plain["temperature"] < 0:
            raise ValidationError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < plain["top_p"] <= 1:
            raise ValidationError(f"top_p must lie in (0, 1], got {self.top_p}")
        if plain["top_k"] == 0:
            raise ValidationError(f"top_k must be at least 1, or -1 for all tokens, got {self.top_k}")
        for name, value in plain.items():
            msgspec.structs.force_setattr(self, name, value)

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as sampling parameters: ours, the official SDK's (by structure), or a duck type."""
        if isinstance(value, cls):
            return value
        known = {name: getattr(value, name) for name in cls.__struct_fields__ if hasattr(value, name)}
        if not known:
            raise ValidationError(f"sampling parameters are a SamplingParams, got {type(value).__name__}")
        return cls(**known)


def _stop(stop: Any) -> str | list[str | int] | None:
    if stop is None or isinstance(stop, str):
        return stop
    try:
        return [one if isinstance(one, str) else whole("a stop token", one, least=0) for one in stop]
    except TypeError as error:
        raise ValidationError(f"stop is a string or a list of strings or token ids, got {stop!r}") from error


class SampledSequence(msgspec.Struct, kw_only=True):
    """One drawn sequence."""

    tokens: list[int]
    """Token ids, with the stop token if one ended it."""
    logprobs: list[float] | None = None
    """Of each token under the model at temperature 1, nats."""
    stop_reason: StopReason
    """What ended it."""
    sequence_id: str | None = None
    """The service's id of it, unique and stable."""


class SampleResponse(msgspec.Struct, kw_only=True):
    """What a sample request gives back."""

    sequences: list[SampledSequence]
    """One per sequence asked for."""
    prompt_logprobs: list[float | None] | None = None
    """Of each prompt token, nats; the first is None. Only when asked for."""
    prompt_cache_hit_tokens: int = 0
    """Prompt tokens the service had at hand from earlier requests."""
