"""Continuous batching: texts of many requests grow together, and requests join and leave between tokens."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import Floats, Weights
from tinker_actors.local.engine.decoding import KVCache, Prefix, Row, advance, read, steps_at_once
from tinker_actors.local.engine.drawing import Decode, Filter, StopRule, Text, draw, likeliest, log_softmax
from tinker_actors.local.engine.prompts import PromptScores
from tinker_actors.local.engine.sampling import SampledSequence, SampleSpec, streams
from tinker_actors.local.engine.scratch import Scratch

__all__ = ["Batch", "Generation", "Token"]

READ_AT_ONCE = 512
"""Prompt tokens that are read between two sampled tokens, so that a long prompt holds nobody up."""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token, told as it is made."""

    sequence: int
    """Which of the request's samples it belongs to."""
    index: int
    """Its place in that sample."""
    token_id: int
    logprob: float
    text: str
    """What it adds to the sample's text; empty within a character."""
    stop_reason: str | None
    """Why the sample ends with it, if it does."""


Listener = Callable[[Token], None]


class Generation:
    """One request in a batch, and what came of it so far."""

    def __init__(
        self,
        spec: SampleSpec,
        weights: Weights,
        rule: StopRule,
        decode: Decode | None,
        listener: Listener | None,
    ) -> None:
        *samples, alternatives = streams(spec.seed, spec.num_samples)
        self.spec = spec
        self.room = spec.room(weights.config)
        self.prompt = np.asarray(spec.prompt, np.int64)
        self.filter = spec.filter
        self.prefix: Prefix | None = Prefix(weights, len(self.prompt))
        self.scores = PromptScores(spec.questions, self.prompt, spec.temperature, alternatives)
        self.growing = [_Growing(self, index, rule, decode, stream) for index, stream in enumerate(samples)]
        self.listener = listener
        self.left = spec.num_samples
        """Samples that have not ended."""

    @property
    def sequences(self) -> list[SampledSequence]:
        """The samples, in the order of their streams."""
        return [growing.sample for growing in self.growing]


class _Growing:
    """One sample of a request."""

    def __init__(
        self,
        generation: Generation,
        index: int,
        rule: StopRule,
        decode: Decode | None,
        stream: np.random.Generator,
    ) -> None:
        self.generation = generation
        self.sample = SampledSequence()
        self.stream = stream
        self.row: Row | None = None
        self.ended = False
        self._index = index
        self._rule = rule
        self._decode = decode
        self._text: Text | None = None
        if rule.texts:
            self._text = self._new_text()

    def _new_text(self) -> Text:
        if self._decode is None:
            raise ValidationError("stop strings need a decode function, got None")
        return Text(self._decode, self._rule.texts)

    def push(self, token: int, logprobs: Floats) -> None:
        """Append a token."""
        generation, sample = self.generation, self.sample
        sample.tokens.append(token)
        sample.logprobs.append(float(logprobs[token]))
        if generation.spec.topk:
            ids = likeliest(logprobs, generation.spec.topk)
            sample.likeliest.append((ids, logprobs[ids]))
        if generation.listener is not None and self._text is None:
            self._text = self._new_text()
        text, found = ("", False) if self._text is None else self._text.push(token)
        if found or token in self._rule.ids:
            sample.stop_reason = "stop"
        self.ended = ended = sample.stop_reason == "stop" or len(sample.tokens) == generation.room
        if generation.listener is not None and self._text is not None:
            text += self._text.flush() if ended else ""
            reason = sample.stop_reason if ended else None
            place = len(sample.tokens) - 1
            generation.listener(Token(self._index, place, token, sample.logprobs[-1], text, reason))


class Batch:
    """Requests that are answered together by one model. One thread at a time.

    A request's samples depend on its seed; what else is in the batch changes no more than the last bits
    of their logprobs.

    Args:
        weights: base weights, or those with an adapter merged in.
        eos_token_id: the end-of-text token, or None if there is none.
        decode: token ids to text; needed for stop strings and listeners.
    """

    def __init__(
        self, weights: Weights, eos_token_id: int | None = None, decode: Decode | None = None
    ) -> None:
        self._weights = weights
        self._eos_token_id = eos_token_id
        self._decode = decode
        self._cache = KVCache(weights)
        self._scratch = Scratch(weights.embedding.dtype)
        self._reading: list[Generation] = []
        self._growing: dict[Row, _Growing] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not self._reading and not self._growing

    def join(self, spec: SampleSpec, listener: Listener | None = None) -> Generation:
        """Answer a valid request from the next step on.

        Raises:
            ValidationError: text is needed and there is no `decode`.
        """
        rule = StopRule.of(spec.stop, self._eos_token_id)
        generation = Generation(spec, self._weights, rule, self._decode, listener)
        self._reading.append(generation)
        return generation

    def leave(self, generation: Generation) -> None:
        """Forget a request; its rows are free at once."""
        if generation in self._reading:
            self._reading.remove(generation)
        for growing in generation.growing:
            self._remove(growing)

    def step(self) -> list[Generation]:
        """Read some of the prompts and draw one token for each sample; the requests that are answered now.

        Raises:
            ValidationError: the model's logprobs are not finite. The batch is of no further use.
        """
        ended: list[Generation] = []
        rows = self._cache.rows()
        if rows:
            growing = [self._growing[row] for row in rows]
            tokens = np.array([one.sample.tokens[-1] for one in growing], np.int64)
            hidden = advance(self._weights, self._cache, tokens)
            self._push(growing, self._logprobs(hidden), ended)
        if self._reading:
            self._read(ended)
        return ended

    def _read(self, ended: list[Generation]) -> None:
        pieces: list[tuple[Generation, Prefix, npt.NDArray[np.int64]]] = []
        budget = READ_AT_ONCE
        for generation in self._reading:
            prefix = generation.prefix
            if budget == 0 or prefix is None:
                break
            steps = steps_at_once(self._weights.config, prefix.length, budget)
            ids = generation.prompt[prefix.length : prefix.length + steps]
            pieces.append((generation, prefix, ids))
            budget -= len(ids)
        hidden = read(self._weights, [(prefix, ids) for _, prefix, ids in pieces], self._scratch)
        stop = 0
        whole: list[tuple[Generation, Floats]] = []
        for generation, prefix, ids in pieces:
            start, stop = stop, stop + len(ids)
            states = hidden[start:stop]
            generation.scores.feed(prefix.length - len(ids), states, self._weights.unembedding)
            if prefix.length == len(generation.prompt):
                whole.append((generation, states[-1]))
        self._reading = [one for one in self._reading if all(one is not other for other, _ in whole)]
        if whole:
            self._begin(whole, ended)

    def _begin(self, whole: list[tuple[Generation, Floats]], ended: list[Generation]) -> None:
        """Draw the first tokens of requests whose prompts are read."""
        logprobs = self._logprobs(np.stack([state for _, state in whole]))
        counts = [generation.spec.num_samples for generation, _ in whole]
        growing = [one for generation, _ in whole for one in generation.growing]
        self._push(growing, np.repeat(logprobs, counts, axis=0), ended)
        self._cache.reserve(Counter(len(one.generation.prompt) for one in growing if not one.ended))
        for generation, _ in whole:
            prefix, generation.prefix = generation.prefix, None
            for one in generation.growing:
                if prefix is not None and not one.ended:
                    one.row = self._cache.add(prefix)
                    self._growing[one.row] = one

    def _logprobs(self, hidden: Floats) -> Floats:
        logprobs = log_softmax(hidden @ self._weights.unembedding.T)
        if np.isnan(logprobs[:, 0]).any():  # one logit that is not finite makes the whole row NaN
            raise ValidationError("logprobs must be finite, and are not: the model has diverged")
        return logprobs

    def _push(self, growing: list[_Growing], logprobs: Floats, ended: list[Generation]) -> None:
        """Draw a token for each sample and take out what has ended."""
        for one, token, row in zip(growing, _drawn(growing, logprobs), logprobs, strict=True):
            one.push(int(token), row)
            if not one.ended:
                continue
            self._remove(one)
            one.generation.left -= 1
            if not one.generation.left:
                ended.append(one.generation)

    def _remove(self, growing: _Growing) -> None:
        if growing.row is not None:
            del self._growing[growing.row]
            self._cache.remove(growing.row)
            growing.row = None


def _drawn(growing: list[_Growing], logprobs: Floats) -> npt.NDArray[np.int64]:
    """A token for each sample, from its own stream; those narrowed alike are narrowed together."""
    tokens = np.empty(len(growing), np.int64)
    alike: dict[Filter, list[int]] = {}
    for place, one in enumerate(growing):
        alike.setdefault(one.generation.filter, []).append(place)
    for narrowing, places in alike.items():
        rows = logprobs if len(alike) == 1 else logprobs[places]
        if narrowing.temperature == 0.0:
            tokens[places] = rows.argmax(axis=1)
            continue
        points = np.array([growing[place].stream.random() for place in places])
        tokens[places] = draw(narrowing.probabilities(rows), points[:, None])[:, 0]
    return tokens
