"""What commands that ask a service have in common: where it is, and how answers are shown."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinker_actors.cli.formats import word

if TYPE_CHECKING:
    from tinker_actors.clients.rest import RestClient

__all__ = ["asks_service", "rest_client", "show", "show_facts"]

F = TypeVar("F", bound=Callable[..., Any])
Row = Sequence[object]
_WIDEST = 10_000


def asks_service(command: F) -> F:
    """The options `--base-url` and `--format`. The key comes from where all clients take it, and not from here."""
    form = click.option(
        "-f",
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        help="What is printed.",
    )
    url = click.option("--base-url", help="Of the service; by default TINKER_BASE_URL.")
    return form(url(command))


def rest_client(base_url: str | None) -> "RestClient":
    """A client of the service's records, for a `with` block."""
    from tinker_actors.clients.rest import RestClient

    return RestClient(base_url=base_url)


def show(form: str, document: Any, title: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Print `document` as JSON, or `rows` as a table."""
    if form == "json":
        _print_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(word, row))
    # A path that is folded cannot be copied: lines may be longer than the terminal.
    Console(width=_WIDEST, highlight=False, soft_wrap=True, emoji=False, markup=False).print(table)


def show_facts(form: str, document: Any, facts: Mapping[str, object]) -> None:
    """Print `document` as JSON, or each fact that there is on a line of its own."""
    if form == "json":
        _print_json(document)
        return
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name}: {word(value)}")


def _print_json(document: Any) -> None:
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False))
