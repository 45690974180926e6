"""What settings must be; a field that is not ends in a `ConfigError` that names it."""

import math
from typing import Any

from tinker_actors.errors import ConfigError

__all__ = ["check_bool", "check_choice", "check_count", "check_number", "wrong"]


def check_bool(record: object, name: str) -> None:
    """Refuse what is not true or false."""
    value = getattr(record, name)
    if not isinstance(value, bool):
        raise wrong(record, name, "a bool")


def check_choice(record: object, name: str, *choices: str) -> None:
    """Refuse what is none of some words."""
    value = getattr(record, name)
    if not isinstance(value, str) or value not in choices:
        raise wrong(record, name, " or ".join(f'"{choice}"' for choice in choices))


def check_count(record: object, name: str, least: int, most: float = math.inf) -> None:
    """Refuse what is no whole number in that range."""
    value = getattr(record, name)
    if type(value) is not int:
        raise wrong(record, name, "a whole number")
    if not least <= value <= most:
        raise wrong(record, name, _range(least, most))


def check_number(record: object, name: str, least: float, most: float = math.inf) -> None:
    """Refuse what is no number in that range."""
    value: Any = getattr(record, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(record, name, "a number")
    if math.isnan(value) or not least <= value <= most:
        raise wrong(record, name, _range(least, most))


def _range(least: float, most: float) -> str:
    first, last = (str(limit).removesuffix(".0") for limit in (least, most))
    return f"{first} or more" if most == math.inf else f"from {first} to {last}"


def wrong(record: object, name: str, wanted: str) -> ConfigError:
    """The error of a field that is not what is wanted."""
    return ConfigError(f"{type(record).__name__}.{name} must be {wanted}, got {getattr(record, name)!r}")
