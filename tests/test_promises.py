"""Each promise in the README's table of failures names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()
TABLE = [row.strip("| ").split(" | ") for row in PAGE.splitlines() if re.match(r"\| .*\[\^\w+\] \|$", row)]
NOTES = dict(re.findall(r"^\[\^(\w+)\]: ((?:.+\n)+?)(?=\[|\n)", PAGE, re.MULTILINE))
NAMED = [(note, *test.split("::")) for note, text in NOTES.items() for test in re.findall(r"`([^`]+)`", text)]


def test_the_table_has_five_failures_and_three_libraries() -> None:
    assert [len(row) for row in TABLE] == [4] * 5


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_each_promise_has_a_note_with_tests(row: list[str]) -> None:
    notes = re.findall(r"\[\^(\w+)\]", row[-1])
    assert notes
    assert {note for note, *_ in NAMED} >= set(notes)


@pytest.mark.parametrize(("note", "module", "test"), NAMED)
def test_each_named_test_is_there(note: str, module: str, test: str) -> None:
    tree = ast.parse((ROOT / module).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, note
