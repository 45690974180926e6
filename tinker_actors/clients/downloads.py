"""Checkpoints fetched to disk, on behalf of a `RestClient`."""

import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tinker_actors.actors.download import Download, Expired, Progress, Sources, fetcher_for
from tinker_actors.actors.runtime import Runtime
from tinker_actors.clients.background import work_for
from tinker_actors.clients.service import ServiceClient
from tinker_actors.config import RecoveryPolicy, Settings
from tinker_actors.errors import APIConnectionError
from tinker_actors.types import CheckpointPath

if TYPE_CHECKING:
    from tinker_actors.clients.rest import RestClient

__all__ = ["start", "start_trace"]

EXPORT_TTL_S = 3600


def start(
    rest: "RestClient",
    runtime: Runtime,
    path: CheckpointPath,
    output_dir: Path,
    *,
    force: bool,
    progress: Progress | None,
    parallel_files: int,
) -> "Future[Path]":
    """Fetch `path` on a thread of its own; the folder it is in at last. Cancelling the future ends it."""
    future: Future[Path] = Future()
    settings = runtime.published.settings
    lock, came = threading.Lock(), [0]

    def note(count: int) -> None:
        with lock:
            came[0] += count
            if progress is not None:
                progress(came[0])

    fetcher = fetcher_for(settings, note, future.cancelled)
    name = re.sub(r"[/:]", "_", str(path).removeprefix("tinker://"))
    download = Download(
        path=path,
        target=output_dir.absolute() / name,
        force=force,
        parallel=parallel_files,
        sources=Sources(
            files=lambda exported: rest.get_external_weights_urls(exported).result().urls,
            archive=lambda kept: rest.get_checkpoint_archive_url_from_tinker_path(kept).result().url,
            export=lambda kept: _exported(rest, settings, kept),
        ),
        fetcher=fetcher,
    )

    def work() -> Path:
        try:
            return download.run()
        finally:
            fetcher.close()

    work_for(future, runtime, "checkpoint-download", work)
    return future


def start_trace(rest: "RestClient", runtime: Runtime, session_id: str, target: Path) -> "Future[Path]":
    """Have a session's trace built and fetch it into `target`, on a thread of its own."""
    future: Future[Path] = Future()
    trace = rest.export_session_trace(session_id)
    future.add_done_callback(lambda _: trace.cancel())

    def work() -> Path:
        url = trace.result()
        fetcher = fetcher_for(runtime.published.settings, lambda _: None, future.cancelled)
        try:
            fetcher.fetch(url, target)
        except Expired as error:
            raise APIConnectionError(f"the trace of {session_id} was refused at its signed URL") from error
        finally:
            fetcher.close()
        return target

    work_for(future, runtime, "trace-download", work)
    return future


@contextmanager
def _exported(rest: "RestClient", settings: Settings, path: str) -> Iterator[str]:
    """Training state as an export of an hour's life, made in a session of its own and deleted at the end."""
    key = settings.credential.read().reveal()
    policy = RecoveryPolicy(checkpoint_every_steps=0)
    traced = settings.otel_propagate
    with ServiceClient(
        base_url=settings.base_url, api_key=key, recovery=policy, otel_propagate=traced
    ) as service:
        training = service.create_training_client_from_state(path).result()
        name = f"download-{uuid.uuid4().hex[:12]}"
        exported = training.save_weights_external(name, ttl_seconds=EXPORT_TTL_S).result().path
        try:
            yield exported
        finally:
            rest.delete_checkpoint_from_tinker_path(exported).result()
