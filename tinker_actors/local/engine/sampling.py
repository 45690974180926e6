"""What a sample request is to the engine: the question, its limits, and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import ModelConfig
from tinker_actors.local.engine.decoding import kept_steps, step_bytes
from tinker_actors.local.engine.drawing import Filter, Stop, StopRule
from tinker_actors.local.engine.prompts import NOTHING_ASKED, PromptQuestions, check_width

__all__ = ["SampleSpec", "SampledSequence", "streams"]

_MOST_SEED = 2**64


@dataclass(slots=True)
class SampledSequence:
    """One continuation of a prompt."""

    tokens: list[int] = field(default_factory=list)
    """Sampled ids; a token that stops is the last of them."""
    logprobs: list[float] = field(default_factory=list)
    """Of each token, in nats, under the model's own distribution: temperature 1, no top-k or top-p."""
    stop_reason: Literal["stop", "length"] = "length"
    likeliest: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.floating]]] = field(default_factory=list)
    """Ids and logprobs of the likeliest tokens at each place, if they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What is to be drawn, and what is to be said of the prompt."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    num_samples: int = 1
    """Samples, positive."""
    max_tokens: int | None = None
    """Most tokens of a sample, positive; None for as many as the context holds. A sample that fills the
    context ends with `"length"`."""
    temperature: float = 1.0
    """0 takes the likeliest token each time."""
    top_k: int = -1
    """Only the k likeliest tokens may be drawn; not positive: all."""
    top_p: float = 1.0
    """Only the fewest likeliest tokens whose share reaches this may be drawn; in (0, 1]."""
    seed: int | None = None
    """Equal seeds give equal samples, for equal questions; each sample has a stream of its own. None
    draws one."""
    stop: Stop = None
    """See `Stop`."""
    topk: int = 0
    """So many likeliest tokens at each sampled place."""
    questions: PromptQuestions = NOTHING_ASKED
    """What is wanted of the prompt."""

    def check(self, config: ModelConfig) -> int:
        """Most tokens a sample may have, if a model of this shape can answer.

        Raises:
            ValidationError: an argument lies outside its range, or the prompt leaves no room in the context.
        """
        length = len(self.prompt)
        if not 0 < length <= config.max_context_length:
            raise ValidationError(f"prompt must have 1 to {config.max_context_length} tokens, got {length}")
        config.check_ids("prompt", np.asarray(self.prompt))
        if self.num_samples < 1:
            raise ValidationError(f"num_samples must be positive, got {self.num_samples}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValidationError(f"max_tokens must be positive, got {self.max_tokens}")
        if not (self.temperature >= 0.0 and 0.0 < self.top_p <= 1.0):
            raise ValidationError(
                "temperature must not be negative and top_p must lie in (0, 1], "
                f"got {self.temperature} and {self.top_p}"
            )
        StopRule.of(self.stop, None)
        room = self.room(config)
        if room < 1:
            raise ValidationError(
                f"the prompt must leave room in the context of {config.max_context_length}, got {length} tokens"
            )
        check_width("topk_sample_logprobs", self.topk, room * self.num_samples)
        self.questions.check(length, config)
        return room

    def room(self, config: ModelConfig) -> int:
        """Most tokens a sample may have, of a valid question."""
        room = config.max_context_length - len(self.prompt)
        return room if self.max_tokens is None else min(room, self.max_tokens)

    def cache_bytes(self, config: ModelConfig) -> int:
        """Most memory that keys and values may take while this is answered."""
        longest = len(self.prompt) + self.room(config)
        steps = len(self.prompt) + self.num_samples * kept_steps(longest)
        return steps * step_bytes(config)

    def most_samples(self, config: ModelConfig, most_bytes: int) -> int:
        """Most samples whose keys and values fit into `most_bytes`; at least one."""
        steps = most_bytes // step_bytes(config) - len(self.prompt)
        return max(1, steps // kept_steps(len(self.prompt) + self.room(config)))

    @property
    def filter(self) -> Filter:
        """How the distribution is narrowed."""
        return Filter(self.temperature, self.top_k, self.top_p)


def streams(seed: int | None, count: int) -> list[np.random.Generator]:
    """A stream for each of `count` samples, and a last one for what is drawn in the prompt's place."""
    root = np.random.SeedSequence(None if seed is None else seed % _MOST_SEED)
    others = np.random.SeedSequence(root.entropy, spawn_key=(2**32 - 1,))
    return [np.random.Generator(np.random.PCG64(one)) for one in [*root.spawn(count), others]]
