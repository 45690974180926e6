"""Tokenizers in a `tokenizer.json`, by the library `tokenizers`."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinker_actors.errors import ValidationError

__all__ = ["FastBackend", "read_tokenizer_json"]


class FastBackend:
    """A `tokenizers.Tokenizer`, with and without an eye for special tokens in texts; any thread may call it."""

    def __init__(self, library: Any) -> None:
        self._reading = library
        """The one that reads special tokens in texts."""
        self._splitting: Any = None
        """A copy that takes them as text, made when it is first wanted: that option is the library object's own."""
        self._lock = threading.Lock()
        self.vocab_size = int(library.get_vocab_size(with_added_tokens=True))
        added = library.get_added_tokens_decoder()
        self.special_ids = [int(number) for number, token in added.items() if token.special]

    def __reduce__(self) -> tuple[Any, ...]:
        return FastBackend, (self._reading,)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text."""
        found = self._reading.token_to_id(token)
        return None if found is None else int(found)

    def token_of(self, token_id: int) -> str | None:
        """The text of a token by its id."""
        found = self._reading.id_to_token(token_id)
        return None if found is None else str(found)

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """The token ids of `text`."""
        library = self._split() if split_special_tokens else self._reading
        with _refusing("the text cannot be encoded by its tokenizer"):
            return list(library.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token ids of `text`, special tokens read, and from which to before which character each reaches."""
        with _refusing("the text cannot be encoded by its tokenizer"):
            found = self._reading.encode(text, add_special_tokens=False)
        return list(found.ids), list(found.offsets)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of `ids`; those without a token have none."""
        with _refusing("the ids cannot be decoded by their tokenizer"):
            return str(self._reading.decode(ids, skip_special_tokens=skip_special_tokens))

    def _split(self) -> Any:
        with self._lock:
            if self._splitting is None:
                self._splitting = type(self._reading).from_str(self._reading.to_str())
                self._splitting.encode_special_tokens = True
            return self._splitting


def read_tokenizer_json(file: Path) -> FastBackend:
    """The tokenizer in `file`.

    Raises:
        ValidationError: it is no tokenizer.
    """
    from tokenizers import Tokenizer as Library

    with _refusing(f"{file} cannot be read"):
        return FastBackend(Library.from_file(str(file)))


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValidationError(f"{what}: {error}") from error
