"""How large the results of Jinja's methods, operators and filters become, told from their arguments."""

import re
from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

from tinker_actors.tokenization.budget import ITEM, MOST_SIZE, Budget

__all__ = ["FILTERS", "check_method", "check_operation"]

_WIDE = re.compile(r"%(?:\([^)]*\))?[^%a-zA-Z(]*(?:\*|\d{4})")
"""A directive after a percent sign with a width or precision of four digits, or one out of the arguments."""
_LARGE = MOST_SIZE + 1
"""More than any value may have."""


def check_operation(operator: str, left: Any, right: Any, budget: Budget) -> None:
    """Count what `left operator right` makes, before it is made.

    Raises:
        OverBudgetError: it is more than a template may have.
    """
    for side in (left, right):
        budget.measure(side)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        budget.make(left.bit_length() * max(right, 0) * 4096)
    elif operator == "*":
        for times, value in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(value, str | bytes | list | tuple):
                budget.make(len(value) * max(times, 0))
    elif operator == "%" and isinstance(left, str | bytes):
        _check_format(str(left))
        budget.weigh(right)


def check_method(method: Any, arguments: Sequence[Any], budget: Budget) -> None:
    """Count what a method of a built-in value makes, before it is made.

    Raises:
        OverBudgetError: it is more than a template may have.
        SecurityError: no template needs it.
    """
    value, name = method.__self__, method.__name__
    for argument in arguments:
        budget.weigh(argument)
    if isinstance(value, str | bytes):
        budget.make(len(value))
        budget.make(_length_of_text(name, value, arguments))
    elif isinstance(value, list | tuple):
        budget.weigh(value)
    elif name == "to_bytes":
        budget.make(_number(arguments))


def _length_of_text(name: str, value: Any, arguments: Sequence[Any]) -> int:
    match name, arguments:
        case "translate", _:
            raise SecurityError("a template may not call translate; replace does the same")
        case "format" | "format_map", _:
            _check_fields(str(value))
            return 0
        case "center" | "ljust" | "rjust" | "zfill", _:
            return _number(arguments)
        case "expandtabs", _:
            return len(value) * (_number(arguments) if arguments else 8)
        case "replace", [old, new, *_]:
            return _replaced(value, old, new)
        case "split" | "rsplit", [str(separator), *_] if separator:
            return ITEM * str(value).count(separator)
        case "splitlines", _:
            return ITEM * str(value).count("\n")
        case "join", [items]:
            return len(value) * len(items) if hasattr(items, "__len__") else _LARGE
    return 0


def _number(arguments: Sequence[Any]) -> int:
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _replaced(value: Any, old: Any, new: Any) -> int:
    if not isinstance(new, str | bytes):
        return 0
    times: int = value.count(old) if isinstance(value, bytes) else str(value).count(str(old))
    return len(value) + times * len(new)


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise SecurityError(
            "a template may format with widths of three digits that are written out, and wants others"
        )


def _check_fields(text: str) -> None:
    try:
        specs = [spec for _, _, spec, _ in Formatter().parse(text) if spec]
    except ValueError:  # which formatting will say
        return
    if any("{" in spec or re.search(r"\d{4}", spec) for spec in specs):
        raise SecurityError(
            "a template may format with widths of three digits that are written out, and wants others"
        )


Prediction = Callable[..., int]
"""From the arguments of a filter to the size of what it makes."""


def _batch(value: Any, linecount: Any, *_: Any, **__: Any) -> int:
    return ITEM * (len(value) // max(int(linecount), 1)) + 8 * int(linecount)


def _indent(value: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return (str(value).count("\n") + 1) * (len(width) if isinstance(width, str) else int(width))


def _join(value: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return len(str(d)) * len(value) if hasattr(value, "__len__") else _LARGE if d else 0


def _replace(value: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return _replaced(str(value), str(old), str(new))


def _format(value: Any, *_: Any, **__: Any) -> int:
    _check_format(str(value))
    return 0


def _sum(_: Any, attribute: Any = None, start: Any = 0) -> int:
    del attribute
    return 0 if isinstance(start, int | float) else _LARGE


def _round(_: Any, precision: Any = 0, *__: Any, **___: Any) -> int:
    return _LARGE if int(precision) > 100 else 0  # noqa: PLR2004 - no float has so many digits


FILTERS: dict[str, Prediction] = {
    "batch": _batch,
    "center": lambda _value, width=80: int(width),
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "slice": lambda _value, slices, *_args, **_more: ITEM * int(slices),
    "sum": _sum,
}
"""Filters whose results may be much larger than what they are given."""
