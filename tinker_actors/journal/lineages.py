"""Lineages of a run: each beginning in another checkpoint has a name of its own in the journal.

The last one that ever had a model counts: one that the service refused takes nobody's place.

The first has the run's own name, further ones a number behind a sign that no name of a run has: `1`, `1~2`, `1~3`.
"""

from collections.abc import Iterable

__all__ = ["latest_lineage", "next_lineage", "run_of"]

_SIGN = "~"


def run_of(lineage: str) -> str:
    """The run that a lineage is of."""
    return lineage.partition(_SIGN)[0]


def next_lineage(lineage: str) -> str:
    """The one that follows."""
    return f"{run_of(lineage)}{_SIGN}{_number(lineage) + 1}"


def latest_lineage(run: str, names: Iterable[str]) -> str:
    """The newest lineage of `run` among those runs; its own name where none of them is one."""
    return max((name for name in names if run_of(name) == run), key=_number, default=run)


def _number(lineage: str) -> int:
    return int(lineage.partition(_SIGN)[2] or 1)
