"""`tinker-actors session`: sessions that the service keeps, and their traces."""

from pathlib import Path

import click

from tinker_actors.cli.service import answer, asks_service, rest_client, show, show_facts

__all__ = ["session"]


@click.group()
def session() -> None:
    """List sessions, and fetch their traces."""


@session.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="How many to pass over.")
@asks_service
def list_(limit: int, offset: int, base_url: str | None, form: str) -> None:
    """Ids of sessions, the newest first."""
    with rest_client(base_url) as rest:
        found = answer(rest.list_sessions(limit, offset)).sessions
    show(form, {"sessions": found}, "sessions", ["id"], [[one] for one in found])


@session.command("export-trace")
@click.argument("session_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="By default SESSION_ID.perfetto-trace.")
@click.option("--url-only", is_flag=True, help="Print where it is, and fetch nothing.")
@asks_service
def export_trace(
    session_id: str, output: Path | None, url_only: bool, base_url: str | None, form: str
) -> None:
    """Have a trace for Perfetto built, and fetch it."""
    with rest_client(base_url) as rest:
        if url_only:
            url = answer(rest.export_session_trace(session_id))
            show_facts(form, {"url": url}, {"url": url})
            return
        target = output or Path(f"{session_id.replace('/', '_')}.perfetto-trace")
        fetched = rest.download_session_trace(session_id, target).result()
    show_facts(form, {"destination": str(fetched)}, {"fetched to": fetched})
