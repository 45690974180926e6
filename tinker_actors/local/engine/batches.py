"""How examples of different lengths become rectangles of tokens."""

from collections.abc import Sequence

__all__ = ["MAX_TOKENS", "rectangles"]

MAX_TOKENS = 1024
"""Tokens of one rectangle, filling included: bounds the memory of a pass and keeps it near the caches."""

FEW_TOKENS = 256
"""Under this a rectangle grows whatever its filling: small passes cost more than filling."""

MAX_FILLING = 0.15
"""Share of a rectangle that may be filling."""


def rectangles(lengths: Sequence[int], workers: int = 1) -> list[list[list[int]]]:
    """Group examples of similar length and deal the groups out; equal lengths give equal groups.

    Args:
        lengths: tokens of each example, positive.
        workers: most that will work side by side.

    Returns:
        For each worker that has something to do its groups of indices into `lengths`, longest first:
        the first of a group sets the rectangle's width. Every index occurs once.
    """
    limit = max(FEW_TOKENS, min(MAX_TOKENS, -(-sum(lengths) // workers)))
    shares: list[list[list[int]]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for group in _groups(lengths, limit):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += lengths[group[0]] * len(group)
    return [share for share in shares if share]


def _groups(lengths: Sequence[int], limit: int) -> list[list[int]]:
    groups: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if groups and _fits(lengths[groups[-1][0]] * (len(groups[-1]) + 1), filled + length, limit):
            groups[-1].append(index)
            filled += length
        else:
            groups.append([index])
            filled = length
    return groups


def _fits(area: int, filled: int, limit: int) -> bool:
    return area <= limit and (area <= FEW_TOKENS or area - filled <= MAX_FILLING * area)
