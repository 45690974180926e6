"""What is in the files of a tokenizer."""

from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import ValidationError

__all__ = ["bytes_of", "document", "text_of"]


def document(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; empty where there is none.

    Raises:
        ValidationError: there is something else in it.
    """
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise ValidationError(f"{file} cannot be read: {error}") from error


def text_of(file: Path) -> str:
    """The text in `file`.

    Raises:
        ValidationError: it is no UTF-8, or cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationError(f"{file} cannot be read: {error}") from error


def bytes_of(file: Path) -> bytes:
    """What is in `file`.

    Raises:
        ValidationError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValidationError(f"{file} cannot be read: {error}") from error
