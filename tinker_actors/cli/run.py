"""`tinker-actors run`: the training runs that the service keeps."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from tinker_actors.cli.formats import expiry, moment
from tinker_actors.cli.service import answer, asks_service, rest_client, show, show_facts

if TYPE_CHECKING:
    from tinker_actors.types import AccessScope, Checkpoint, TrainingRun

__all__ = ["run"]

_COLUMNS = ("id", "model", "owner", "lora", "updated", "status", "checkpoint", "checkpoint_time")
_SCOPE = click.option(
    "--access-scope",
    type=click.Choice(["owned", "accessible"]),
    default="owned",
    help="Your own, or all that you may see.",
)


@click.group()
def run() -> None:
    """List training runs."""


@run.command("list")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Most; 0 for all.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="How many to pass over.")
@click.option("--columns", default=",".join(_COLUMNS), help="Which, and in which order.", show_default=True)
@_SCOPE
@asks_service
def list_(
    limit: int, offset: int, columns: str, access_scope: "AccessScope", base_url: str | None, form: str
) -> None:
    """Training runs, the newest first."""
    wanted = [name.strip() for name in columns.split(",")]
    if unknown := [name for name in wanted if name not in _COLUMNS]:
        raise click.UsageError(f"columns are {', '.join(_COLUMNS)}, got {', '.join(unknown)}")
    with rest_client(base_url) as rest:
        if limit:
            page = answer(rest.list_training_runs(limit, offset, access_scope))
            found, total = page.training_runs, page.cursor.total_count
        else:
            everything = list(rest.iter_training_runs(100, access_scope))
            found, total = everything[offset:], len(everything)
    now = datetime.now(UTC)
    rows = [[_cells(one, now)[name] for name in wanted] for one in found]
    document = {"training_runs": found, "total": total, "shown": len(found)}
    show(form, document, f"training runs {len(found)}/{total}", wanted, rows)


def _cells(one: "TrainingRun", now: datetime) -> dict[str, object]:
    last = one.last_checkpoint
    values = (
        one.training_run_id,
        one.base_model,
        one.model_owner,
        one.lora_rank if one.is_lora else None,
        moment(one.last_request_time, now),
        _status(one),
        None if last is None else last.name,
        None if last is None else moment(last.time, now),
    )
    return dict(zip(_COLUMNS, values, strict=True))


@run.command()
@click.argument("run_id")
@_SCOPE
@asks_service
def info(run_id: str, access_scope: "AccessScope", base_url: str | None, form: str) -> None:
    """All that the service says of one."""
    with rest_client(base_url) as rest:
        one = answer(rest.get_training_run(run_id, access_scope))
    now = datetime.now(UTC)
    facts = {
        "id": one.training_run_id,
        "model": one.base_model,
        "owner": one.model_owner,
        "LoRA rank": one.lora_rank,
        "status": _status(one),
        "updated": moment(one.last_request_time, now),
        "last checkpoint": _told(one.last_checkpoint, now),
        "last sampler checkpoint": _told(one.last_sampler_checkpoint, now),
        "user metadata": one.user_metadata,
    }
    show_facts(form, one, facts)


def _status(one: "TrainingRun") -> str:
    return "Failed" if one.corrupted else "Active"


def _told(saved: "Checkpoint | None", now: datetime) -> str | None:
    if saved is None:
        return None
    return f"{saved.tinker_path}, saved {moment(saved.time, now)}, expires: {expiry(saved.expires_at, now)}"
