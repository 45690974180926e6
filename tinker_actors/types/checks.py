"""Arguments of callers as plain Python values, or an error that names them: JSON cannot hold numpy's."""

import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any

import msgspec

from tinker_actors.errors import ValidationError

__all__ = ["MOST_INT32", "MOST_INT64", "finite", "flag", "metadata", "text", "utf8", "whole"]

MOST_INT32, MOST_INT64 = 2**31 - 1, 2**63 - 1
"""Largest whole numbers of the wire's two integer types."""


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
        raise ValidationError(f"{name} must be a whole number, {bound}, got {value!r}")
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
        raise ValidationError(f"{name} must be a finite number, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool.

    Raises:
        ValidationError: it is neither True nor False.
    """
    try:
        is_flag = value in (True, False)
    except ValueError:  # an array
        is_flag = False
    if not is_flag:
        raise ValidationError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """`value`, a string that is not empty.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise ValidationError(f"{name} must be a string that is not empty, got {value!r}")
    return value


def utf8(name: str, value: Any) -> str:
    """`value`, a string that is not empty and that UTF-8 can hold.

    Raises:
        ValidationError: it is none.
    """
    known = text(name, value)
    try:
        known.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ValidationError(f"{name} must be text that UTF-8 can hold, got {value!r}") from error
    return known


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
    except (TypeError, ValueError) as error:
        raise ValidationError(f"{name} must hold what JSON can: {error}") from error
    return dict(value)
