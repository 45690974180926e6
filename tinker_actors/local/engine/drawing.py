"""One token after another: how it is drawn, and whether it ends its sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import Floats

__all__ = ["Decode", "Filter", "Stop", "StopRule", "Text", "draw", "likeliest", "log_softmax"]

Decode = Callable[[list[int]], str]
"""Token ids to text; bytes that are no UTF-8 become U+FFFD."""

Stop = str | Sequence[str | int] | None
"""None: the end-of-text token stops. Token ids: those stop too. Text: stops when the sample's text has
it, and so does end-of-text. An empty sequence: nothing stops, not even end-of-text."""

RANKED_AT_FIRST = 256
"""Likeliest tokens that are sorted before it is known whether top-p needs more."""
MOST_HELD = 8
"""Tokens that may wait for the rest of a character; more are no character."""


@dataclass(frozen=True, slots=True)
class Filter:
    """How the model's distribution is narrowed before drawing."""

    temperature: float
    """Logprobs are divided by it; 0 leaves the likeliest token only."""
    top_k: int = -1
    """Only the k likeliest tokens may be drawn; not positive: all."""
    top_p: float = 1.0
    """Only the fewest likeliest tokens whose share reaches this may be drawn."""

    def probabilities(self, logprobs: Floats) -> npt.NDArray[np.float64]:
        """Unnormalised probabilities to draw from, shape of `logprobs`: (rows, vocab).

        The temperature comes first, then top-k, then top-p on what is left; of equal logprobs the lower
        id wins.
        """
        if self.temperature == 0.0:
            greedy = np.zeros(logprobs.shape)
            greedy[np.arange(len(logprobs)), logprobs.argmax(axis=1)] = 1.0
            return greedy
        scaled = logprobs.astype(np.float64)
        scaled -= scaled.max(axis=1, keepdims=True)
        scaled /= self.temperature
        chances: npt.NDArray[np.float64] = np.exp(scaled)
        vocab = chances.shape[1]
        kept = self.top_k if 0 < self.top_k < vocab else vocab
        if kept == vocab and self.top_p >= 1.0:
            return chances
        narrowed = np.zeros_like(chances)
        for row, (values, full) in enumerate(zip(logprobs, chances, strict=True)):
            ids = self._kept(values, full, kept)
            narrowed[row, ids] = full[ids]
        return narrowed

    def _kept(self, logprobs: Floats, chances: npt.NDArray[np.float64], kept: int) -> npt.NDArray[np.intp]:
        """The ids of one row that may be drawn."""
        if self.top_p >= 1.0:
            return likeliest(logprobs, kept)
        whole = chances if kept == len(chances) else chances[likeliest(logprobs, kept)]
        enough = self.top_p * whole.sum()
        ranked = min(kept, RANKED_AT_FIRST)
        while True:
            ids = likeliest(logprobs, ranked)
            mass = chances[ids]
            inside = int((mass.cumsum() - mass < enough).sum())
            if inside < ranked or ranked == kept:
                return ids[:inside]
            ranked = min(kept, 8 * ranked)


def likeliest(logprobs: Floats, count: int) -> npt.NDArray[np.intp]:
    """The ids of the `count` likeliest tokens of one row, likeliest first; of equals the lower id first."""
    if count >= len(logprobs):
        return np.argsort(-logprobs, kind="stable")
    least = np.partition(logprobs, len(logprobs) - count)[len(logprobs) - count]
    above = np.flatnonzero(logprobs > least)
    equal = np.flatnonzero(logprobs == least)[: count - len(above)]
    ids = np.concatenate([above, equal])
    ids.sort()
    return ids[np.argsort(-logprobs[ids], kind="stable")]


def log_softmax(logits: Floats) -> Floats:
    """Logprobs over the last axis, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def draw(chances: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Tokens of each row, by inverting the cumulative chances.

    Args:
        chances: unnormalised, shape (rows, vocab).
        points: uniform in [0, 1), shape (rows, draws).

    Returns:
        Token ids, of the shape of `points`.
    """
    cumulative = chances.cumsum(axis=1)
    totals = cumulative[:, -1:]
    aims = np.minimum(points * totals, np.nextafter(totals, 0.0))  # the product may round up to the total
    tokens = np.empty(points.shape, np.int64)
    for row, (sums, wanted) in enumerate(zip(cumulative, aims, strict=True)):
        tokens[row] = sums.searchsorted(wanted, side="right")
    return tokens


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends a sample, besides its length."""

    ids: frozenset[int]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, stop: Stop, eos_token_id: int | None) -> "StopRule":
        """The rule that a request's `stop` names.

        Raises:
            ValidationError: a stop string is empty.
        """
        listed = [stop] if isinstance(stop, str) else stop
        texts = tuple(entry for entry in listed or () if isinstance(entry, str))
        if "" in texts:
            raise ValidationError("stop strings must not be empty, got ''")
        ids = {int(entry) for entry in listed or () if not isinstance(entry, str)}
        if eos_token_id is not None and (listed is None or len(listed) > 0):
            ids.add(eos_token_id)
        return cls(frozenset(ids), texts)


class Text:
    """The text of a growing sample, without decoding all of it for each token."""

    def __init__(self, decode: Decode, texts: Sequence[str] = ()) -> None:
        self._decode = decode
        self._texts = texts
        self._reach = max(map(len, texts), default=1) - 1
        self._tail = ""
        self._shown: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> tuple[str, bool]:
        """What a token adds to the text, and whether one of the texts looked for is in it now.

        Nothing is added by a token that ends within a character.
        """
        self._held.append(token)
        known = self._decode(self._shown)
        text = self._decode(self._shown + self._held)
        found = any(wanted in self._tail + text[len(known) :] for wanted in self._texts)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(self._held) < MOST_HELD:
            return "", found
        return self._show(text[len(known) :]), found

    def flush(self) -> str:
        """What is left of a character that never ended."""
        known = self._decode(self._shown)
        return self._show(self._decode(self._shown + self._held)[len(known) :])

    def _show(self, added: str) -> str:
        """Count `added` as shown; decoders may join a token to the one before, so the last ones are kept."""
        self._shown, self._held = self._held, []
        joined = self._tail + added
        self._tail = joined[-self._reach :] if self._reach else ""
        return added
