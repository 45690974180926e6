"""The demo's parts: examples, the picture."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tinker_actors.cli.curve import draw
from tinker_actors.cli.examples import Example, datum, prompt_tokens, read_examples
from tinker_actors.errors import ConfigError
from tinker_actors.tokenization import get_tokenizer

DATA = Path(__file__).parents[2] / "examples" / "data"


def test_only_the_answer_and_its_end_count_in_the_loss() -> None:
    tokenizer = get_tokenizer("local/tiny")
    made = datum(Example("a b", "away ebay"), tokenizer)
    weights, targets = (made.loss_fn_inputs[name].tolist() for name in ("weights", "target_tokens"))
    counted = [target for target, weight in zip(targets, weights, strict=True) if weight]
    assert tokenizer.decode(counted, skip_special_tokens=False) == " away ebay<|endoftext|>"
    assert made.model_input.to_ints()[: len(prompt_tokens("a b", tokenizer))] == prompt_tokens(
        "a b", tokenizer
    )
    assert targets[:-1] == made.model_input.to_ints()[1:]


def test_held_out_prompts_are_new_pairs_of_words_that_occur_in_training() -> None:
    train = read_examples(DATA / "pig_latin.jsonl")
    held_out = read_examples(DATA / "pig_latin_heldout.jsonl")
    assert (len(train) >= 200, len(held_out)) == (True, 5)
    words = [{example.prompt.split()[place] for example in train} for place in (0, 1)]
    for example in held_out:
        first, second = example.prompt.split()
        assert example.prompt not in {one.prompt for one in train}
        assert first in words[0]
        assert second in words[1]


def pig_latin(word: str) -> str:
    """The rule that stands beside the data."""
    if word[0] in "aeiou":
        return word + "way"
    end = next(i for i, letter in enumerate(word) if i and letter in "aeiouy" and word[i - 1 : i + 1] != "qu")
    return word[end:] + word[:end] + "ay"


@pytest.mark.parametrize("name", ["pig_latin.jsonl", "pig_latin_heldout.jsonl"])
def test_the_answers_follow_the_rule(name: str) -> None:
    for example in read_examples(DATA / name):
        assert example.answer == " ".join(map(pig_latin, example.prompt.split()))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigError, match="empty file"):
        read_examples(tmp_path / "empty.jsonl")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        read_examples(tmp_path / "none.jsonl")


def test_the_picture_is_svg_with_a_mark_for_each_fault() -> None:
    root = ET.fromstring(draw([3.0, 2.0, 1.0], {1: "killed <&>"}, "loss"))  # noqa: S314 - our own document
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "killed <&>" in texts
    (line,) = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(line.attrib["points"].split()) == 3


@pytest.mark.parametrize("losses", [[0.0], [1.0, 0.0]])
def test_short_and_flat_runs_can_be_drawn(losses: list[float]) -> None:
    ET.fromstring(draw(losses, {}, "loss"))  # noqa: S314 - our own document
