"""What sampling asks for and gives back."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types import SampledSequence, SampleResponse, SamplingParams, TopkLogprobs
from tinker_actors.types.tensors import MOST_CELLS
from tinker_actors.types.topk import MASK_LOGPROB

pairs = st.tuples(st.integers(1, 2**31 - 1), st.floats(-100, 0, width=32))
topk_rows = st.lists(st.none() | st.lists(pairs, min_size=1, max_size=3), max_size=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 2**31},
        {"temperature": -0.1},
        {"temperature": 10**400},
        {"top_p": 0.0},
        {"top_k": 0},
        {"top_k": 2**31},
        {"seed": 2**63},
        {"stop": [""]},
        {"stop": ["a", 1]},
        {"stop": [2**31]},
        {"stop": ["\ud800"]},
    ],
)
def test_sampling_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SamplingParams(**wrong)


@pytest.mark.parametrize(
    ("stop", "wanted"),
    [
        (None, None),
        ([], []),
        ("end", "end"),
        (("a", "b"), ["a", "b"]),
        (np.array([3, 4]), [3, 4]),
    ],
)
def test_a_stop_is_a_string_strings_ids_nothing_or_never(stop: Any, wanted: Any) -> None:
    assert SamplingParams.of(SimpleNamespace(stop=stop)).stop == wanted


@given(topk_rows)
def test_the_likeliest_tokens_come_back_as_the_rows_they_were(rows: Any) -> None:
    topk = TopkLogprobs.from_rows(rows)
    assert topk.tolist() == rows
    assert TopkLogprobs(topk.token_ids, topk.logprobs) == topk


def test_cells_without_a_token_are_masked() -> None:
    topk = TopkLogprobs.from_rows([None, [(7, -0.5)], [(8, -1.0), (0, -2.0)]])
    assert topk.token_ids.tolist() == [[0, 0], [7, 0], [8, 0]]
    assert topk.logprobs.tolist() == [[MASK_LOGPROB] * 2, [-0.5, MASK_LOGPROB], [-1.0, -2.0]]


def test_matrices_of_the_likeliest_tokens_have_a_bound() -> None:
    row = [(1, -1.0)] * 2**13
    with pytest.raises(ValidationError, match="cells"):
        TopkLogprobs.from_rows([row, *[None] * (MOST_CELLS // 2**13)])
    with pytest.raises(ShapeError, match="one shape"):
        TopkLogprobs(np.zeros((1, 2)), np.zeros((2, 1)))


def test_responses_have_arrays_beside_their_lists() -> None:
    topk = TopkLogprobs.from_rows([[(5, -0.5)]])
    sequence = SampledSequence(tokens=[5], logprobs=[-0.5], stop_reason="stop", topk_logprobs_np=topk)
    response = SampleResponse(
        sequences=[sequence], prompt_logprobs=[None, -1.0], topk_prompt_logprobs_np=topk
    )
    assert (sequence.tokens_np.dtype.name, sequence.topk_logprobs) == ("int32", [[(5, -0.5)]])
    assert np.isnan(response.prompt_logprobs_np).tolist() == [True, False]  # type: ignore[arg-type]
    assert response.topk_prompt_logprobs == [[(5, -0.5)]]
    empty = SampleResponse(sequences=[])
    assert (empty.prompt_logprobs_np, empty.topk_prompt_logprobs) == (None, None)
