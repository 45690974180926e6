"""Tokenizers in a `tiktoken.model`, as Kimi's: a file of ranks, split texts by a fixed pattern, no code of the model's.

Each line of the file is a token, in base64, and its rank, which is its id and says in which order pairs are merged.
The special tokens follow those, and are named in `tokenizer_config.json`.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from tinker_actors.errors import MissingExtraError, ValidationError
from tinker_actors.tokenization.documents import bytes_of

__all__ = ["RankBackend", "read_rank_file"]

_CLASS = "TikTokenTokenizer"
"""The class of tokenizer that Kimi's settings name, and whose pattern this is."""
_CASED = r"\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]"
_LETTERS = r"\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}{_CASED}]*[\p{{Ll}}{_LETTERS}]+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}{_CASED}]+[\p{{Ll}}{_LETTERS}]*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""Where texts are split before pairs are merged. Source: Moonshot's `tokenization_kimi.py`."""
_SPECIALS = 256
"""Ids behind the ranks that are special tokens, named or not. Source: as above."""
_LONGEST_PART, _LONGEST_RUN = 400_000, 25_000
"""Characters of a text, and of one run of blanks or of others, that are encoded at a time. Source: as above."""
_RUN = re.compile(r"\s+|\S+")


class RankBackend:
    """A `tiktoken.Encoding` of Kimi's kind; any thread may call it."""

    def __init__(
        self, library: Any, ranks: Mapping[bytes, int], specials: Mapping[str, int], skipped: list[int]
    ) -> None:
        self._library = library
        self._ranks = ranks
        self._specials = specials
        self._names = {number: name for name, number in specials.items()}
        self.special_ids = skipped
        self.vocab_size = max(specials.values()) + 1

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text."""
        found = self._specials.get(token)
        return self._ranks.get(token.encode()) if found is None else found

    def token_of(self, token_id: int) -> str | None:
        """The text of a token by its id."""
        if token_id in self._names:
            return self._names[token_id]
        return self.decode([token_id], skip_special_tokens=False) if token_id < len(self._ranks) else None

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """The token ids of `text`; this kind of tokenizer adds no special tokens."""
        del add_special_tokens
        encode = self._library.encode_ordinary if split_special_tokens else self._encode_all
        return [token for part in _parts(text) for token in encode(part)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token ids of `text`, special tokens read, and from which to before which character each reaches."""
        ids = self.encode(text, add_special_tokens=False, split_special_tokens=False)
        begun = (byte & 0xC0 != 0x80 for byte in text.encode())  # noqa: PLR2004 - no byte inside of a character
        at = [0, *accumulate(map(int, begun))]
        ends = accumulate((len(self._library.decode_single_token_bytes(one)) for one in ids), initial=0)
        return ids, [(at[first + 1] - 1, at[last]) for first, last in pairwise(ends)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of `ids`; those without a token have none."""
        left_out = set(self.special_ids) if skip_special_tokens else set()
        known = [one for one in ids if (one < len(self._ranks) or one in self._names) and one not in left_out]
        return str(self._library.decode_bytes(known).decode(errors="replace"))

    def _encode_all(self, text: str) -> list[int]:
        return list(self._library.encode(text, allowed_special="all"))


def read_rank_file(file: Path, settings: Mapping[str, Any]) -> RankBackend:
    """The tokenizer in `file`.

    Args:
        file: with the ranks.
        settings: what is in the `tokenizer_config.json` beside it.

    Raises:
        MissingExtraError: tiktoken is not installed.
        ValidationError: a line is no token and rank, a byte has no token, or the settings are of another kind.
    """
    if settings.get("tokenizer_class") != _CLASS:
        raise ValidationError(
            f"{file} wants the settings of a {_CLASS} in the tokenizer_config.json beside it, got"
            f" {settings.get('tokenizer_class')!r}: how other kinds split texts is not known"
        )
    ranks = _ranks(file)
    specials, skipped = _special_tokens(file, settings, len(ranks))
    try:
        from tiktoken import Encoding
    except ImportError as error:
        raise MissingExtraError(
            f"{file} is read by tiktoken, which is not installed;", extra="tiktoken"
        ) from error
    library = Encoding(file.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    return RankBackend(library, ranks, specials, skipped)


def _ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(bytes_of(file).splitlines(), 1):
        if not line:
            continue
        token, rank = _token_and_rank(file, number, line)
        if rank != len(ranks) or token in ranks:
            raise ValidationError(
                f"{file} must have each token and each rank once, in order, not so line {number}"
            )
        ranks[token] = rank
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValidationError(f"{file} must have a token for each byte, and has none for {missing[0]:#04x}")
    return ranks


def _token_and_rank(file: Path, number: int, line: bytes) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except ValueError as error:
        raise ValidationError(
            f"{file} must have a token in base64 and its rank in line {number}: {error}"
        ) from error


def _special_tokens(file: Path, settings: Mapping[str, Any], first: int) -> tuple[dict[str, int], list[int]]:
    """The special tokens by their text, and the ids of those that texts leave out."""
    added = settings.get("added_tokens_decoder")
    names = {number: f"<|reserved_token_{number}|>" for number in range(first, first + _SPECIALS)}
    skipped = []
    for key, token in added.items() if isinstance(added, dict) else ():
        match token:
            case {"content": str(text)} if text and key.isdecimal() and int(key) >= first:
                names[int(key)] = text
                skipped += [int(key)] if token.get("special") else []
            case _:
                raise ValidationError(
                    f"added_tokens_decoder in the tokenizer_config.json beside {file} must give the text of ids from"
                    f" {first} on, not so {key!r}"
                )
    specials = {text: number for number, text in names.items()}
    if len(specials) < len(names):
        raise ValidationError(
            f"added_tokens_decoder in the tokenizer_config.json beside {file} must name each token once"
        )
    return specials, sorted(skipped)


def _parts(text: str) -> Iterator[str]:
    """`text` in parts that are encoded one by one, since long ones exhaust the library."""
    for start in range(0, len(text), _LONGEST_PART):
        part = text[start : start + _LONGEST_PART]
        begun = 0
        if len(part) > _LONGEST_RUN:
            for run in _RUN.finditer(part):
                for cut in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                    yield part[begun:cut]
                    begun = cut
        yield part[begun:]
