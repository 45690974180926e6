"""Requests that are answered together come to what they come to alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from alone import generate

from tinker_actors.local.engine import batching, decoding
from tinker_actors.local.engine.batching import Batch, Generation, Token
from tinker_actors.local.engine.catalog import BaseModel, random_weights
from tinker_actors.local.engine.prompts import PromptQuestions
from tinker_actors.local.engine.sampling import SampleSpec


@pytest.fixture
def base(make_base: Callable[..., BaseModel]) -> BaseModel:
    """A model with room for texts of several pools."""
    config = dataclasses.replace(make_base().config, max_context_length=400)
    return BaseModel("long", random_weights(config, 3, "float64"))


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + token) for token in ids)


def prompt(length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(length).integers(17, size=length)]


SPECS = [
    SampleSpec(prompt=prompt(5), num_samples=3, max_tokens=90, seed=1),
    SampleSpec(prompt=prompt(70), max_tokens=9, seed=2, temperature=0.5, top_k=4),
    SampleSpec(
        prompt=prompt(300), num_samples=2, seed=3, top_p=0.8, questions=PromptQuestions(logprobs=True)
    ),
    SampleSpec(prompt=prompt(2), max_tokens=150, temperature=0.0),
    SampleSpec(prompt=prompt(9), num_samples=4, max_tokens=60, seed=4, stop=[2], topk=2),
    SampleSpec(prompt=prompt(12), num_samples=2, max_tokens=80, seed=5, stop="ab"),
]


def assert_alike(one: Generation, other: Generation) -> None:
    for left, right in zip(one.sequences, other.sequences, strict=True):
        assert (left.tokens, left.stop_reason) == (right.tokens, right.stop_reason)
        assert np.allclose(left.logprobs, right.logprobs, rtol=1e-9)
        assert [ids.tolist() for ids, _ in left.likeliest] == [ids.tolist() for ids, _ in right.likeliest]
    assert np.allclose(one.scores.logprobs, other.scores.logprobs, equal_nan=True)


def drained(batch: Batch) -> list[Generation]:
    ended = []
    while not batch.is_empty:
        ended += batch.step()
    return ended


@pytest.mark.parametrize("read_at_once", [1, 7, 512])
def test_requests_come_to_the_same_together_and_alone(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, read_at_once: int
) -> None:
    alone = [generate(base, None, spec, decode=letters) for spec in SPECS]
    monkeypatch.setattr(batching, "READ_AT_ONCE", read_at_once)
    batch = Batch(base.weights, decode=letters)
    together = [batch.join(spec) for spec in SPECS]
    assert len(drained(batch)) == len(SPECS)
    for one, other in zip(alone, together, strict=True):
        assert_alike(one, other)


def test_attention_shared_between_threads_gives_the_same_bits(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bits(shared_from: int) -> list[tuple[list[int], list[float]]]:
        monkeypatch.setattr(decoding, "SHARED_FROM", shared_from)
        batch = Batch(base.weights, decode=letters)
        generations = [batch.join(spec) for spec in SPECS]
        drained(batch)
        return [(drawn.tokens, drawn.logprobs) for one in generations for drawn in one.sequences]

    assert bits(0) == bits(2**60)


def test_a_long_prompt_is_read_in_pieces_whose_attention_fits(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [SPECS[2], SPECS[1]]
    whole = [generate(base, None, spec) for spec in asked]
    monkeypatch.setattr(decoding, "SCORES_AT_ONCE", 4 * 600 * 40)
    pieces: list[int] = []

    def watched(weights: Any, read_now: Any, scratch: Any) -> Any:
        pieces.extend(len(ids) for _, ids in read_now)
        return decoding.read(weights, read_now, scratch)

    monkeypatch.setattr(batching, "read", watched)
    for spec, expected in zip(asked, whole, strict=True):
        assert_alike(expected, generate(base, None, spec))
    assert max(pieces) <= 40 * 600 // 512
    assert sum(pieces) == 300 + 70


def test_requests_join_and_leave_between_tokens(base: BaseModel) -> None:
    batch = Batch(base.weights, decode=letters)
    joined: list[Generation] = []
    for spec in SPECS:
        joined.append(batch.join(spec))
        for _ in range(11):
            batch.step()
    left = joined.pop(0)
    batch.leave(left)
    seen = len(left.sequences[0].tokens)
    drained(batch)
    assert len(left.sequences[0].tokens) == seen
    for spec, other in zip(SPECS[1:], joined, strict=True):
        assert_alike(generate(base, None, spec, decode=letters), other)


def test_a_request_that_leaves_before_its_prompt_is_read_costs_nothing(base: BaseModel) -> None:
    batch = Batch(base.weights)
    batch.leave(batch.join(SPECS[2]))
    assert batch.is_empty


def test_tokens_are_told_as_they_are_made(base: BaseModel) -> None:
    told: list[Token] = []
    batch = Batch(base.weights, decode=letters)
    generation = batch.join(SampleSpec(prompt=prompt(5), num_samples=2, max_tokens=3, seed=1), told.append)
    heard = []
    while not batch.is_empty:
        batch.step()
        heard.append(len(told))
    assert heard == [2, 4, 6]
    for index, sample in enumerate(generation.sequences):
        mine = [token for token in told if token.sequence == index]
        assert [token.token_id for token in mine] == sample.tokens
        assert [token.logprob for token in mine] == sample.logprobs
        assert "".join(token.text for token in mine) == letters(sample.tokens)
        assert [token.stop_reason for token in mine] == [None, None, "length"]


def test_equal_requests_give_equal_bits(make_base: Callable[..., Any]) -> None:
    base = make_base("float32")
    spec = SampleSpec(
        prompt=prompt(5), num_samples=5, seed=1, stop=[3], questions=PromptQuestions(logprobs=True)
    )
    first, second = (generate(base, None, spec) for _ in range(2))
    assert first.sequences == second.sequences
    assert first.scores.logprobs.tobytes() == second.scores.logprobs.tobytes()
