"""From a model's name to its tokenizer, and between text and token ids."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinker_actors.errors import ValidationError

__all__ = ["Tokenizer", "get_tokenizer"]

END_OF_TEXT, BEGIN_OF_TEXT, PADDING = "<|endoftext|>", "<|begin_of_text|>", "<|pad|>"
BYTES = 256


class Tokenizer:
    """Text to token ids and back; any thread may call it.

    The tokenizer of `local/tiny` has one token a byte of UTF-8, whose id is the byte, and three special
    tokens after those. Text that spells a special token is encoded as text, so decoding gives back
    whatever was encoded.
    """

    def __init__(
        self, backend: Any, *, eos_token: str, bos_token: str, special_tokens: Sequence[str]
    ) -> None:
        self._backend = backend
        self.eos_token = eos_token
        self.bos_token = bos_token
        self.eos_token_id = int(backend.token_to_id(eos_token))
        """The id that ends a text."""
        self.bos_token_id = int(backend.token_to_id(bos_token))
        """The id that begins a text."""
        self.all_special_ids = [int(backend.token_to_id(token)) for token in special_tokens]
        """Ids `decode` leaves out unless asked."""
        self.vocab_size = int(backend.get_vocab_size(with_added_tokens=True))
        """Number of ids, specials included."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The token ids of `text`, after the beginning-of-text id if `add_special_tokens`."""
        ids = list(self._backend.encode(text, add_special_tokens=False).ids)
        return [self.bos_token_id, *ids] if add_special_tokens else ids

    def decode(self, ids: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        listed = [ids] if isinstance(ids, int) else [int(token) for token in ids]
        return str(self._backend.decode(listed, skip_special_tokens=skip_special_tokens))


@lru_cache(maxsize=16)
def get_tokenizer(model_name: str) -> Tokenizer:
    """The tokenizer of `model_name`; equal names give the same object.

    Raises:
        ValidationError: no tokenizer is known for that name.
    """
    if model_name != "local/tiny":
        raise ValidationError(f"tokenizers exist for local/ models (local/tiny), got {model_name!r}")
    return _byte_tokenizer()


def _byte_tokenizer() -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    vocab = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    specials = (END_OF_TEXT, BEGIN_OF_TEXT, PADDING)
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    backend.encode_special_tokens = True
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
