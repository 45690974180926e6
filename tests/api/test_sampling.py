"""What a sample's answer must have, given what was asked."""

from typing import Any

import pytest

from tinker_actors.api.sampling import SampleOptions, complete
from tinker_actors.errors import APIResponseValidationError
from tinker_actors.types import PromptAltTokens, SampledSequence, SampleResponse, TensorData, TopkLogprobs

IDS = TensorData([[1, 2], [3, 4]], dtype="int64")
LOGPROBS = TensorData([[-1.0, -2.0], [-3.0, -4.0]])


def response(tokens: list[int], **more: Any) -> SampleResponse:
    return SampleResponse(sequences=[SampledSequence(tokens=tokens, stop_reason="stop")], **more)


def test_a_sequence_without_tokens_needs_no_likeliest_ones() -> None:
    assert complete(response([]), SampleOptions(topk_sample_logprobs=2), None) == response([])
    with pytest.raises(APIResponseValidationError, match="topk_sample_logprobs"):
        complete(response([1]), SampleOptions(topk_sample_logprobs=2), None)


def test_a_prompt_of_one_token_has_one_position_without_a_score() -> None:
    scored = response([1], prompt_logprobs=[None], topk_prompt_logprobs_np=TopkLogprobs.from_rows([None]))
    options = SampleOptions(prompt_logprobs=True, topk_prompt_logprobs=3)
    assert complete(scored, options, None).topk_prompt_logprobs == [None]


@pytest.mark.parametrize(
    ("tokens", "logprobs"),
    [
        (LOGPROBS, LOGPROBS),
        (IDS, IDS),
        (IDS, TensorData([[-1.0, -2.0]])),
        (TensorData([[1], [2]]), TensorData([[-1.0], [-2.0]])),
        (TensorData([1, 2]), TensorData([-1.0, -2.0])),
    ],
)
def test_draws_of_another_form_than_asked_for_are_an_error(tokens: TensorData, logprobs: TensorData) -> None:
    answer = response([1], prompt_alt_tokens=PromptAltTokens(tokens=tokens, logprobs=logprobs))
    with pytest.raises(APIResponseValidationError, match="prompt_alt_tokens"):
        complete(answer, SampleOptions(prompt_alt_tokens_k=2), None)


def test_draws_as_asked_for_are_given() -> None:
    answer = response([1], prompt_alt_tokens=PromptAltTokens(tokens=IDS, logprobs=LOGPROBS))
    assert complete(answer, SampleOptions(prompt_alt_tokens_k=2), None) == answer


@pytest.mark.parametrize("scores", [IDS, LOGPROBS, TensorData([[-1.0]])])
def test_scores_of_another_form_than_the_question_are_an_error(scores: TensorData) -> None:
    options = SampleOptions(target_prompt_logprobs=TensorData([[1, 2, 3]], dtype="int64"))
    with pytest.raises(APIResponseValidationError, match="target_prompt_logprobs"):
        complete(response([1], target_prompt_logprobs=scores), options, None)
