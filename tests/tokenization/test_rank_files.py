"""Tokenizers of Kimi's kind, beside the library `tiktoken` and beside what Moonshot's own code does."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st
from model_directories import RANKS, write_json, write_rank_tokenizer

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import Tokenizer, get_tokenizer, rank_file, tokenizer_at_hand

KIMI = (
    r"[\p{Han}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""The pattern of `tokenization_kimi.py`, whole."""
FIRST = len(RANKS)
TEXTS = [
    "",
    " ",
    "the thing in  the    theThe THE th",
    "1234567 12,345 1.5",
    "it's IT'S we'll WE'LL don\u2019t",
    "camelCase aBab McDonald ABCdef",
    "你好世界hello你好 123你好, 你好。こんにちは日本語のテキスト",
    "a\t\t\tb   \n   c\r\n\r\nd\n\n\n!!\n ",
    "naïve e\u0301 Привет مرحبا 🙂\u200d👨‍👩‍👧 \x00\x7f\ufffd",
    "[BOS]the[EOS]<|im_end|><|tool|><|reserved_token_300|><|not_one|>",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kimi")
    write_rank_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return get_tokenizer(str(directory))


@pytest.fixture(scope="module")
def library(directory: Path) -> tiktoken.Encoding:
    """As Moonshot's code builds it, with the library's own reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        ranks = tiktoken.load.load_tiktoken_bpe(str(directory / "tiktoken.model"))
    names = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 9: "<|tool|>"}
    specials = {names.get(one, f"<|reserved_token_{FIRST + one}|>"): FIRST + one for one in range(256)}
    return tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=specials)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_encoded_as_by_the_library(
    tokenizer: Tokenizer, library: tiktoken.Encoding, text: str
) -> None:
    assert tokenizer.encode(text) == library.encode(text, allowed_special="all")
    assert tokenizer.encode(text, split_special_tokens=True) == library.encode(text, disallowed_special=())
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert tokenizer.decode(tokenizer.encode(text, split_special_tokens=True)) == text


@given(
    text=st.text(
        st.one_of(st.characters(codec="utf-8"), st.sampled_from("the in'sLL你好 \n1239aB!")), max_size=60
    )
)
def test_every_text_is_encoded_as_by_the_library(
    tokenizer: Tokenizer, library: tiktoken.Encoding, text: str
) -> None:
    assert tokenizer.encode(text) == library.encode(text, allowed_special="all")
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_the_pattern_is_kimis() -> None:
    assert rank_file.PATTERN == KIMI


def test_special_tokens_lie_behind_the_ranks(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[BOS]", FIRST)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("[EOS]", FIRST + 1)
    assert tokenizer.vocab_size == FIRST + 256
    assert tokenizer.all_special_ids == [FIRST + place for place in range(5)]
    assert tokenizer.encode(f"<|reserved_token_{FIRST + 5}|>") == [FIRST + 5]
    assert tokenizer.encode("a", add_special_tokens=True) == [97]


def test_decoding_leaves_out_special_tokens_and_no_others(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the<|tool|><|im_end|>")
    assert tokenizer.decode(ids) == "the<|tool|>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "the<|tool|><|im_end|>"
    assert tokenizer.decode([0xE4, 0xBD]) == "\ufffd"


def test_the_end_of_a_text_may_be_named_by_the_model(tmp_path: Path) -> None:
    first = write_rank_tokenizer(tmp_path, eos_token=None)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": first + 2})
    assert get_tokenizer(str(tmp_path)).eos_token_id == first + 2
    write_rank_tokenizer(tmp_path / "byte", eos_token=None)
    write_json(tmp_path / "byte" / "generation_config.json", {"eos_token_id": 10})
    assert get_tokenizer(str(tmp_path / "byte")).eos_token_id == 10


def test_ids_that_only_the_model_has_are_no_text(tmp_path: Path) -> None:
    first = write_rank_tokenizer(tmp_path)
    write_json(tmp_path / "config.json", {"text_config": {"vocab_size": first + 300}})
    assert get_tokenizer(str(tmp_path)).decode([97, first + 299, 98]) == "ab"


def in_parts(text: str, longest_part: int, longest_run: int) -> list[str]:
    """A part ends with so many characters, or inside of a run of blanks, or of others, with so many."""
    found = []
    for start in range(0, len(text), longest_part):
        part, length = "", 0
        for one in text[start : start + longest_part]:
            length = length + 1 if part and one.isspace() == part[-1].isspace() else 1
            if length > longest_run:
                found.append(part)
                part, length = "", 1
            part += one
        found.append(part)
    return found


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from("ab \n\u2003\u200b\x1c"), max_size=40),
    part=st.integers(1, 50),
    run=st.integers(1, 8),
)
def test_long_texts_are_encoded_in_parts(text: str, part: int, run: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_file, "_LONGEST_PART", part)
        patch.setattr(rank_file, "_LONGEST_RUN", run)
        assert list(rank_file._parts(text)) == in_parts(text, part, run)


def test_a_text_of_one_long_word_is_encoded(tokenizer: Tokenizer) -> None:
    text = "ab" * 300_000 + " " * 60_000
    ids = tokenizer.encode(text)
    assert len(ids) < len(text)
    assert tokenizer.decode(ids) == text


@given(text=st.text(max_size=30))
def test_each_token_says_which_characters_it_has(tokenizer: Tokenizer, text: str) -> None:
    """A character of several tokens belongs to each of them, as in the library `tokenizers`."""
    ids, offsets = tokenizer._backend.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    for one, (first, last) in zip(ids, offsets, strict=True):
        token = tokenizer._backend.token_of(one) or ""
        assert text[first:last] == token or "\ufffd" in token
    assert {place for first, last in offsets for place in range(first, last)} == set(range(len(text)))


def test_chats_are_masked_and_tools_are_in_order(tmp_path: Path) -> None:
    source = (
        "{{ tools | tojson }}{% for m in messages %}<|im_assistant|>"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    first = write_rank_tokenizer(tmp_path, chat_template=source)
    found = get_tokenizer(str(tmp_path)).apply_chat_template(
        [{"role": "assistant", "content": "你好the"}],
        tools=[{"name": "f", "a": {"z": 1, "b": [{"y": 1, "x": 2}]}}],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    text = get_tokenizer(str(tmp_path)).decode(found["input_ids"], skip_special_tokens=False)
    assert text.startswith('[{"a": {"b": [{"x": 2, "y": 1}], "z": 1}, "name": "f"}]<|im_assistant|>')
    learned = [one for one, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert learned == [RANKS.index("你好".encode()), RANKS.index(b"the"), first + 2]


def test_templates_that_want_what_code_of_the_model_makes_say_so(tmp_path: Path) -> None:
    write_rank_tokenizer(tmp_path, chat_template="{{ tools_ts_str }}")
    tokenizer = get_tokenizer(str(tmp_path))
    chat, tools = [{"role": "user", "content": "a"}], [{"name": "f"}]
    with pytest.raises(ValidationError, match="tools_ts_str, which code that comes with the model writes"):
        tokenizer.apply_chat_template(chat, tools=tools)
    assert tokenizer.apply_chat_template(chat, tools=tools, tools_ts_str="ab", tokenize=False) == "ab"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == ""


# Files that are wrong ---------------------------------------------------------------------------------


def line(token: bytes, rank: object) -> str:
    return f"{base64.b64encode(token).decode()} {rank}\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "must have a token for each byte, and has none for 0x00"),
        ("no rank\n", "must have a token in base64 and its rank in line 1"),
        ("YQ==\n", "must have a token in base64 and its rank in line 1"),
        ("Y 0\n", "must have a token in base64 and its rank in line 1"),
        ("Y?== 0\n", "must have a token in base64 and its rank in line 1"),
        (line(b"a", 0) + line(b"a", 1), "once, in order, not so line 2"),
        (line(b"a", 0) + line(b"b", 0), "once, in order, not so line 2"),
        (line(b"a", 1), "once, in order, not so line 1"),
        ("".join(line(bytes([one]), one) for one in range(255)), "has none for 0xff"),
    ],
)
def test_ranks_that_are_wrong_are_refused_with_their_line(tmp_path: Path, lines: str, message: str) -> None:
    write_rank_tokenizer(tmp_path)
    (tmp_path / "tiktoken.model").write_text(lines)
    with pytest.raises(ValidationError, match=message):
        get_tokenizer(str(tmp_path))


def test_bytes_that_are_no_lines_are_refused(tmp_path: Path) -> None:
    write_rank_tokenizer(tmp_path)
    (tmp_path / "tiktoken.model").write_bytes(bytes(range(256)))
    with pytest.raises(ValidationError, match=r"tiktoken\.model must have a token in base64"):
        get_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tokenizer_class": "QWenTokenizer"},
            "got 'QWenTokenizer': how other kinds split texts is not known",
        ),
        ({"tokenizer_class": None}, "got None: how other kinds"),
        ({"added_tokens_decoder": {"7": {"content": "a"}}}, "of ids from .* on, not so '7'"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "not so 'x'"),
        ({"added_tokens_decoder": {str(FIRST): "a"}}, f"not so '{FIRST}'"),
        ({"added_tokens_decoder": {str(FIRST): {"content": ""}}}, f"not so '{FIRST}'"),
        (
            {"added_tokens_decoder": {str(FIRST + n): {"content": "a"} for n in (0, 1)}},
            "name each token once",
        ),
        ({"eos_token": "[nowhere]"}, "must name the token that ends a text"),
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    write_rank_tokenizer(tmp_path, **settings)
    with pytest.raises(ValidationError, match=message):
        get_tokenizer(str(tmp_path))


def test_without_tiktoken_the_error_names_the_extra(directory: Path) -> None:
    program = f"""
import sys
sys.modules["tiktoken"] = None
from tinker_actors.errors import MissingExtraError
from tinker_actors.tokenization import get_tokenizer, tokenizer_at_hand
assert tokenizer_at_hand({str(directory)!r}) is None
try:
    get_tokenizer({str(directory)!r})
except MissingExtraError as error:
    print(error.extra, error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("tiktoken ")
    assert (
        "is read by tiktoken, which is not installed; install the extra tinker-actors[tiktoken]"
        in found.stdout
    )


def test_a_file_that_tokenizers_reads_goes_before_ranks(tmp_path: Path) -> None:
    write_rank_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[")
    with pytest.raises(ValidationError, match=r"tokenizer\.json cannot be read"):
        get_tokenizer(str(tmp_path))
    assert tokenizer_at_hand(str(tmp_path)) is None
