"""The names that lineages of a run have in the journal."""

from itertools import accumulate, repeat

import pytest

from tinker_actors.journal.lineages import latest_lineage, next_lineage, run_of


def test_lineages_are_numbered_behind_the_runs_name() -> None:
    names = list(accumulate(repeat("a.b-1", 11), lambda name, _: next_lineage(name)))
    assert names[:3] + names[9:] == ["a.b-1", "a.b-1~2", "a.b-1~3", "a.b-1~10", "a.b-1~11"]
    assert {run_of(name) for name in names} == {"a.b-1"}
    assert latest_lineage("a.b-1", names) == "a.b-1~11"


@pytest.mark.parametrize(
    ("names", "latest"),
    [((), "1"), (("2", "2~2", "11~3"), "1"), (("1", "2~5"), "1"), (("1~3", "1", "1~2"), "1~3")],
)
def test_the_latest_lineage_is_the_runs_own(names: tuple[str, ...], latest: str) -> None:
    assert latest_lineage("1", names) == latest
