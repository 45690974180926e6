"""Each row of the public surface names tests that there are, or a reason out of a fixed list.

A section's rows are a table from their names to the id of a test, to several, or to `{ reason = ... }`.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SECTIONS: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "tests/surface.toml").read_text())
REASONS = {
    "absent upstream": "the service has no such thing",
    "audit": "of an organisation's administrators",
    "billing": "of an organisation's administrators",
    "files and multipart": "no endpoint takes uploads",
    "left out": "another way to what is done already; services do without it",
    "login command": "of the official command line",
    "server-traced losses": "an experiment of the official SDK's; losses are computed here",
    "the application's": "a library leaves it to the program: how it logs, for one",
    "tinkex alone": "a knob that neither the service nor the official SDK knows",
}
"""Why a row may have no test."""


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    rows = content["row"]
    if isinstance(rows, list):
        return rows
    return [
        {"number": number, "name": name, **(proof if isinstance(proof, dict) else {"tests": listed(proof)})}
        for number, (name, proof) in enumerate(rows.items(), 1)
    ]


def listed(tests: str | list[str]) -> list[str]:
    return [tests] if isinstance(tests, str) else tests


ROWS = [(section, row) for section, content in SECTIONS.items() for row in rows_of(content)]
NAMED = [(f"{section} row {row['number']}", test) for section, row in ROWS for test in row.get("tests", [])]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """Ids of all tests of the files that are named, and of the functions behind parameters."""
    files = sorted({test.partition("::")[0] for _, test in NAMED})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ids = {line for line in found.stdout.splitlines() if "::" in line}
    return ids | {one.partition("[")[0] for one in ids}


def test_the_operations_of_the_api_are_all_here() -> None:
    assert SECTIONS["1.1"]["rows"] == 47


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_every_row_once(section: str) -> None:
    numbers = [row["number"] for row in rows_of(SECTIONS[section])]
    assert numbers == list(range(1, SECTIONS[section]["rows"] + 1))


@pytest.mark.parametrize(
    ("section", "row"), ROWS, ids=[f"{section}-{row['number']}" for section, row in ROWS]
)
def test_a_row_has_tests_or_a_reason_that_counts(section: str, row: dict[str, Any]) -> None:
    assert row.keys() in ({"number", "name", "tests"}, {"number", "name", "reason"}), section
    assert row["name"]
    assert row["tests"] if "tests" in row else row["reason"] in REASONS


def test_every_named_test_is_there(collected: set[str]) -> None:
    assert [(row, test) for row, test in NAMED if test not in collected] == []
