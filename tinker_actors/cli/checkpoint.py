"""`tinker-actors checkpoint`: what was saved, listed and changed, fetched to disk, put on the Hugging Face hub."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinker_actors.cli.formats import as_date, expiry, moment, size
from tinker_actors.cli.service import answer, asks_service, rest_client, show, show_facts
from tinker_actors.errors import APIStatusError, NotFoundError, TinkerActorsError

if TYPE_CHECKING:
    from tinker_actors.clients.rest import RestClient
    from tinker_actors.types import Checkpoint

__all__ = ["checkpoint"]

_PATH = click.argument("path")
_COLUMNS = ("id", "type", "size", "public", "created", "expires", "path")


@click.group()
def checkpoint() -> None:
    """List, change, fetch and publish what was saved. Paths read tinker://RUN/KIND/NAME."""


@checkpoint.command("list")
@click.option("--run-id", help="Only those of this training run.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Most; 0 for all.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="How many to pass over.")
@asks_service
def list_(run_id: str | None, limit: int, offset: int, base_url: str | None, form: str) -> None:
    """Checkpoints, the newest first."""
    with rest_client(base_url) as rest:
        found, total = _listed(rest, run_id, limit, offset)
    now = datetime.now(UTC)
    rows = [
        (
            one.checkpoint_id,
            one.checkpoint_type,
            size(one.size_bytes),
            one.public,
            moment(one.time, now),
            expiry(one.expires_at, now),
            one.tinker_path,
        )
        for one in found
    ]
    document = {"checkpoints": found, "total": total, "shown": len(found), "run_id": run_id}
    show(form, document, f"checkpoints {len(found)}/{total}", _COLUMNS, rows)


def _listed(
    rest: "RestClient", run_id: str | None, limit: int, offset: int
) -> tuple[list["Checkpoint"], int]:
    """Those wanted, and how many there are."""
    if run_id is None and limit:
        page = answer(rest.list_user_checkpoints(limit, offset))
        total = len(page.checkpoints) if page.cursor is None else page.cursor.total_count
        return page.checkpoints, total
    found = list(
        rest.iter_user_checkpoints() if run_id is None else answer(rest.list_checkpoints(run_id)).checkpoints
    )
    return found[offset : offset + limit if limit else None], len(found)


@checkpoint.command()
@_PATH
@asks_service
def info(path: str, base_url: str | None, form: str) -> None:
    """All that the service says of one."""
    from tinker_actors.types import CheckpointPath

    parsed = CheckpointPath.parse(path)
    with rest_client(base_url) as rest:
        listed = answer(rest.list_checkpoints(parsed.training_run_id)).checkpoints
        found = next((one for one in listed if one.tinker_path == path), None)
        if found is None:
            raise NotFoundError(f"the service has no checkpoint {path}", status=404)
        try:
            weights = answer(rest.get_weights_info_by_tinker_path(path))
        except APIStatusError:
            if parsed.kind != "external_weights":  # of exports some services tell no more
                raise
            weights = None
    now = datetime.now(UTC)
    facts: dict[str, object] = {
        "path": path,
        "type": found.checkpoint_type,
        "size": size(found.size_bytes),
        "public": found.public,
        "created": moment(found.time, now),
        "expires": expiry(found.expires_at, now),
        "user metadata": found.user_metadata,
    }
    if weights is not None:
        facts |= {
            "base model": weights.base_model,
            "LoRA rank": weights.lora_rank,
            "trains attention": weights.train_attn,
            "trains MLP": weights.train_mlp,
            "trains unembedding": weights.train_unembed,
        }
    show_facts(form, {"checkpoint": found, "weights": weights}, facts)


@checkpoint.command()
@_PATH
@asks_service
def publish(path: str, base_url: str | None, form: str) -> None:
    """Let everybody read one."""
    with rest_client(base_url) as rest:
        answer(rest.publish_checkpoint_from_tinker_path(path))
    show_facts(form, {"path": path, "public": True}, {"published": path})


@checkpoint.command()
@_PATH
@asks_service
def unpublish(path: str, base_url: str | None, form: str) -> None:
    """Let only its owner read one."""
    with rest_client(base_url) as rest:
        answer(rest.unpublish_checkpoint_from_tinker_path(path))
    show_facts(form, {"path": path, "public": False}, {"unpublished": path})


@checkpoint.command("set-ttl")
@_PATH
@click.option("--ttl", type=int, help="Seconds from now, an hour to ten years.")
@click.option("--remove", is_flag=True, help="Keep it for ever.")
@asks_service
def set_ttl(path: str, ttl: int | None, remove: bool, base_url: str | None, form: str) -> None:
    """Let one live for a time, or for ever."""
    if (ttl is None) is not remove:
        raise click.UsageError("one of --ttl and --remove is wanted")
    with rest_client(base_url) as rest:
        answer(rest.set_checkpoint_ttl_from_tinker_path(path, ttl))
    told = "for ever" if ttl is None else f"for {ttl} s"
    show_facts(form, {"path": path, "ttl_seconds": ttl}, {path: told})


@checkpoint.command()
@click.argument("paths", nargs=-1)
@click.option("--run-id", help="All of this training run.")
@click.option(
    "--type", "kind", type=click.Choice(["training", "sampler", "external"]), help="All of this type."
)
@click.option("--before", metavar="DATE", help="All saved before that.")
@click.option("--after", metavar="DATE", help="All saved since then.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@asks_service
def delete(paths: tuple[str, ...], yes: bool, base_url: str | None, form: str, **wanted: str | None) -> None:
    """Delete those named, or all that fit, after one question."""
    from tinker_actors.types import CheckpointPath

    if bool(paths) is any(wanted.values()):
        raise click.UsageError("either paths are wanted, or --run-id, --type, --before or --after")
    for path in paths:
        CheckpointPath.parse(path)  # all are checked before anything is deleted
    with rest_client(base_url) as rest:
        doomed = list(paths) or _fitting(rest, **wanted)
        if not doomed:
            show_facts(form, {"deleted": [], "failed": 0, "failures": []}, {"deleted": 0})
            return
        if not yes:
            click.echo("\n".join(doomed), err=True)
            if not click.confirm(f"Delete {len(doomed)} checkpoints?", err=True):
                click.echo("cancelled", err=True)
                return
        failures = _delete(rest, doomed)
    deleted = [path for path in doomed if path not in failures]
    told = [{"path": path, "error": error} for path, error in failures.items()]
    show_facts(form, {"deleted": deleted, "failed": len(told), "failures": told}, {"deleted": len(deleted)})
    if failures:
        sys.exit(1)


def _fitting(
    rest: "RestClient", run_id: str | None, kind: str | None, before: str | None, after: str | None
) -> list[str]:
    try:
        first = None if after is None else as_date(after)
        last = None if before is None else as_date(before)
    except ValueError as error:
        raise click.UsageError(f"a date reads 2026-08-01 or 2026-08-01T12:00: {error}") from error
    found = []
    for one in _listed(rest, run_id, 0, 0)[0]:
        is_dated = isinstance(one.time, datetime)
        is_in_time = first is None or (is_dated and one.time >= first)  # type: ignore[operator]  # it is dated
        is_in_time &= last is None or (is_dated and one.time < last)  # type: ignore[operator]  # as above
        if is_in_time and kind in (None, one.checkpoint_type):
            found.append(one.tinker_path)
    return found


def _delete(rest: "RestClient", paths: Sequence[str]) -> dict[str, str]:
    """What went wrong, by path. All are under way at once."""
    under_way = {path: rest.delete_checkpoint_from_tinker_path(path) for path in paths}
    failures = {}
    for path, future in under_way.items():
        try:
            answer(future)
        except TinkerActorsError as error:
            failures[path] = str(error)
            click.echo(f"failed {path}: {error}", err=True)
        else:
            click.echo(f"deleted {path}", err=True)
    return failures


@checkpoint.command()
@_PATH
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Where the folder is made."
)
@click.option("--force", is_flag=True, help="Take the place of a folder that is there.")
@asks_service
def download(path: str, output: Path, force: bool, base_url: str | None, form: str) -> None:
    """Fetch one into a folder that is named after its path. What breaks off is gone on with the next time."""

    def progress(count: int) -> None:
        click.echo(f"\r{size(count)}", nl=False, err=True)

    with rest_client(base_url) as rest:
        is_watched = sys.stderr.isatty()
        folder = rest.download_checkpoint(
            path, output, force=force, progress=progress if is_watched else None
        ).result()
    if is_watched:
        click.echo(err=True)
    show_facts(form, {"destination": str(folder), "checkpoint_path": path}, {"fetched to": folder})


@checkpoint.command("push-hf")
@_PATH
@click.option("--repo", "repo_id", help="OWNER/NAME; by default named after the model and the run.")
@click.option("--public", is_flag=True, help="Let everybody read it.")
@click.option("--revision", help="The branch.")
@click.option("--commit-message")
@click.option("--create-pr", is_flag=True, help="Offer it in a pull request.")
@click.option("--allow-pattern", "allow_patterns", multiple=True, help="Of the files; may be given again.")
@click.option("--ignore-pattern", "ignore_patterns", multiple=True, help="As above.")
@click.option("--no-model-card", is_flag=True, help="Write no README.md.")
@click.option("--force", is_flag=True, help="Take the place of another run's adapter.")
@asks_service
def push_hf(path: str, no_model_card: bool, base_url: str | None, form: str, **options: Any) -> None:
    """Put its LoRA adapter on the Hugging Face hub, with the token in HF_TOKEN or of `hf auth login`."""
    with rest_client(base_url) as rest:
        pushed = rest.push_checkpoint_adapter(path, add_model_card=not no_model_card, **options).result()
    facts = {
        "repository": pushed.repo_id,
        "revision": pushed.revision,
        "public": pushed.public,
        "commit": pushed.commit_url,
        "pull request": pushed.pull_request_url,
    }
    show_facts(form, pushed, facts)


@checkpoint.command()
@click.option("--base-model", help="Of which an adapter is made, and saved as it begins.")
@click.option("--model-path", help="The training state that is saved again.")
@click.option("--name", default="checkpoint", show_default=True, help="Of what is saved.")
@click.option("--rank", type=int, default=32, show_default=True)
@click.option("--seed", type=int)
@click.option("--train-mlp/--no-train-mlp", default=True)
@click.option("--train-attn/--no-train-attn", default=True)
@click.option("--train-unembed/--no-train-unembed", default=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="A JSON file that says where."
)
@click.option("--base-url", help="Of the service; by default TINKER_BASE_URL.")
def save(
    base_model: str | None, model_path: str | None, name: str, output: Path, base_url: str | None, **lora: Any
) -> None:
    """Save weights for sampling, of a new adapter or of training state."""
    from tinker_actors.clients.service import ServiceClient
    from tinker_actors.config import RecoveryPolicy

    if (base_model is None) is (model_path is None):
        raise click.UsageError("one of --base-model and --model-path is wanted")
    policy = RecoveryPolicy(
        checkpoint_every_steps=0
    )  # nothing is trained: no checkpoints of the runtime's own
    with ServiceClient(base_url=base_url, recovery=policy) as service:
        if base_model is not None:
            training = service.create_lora_training_client(base_model, **lora).result()
        else:
            training = service.create_training_client_from_state(str(model_path)).result()
        saved = training.save_weights_for_sampler(name).result()
        document = {
            "base_model": training.get_info().model_data.model_name,
            "model_id": training.model_id,
            "weights_path": saved.path,
            "saved_at": datetime.now(UTC).isoformat(),
        }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    click.echo(saved.path)
