import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_directories import write_byte_tokenizer, write_json, write_model, write_rank_tokenizer

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import Tokenizer, get_tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello world",
        "  two  spaces \n\t\r\n",
        "naïve 日本語 🙂 \u200d \x00 \x7f \ufffd",
        "<|endoftext|> is text, <|pad|> too",
        "e\u0301 is not é",
    ],
)
def test_decoding_gives_back_the_text(text: str) -> None:
    tokenizer = get_tokenizer("local/tiny")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_the_bytes_of_utf8() -> None:
    every = "".join(map(chr, range(0x20, 0x2000)))
    assert get_tokenizer("local/tiny").encode(every) == list(every.encode())


def test_special_tokens_come_only_when_asked() -> None:
    tokenizer = get_tokenizer("local/tiny")
    assert tokenizer.encode("a") == [97]
    assert tokenizer.encode("a", add_special_tokens=True) == [tokenizer.bos_token_id, 97]


def test_decode_leaves_special_tokens_out_unless_asked() -> None:
    tokenizer = get_tokenizer("local/tiny")
    ids = [97, tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|endoftext|>"


def test_decode_takes_one_id() -> None:
    assert get_tokenizer("local/tiny").decode(97) == "a"


def test_broken_utf8_becomes_replacement_characters() -> None:
    assert get_tokenizer("local/tiny").decode([0xE6, 0x97]) == "\ufffd"


def test_specials_follow_the_bytes() -> None:
    tokenizer = get_tokenizer("local/tiny")
    assert sorted(tokenizer.all_special_ids) == [256, 257, 258]
    assert tokenizer.vocab_size == 259
    assert tokenizer.eos_token_id in tokenizer.all_special_ids


def test_a_tokenizer_is_made_once() -> None:
    assert get_tokenizer("local/tiny") is get_tokenizer("local/tiny")


def test_other_models_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="local/"):
        get_tokenizer("local/other")


def test_importing_the_module_does_not_import_tokenizers() -> None:
    program = "import sys, tinker_actors.tokenization; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_directory_has_the_tokenizer_in_it(tmp_path: Path) -> None:
    write_model(tmp_path)
    tokenizer = get_tokenizer(str(tmp_path))
    assert tokenizer.encode("the fox </s>") == [3, 6, 1]
    assert tokenizer.decode([3, 6, 1]) == "the fox"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2]


def test_ids_that_only_the_model_has_count(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=44)
    assert get_tokenizer(str(tmp_path)).vocab_size == 44


@pytest.mark.parametrize("eos", [1, [1, 2]])
def test_special_tokens_may_be_named_by_the_model_alone(tmp_path: Path, eos: object) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    write_json(tmp_path / "generation_config.json", {"eos_token_id": eos})
    tokenizer = get_tokenizer(str(tmp_path))
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (1, None)


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": None})
    with pytest.raises(ValidationError, match="must name the token that ends a text"):
        get_tokenizer(str(tmp_path))


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_of_rubbish_is_refused(tmp_path: Path, file: str) -> None:
    write_model(tmp_path)
    (tmp_path / file).write_text("[")
    with pytest.raises(ValidationError, match=f"{file} cannot be read"):
        get_tokenizer(str(tmp_path))


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_failed_to_load_is_looked_for_again(tmp_path: Path, file: str) -> None:
    write_model(tmp_path)
    good = (tmp_path / file).read_text()
    (tmp_path / file).write_text("[")
    with pytest.raises(ValidationError):
        get_tokenizer(str(tmp_path))
    (tmp_path / file).write_text(good)
    assert get_tokenizer(str(tmp_path)).encode("fox") == [6]


def test_special_tokens_in_a_text_are_read_or_taken_as_text(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    reading, splitting = get_tokenizer(str(tmp_path)), get_tokenizer("local/tiny")
    assert reading.encode("a<|end|>") == [97, 256]
    assert reading.encode("a<|end|>", split_special_tokens=True) == list(b"a<|end|>")
    assert splitting.encode("a<|pad|>") == list(b"a<|pad|>")
    assert splitting.encode("a<|pad|>", split_special_tokens=False) == [97, 258]


def test_a_text_that_the_tokenizer_has_no_tokens_for_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"]["unk_token"] = "<nowhere>"  # noqa: S105 - no password
    write_json(tmp_path / "tokenizer.json", document)
    tokenizer = get_tokenizer(str(tmp_path))
    assert tokenizer.encode("the fox") == [3, 6]
    with pytest.raises(ValidationError, match=r"the text cannot be encoded by its tokenizer: .*UNK"):
        tokenizer.encode("the cat")


@pytest.mark.parametrize("text", [b"bytes", 7, None, ["a"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="text to encode must be a string, got"):
        get_tokenizer("local/tiny").encode(text)


def test_lone_surrogates_are_refused_with_their_place() -> None:
    with pytest.raises(ValidationError, match=r"lone surrogate '\\ud800' at 2"):
        get_tokenizer("local/tiny").encode("ab\ud800")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("97", "a sequence of integers"),
        (b"97", "a sequence of integers"),
        ([97, "98"], "a sequence of integers"),
        ([97, 1.5], "a sequence of integers"),
        (None, "a sequence of integers"),
        ([97, -1], "at least 0 and below 259, got -1"),
        ([97, 259], "at least 0 and below 259, got 259"),
        (-1, "at least 0 and below 259, got -1"),
    ],
)
def test_what_are_no_token_ids_is_refused(ids: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        get_tokenizer("local/tiny").decode(ids)


def test_ids_may_be_numpys() -> None:
    assert get_tokenizer("local/tiny").decode(np.frombuffer(b"abc", np.uint8)) == "abc"  # type: ignore[arg-type]  # a sequence in all but name


def test_ids_that_only_the_model_has_are_no_text(tmp_path: Path) -> None:
    write_model(tmp_path, text_config={"vocab_size": 44})
    assert get_tokenizer(str(tmp_path)).decode([3, 43, 6]) == "the fox"


@pytest.mark.parametrize("arguments", [(None,), (7,), ("local/tiny", 7)])
def test_names_are_strings(arguments: Any) -> None:
    with pytest.raises(ValidationError, match="must be a string, got"):
        get_tokenizer(*arguments)


def test_models_whose_tokenizer_is_nowhere_are_told_so() -> None:
    with pytest.raises(ValidationError, match="tml-renderers"):
        get_tokenizer("thinkingmachines/some-model")


def test_many_threads_may_use_one_tokenizer(tmp_path: Path) -> None:
    """Both ways of reading special tokens at a time: neither sees the other's."""
    write_byte_tokenizer(tmp_path)
    tokenizer = get_tokenizer(str(tmp_path))

    def encode(split: bool) -> set[tuple[int, ...]]:
        return {tuple(tokenizer.encode("a<|end|>", split_special_tokens=split)) for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encode, [True, False] * 8))
    assert found == [{tuple(b"a<|end|>")}, {(97, 256)}] * 8


def test_tokenizers_go_to_other_processes(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path / "fast", chat_template="{{ eos_token }}")
    write_rank_tokenizer(tmp_path / "ranks", chat_template="{{ eos_token }}")
    for name in (str(tmp_path / "fast"), str(tmp_path / "ranks"), "local/tiny"):
        tokenizer = get_tokenizer(name)
        again: Tokenizer = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - of our own making
        assert again.encode("a<|end|>é") == tokenizer.encode("a<|end|>é")
        assert again.decode([97, 98]) == "ab"
        assert again.chat_templates == tokenizer.chat_templates
        assert (again.eos_token_id, again.vocab_size) == (tokenizer.eos_token_id, tokenizer.vocab_size)
