"""A checkpoint's files on disk: which way to them the service has, and a folder that is there whole or not at all.

It runs on a thread of its own, and asks the service by functions it is given.
"""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import msgspec

from tinker_actors.config import Settings
from tinker_actors.errors import APIConnectionError, NotFoundError, ValidationError
from tinker_actors.types import CheckpointPath
from tinker_actors.wire.download import Bounds, Expired, Fetcher, safe_name, unpack

__all__ = ["Download", "Expired", "Progress", "Sources", "fetcher_for"]

Progress = Callable[[int], object]
Urls = Mapping[str, str]
SIGNINGS = 4
"""How often a file's URL may run out while it is fetched without anything coming."""
_ARCHIVE = "archive.tar"


class Sources(msgspec.Struct, frozen=True):
    """Ways to a checkpoint's files; each waits for the service."""

    files: Callable[[str], Urls]
    """Signed URL by name, of exported weights."""
    archive: Callable[[str], str]
    """Signed URL of an archive."""
    export: Callable[[str], AbstractContextManager[str]]
    """The path of an export of training state, gone again at the end."""


def fetcher_for(
    settings: Settings, note: Callable[[int], object], is_cancelled: Callable[[], bool]
) -> Fetcher:
    """What fetches files the way the service is reached; see `Fetcher`."""
    return Fetcher(
        proxy=None if settings.proxy is None else settings.proxy.reveal(),
        direct=settings.is_local,
        note=note,
        is_cancelled=is_cancelled,
    )


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be fetched, and where to."""

    path: CheckpointPath
    target: Path
    """The folder that is made."""
    force: bool
    """Whether it takes the place of one that is there, once it is complete."""
    parallel: int
    """Files under way at a time."""
    sources: Sources
    fetcher: Fetcher
    bounds: Bounds = Bounds()

    def run(self) -> Path:
        """Fetch it; what came is kept beside the target when it breaks off, and gone on with the next time.

        Raises:
            ValidationError: the target is there, a name or an archive is unsafe, or the service has no way to it.
            TinkerActorsError: whatever the service says.
            OSError: the disk is full or fails.
            InterruptedError: it was cancelled.
        """
        if self.target.exists() and not self.force:
            raise ValidationError(f"{self.target} is there already; pass force=True, or another output_dir")
        kept = self.target.with_name(f".{self.target.name}.partial")
        kept.mkdir(parents=True, exist_ok=True)
        files = kept / "files"
        if self.path.kind == "external_weights":
            self._fetch_files(str(self.path), files)
        else:
            self._fetch_archived(kept, files)
        self._put_in_place(files)
        shutil.rmtree(kept)
        return self.target

    def _fetch_archived(self, kept: Path, files: Path) -> None:
        try:
            self._fetch(lambda: self.sources.archive(str(self.path)), kept / _ARCHIVE)
        except NotFoundError as error:  # the checkpoint is gone, or the service makes no archives any more
            if self.path.kind != "weights":
                raise ValidationError(
                    f"the service has no archive of {self.path}; download training state, or an export of it"
                ) from error
            with self.sources.export(str(self.path)) as exported:
                self._fetch_files(exported, files)
            return
        shutil.rmtree(files, ignore_errors=True)  # of a try that ended while it was unpacked
        files.mkdir()
        try:
            unpack(kept / _ARCHIVE, files, self.bounds)
        except ValidationError:
            shutil.rmtree(kept)  # what is wrong with it stays wrong
            raise

    def _fetch_files(self, path: str, folder: Path) -> None:
        names = {name: folder / safe_name(name) for name in self.sources.files(path)}
        folder.mkdir(exist_ok=True)
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="download") as pool:
            jobs = [
                pool.submit(self._fetch, partial(self._sign, path, name), target)
                for name, target in names.items()
            ]
            for job in jobs:
                job.result()

    def _sign(self, path: str, name: str) -> str:
        return self.sources.files(path)[name]

    def _fetch(self, sign: Callable[[], str], target: Path) -> None:
        for _ in range(SIGNINGS):
            try:
                self.fetcher.fetch(sign(), target)
            except Expired:
                continue  # a long file outlives its URL
            return
        raise APIConnectionError(f"the service refused {SIGNINGS} signed URLs of {target.name} in a row")

    def _put_in_place(self, files: Path) -> None:
        """One rename; what was there before goes only once the new one is."""
        old = self.target.with_name(f".{self.target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.target.exists():
            self.target.rename(old)
        files.rename(self.target)
        shutil.rmtree(old, ignore_errors=True)
