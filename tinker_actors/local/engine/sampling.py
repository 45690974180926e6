"""Drawing continuations of a prompt, and scoring the prompt itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import BaseModel, Floats, ModelConfig, Weights
from tinker_actors.local.engine.decoding import extend, new_cache
from tinker_actors.local.engine.lora import Adapter

__all__ = ["SampledSequence", "Stop", "check", "generate", "prompt_logprobs", "topk_prompt_logprobs"]

Stop = str | Sequence[str | int] | None
"""None: the end-of-text token stops. Token ids: those stop too. Text: stops when the sample's text has
it, and so does end-of-text. An empty sequence: nothing stops, not even end-of-text."""


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """One continuation of a prompt."""

    tokens: list[int]
    """Sampled ids; a token that stops is the last of them."""
    logprobs: list[float]
    """Of each token, in nats, under the model's own distribution: temperature 1, no top-k or top-p."""
    stop_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class _Filter:
    """How the model's distribution is narrowed before drawing."""

    temperature: float
    top_k: int
    top_p: float

    def probabilities(self, logprobs: Floats) -> npt.NDArray[np.float64]:
        """Unnormalised probabilities to draw from, shape of `logprobs`: (rows, vocab).

        The temperature comes first, then top-k, then top-p on what is left; of equal logprobs the lower
        id wins.
        """
        scaled = logprobs.astype(np.float64) / self.temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        chances: npt.NDArray[np.float64] = np.exp(scaled)
        vocab = chances.shape[1]
        kept = self.top_k if 0 < self.top_k < vocab else vocab
        if kept == vocab and self.top_p >= 1.0:
            return chances
        order = np.argsort(-logprobs, axis=1, kind="stable")
        ranked = np.take_along_axis(chances, order, axis=1)
        ranked[:, kept:] = 0.0
        mass_before = ranked.cumsum(axis=1) - ranked
        ranked[mass_before >= self.top_p * ranked.sum(axis=1, keepdims=True)] = 0.0
        np.put_along_axis(chances, order, ranked, axis=1)
        return chances


@dataclass(slots=True)
class _Stopper:
    """Decides whether a sample has ended."""

    ids: frozenset[int]
    texts: tuple[str, ...]
    decode: Callable[[list[int]], str] | None

    @classmethod
    def of(
        cls, stop: Stop, eos_token_id: int | None, decode: Callable[[list[int]], str] | None
    ) -> "_Stopper":
        listed = [stop] if isinstance(stop, str) else stop
        texts = tuple(entry for entry in listed or () if isinstance(entry, str))
        ids = {int(entry) for entry in listed or () if not isinstance(entry, str)}
        if texts and decode is None:
            raise ValidationError("stop strings need a decode function, got None")
        if eos_token_id is not None and (listed is None or len(listed) > 0):
            ids.add(eos_token_id)
        return cls(frozenset(ids), texts, decode)

    def ended(self, tokens: list[int]) -> bool:
        if tokens[-1] in self.ids:
            return True
        if not self.texts or self.decode is None:
            return False
        text = self.decode(tokens)
        return any(stop in text for stop in self.texts)


def check(
    config: ModelConfig,
    prompt: Sequence[int],
    *,
    num_samples: int = 1,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Stop = None,
) -> int:
    """Most tokens a sample may have, if a model of this shape can draw what `generate` is asked for.

    Raises:
        ValidationError: an argument lies outside its range, or the prompt leaves no room in the context.
    """
    _check_prompt(config, prompt)
    if num_samples < 1:
        raise ValidationError(f"num_samples must be positive, got {num_samples}")
    if max_tokens is not None and max_tokens < 1:
        raise ValidationError(f"max_tokens must be positive, got {max_tokens}")
    if not (temperature >= 0.0 and 0.0 < top_p <= 1.0):
        raise ValidationError(
            f"temperature must not be negative and top_p must lie in (0, 1], got {temperature} and {top_p}"
        )
    if seed is not None and seed < 0:
        raise ValidationError(f"seed must not be negative, got {seed}")
    if "" in ([stop] if isinstance(stop, str) else stop or ()):
        raise ValidationError("stop strings must not be empty, got ''")
    room = config.max_context_length - len(prompt)
    if room < 1:
        raise ValidationError(
            f"the prompt must leave room in the context of {config.max_context_length}, got {len(prompt)} tokens"
        )
    return room if max_tokens is None else min(room, max_tokens)


def generate(
    base: BaseModel,
    adapter: Adapter | None,
    prompt: Sequence[int],
    *,
    num_samples: int = 1,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int = -1,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Stop = None,
    eos_token_id: int | None = None,
    decode: Callable[[list[int]], str] | None = None,
) -> list[SampledSequence]:
    """Draw `num_samples` continuations of `prompt` in one batch.

    Args:
        base: the base model.
        adapter: what is added to it, or None.
        prompt: token ids, at least one.
        num_samples: positive.
        max_tokens: most tokens of a sample, positive; None for as many as the context holds. A sample
            that fills the context ends with `"length"`.
        temperature: 0 takes the likeliest token each time.
        top_k: only the k likeliest tokens may be drawn; not positive: all.
        top_p: only the fewest likeliest tokens whose share reaches this may be drawn; in (0, 1].
        seed: equal seeds give equal samples, for equal arguments; each sample has a stream of its own.
            None draws one.
        stop: see `Stop`.
        eos_token_id: the end-of-text token, or None if there is none.
        decode: token ids to text; needed when `stop` is text.

    Returns:
        The samples, in the order of their streams.

    Raises:
        ValidationError: as `check`; or `stop` is text and there is no `decode`.
    """
    room = check(
        base.config,
        prompt,
        num_samples=num_samples,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    stopper = _Stopper.of(stop, eos_token_id, decode)
    narrowing = _Filter(temperature, top_k, top_p) if temperature > 0.0 else None
    streams = [
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(num_samples)
    ]
    weights = base.weights if adapter is None else adapter.merged(base)
    return _continued(weights, prompt, room, streams, narrowing, stopper)


def _continued(
    weights: Weights,
    prompt: Sequence[int],
    room: int,
    streams: Sequence[np.random.Generator],
    narrowing: _Filter | None,
    stopper: _Stopper,
) -> list[SampledSequence]:
    """One sample a stream, each of at most `room` tokens; without `narrowing` of the likeliest tokens."""
    cache = new_cache(weights, len(prompt) + room)
    hidden = extend(weights, cache, np.array([prompt], np.int64))[-1:]
    cache, hidden = cache.repeat(len(streams)), np.repeat(hidden, len(streams), axis=0)
    samples = [SampledSequence([], [], "length") for _ in streams]
    for step in range(room):
        logprobs = _log_softmax(hidden @ weights.unembedding.T)
        chosen = (
            logprobs.argmax(axis=1)
            if narrowing is None
            else _draw(narrowing.probabilities(logprobs), streams)
        )
        samples = [
            _grown(sample, int(token), float(row[token]), stopper)
            for sample, token, row in zip(samples, chosen, logprobs, strict=True)
        ]
        if step == room - 1 or all(sample.stop_reason == "stop" for sample in samples):
            break
        hidden = extend(weights, cache, chosen[:, None])
    return samples


def prompt_logprobs(base: BaseModel, adapter: Adapter | None, prompt: Sequence[int]) -> list[float | None]:
    """The logprob of each prompt token given those before it, in nats; None for the first.

    Raises:
        ValidationError: an empty or too long prompt, or an id outside the vocabulary.
    """
    scores = _prompt_scores(base, adapter, prompt)
    return [None, *(float(row[token]) for row, token in zip(scores, prompt[1:], strict=True))]


def topk_prompt_logprobs(
    base: BaseModel, adapter: Adapter | None, prompt: Sequence[int], k: int
) -> list[list[tuple[int, float]] | None]:
    """The `k` likeliest tokens at each prompt position with their logprobs, likeliest first.

    Returns:
        One list of (token id, nats) a position; None for the first.

    Raises:
        ValidationError: as `prompt_logprobs`.
    """
    scores = _prompt_scores(base, adapter, prompt)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [
        None,
        *([(int(token), float(row[token])) for token in ids] for ids, row in zip(best, scores, strict=True)),
    ]


def _prompt_scores(base: BaseModel, adapter: Adapter | None, prompt: Sequence[int]) -> Floats:
    """Logprobs of every token at every prompt position but the first, shape (tokens - 1, vocab)."""
    _check_prompt(base.config, prompt)
    weights = base.weights if adapter is None else adapter.merged(base)
    hidden = extend(weights, new_cache(weights, len(prompt)), np.array([prompt], np.int64))
    return _log_softmax(hidden[:-1] @ weights.unembedding.T)


def _check_prompt(config: ModelConfig, prompt: Sequence[int]) -> None:
    if not 0 < len(prompt) <= config.max_context_length:
        raise ValidationError(f"prompt must have 1 to {config.max_context_length} tokens, got {len(prompt)}")
    config.check_ids("prompt", np.asarray(prompt))


def _log_softmax(logits: Floats) -> Floats:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def _draw(chances: npt.NDArray[np.float64], streams: Sequence[np.random.Generator]) -> npt.NDArray[np.int64]:
    """One token a row, by inverting the cumulative chances; each row draws from its own stream."""
    cumulative = chances.cumsum(axis=1)
    totals = cumulative[:, -1]
    points = np.array([stream.random() for stream in streams]) * totals
    np.minimum(points, np.nextafter(totals, 0.0), out=points)  # the product may round up to the total
    tokens: npt.NDArray[np.int64] = (cumulative <= points[:, None]).sum(axis=1, dtype=np.int64)
    return tokens


def _grown(sample: SampledSequence, token: int, logprob: float, stopper: _Stopper) -> SampledSequence:
    if sample.stop_reason == "stop":
        return sample
    sample.tokens.append(token)
    sample.logprobs.append(logprob)
    if stopper.ended(sample.tokens):
        return SampledSequence(sample.tokens, sample.logprobs, "stop")
    return sample
