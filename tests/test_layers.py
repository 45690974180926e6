"""Imports go one way: no module of the package imports from above, and none from the other side of the wire."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tinker_actors"

# What each part may import, beside itself and `errors`.
MAY_IMPORT = {
    "errors": set(),
    "config": set(),
    "types": {"tokenization"},  # ModelInput.from_text, when it is called with a name
    "tokenization": set(),
    "supervision": set(),
    "events": {"supervision"},
    "wire": {"types"},
    "api": {"wire", "types"},
    "journal": set(),
    "actors": {"journal", "api", "wire", "types", "config", "events", "supervision"},
    "losses": {"types"},
    "clients": {
        "losses",
        "observe",
        "actors",
        "events",
        "journal",
        "api",
        "types",
        "config",
        "supervision",
        "tokenization",
    },
    "local": {"types", "wire", "tokenization"},
    "observe": {"events", "supervision"},
    "compat": {"clients", "types"},
    "cli": {"clients", "journal", "types", "config", "events", "supervision", "tokenization", "local"},
}


def parts() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in MAY_IMPORT)


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, at its top or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), names=aliases):
                names |= {f"{module}.{alias.name}" for alias in aliases}
    return {name.split(".")[1] for name in names if name.startswith("tinker_actors.")}


@pytest.mark.parametrize("path", parts(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_upwards(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported(path) <= MAY_IMPORT[part] | {part, "errors"}


def test_every_part_has_its_rule() -> None:
    found = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert found - {"py.typed"} == set(MAY_IMPORT)
