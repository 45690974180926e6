"""What sampling asks for and gives back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.arrays import np
from tinker_actors.types.checks import MOST_INT32, finite, shown, text, whole
from tinker_actors.types.tensors import TensorData
from tinker_actors.types.topk import TopkLogprobs, TopkRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PromptAltTokens",
    "SampleResponse",
    "SampleStreamChunk",
    "SampledSequence",
    "SamplingParams",
    "StopReason",
]

StopReason = Literal["stop", "length"]
_LEAST_SEED, _MOST_SEED = -(2**63), 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn."""

    max_tokens: int | None = None
    """Most tokens a sequence gets; None is as many as the context holds."""
    seed: int | None = None
    """Seed of the draws; None draws afresh each time."""
    stop: str | Sequence[str | int] | None = None
    """A string, strings or token ids that end a sequence; None ends at end-of-text, an empty list never."""
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
            "top_k": whole("top_k", self.top_k, least=-1, most=MOST_INT32),
            "stop": _stop(self.stop),
        }
        if self.max_tokens is not None:
            plain["max_tokens"] = whole("max_tokens", self.max_tokens, least=1, most=MOST_INT32)
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


def _stop(stop: Any) -> str | Sequence[str | int] | None:
    if stop is None:
        return None
    if isinstance(stop, str):
        return text("a stop string", stop)
    try:
        stops = list(stop)
    except TypeError as error:
        raise ValidationError(
            f"stop is a string or a list of strings or token ids, got {shown(stop)}"
        ) from error
    if all(isinstance(one, str) for one in stops):
        return [text("a stop string", one) for one in stops]
    return [whole("a stop token, where no string is given,", one, least=0, most=MOST_INT32) for one in stops]


def _float32(values: list[float]) -> "NDArray[np.float32]":
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        return np.asarray(values, np.float32)


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
    topk_logprobs_np: TopkLogprobs | None = None
    """The likeliest tokens at each position, as arrays. Only when asked for."""

    @property
    def tokens_np(self) -> "NDArray[np.int32]":
        """`tokens` as an array, shape (tokens,)."""
        return np.asarray(self.tokens, np.int32)

    @property
    def logprobs_np(self) -> "NDArray[np.float32] | None":
        """`logprobs` as an array, shape (tokens,)."""
        return None if self.logprobs is None else _float32(self.logprobs)

    @property
    def topk_logprobs(self) -> TopkRows | None:
        """The likeliest tokens at each position, as pairs of token id and logprob."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.tolist()


class PromptAltTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens drawn in place of the prompt's own; row i stands for prompt position i + 1."""

    tokens: TensorData
    """Token ids, int64, shape (prompt tokens - 1, draws)."""
    logprobs: TensorData
    """Of each, nats, float32, of the same shape."""


class SampleResponse(msgspec.Struct, kw_only=True):
    """What a sample request gives back."""

    sequences: list[SampledSequence]
    """One per sequence asked for."""
    prompt_logprobs: list[float | None] | None = None
    """Of each prompt token, nats; None for the first and for what was not to be scored. Only when asked for."""
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    """The likeliest tokens at each prompt position, as arrays. Only when asked for."""
    target_prompt_logprobs: TensorData | None = None
    """Of the ids asked for, nats, in the shape and layout of the question; 0 where that was -1."""
    prompt_alt_tokens: PromptAltTokens | None = None
    """Tokens drawn in place of the prompt's. Only when asked for."""
    prompt_cache_hit_tokens: int = 0
    """Prompt tokens the service had at hand from earlier requests."""

    @property
    def prompt_logprobs_np(self) -> "NDArray[np.float32] | None":
        """`prompt_logprobs` as an array, shape (prompt tokens,), NaN for None."""
        if self.prompt_logprobs is None:
            return None
        return _float32([np.nan if one is None else one for one in self.prompt_logprobs])

    @property
    def topk_prompt_logprobs(self) -> TopkRows | None:
        """The likeliest tokens at each prompt position, as pairs of token id and logprob."""
        return None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.tolist()


class SampleStreamChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream gives at a time: a token as it was made or, behind a sequence's last token, why it ended."""

    token: str = ""
    """The text it adds; empty for an end, and in the middle of a character."""
    token_id: int | None = None
    """Its id; None for an end."""
    index: int
    """Its place in its sequence, from 0; for an end, the number of tokens."""
    logprob: float | None = None
    """Of the token under the model at temperature 1, nats."""
    finish_reason: StopReason | None = None
    """What ended the sequence; None for a token."""
    sequence: int = 0
    """Which of the sequences that were asked for."""

    @property
    def is_done(self) -> bool:
        """Whether its sequence ends here."""
        return self.finish_reason is not None
