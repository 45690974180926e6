"""The tokenizer in a directory in Hugging Face format."""

from pathlib import Path
from typing import Any

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization.chat_files import CHAT_TEMPLATE, chat_templates_in
from tinker_actors.tokenization.documents import document
from tinker_actors.tokenization.fast import read_tokenizer_json
from tinker_actors.tokenization.rank_file import RankBackend, read_rank_file
from tinker_actors.tokenization.tokenizer import Backend, Tokenizer

__all__ = ["OPTIONAL_FILES", "TOKENIZER_FILES", "directory_tokenizer"]

TOKENIZER_FILES = ("tokenizer.json", "tiktoken.model")
"""Files that hold a whole vocabulary; the first that is there counts."""
OPTIONAL_FILES = (
    "tokenizer_config.json",
    CHAT_TEMPLATE,
    "chat_template.json",
    "config.json",
    "generation_config.json",
)
"""Files that say more about it."""
_NAMED = ("eos_token", "bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def directory_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer whose files are in `directory`.

    Raises:
        ValidationError: a file is missing or cannot be read, or none names the token that ends a text.
        MissingExtraError: it is read by a library that is not installed.
    """
    settings = document(directory / "tokenizer_config.json")
    backend = _backend(directory, settings)
    ids = {**document(directory / "config.json"), **document(directory / "generation_config.json")}
    found = {name: _special_token(backend, settings, ids, name) for name in _NAMED}
    if found["eos_token"] is None:
        raise ValidationError(
            f"{directory} must name the token that ends a text, as eos_token in tokenizer_config.json"
        )
    return Tokenizer(
        backend,
        special_tokens={name: token for name, token in found.items() if token is not None},
        more_special_tokens=_texts(settings.get("additional_special_tokens")),
        chat_templates=chat_templates_in(directory, settings),
        vocab_size=_vocab_size(ids),
        sort_tools=isinstance(backend, RankBackend),
    )


def _backend(directory: Path, settings: dict[str, Any]) -> Backend:
    fast, ranks = (directory / name for name in TOKENIZER_FILES)
    return (
        read_rank_file(ranks, settings)
        if ranks.is_file() and not fast.is_file()
        else read_tokenizer_json(fast)
    )


def _vocab_size(config: dict[str, Any]) -> int:
    """Number of ids that the model has; that of its text part, where it has several."""
    inner = config.get("text_config")
    sizes = [part.get("vocab_size") for part in (config, inner) if isinstance(part, dict)]
    return max((size for size in sizes if isinstance(size, int)), default=0)


def _special_token(backend: Backend, settings: dict[str, Any], ids: dict[str, Any], name: str) -> str | None:
    """The token called `name`: by its text in the tokenizer's settings, else by its id in the model's."""
    for text in _texts([settings.get(name)]):
        if backend.id_of(text) is not None:
            return text
    found = ids.get(f"{name}_id")
    first = found[0] if isinstance(found, list) and found else found
    return backend.token_of(first) if isinstance(first, int) and first >= 0 else None


def _texts(tokens: Any) -> list[str]:
    """Those of `tokens` that are tokens: a text, or an object whose content is one."""
    listed = tokens if isinstance(tokens, list) else []
    contents = [token.get("content") if isinstance(token, dict) else token for token in listed]
    return [text for text in contents if isinstance(text, str)]
