"""Arguments of callers as plain Python values, or an error that names them: JSON cannot hold numpy's."""

import math
import numbers
import operator
import os
import reprlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.arrays import np

__all__ = [
    "MOST_INT32",
    "MOST_INT64",
    "finite",
    "flag",
    "metadata",
    "one_of",
    "secret",
    "shown",
    "text",
    "whole",
]

MOST_INT32, MOST_INT64 = 2**31 - 1, 2**63 - 1
"""Largest whole numbers of the wire's two integer types."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def shown(value: Any) -> str:
    """`value` for a message: short whatever it is, and without an error of its own."""
    return _SHORT.repr(value)


def whole(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """`value` as an int of at least `least`.

    Raises:
        ValidationError: it is no whole number, or out of range.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValidationError(f"{name} must be a whole number, {bound}, got {shown(value)}")
    return number


def finite(name: str, value: Any) -> float:
    """`value` as a finite float.

    Raises:
        ValidationError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValidationError(f"{name} must be a finite number, got {shown(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool.

    Raises:
        ValidationError: it is neither True nor False.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, np.bool_) and not (isinstance(value, int) and value in (0, 1)):
        raise ValidationError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """`value`, a string that is not empty and that UTF-8 can hold.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise ValidationError(f"{name} must be a string that is not empty, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ValidationError(f"{name} must be text that UTF-8 can hold, got {shown(value)}") from error
    return value


def path_text(name: str, value: Any) -> str:
    """A path to a file or folder as text.

    Raises:
        ValidationError: it is none.
    """
    try:
        found = os.fspath(value)
    except TypeError as error:
        raise ValidationError(f"{name} is a path, got {shown(value)}") from error
    if not isinstance(found, str) or not found or "\0" in found:
        raise ValidationError(f"{name} is a path, got {shown(value)}")
    return text(name, found)


def secret(name: str, value: Any) -> str:
    """Like `text`, of a value that no message may show."""
    if isinstance(value, str) and value and value.isascii():
        return value
    raise ValidationError(f"{name} must be a string of ASCII characters, got another {type(value).__name__}")


def one_of(name: str, value: Any, *choices: str) -> str:
    """`value`, which is one of `choices`.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(value, str) or value not in choices:
        wanted = " or ".join(f'"{choice}"' for choice in choices)
        raise ValidationError(f"{name} must be {wanted}, got {shown(value)}")
    return value


def metadata(name: str, value: Any) -> dict[str, Any]:
    """`value` as a dict that JSON can hold; empty for None.

    Raises:
        ValidationError: it is no mapping of strings, or holds what JSON cannot.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValidationError(f"{name} must be a mapping with strings as keys, got {type(value).__name__}")
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{name} must hold what JSON can: {error}") from error
    return dict(value)
