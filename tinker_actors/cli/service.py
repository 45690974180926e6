"""What commands that ask a service have in common: where it is, how long it may take, how answers are shown."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinker_actors.cli.formats import word

if TYPE_CHECKING:
    from tinker_actors.clients.future import APIFuture
    from tinker_actors.clients.rest import RestClient

__all__ = ["answer", "asks_service", "rest_client", "show", "show_facts"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Row = Sequence[object]
_WIDEST = 10_000
TIMEOUT_S = 60.0
_TIMEOUT = "tinker_actors.timeout"


def asks_service(command: F) -> F:
    """The options `--base-url`, `--timeout` and `--format`. The key comes from where all clients take it."""
    form = click.option(
        "-f",
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        help="What is printed.",
    )
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT_S,
        show_default=True,
        help="Seconds that an answer may take, with all repetitions.",
        expose_value=False,
        callback=_note_timeout,
    )
    url = click.option("--base-url", help="Of the service; by default TINKER_BASE_URL.")
    return form(timeout(url(command)))


def _note_timeout(context: click.Context, _: click.Parameter, value: float) -> None:
    context.meta[_TIMEOUT] = value


def answer(future: "APIFuture[T]") -> T:
    """The result of `future`, within the time that the command may take.

    Raises:
        APITimeoutError: there was none.
    """
    return future.result(click.get_current_context().meta[_TIMEOUT])


def rest_client(base_url: str | None) -> "RestClient":
    """A client of the service's records, for a `with` block."""
    from tinker_actors.clients.rest import RestClient
    from tinker_actors.config import LOCAL
    from tinker_actors.errors import ConfigError

    if (base_url or os.environ.get("TINKER_BASE_URL")) == LOCAL:
        raise ConfigError(
            'the URL of a service is wanted, got "local", which every program has for itself; start one with'
            " `tinker-actors serve`"
        )
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
