"""A checkpoint's adapter put on the Hugging Face hub.

It runs on a thread of its own, and asks the service by functions it is given.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from tinker_actors.actors.adapters import foreign_paths, hub_name, make_ready
from tinker_actors.config.credentials import Secret
from tinker_actors.errors import ValidationError
from tinker_actors.types import CheckpointPath, PushedAdapter, WeightsInfoResponse
from tinker_actors.wire.hub import MAIN, Hub, chosen, token_at_hand

__all__ = ["MAIN", "Push", "PushSources"]

SEAL = "checkpoint_complete"
"""An empty file that services put into archives."""


class PushSources(msgspec.Struct, frozen=True):
    """What the service is asked; each waits for it."""

    info: Callable[[str], WeightsInfoResponse]
    download: Callable[[str, Path], Path]
    """The folder with a checkpoint's files, made in the one that is given."""
    is_cancelled: Callable[[], bool]


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be put where; see `RestClient.push_checkpoint_adapter`."""

    path: CheckpointPath
    repo_id: str | None
    revision: str | None
    public: bool
    message: str
    create_pr: bool
    allow: tuple[str, ...]
    ignore: tuple[str, ...]
    with_card: bool
    force: bool
    token: Secret | None
    endpoint: str | None

    def run(self, sources: PushSources) -> PushedAdapter:
        """Do it; nothing is sent to the hub before all is at hand.

        Raises:
            ValidationError: the checkpoint is no adapter, or the repository is not for it.
            ConfigError: there is no token.
            TinkerActorsError: whatever the service or the hub says.
            InterruptedError: it was cancelled.
        """
        hub = Hub(token_at_hand(None if self.token is None else self.token.reveal()), self.endpoint)
        hub.whoami()  # a token that is no good is told before anything is fetched
        info = sources.info(str(self.path))
        with tempfile.TemporaryDirectory(prefix="tinker-actors-push-") as scratch:
            folder = sources.download(str(self.path), Path(scratch))
            make_ready(folder, self.path, info, with_card=self.with_card)
            names = self._names(folder)
            repo_id, revision = self._place(info)
            _go_on(sources)
            repo_id = hub.repository(repo_id, public=self.public)
            if not self.force:
                readme = hub.readme(repo_id, revision, Path(scratch) / "remote") or ""
                self._refuse_another_run(repo_id, readme)
            if revision != MAIN:
                hub.branch(repo_id, revision)
            _go_on(sources)
            commit = hub.commit(folder, names, repo_id, revision, self.message, create_pr=self.create_pr)
        return PushedAdapter(
            repo_id=repo_id,
            revision=revision,
            public=self.public,
            commit_url=commit.url,
            pull_request_url=commit.pull_request_url,
        )

    def _names(self, folder: Path) -> list[str]:
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        names = chosen(files, self.allow, (*self.ignore, SEAL))
        if not names:
            raise ValidationError(f"the patterns leave no file of {self.path}, which has {', '.join(files)}")
        return names

    def _place(self, info: WeightsInfoResponse) -> tuple[str, str]:
        """Repository and branch."""
        if self.repo_id is not None:
            return self.repo_id, self.revision or MAIN
        model = info.base_model.rstrip("/").rpartition("/")[2]
        return (
            hub_name(f"tinker-{model}-{self.path.training_run_id}"),
            self.revision or hub_name(self.path.name),
        )

    def _refuse_another_run(self, repo_id: str, readme: str) -> None:
        foreign = foreign_paths(readme, self.path)
        if foreign:
            raise ValidationError(
                f"a repository for {self.path} was wanted, and {repo_id} holds the adapter of another run,"
                f" {', '.join(foreign)}; nothing was added; pass another repo_id or revision, or force=True"
            )


def _go_on(sources: PushSources) -> None:
    if sources.is_cancelled():
        raise InterruptedError("the push was cancelled; nothing was added")
