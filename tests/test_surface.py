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
TABLES = {
    "1.1": 47,
    "1.2": 12,
    "1.3": 8,
    "2.1": 7,
    "2.3": 24,
    "3.1": 22,
    "3.2": 10,
    "4": 10,
    "6.1": 13,
    "8": 13,
    "9": 8,
    "10": 14,
    "14": 20,
    "15": 31,
    "20.1": 13,
    "23": 10,
    "25.3": 8,
    "29": 12,
    "31": 27,
}
"""Sections that are tables in the description, and how many rows those have."""
PROSE = (
    *("2.2", "3.3", "3.4", "5.1", "5.2", "5.3", "5.4", "5.5", "6.2", "7", "11.1", "11.2", "11.3", "12", "13"),
    *(
        "16",
        "17",
        "18.1",
        "18.2",
        "18.3",
        "18.4",
        "18.5",
        "18.6",
        "19",
        "20.2",
        "21",
        "22",
        "24",
        "25.1",
        "25.2",
        "26",
        "27",
        "28",
    ),
    *("30", "32"),
)
"""Those that are not."""


def rows_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: proof if isinstance(proof, dict) else {"tests": [proof] if isinstance(proof, str) else proof}
        for name, proof in content["row"].items()
    }


ROWS = [
    (f"{section} {name}", row)
    for section, content in SECTIONS.items()
    for name, row in rows_of(content).items()
]
NAMED = [(name, test) for name, row in ROWS for test in row.get("tests", [])]


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


def test_every_section_is_here_in_its_order() -> None:
    assert {*TABLES, *PROSE} - SECTIONS.keys() == set()
    numbers = [[int(part) for part in section.split(".")] for section in SECTIONS]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_all_of_its_rows(section: str) -> None:
    content = SECTIONS[section]
    assert content.keys() == {"title", "rows", "row"}
    assert len(content["row"]) == content["rows"] >= TABLES.get(section, 2)


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_a_row_has_tests_or_a_reason_that_counts(name: str, row: dict[str, Any]) -> None:
    assert row.keys() in ({"tests"}, {"reason"}), name
    assert row["tests"] if "tests" in row else row["reason"] in REASONS


def test_every_reason_is_given_somewhere() -> None:
    assert {row["reason"] for _, row in ROWS if "reason" in row} == REASONS.keys()


def test_every_named_test_is_there(collected: set[str]) -> None:
    assert [(row, test) for row, test in NAMED if test not in collected] == []
