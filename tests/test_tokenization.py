import subprocess
import sys
from pathlib import Path

import pytest
from model_directories import write_json, write_model

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import get_tokenizer


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
