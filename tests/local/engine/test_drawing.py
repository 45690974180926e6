"""Filters, and the text of a sample that grows by tokens which are no whole characters."""

import numpy as np
import pytest

from tinker_actors.local.engine.drawing import MOST_HELD, RANKED_AT_FIRST, Filter, Text, likeliest
from tinker_actors.tokenization import get_tokenizer


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_of_equally_likely_tokens_the_lower_ids_come_first(count: int) -> None:
    logprobs = np.log(np.array([0.1, 0.3, 0.1, 0.3, 0.2]))
    assert likeliest(logprobs, count).tolist() == [1, 3, 4, 0, 2][:count]


def test_top_p_looks_as_far_as_it_must_in_a_large_vocabulary() -> None:
    logprobs = np.zeros((1, 40 * RANKED_AT_FIRST))
    chances = Filter(1.0, top_p=0.5).probabilities(logprobs)
    assert np.flatnonzero(chances[0]).tolist() == list(range(20 * RANKED_AT_FIRST))


def pieces(tokens: list[int], *texts: str) -> list[tuple[str, bool]]:
    text = Text(get_tokenizer("local/tiny").decode, texts)
    return [text.push(token) for token in tokens]


def test_a_character_is_shown_when_its_last_byte_comes() -> None:
    assert pieces(list("aé€".encode())) == [(piece, False) for piece in ("a", "", "é", "", "", "€")]


def test_bytes_that_are_no_text_are_shown_in_the_end() -> None:
    assert [piece for piece, _ in pieces([0xFF] * MOST_HELD)][-1] == "\N{REPLACEMENT CHARACTER}" * MOST_HELD


def test_what_is_held_back_can_be_flushed() -> None:
    text = Text(get_tokenizer("local/tiny").decode)
    assert text.push(0xE2) == ("", False)
    assert text.flush() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("wanted", ["lo wo", "o", "héllo world", "d"])
def test_a_text_is_found_as_soon_as_it_is_whole(wanted: str) -> None:
    whole = "héllo world"
    end = len(whole[: whole.index(wanted) + len(wanted)].encode())
    found = [found for _, found in pieces(list(whole.encode()), wanted)]
    assert found.index(True) == end - 1
