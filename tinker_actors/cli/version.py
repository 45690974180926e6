"""`tinker-actors version`: what is installed."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

__all__ = ["version"]

_PARTS = ("pykka", "httpx", "numpy", "protobuf", "tokenizers", "pyqwest", "zstandard", "torch")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("--deps", is_flag=True, help="With what it depends on.")
def version(as_json: bool, deps: bool) -> None:
    """The version of the program, and of what it runs on."""
    document = {"version": version_of("tinker-actors")}
    if deps:
        document |= {"python": platform.python_version(), **{name: _installed(name) for name in _PARTS}}
    if as_json:
        click.echo(json.dumps(document))
        return
    for name, found in document.items():
        click.echo(f"{'tinker-actors' if name == 'version' else name} {found}")


def _installed(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"
