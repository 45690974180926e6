"""Adapters put on the Hugging Face hub, on behalf of a `RestClient`."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinker_actors.actors.push import MAIN, Push, PushSources
from tinker_actors.actors.runtime import Runtime
from tinker_actors.clients.background import work_for
from tinker_actors.config.credentials import Secret
from tinker_actors.errors import ValidationError
from tinker_actors.types import CheckpointPath, PushedAdapter
from tinker_actors.types.checks import flag, secret, shown, text

if TYPE_CHECKING:
    from tinker_actors.clients.rest import RestClient

__all__ = ["asked", "start"]


def asked(tinker_path: str, **given: Any) -> Push:
    """What the arguments of `RestClient.push_checkpoint_adapter` mean.

    Raises:
        ValidationError: one of them is wrong.
    """
    path = CheckpointPath.parse(tinker_path)
    repo_id, revision, message, endpoint = (
        None if given[name] is None else text(name, given[name])
        for name in ("repo_id", "revision", "commit_message", "endpoint")
    )
    create_pr = flag("create_pr", given["create_pr"])
    if create_pr and revision not in (None, MAIN):
        raise ValidationError(
            f"a pull request is for the branch {MAIN}, got revision={shown(revision)}; leave one of them out"
        )
    token = given["hf_token"]
    return Push(
        path=path,
        repo_id=repo_id,
        revision=MAIN if create_pr else revision,
        public=flag("public", given["public"]),
        message=message or f"Add the adapter of {path}",
        create_pr=create_pr,
        allow=_patterns("allow_patterns", given["allow_patterns"]),
        ignore=_patterns("ignore_patterns", given["ignore_patterns"]),
        with_card=flag("add_model_card", given["add_model_card"]),
        force=flag("force", given["force"]),
        token=None if token is None else Secret(secret("hf_token", token)),
        endpoint=endpoint,
    )


def _patterns(name: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValidationError(f"{name} must be a list of patterns, got {shown(given)}")
    return tuple(text(name, one) for one in given)


def start(rest: "RestClient", runtime: Runtime, push: Push) -> "Future[PushedAdapter]":
    """Do it on a thread of its own. Cancelling the future ends it, unless the commit is under way."""
    future: Future[PushedAdapter] = Future()

    def download(path: str, scratch: Path) -> Path:
        downloaded = rest.download_checkpoint(path, scratch)
        future.add_done_callback(lambda _: downloaded.cancel())
        return downloaded.result()

    sources = PushSources(
        info=lambda path: rest.get_weights_info_by_tinker_path(path).result(),
        download=download,
        is_cancelled=future.cancelled,
    )
    work_for(future, runtime, "adapter-push", lambda: push.run(sources))
    return future
