"""`tinker-actors journal`: what a run directory remembers, whether it is sound, and why a run restarted."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tinker_actors.errors import JournalError
from tinker_actors.journal.database import check_header, damage
from tinker_actors.journal.directory import holder_of, kept_from_writers
from tinker_actors.journal.reader import Reader
from tinker_actors.journal.story import RunHistory, explain, tell

__all__ = ["journal"]

_RUN_DIR = click.argument("run_dir", type=click.Path(path_type=Path))


@click.group()
def journal() -> None:
    """Look into a run directory. Nothing in it is changed."""


@journal.command()
@_RUN_DIR
def show(run_dir: Path) -> None:
    """Runs, models, checkpoints and sessions, also of a run that goes on meanwhile."""
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    with _reading(console, run_dir) as reader:
        for history in tell(reader):
            _show(console, history)
        table = Table(title="sessions", title_justify="left", box=None)
        for column in ("session", "server", "state"):
            table.add_column(column, overflow="fold")
        for session in reader.all_sessions():
            table.add_row(session.session_id, session.server, session.state)
        console.print(table)


def _show(console: Console, history: RunHistory) -> None:
    console.print(f"run {history.run}: {history.base_model}, step {history.steps}")
    models = Table(title="models", title_justify="left", box=None)
    for column in ("model", "id", "session", "from step", "because"):
        models.add_column(column, overflow="fold")
    for one in history.models:
        cells = (str(one.generation), one.model_id or "", one.session_id, str(one.step), one.reason or "")
        models.add_row(*cells)
    checkpoints = Table(title="checkpoints", title_justify="left", box=None)
    for column in ("step", "path", "state", "made by"):
        checkpoints.add_column(column, overflow="fold")
    for saved in history.checkpoints:
        checkpoints.add_row(
            str(saved.step), saved.path, saved.state, "runtime" if saved.is_automatic else "program"
        )
    for table in (models, checkpoints):
        if table.row_count:
            console.print(table)


@journal.command("explain")
@_RUN_DIR
def explain_(run_dir: Path) -> None:
    """Why a run has the model that it has: what was lost, when, and where it went on."""
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    with _reading(console, run_dir) as reader:
        for history in tell(reader):
            for sentence in explain(history):
                console.print(sentence)


@journal.command()
@_RUN_DIR
def verify(run_dir: Path) -> None:
    """Compare every row and body with its checksum; exits with 1 and a list of what is wrong. Not while a run goes on."""
    path = _path(run_dir)
    with kept_from_writers(run_dir) as holder:
        if holder is not None:
            raise JournalError(f"run directory {run_dir} is held by process {holder}; wait for it or stop it")
        check_header(path)
        problems = list(damage(path))
    for problem in problems:
        click.echo(f"DAMAGED: {problem}")
    if problems:
        sys.exit(1)
    click.echo("The journal is sound.")


@contextmanager
def _reading(console: Console, run_dir: Path) -> Iterator[Reader]:
    path = _path(run_dir)
    holder = holder_of(run_dir)
    if holder is not None:
        console.print(f"process {holder} holds it: this is how it stands at the moment")
    reader = Reader.of_file(path)
    try:
        yield reader
    finally:
        reader.close()


def _path(run_dir: Path) -> Path:
    path = run_dir / "journal.db"
    if not path.is_file():
        raise JournalError(f"a run directory is wanted, got {run_dir}, which has no journal")
    return path
