"""What a sample request may ask about its prompt, answered while the prompt is read.

Row i of everything here stands for the distribution over prompt token i + 1: the first token follows
on nothing and is never scored.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import Floats, ModelConfig
from tinker_actors.local.engine.drawing import Filter, draw, likeliest, log_softmax
from tinker_actors.types.topk import MASK_LOGPROB

__all__ = ["NOTHING_ASKED", "PromptQuestions", "PromptScores", "Targets", "check_width"]

MOST_CELLS = 2**22
"""Most cells a request's tables of logprobs may have together."""
LOGITS_AT_ONCE = 2**22
"""Logits that are held at once."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Token ids whose logprobs are wanted, as a list of cells."""

    rows: npt.NDArray[np.int64]
    """Of each cell, ascending."""
    ids: npt.NDArray[np.int64]
    """Token id of each cell; -1 asks for nothing."""

    def check(self, prompt_length: int, config: ModelConfig) -> None:
        """Nothing if the targets fit a prompt.

        Raises:
            ShapeError: a row lies behind the prompt.
            ValidationError: an id lies outside the vocabulary, or none is named.
        """
        if self.rows.size and self.rows.max() >= prompt_length - 1:
            raise ShapeError(
                f"target_prompt_logprobs must have {prompt_length - 1} rows, got {self.rows.max() + 1}"
            )
        named = self.ids[self.ids != -1]
        if not named.size:
            raise ValidationError("target_prompt_logprobs must name at least one token id, got none")
        config.check_ids("target_prompt_logprobs", named)


@dataclass(frozen=True, slots=True)
class PromptQuestions:
    """What is wanted of a prompt; by default nothing."""

    logprobs: bool = False
    """The logprob of each prompt token."""
    topk: int = 0
    """So many likeliest tokens at each position."""
    last_n: int | None = None
    """`logprobs` and `topk` of so many last tokens only; None: of all."""
    targets: Targets | None = None
    """Logprobs of these ids."""
    alternatives: int = 0
    """So many tokens drawn at each position, with replacement, at the request's temperature."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return not (self.logprobs or self.topk or self.targets or self.alternatives)

    def check(self, prompt_length: int, config: ModelConfig) -> None:
        """Nothing if a prompt of this length can be asked this.

        Raises:
            ValidationError: a width is negative or too large, or `last_n` does not fit.
            ShapeError: the targets do not fit.
        """
        if self.last_n is not None and not self.logprobs:
            raise ValidationError("prompt_logprobs_last_n needs prompt_logprobs, got false")
        if self.last_n is not None and not 1 <= self.last_n < prompt_length:
            raise ValidationError(
                f"prompt_logprobs_last_n must lie in [1, {prompt_length - 1}], got {self.last_n}"
            )
        for name, width in (("topk_prompt_logprobs", self.topk), ("prompt_alt_tokens_k", self.alternatives)):
            check_width(name, width, prompt_length)
        if self.targets is not None:
            self.targets.check(prompt_length, config)

    def first_row(self, prompt_length: int) -> int:
        """The first row that anything is asked of; `prompt_length - 1` if nothing is."""
        rows = [prompt_length - 1]
        if self.logprobs or self.topk:
            rows.append(0 if self.last_n is None else prompt_length - 1 - self.last_n)
        if self.targets is not None:
            rows.append(int(self.targets.rows[self.targets.ids != -1].min()))
        if self.alternatives:
            rows.append(0)
        return min(rows)


NOTHING_ASKED = PromptQuestions()


def check_width(name: str, width: int, length: int) -> None:
    """Nothing if a table may have `width` columns for each of `length` tokens.

    Raises:
        ValidationError: it may not.
    """
    most = MOST_CELLS // max(1, length)
    if not 0 <= width <= most:
        raise ValidationError(f"{name} must lie in [0, {most}] for {length} tokens, got {width}")


@dataclass(slots=True)
class PromptScores:
    """The answers, filled while a prompt is read.

    Where nothing is asked a logprob is NaN, in the table of the likeliest -99999.0, of a target 0.
    """

    questions: PromptQuestions
    prompt: npt.NDArray[np.int64]
    temperature: float
    stream: np.random.Generator
    """What the alternatives are drawn from."""
    logprobs: Floats = field(init=False)
    """Of each prompt token, shape (tokens,)."""
    topk_ids: npt.NDArray[np.int32] = field(init=False)
    """Shape (tokens, k), likeliest first."""
    topk_logprobs: Floats = field(init=False)
    """As `topk_ids`."""
    target_logprobs: Floats = field(init=False)
    """Of each cell of the targets."""
    alternative_ids: npt.NDArray[np.int64] = field(init=False)
    """Shape (tokens - 1, draws)."""
    alternative_logprobs: Floats = field(init=False)
    """As `alternative_ids`."""
    _next: int = field(init=False)

    def __post_init__(self) -> None:
        asked, length = self.questions, len(self.prompt)
        self.logprobs = np.full(length if asked.logprobs else 0, np.nan, np.float32)
        self.topk_ids = np.zeros((length, asked.topk), np.int32)
        self.topk_logprobs = np.full((length, asked.topk), MASK_LOGPROB, np.float32)
        self.target_logprobs = np.zeros(0 if asked.targets is None else len(asked.targets.ids), np.float32)
        self.alternative_ids = np.zeros((length - 1, asked.alternatives), np.int64)
        self.alternative_logprobs = np.zeros((length - 1, asked.alternatives), np.float32)
        self._next = asked.first_row(length)

    def feed(self, start: int, hidden: Floats, unembedding: Floats) -> None:
        """Score what the states of the prompt's tokens from `start` on predict.

        Args:
            start: position of the first of `hidden`.
            hidden: final states, shape (tokens, hidden); pieces come in order.
            unembedding: shape (vocab, hidden).
        """
        stop = min(start + len(hidden), len(self.prompt) - 1)
        at_once = max(1, LOGITS_AT_ONCE // len(unembedding))
        while self._next < stop:
            first, last = self._next, min(stop, self._next + at_once)
            logprobs = log_softmax(hidden[first - start : last - start] @ unembedding.T)
            self._note(first, logprobs)
            self._next = last

    def _note(self, first: int, logprobs: Floats) -> None:
        asked, last = self.questions, first + len(logprobs)
        length = len(self.prompt)
        scored = max(first, 0 if asked.last_n is None else length - 1 - asked.last_n)
        for row in range(scored, last):
            if asked.logprobs:
                self.logprobs[row + 1] = logprobs[row - first, self.prompt[row + 1]]
            if asked.topk:
                ids = likeliest(logprobs[row - first], asked.topk)
                self.topk_ids[row + 1, : len(ids)] = ids
                self.topk_logprobs[row + 1, : len(ids)] = logprobs[row - first, ids]
        if asked.targets is not None:
            self._note_targets(asked.targets, first, logprobs)
        if asked.alternatives:
            chances = Filter(self.temperature).probabilities(logprobs)
            drawn = draw(chances, self.stream.random((len(logprobs), asked.alternatives)))
            self.alternative_ids[first:last] = drawn
            self.alternative_logprobs[first:last] = np.take_along_axis(logprobs, drawn, axis=1)

    def _note_targets(self, targets: Targets, first: int, logprobs: Floats) -> None:
        begin, end = np.searchsorted(targets.rows, [first, first + len(logprobs)])
        cells = np.arange(begin, end)[targets.ids[begin:end] != -1]
        self.target_logprobs[cells] = logprobs[targets.rows[cells] - first, targets.ids[cells]]
