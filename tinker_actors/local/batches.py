"""How examples of different lengths become rectangles of tokens."""

from collections.abc import Sequence

__all__ = ["MAX_TOKENS", "rectangles"]

MAX_TOKENS = 2048
"""Tokens of one rectangle, filling included: bounds the memory of a pass and keeps it near the caches."""

FEW_TOKENS = 256
"""Under this a rectangle grows whatever its filling: small passes cost more than filling."""

MAX_FILLING = 0.15
"""Share of a rectangle that may be filling."""


def rectangles(lengths: Sequence[int]) -> list[list[int]]:
    """Group examples of similar length; the same lengths always give the same groups.

    Args:
        lengths: tokens of each example, positive.

    Returns:
        Indices into `lengths`, longest first: the first of a group sets the rectangle's width. Every
        index occurs once.
    """
    groups: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and _fits(lengths[groups[-1][0]], len(groups[-1]), filled, lengths[index]):
            groups[-1].append(index)
            filled += lengths[index]
        else:
            groups.append([index])
            filled = lengths[index]
    return groups


def _fits(width: int, rows: int, filled: int, length: int) -> bool:
    area = width * (rows + 1)
    if area > MAX_TOKENS:
        return False
    return area <= FEW_TOKENS or area - filled - length <= MAX_FILLING * area
