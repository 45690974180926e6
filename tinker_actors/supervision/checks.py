"""Checks of single fields, each with the same sentence: which field, what was wanted, what came."""

from enum import StrEnum
from typing import Any, TypeVar

from tinker_actors.errors import ConfigError

__all__ = ["check_choice", "check_count", "check_finite", "check_path", "check_seconds"]

C = TypeVar("C", bound=StrEnum)

_LONGEST_S = 1e12


def check_choice(name: str, value: Any, kind: type[C]) -> C:
    """The member of `kind` that `value` is or names.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str) or value not in list(kind):
        shown = repr(value) if isinstance(value, str) else type(value).__name__
        raise ConfigError(f"{name} must be one of {', '.join(kind)}, got {shown}")
    return kind(value)


def check_seconds(name: str, value: Any, *, above_zero: bool) -> None:
    """Refuse what is no time; infinity is one.

    Raises:
        ConfigError: it is no number, or negative, or 0 where that makes no sense.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > 0 if above_zero else value >= 0):
        wanted = "seconds above 0" if above_zero else "0 or more seconds"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def check_finite(name: str, value: Any, *, above_zero: bool) -> None:
    """Refuse what is no time, and infinity.

    Raises:
        ConfigError: it is no number, not finite, negative, or 0 where that makes no sense.
    """
    check_seconds(name, value, above_zero=above_zero)
    if value > _LONGEST_S:
        raise ConfigError(f"{name} must be finite, got {value!r}")


def check_path(path: Any) -> None:
    """Refuse what is no actor's path.

    Raises:
        ConfigError: it is no text, or empty.
    """
    if not isinstance(path, str) or not path:
        raise ConfigError(f"path must be the path of an actor, such as root/worker, got {path!r}")


def check_count(name: str, value: Any, *, minimum: int) -> None:
    """Refuse what is no whole number of at least `minimum`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} must be a whole number of {minimum} or more, got {value!r}")
