import subprocess
import sys

import pytest

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
        get_tokenizer("some/model")


def test_importing_the_module_does_not_import_tokenizers() -> None:
    program = "import sys, tinker_actors.tokenization; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
