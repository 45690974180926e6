"""The table of what recovery promises names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent / "supervision.md"
FOLDERS = ("actors", "recovery")


def rows() -> list[str]:
    """What proves each row."""
    section = PAGE.read_text().partition("## What recovery promises, case by case")[2].partition("\n## ")[0]
    return [row.rpartition("| ")[2] for row in section.splitlines() if row.startswith("| ")][1:]


def named() -> list[tuple[str, str]]:
    """Module and test of each reference in the table."""
    found, module = [], ""
    for row in rows():
        for name, colon in re.findall(r"`([a-z_]+)`(:?)", row):
            if colon:
                module = name
            else:
                found.append((module, name))
    return found


def names_in(module: str) -> set[str]:
    (path,) = [path for folder in FOLDERS if (path := HERE / folder / f"test_{module}.py").exists()]
    tree = ast.parse(path.read_text())
    return {node.name.removeprefix("test_") for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("module", "test"), named())
def test_each_promise_names_a_test_that_there_is(module: str, test: str) -> None:
    assert test in names_in(module)


def test_each_promise_has_a_proof() -> None:
    assert len(rows()) > 15
    assert all(re.search(r"`[a-z_]+`: `[a-z_]+`", row) for row in rows())
