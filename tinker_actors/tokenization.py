"""From a model's name to its tokenizer, and between text and token ids."""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import APIConnectionError, ValidationError

__all__ = ["Tokenizer", "get_tokenizer", "tokenizer_at_hand", "tokenizer_id_of"]

END_OF_TEXT, BEGIN_OF_TEXT, PADDING = "<|endoftext|>", "<|begin_of_text|>", "<|pad|>"
BYTES = 256
BYTE_LEVEL = ("local/tiny", "local/small")
"""Models whose tokens are bytes."""
OPEN_LLAMA_3 = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
PINNED = {
    "moonshotai/Kimi-K2-Thinking": "612681931a8c906ddb349f8ad0f582cb552189cd",
    "moonshotai/Kimi-K2.5": "4d01dfe0332d63057c186e0b262165819efb6611",
    "moonshotai/Kimi-K2.6": "b5aabbfb20227ed42becbf5541dbffd213942c58",
}
"""Revisions that the official SDK 0.38 pins."""

_Key = tuple[str, str | None]
"""Id and revision."""


class Tokenizer:
    """Text to token ids and back; any thread may call it.

    The tokenizer of `local/tiny` and `local/small` has one token a byte of UTF-8, whose id is the byte, and
    three special tokens after those. Text that spells a special token is encoded as text, so decoding gives
    back whatever was encoded. The tokenizer of a directory is the one in its `tokenizer.json`, which reads
    special tokens in texts, as chat templates want it.
    """

    def __init__(
        self,
        backend: Any,
        *,
        eos_token: str,
        bos_token: str | None,
        special_tokens: Sequence[str],
        vocab_size: int = 0,
    ) -> None:
        self._backend = backend
        self.eos_token = eos_token
        self.bos_token = bos_token
        self.eos_token_id = int(backend.token_to_id(eos_token))
        """The id that ends a text."""
        self.bos_token_id = None if bos_token is None else int(backend.token_to_id(bos_token))
        """The id that begins a text; None where no text has one."""
        self.all_special_ids = [int(backend.token_to_id(token)) for token in special_tokens]
        """Ids `decode` leaves out unless asked."""
        self.vocab_size = max(vocab_size, int(backend.get_vocab_size(with_added_tokens=True)))
        """Number of ids, specials included, and those a model has beyond its tokenizer's."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The token ids of `text`; after the beginning-of-text id if `add_special_tokens` and there is one."""
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        listed = [ids] if isinstance(ids, int) else [int(token) for token in ids]
        return str(self._backend.decode(listed, skip_special_tokens=skip_special_tokens))


class _Loaded:
    """The tokenizers of this process: each is loaded once, whoever asks at the same time; failures are not kept."""

    def __init__(self) -> None:
        self._tokenizers: dict[_Key, Tokenizer] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def find(self, key: _Key) -> Tokenizer | None:
        """The one that was loaded, if it was."""
        return self._tokenizers.get(key)

    def get(self, key: _Key) -> Tokenizer:
        """The one that was loaded, or is loaded now."""
        with self._lock:
            lock = self._locks[key]
        with lock:
            found = self._tokenizers.get(key)
            if found is None:
                found = self._tokenizers[key] = _load(*key)
            return found


_loaded = _Loaded()


def get_tokenizer(
    model_name: str, tokenizer_id: str | None = None, *, revision: str | None = None
) -> Tokenizer:
    """The tokenizer of `model_name`; equal ids and revisions give the same object.

    Names that are no local ones are repositories on the Hugging Face hub, whose `tokenizer.json` is downloaded, or
    taken from the hub's cache on this machine. `HF_ENDPOINT`, `HF_TOKEN` and the hub's other variables apply.

    Args:
        model_name: `local/tiny`, `local/small`, the absolute path of a directory in Hugging Face format, or a
            model's name, `org/name`.
        tokenizer_id: what the service says the tokenizer is, if it does; goes before the name.
        revision: branch, tag or commit on the hub.

    Raises:
        ValidationError: no tokenizer is known for that name, or its files cannot be read.
        APIConnectionError: the hub cannot be reached, and its cache has no such files.
    """
    return _loaded.get(_key(model_name, tokenizer_id, revision))


def tokenizer_at_hand(model_name: str, tokenizer_id: str | None = None) -> Tokenizer | None:
    """The tokenizer of `model_name`, if that takes no download."""
    key = _key(model_name, tokenizer_id, None)
    if not _is_local(key[0]):
        return _loaded.find(key)
    try:
        return _loaded.get(key)
    except ValidationError:
        return None


def tokenizer_id_of(model_name: str, tokenizer_id: str | None = None) -> str:
    """Where the tokenizer of `model_name` is: a local name, or a repository on the hub.

    What stands behind a colon is a revision of the model's, not of its tokenizer. The tokenizer of Llama 3 is in a
    repository that is open to everybody, where Meta's asks for a login. Of `org/model/variant`, the tokenizer is
    that of `org/model`.

    Source: the official SDK 0.38.
    """
    if _is_local(tokenizer_id or model_name):
        return tokenizer_id or model_name
    if tokenizer_id:
        return tokenizer_id.partition(":")[0]
    name = model_name.partition(":")[0]
    if name.startswith("meta-llama/Llama-3"):
        return OPEN_LLAMA_3
    org, _, rest = name.partition("/")
    return f"{org}/{rest.partition('/')[0]}" if rest.count("/") == 1 else name


def _is_local(name: str) -> bool:
    return name in BYTE_LEVEL or Path(name).is_absolute()


def _key(model_name: str, tokenizer_id: str | None, revision: str | None) -> _Key:
    found = tokenizer_id_of(model_name, tokenizer_id)
    return found, PINNED.get(found) if revision is None else revision


def _load(name: str, revision: str | None) -> Tokenizer:
    if name in BYTE_LEVEL:
        return _byte_tokenizer()
    if Path(name).is_absolute():
        return _directory_tokenizer(Path(name))
    org, _, rest = name.partition("/")
    if not org or not rest or "/" in rest or org == "local":
        raise ValidationError(
            f"tokenizers exist for {', '.join(BYTE_LEVEL)}, for directories by their absolute path and for"
            f" repositories org/name on the Hugging Face hub, got {name!r}"
        )
    return _directory_tokenizer(_downloaded(name, revision))


def _downloaded(name: str, revision: str | None) -> Path:
    """The directory with the tokenizer's files of a repository on the hub."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    place = f"the tokenizer of {name}" if revision is None else f"the tokenizer of {name} at {revision}"
    try:
        file = hub.hf_hub_download(name, "tokenizer.json", revision=revision)
        for more in ("tokenizer_config.json", "config.json", "generation_config.json"):
            with contextlib.suppress(errors.EntryNotFoundError):
                hub.hf_hub_download(name, more, revision=revision)
    except errors.LocalEntryNotFoundError as error:
        raise APIConnectionError(
            f"{place} was wanted, and the Hugging Face hub cannot be reached; give the absolute path of a"
            f" directory with its tokenizer.json, or fill the hub's cache: {error}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise ValidationError(
            f"{place} was wanted, which the Hugging Face hub does not give out; a gated repository wants"
            f" HF_TOKEN: {error}"
        ) from error
    return Path(file).parent


def _directory_tokenizer(directory: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValidationError(f"{directory / 'tokenizer.json'} cannot be read: {error}") from error
    settings = _document(directory / "tokenizer_config.json")
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    ids = {**_document(directory / "config.json"), **_document(directory / "generation_config.json")}
    eos, bos = (_special_token(backend, settings, ids, name) for name in ("eos", "bos"))
    if eos is None:
        raise ValidationError(
            f"{directory} must name the token that ends a text, as eos_token in tokenizer_config.json"
        )
    size = ids.get("vocab_size")
    return Tokenizer(
        backend,
        eos_token=eos,
        bos_token=bos,
        special_tokens=special,
        vocab_size=size if isinstance(size, int) else 0,
    )


def _document(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise ValidationError(f"{file} cannot be read: {error}") from error


def _special_token(backend: Any, settings: dict[str, Any], ids: dict[str, Any], name: str) -> str | None:
    """The token called `name`: by its text in the tokenizer's settings, else by its id in the model's."""
    token = settings.get(f"{name}_token")
    text = token.get("content") if isinstance(token, dict) else token
    if isinstance(text, str) and backend.token_to_id(text) is not None:
        return text
    found = ids.get(f"{name}_token_id")
    first = found[0] if isinstance(found, list) and found else found
    return backend.id_to_token(first) if isinstance(first, int) and first >= 0 else None


def _byte_tokenizer() -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    vocab = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    specials = (END_OF_TEXT, BEGIN_OF_TEXT, PADDING)
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    backend.encode_special_tokens = True
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A", special_tokens=[(BEGIN_OF_TEXT, backend.token_to_id(BEGIN_OF_TEXT))]
    )
    return Tokenizer(backend, eos_token=END_OF_TEXT, bos_token=BEGIN_OF_TEXT, special_tokens=specials)


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level tokenizers.

    Source: GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the others follow from 256.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, following = [], BYTES
    for byte in range(BYTES):
        if byte in printable:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(following))
            following += 1
    return symbols
