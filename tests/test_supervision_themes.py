"""The table of OTP's themes names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "supervision"


def named() -> list[tuple[str, str]]:
    """Module and test of each reference in the table; an empty test stands for the whole module."""
    found = []
    for row in (FOLDER / "README.md").read_text().splitlines():
        module = ""
        for name, colon in re.findall(r"`([a-z_]+)`(:?)", row.rpartition("| ")[2]):
            if colon:
                module = name
                found.append((module, ""))
            elif module:
                found.append((module, name))
    return found


def names_in(module: str) -> set[str]:
    tree = ast.parse((FOLDER / f"test_{module}.py").read_text())
    return {node.name.removeprefix("test_") for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("module", "test"), named())
def test_each_theme_names_a_test_that_there_is(module: str, test: str) -> None:
    there = names_in(module)
    assert test in there if test else there


def test_the_table_is_read() -> None:
    assert len(named()) > 80
