"""The table of what recovery promises names tests that there are."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent / "supervision.md"
FOLDERS = ("recovery", "actors", "journal", "clients")
CASES = {f"REC-{number:02d}" for number in range(1, 17)}
"""The cases of the plan of tests that are about recovery."""


def rows() -> list[str]:
    """What proves each row."""
    section = PAGE.read_text().partition("## What recovery promises, case by case")[2].partition("\n## ")[0]
    return [row.rpartition("| ")[2] for row in section.splitlines() if row.startswith("| ")][1:]


def named() -> list[tuple[str, str]]:
    """Module and test of each reference in the table."""
    found, module = [], ""
    for row in rows():
        for name, colon in re.findall(r"`([a-z_/]+)`(:?)", row):
            if colon:
                module = name
            else:
                found.append((module, name))
    return found


@cache
def documented_in(module: str) -> dict[str, str]:
    """The tests of a module by their names, with what they say of themselves; `folder/module` where the name is not enough."""
    folder, _, name = module.rpartition("/")
    places = [HERE / one / f"test_{name}.py" for one in ([folder] if folder else FOLDERS)]
    path = next(place for place in places if place.exists())
    tests = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {node.name.removeprefix("test_"): ast.get_docstring(node) or "" for node in tests}


@pytest.mark.parametrize(("module", "test"), named())
def test_each_promise_names_a_test_that_there_is(module: str, test: str) -> None:
    assert test in documented_in(module)


def test_each_promise_has_a_proof() -> None:
    assert len(rows()) > 15
    assert all(re.search(r"`[a-z_/]+`: `[a-z_]+`", row) for row in rows())


def test_each_case_of_recovery_is_among_the_promises() -> None:
    told = " ".join(documented_in(module)[test] for module, test in named())
    assert set(re.findall(r"REC-\d\d", told)) == CASES
