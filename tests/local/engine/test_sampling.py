from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from alone import generate

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import BaseModel
from tinker_actors.local.engine.drawing import Filter
from tinker_actors.local.engine.lora import Adapter
from tinker_actors.local.engine.model import forward
from tinker_actors.local.engine.prompts import PromptQuestions, PromptScores, Targets
from tinker_actors.local.engine.sampling import SampledSequence, SampleSpec
from tinker_actors.local.engine.scratch import Scratch

PROMPT = [3, 1, 4, 1, 5]
Model = tuple[BaseModel, Adapter]


@pytest.fixture(params=[False, True], ids=["plain", "qk_norm"])
def model(
    request: pytest.FixtureRequest, make_base: Callable[..., BaseModel], make_adapter: Callable[..., Adapter]
) -> Model:
    base = make_base(qk_norm=request.param)
    return base, make_adapter(base)


def full_logprobs(model: Model, tokens: list[int]) -> np.ndarray:
    """Logprobs of every token after each position, by one full forward pass."""
    weights = model[1].merged(model[0])
    logits = forward(weights, np.array([tokens]), Scratch(np.float64)).hidden @ weights.unembedding.T
    values: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return values


def draw(
    model: Model,
    prompt: list[int] = PROMPT,
    *,
    eos_token_id: int | None = None,
    decode: Callable[[list[int]], str] | None = None,
    **spec: Any,
) -> list[SampledSequence]:
    asked = SampleSpec(prompt=prompt, **spec)
    return generate(*model, asked, eos_token_id=eos_token_id, decode=decode).sequences


def score(model: Model, prompt: list[int] = PROMPT, **questions: Any) -> PromptScores:
    asked = SampleSpec(prompt=prompt, max_tokens=1, seed=3, questions=PromptQuestions(**questions))
    return generate(*model, asked).scores


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + token) for token in ids)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_sampled_logprobs_are_those_of_a_full_forward_pass(model: Model, temperature: float) -> None:
    samples = draw(model, num_samples=3, max_tokens=8, temperature=temperature, top_k=5, seed=1)
    for sample in samples:
        scores = full_logprobs(model, PROMPT + sample.tokens)[len(PROMPT) - 1 : -1]
        assert np.allclose(sample.logprobs, scores[np.arange(8), sample.tokens], rtol=1e-10)


def test_prompt_logprobs_are_those_of_a_full_forward_pass(model: Model) -> None:
    scores = full_logprobs(model, PROMPT)
    first, *others = score(model, logprobs=True).logprobs
    assert np.isnan(first)
    assert np.allclose(others, scores[np.arange(4), PROMPT[1:]], rtol=1e-6)


def test_topk_prompt_logprobs_are_the_likeliest_in_order(model: Model) -> None:
    scores = full_logprobs(model, PROMPT)
    found = score(model, topk=3)
    assert found.topk_logprobs[0].tolist() == [-99999.0] * 3
    for row, ids, logprobs in zip(scores, found.topk_ids[1:], found.topk_logprobs[1:], strict=False):
        assert ids.tolist() == np.argsort(-row)[:3].tolist()
        assert np.allclose(logprobs, row[ids], rtol=1e-6)


def test_only_the_last_tokens_are_scored_if_that_is_asked(model: Model) -> None:
    whole, last = (score(model, logprobs=True, topk=2, last_n=last_n) for last_n in (None, 2))
    assert np.isnan(last.logprobs[:3]).all()
    assert np.allclose(last.logprobs[3:], whole.logprobs[3:])
    assert (last.topk_logprobs[:3] == np.float32(-99999.0)).all()
    assert (last.topk_ids[3:] == whole.topk_ids[3:]).all()


def test_target_logprobs_are_those_of_the_named_cells(model: Model) -> None:
    scores = full_logprobs(model, PROMPT)
    targets = Targets(np.array([0, 0, 2, 3]), np.array([5, -1, 7, 0]))
    found = score(model, targets=targets).target_logprobs
    assert np.allclose(found, [scores[0, 5], 0.0, scores[2, 7], scores[3, 0]], rtol=1e-6)


def test_alternatives_follow_the_distribution_at_each_place(model: Model) -> None:
    scores = full_logprobs(model, PROMPT)
    found = score(model, alternatives=4000)
    for row, ids, logprobs in zip(scores, found.alternative_ids, found.alternative_logprobs, strict=False):
        shares = np.bincount(ids, minlength=17) / 4000
        assert np.allclose(shares, np.exp(row), atol=0.03)
        assert np.allclose(logprobs, row[ids], rtol=1e-6)


def test_the_likeliest_tokens_at_sampled_places_come_in_order(model: Model) -> None:
    (sample,) = draw(model, max_tokens=4, seed=1, topk=3)
    scores = full_logprobs(model, PROMPT + sample.tokens)[len(PROMPT) - 1 : -1]
    assert [ids.tolist() for ids, _ in sample.likeliest] == [np.argsort(-row)[:3].tolist() for row in scores]


def test_greedy_takes_the_likeliest_token_each_time(model: Model) -> None:
    (sample,) = draw(model, max_tokens=6, temperature=0.0)
    scores = full_logprobs(model, PROMPT + sample.tokens)[len(PROMPT) - 1 : -1]
    assert sample.tokens == scores.argmax(axis=1).tolist()
    assert sample.stop_reason == "length"


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-9}])
def test_the_narrowest_filters_are_greedy(model: Model, narrow: dict[str, Any]) -> None:
    (greedy,) = draw(model, max_tokens=6, temperature=0.0)
    (narrowed,) = draw(model, max_tokens=6, seed=0, **narrow)
    assert narrowed == greedy


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (-1, 1.0, [0, 1, 2, 3]),
        (0, 1.0, [0, 1, 2, 3]),
        (2, 1.0, [1, 2]),
        (9, 1.0, [0, 1, 2, 3]),
        (-1, 0.5, [1]),
        (-1, 0.6, [1, 2]),
        (2, 0.99, [1, 2]),
        (3, 0.8, [1, 2]),
    ],
)
def test_filters_keep_the_likeliest_tokens(top_k: int, top_p: float, kept: list[int]) -> None:
    logprobs = np.log(np.array([[0.15, 0.5, 0.25, 0.1]]))
    chances = Filter(1.0, top_k, top_p).probabilities(logprobs)
    assert np.flatnonzero(chances[0]).tolist() == kept


def test_temperature_sharpens_before_drawing() -> None:
    chances = Filter(0.5, -1, 1.0).probabilities(np.log(np.array([[0.25, 0.75]])))
    assert np.allclose(chances / chances.sum(), [[0.1, 0.9]])


def test_samples_follow_the_models_distribution(model: Model) -> None:
    samples = draw(model, num_samples=4000, max_tokens=1, seed=0)
    counts = np.bincount([sample.tokens[0] for sample in samples], minlength=17)
    assert np.allclose(counts / 4000, np.exp(full_logprobs(model, PROMPT)[-1]), atol=0.03)


def test_equal_seeds_give_equal_samples_and_streams_differ(model: Model) -> None:
    first, second, other = (draw(model, num_samples=3, max_tokens=10, seed=seed) for seed in (7, 7, 8))
    assert first == second
    assert first != other
    assert first[0].tokens != first[1].tokens


def test_without_seed_two_calls_differ(model: Model) -> None:
    first, second = (draw(model, num_samples=4, max_tokens=15) for _ in range(2))
    assert first != second


def test_end_of_text_stops_and_is_the_last_token(model: Model) -> None:
    (free,) = draw(model, max_tokens=6, temperature=0.0)
    (sample,) = draw(model, max_tokens=6, temperature=0.0, eos_token_id=free.tokens[0])
    assert sample.tokens == free.tokens[:1]
    assert len(sample.logprobs) == 1
    assert sample.stop_reason == "stop"


def test_an_empty_stop_lets_even_end_of_text_pass(model: Model) -> None:
    (free,) = draw(model, max_tokens=6, temperature=0.0)
    (sample,) = draw(model, max_tokens=6, temperature=0.0, eos_token_id=free.tokens[0], stop=[])
    assert sample == free


def test_stop_tokens_stop(model: Model) -> None:
    (free,) = draw(model, max_tokens=6, temperature=0.0)
    (sample,) = draw(model, max_tokens=6, temperature=0.0, stop=[free.tokens[0]])
    assert sample.tokens == free.tokens[:1]
    assert sample.stop_reason == "stop"


@pytest.mark.parametrize("wrapped", [False, True])
def test_stop_strings_stop_where_the_text_first_has_them(model: Model, wrapped: bool) -> None:
    (free,) = draw(model, max_tokens=6, temperature=1.0, seed=4)
    text = letters(free.tokens)[1:3]
    stop = [text] if wrapped else text
    (sample,) = draw(model, max_tokens=6, temperature=1.0, seed=4, stop=stop, decode=letters)
    assert letters(sample.tokens).endswith(text)
    assert letters(sample.tokens).count(text) == 1
    assert sample.stop_reason == "stop"


def test_samples_of_one_request_end_independently(model: Model) -> None:
    samples = draw(model, num_samples=50, max_tokens=6, seed=0, stop=[2])
    for sample in samples:
        assert (sample.stop_reason == "stop") == (sample.tokens[-1] == 2)
        assert 2 not in sample.tokens[:-1]
    assert {sample.stop_reason for sample in samples} == {"stop", "length"}


def test_a_sample_ends_where_the_context_is_full(model: Model) -> None:
    (sample,) = draw(model, max_tokens=100, temperature=0.0)
    assert len(PROMPT) + len(sample.tokens) == model[0].config.max_context_length
    assert sample.stop_reason == "length"


def test_without_adapter_the_base_model_answers(model: Model) -> None:
    base = model[0]
    logits = (
        forward(base.weights, np.array([PROMPT]), Scratch(np.float64)).hidden @ base.weights.unembedding.T
    )
    (sample,) = generate(base, None, SampleSpec(prompt=PROMPT, max_tokens=1, temperature=0.0)).sequences
    assert sample.tokens == [int(logits[-1].argmax())]


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": []},
        {"prompt": [17]},
        {"prompt": [-1]},
        {"prompt": [1] * 24},
        {"prompt": [1] * 25},
        {"num_samples": 0},
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ""},
        {"stop": [""]},
        {"stop": "a"},
        {"topk": -1},
        {"topk": 10**9},
        {"questions": PromptQuestions(topk=-1)},
        {"questions": PromptQuestions(alternatives=10**9)},
        {"questions": PromptQuestions(last_n=2)},
        {"questions": PromptQuestions(logprobs=True, last_n=5)},
        {"questions": PromptQuestions(logprobs=True, last_n=0)},
        {"questions": PromptQuestions(targets=Targets(np.array([4]), np.array([1])))},
        {"questions": PromptQuestions(targets=Targets(np.array([0]), np.array([17])))},
        {"questions": PromptQuestions(targets=Targets(np.array([0]), np.array([-1])))},
    ],
)
def test_arguments_outside_their_range_are_refused(model: Model, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        draw(model, **arguments)
