"""Files of tokenizers with a value changed or missing: each is used, or refused by a typed error."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_directories import write_byte_tokenizer, write_model, write_rank_tokenizer

from tinker_actors.errors import TinkerActorsError
from tinker_actors.tokenization.directory import directory_tokenizer

WRONG = [None, True, -1, 0, 2**40, 1.5, "", "x", "[", "(?<", "\\p{", [], [1], {}, {"a": 1}]
ROUNDS = 100


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document with each of its keys; the first few of long ones."""
    keys = (
        list(value)[:8]
        if isinstance(value, dict)
        else range(min(len(value), 4))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield value, key
        yield from places(value[key])


def damage(document: Any, chance: random.Random) -> None:
    container, key = chance.choice(list(places(document)))
    if isinstance(container, dict) and chance.random() < 0.2:
        del container[key]
    else:
        container[key] = chance.choice(WRONG)


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (write_byte_tokenizer, ["tokenizer.json", "tokenizer_config.json"]),
        (write_model, ["tokenizer.json", "tokenizer_config.json", "config.json"]),
        (write_rank_tokenizer, ["tokenizer_config.json"]),
    ],
)
def test_a_damaged_file_is_used_or_refused_by_a_typed_error(
    tmp_path: Path, write: Callable[[Path], Any], names: list[str]
) -> None:
    chance = random.Random(7)
    write(tmp_path)
    whole = {name: (tmp_path / name).read_text() for name in names}
    outcomes = set()
    for _ in range(ROUNDS):
        name = chance.choice(names)
        document = json.loads(whole[name])
        damage(document, chance)
        (tmp_path / name).write_text(json.dumps(document))
        try:
            tokenizer = directory_tokenizer(tmp_path)
            for text in ("the <|end|> fox é", "", "</s>" * 50):
                tokenizer.decode(tokenizer.encode(text, add_special_tokens=True))
                tokenizer.encode(text, split_special_tokens=True)
            outcomes.add("used")
        except TinkerActorsError:
            outcomes.add("refused")
        (tmp_path / name).write_text(whole[name])
    assert outcomes == {"used", "refused"}
