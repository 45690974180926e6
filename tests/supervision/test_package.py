import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinker_actors.supervision as kit

MODULES = sorted(Path(kit.__file__).parent.glob("*.py"))


def test_public_names_are_sorted_and_there() -> None:
    assert kit.__all__ == sorted(kit.__all__, key=by_ruffs_order)
    assert all(hasattr(kit, name) for name in kit.__all__)


def by_ruffs_order(name: str) -> tuple[bool, str]:
    return not name.isupper(), name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_kit_imports_nothing_but_pykka_and_the_errors(module: Path) -> None:
    allowed = {*sys.stdlib_module_names, "pykka"}
    ours = ("tinker_actors.supervision", "tinker_actors.errors")
    foreign = [
        name for name in imports(module) if name.split(".")[0] not in allowed and not name.startswith(ours)
    ]
    assert foreign == []


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
