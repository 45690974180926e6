"""What docstrings of losses show is what happens."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "tinker_actors"
MODULES = [
    ".".join(("tinker_actors", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted((PACKAGE / "losses").rglob("*.py"))
    if ">>>" in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert (done.failed, done.attempted > 0) == (0, True)
