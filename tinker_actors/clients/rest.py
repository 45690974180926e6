"""What the service keeps, looked at and changed: names and signatures of the official SDK."""

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.runtime import SOON_TIMEOUT_S, Runtime
from tinker_actors.api import checkpoints, rest
from tinker_actors.api.futures import RoundTrips
from tinker_actors.clients.future import APIFuture
from tinker_actors.clients.listing import Listing, Page, page, page_without_cursor
from tinker_actors.clients.tracing import tracing_for
from tinker_actors.clients.twins import awaited
from tinker_actors.clients.walk import Walk
from tinker_actors.config import Credential, RecoveryPolicy, Settings
from tinker_actors.config.credentials import claims_of
from tinker_actors.errors import ConfigError, TinkerActorsError, ValidationError
from tinker_actors.types import CheckpointPath, PushedAdapter, ServerCapabilities
from tinker_actors.types.checks import flag, path_text, shown, whole
from tinker_actors.types.rest import (
    AccessScope,
    Checkpoint,
    CheckpointArchiveUrlResponse,
    CheckpointsListResponse,
    ExternalWeightsUrlsResponse,
    GetSamplerResponse,
    GetSessionResponse,
    ListSessionsResponse,
    SessionSearchRequest,
    SessionSearchResponse,
    SessionSummary,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
    WhoamiResponse,
)

__all__ = ["RestClient"]


T = TypeVar("T")


class RestClient:
    """Sessions, training runs, checkpoints and samplers that the service keeps.

    It opens no session. A wrong argument raises `ValidationError`, a wrong path `TinkerPathError`, before anything is
    sent. Requests that fail in passing are sent again for five minutes, a 409 never. Besides what a method names, its
    future ends with `NotFoundError` for what the service does not know, and with `PermissionDeniedError` for what the
    key may not do.

    A client of its own has connections of its own; they are closed by `close`, at the end of a `with` block, or once
    neither the client nor a result it owes is needed any more.

    Args:
        base_url: of the service; default `TINKER_BASE_URL`.
        api_key: default `TINKER_API_KEY`.

    Raises:
        ConfigError: an argument or a variable of the environment is wrong.
    """

    def __init__(
        self, _runtime: Runtime | None = None, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        self._finalizer: Any = None
        if _runtime is not None:
            _check_runtime(_runtime)
            if base_url is not None or api_key is not None:
                raise ConfigError(
                    "RestClient takes the runtime of a service client or base_url and api_key, got both"
                )
            self._runtime = _runtime
            return
        settings = Settings.resolve(base_url=base_url, api_key=api_key)
        if settings.is_local:
            raise ConfigError(
                "RestClient wants the URL of a service, got the embedded server of a service client; use"
                " ServiceClient.create_rest_client()"
            )
        self._runtime = Runtime(settings, RecoveryPolicy(), None, {}, None, tracing=tracing_for(settings))
        self._finalizer = weakref.finalize(self, self._runtime.close_soon)
        self._finalizer.atexit = False

    # Sessions ------------------------------------------------------------------------------------

    def get_server_capabilities(self) -> APIFuture[ServerCapabilities]:
        """The base models on offer."""
        return self._ask(rest.get_server_capabilities())

    get_server_capabilities_async = awaited(get_server_capabilities)

    def get_session(
        self, session_id: str, access_scope: AccessScope | None = "owned"
    ) -> APIFuture[GetSessionResponse]:
        """What lives in a session.

        Args:
            session_id: of the session.
            access_scope: "owned", or "accessible" for those of others that the caller may see.
        """
        return self._ask(rest.get_session(session_id, access_scope))

    get_session_async = awaited(get_session)

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope | None = "owned"
    ) -> APIFuture[ListSessionsResponse]:
        """A page of session ids.

        Args:
            limit: most entries of the page.
            offset: entries before it.
            access_scope: "owned", or "accessible" for those of others that the caller may see.
        """
        return self._ask(rest.list_sessions(limit, offset, access_scope))

    list_sessions_async = awaited(list_sessions)

    def iter_sessions(
        self, page_size: int = 20, access_scope: AccessScope | None = "owned"
    ) -> "Listing[str]":
        """All session ids, page by page; see `list_sessions`."""
        rest.list_sessions(page_size, 0, access_scope)

        def ask(offset: int) -> APIFuture[Page[str]]:
            future = self.list_sessions(page_size, offset, access_scope)
            return future.then(lambda answer: page_without_cursor(answer.sessions, offset, page_size))

        return Listing(ask)

    def search_sessions(self, request: SessionSearchRequest) -> APIFuture[SessionSearchResponse]:
        """A page of the organization's sessions that fit, the newest first. Experimental, and warns so."""
        return self._ask(rest.search_sessions(request))

    search_sessions_async = awaited(search_sessions)

    def iter_search_sessions(self, request: SessionSearchRequest) -> "Listing[SessionSummary]":
        """All sessions that fit, page by page from where `request` begins; see `search_sessions`."""

        def ask(place: SessionSearchRequest) -> APIFuture[Page[SessionSummary]]:
            future = self.search_sessions(place)
            return future.then(lambda answer: Page(answer.sessions, _following(place, answer)))

        return Listing(ask, rest.search_request(request))

    def assign_session_project(self, session_id: str, project_id: str) -> APIFuture[None]:
        """Move a session, and what lives in it, into a project."""
        return self._ask(rest.assign_session_project(session_id, project_id))

    assign_session_project_async = awaited(assign_session_project)

    def export_session_trace(self, session_id: str) -> APIFuture[str]:
        """Have the service build a session's trace for Perfetto; the signed URL of it.

        It is fetched by a plain GET, without the key, for about an hour. Cancelling the future ends the waiting.

        Raises:
            RequestFailedError: in the future; the trace could not be built.
        """
        return self._follow(rest.export_session_trace(session_id))

    export_session_trace_async = awaited(export_session_trace)

    def download_session_trace(self, session_id: str, output: str | os.PathLike[str]) -> APIFuture[Path]:
        """Have the service build a session's trace for Perfetto, and fetch it; the file.

        Args:
            session_id: of the session.
            output: the file that is made.

        Raises:
            ValidationError: an argument is wrong, or the file is there.
            RequestFailedError: in the future; the trace could not be built.
        """
        from tinker_actors.clients.downloads import start_trace

        target = Path(path_text("output", output))
        if target.exists():
            raise ValidationError(f"{target} is there already; choose another output")
        return APIFuture(
            self._kept_for(start_trace(self, self._runtime, session_id, target)), is_cancellable=True
        )

    download_session_trace_async = awaited(download_session_trace)

    # Training runs and samplers ------------------------------------------------------------------

    def get_training_run(
        self, training_run_id: str, access_scope: AccessScope | None = "owned"
    ) -> APIFuture[TrainingRun]:
        """One training run."""
        return self._ask(rest.get_training_run(training_run_id, access_scope))

    get_training_run_async = awaited(get_training_run)

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope | None = "owned"
    ) -> APIFuture[TrainingRun]:
        """The training run that a checkpoint was saved from."""
        return self._ask(rest.get_training_run_by_tinker_path(tinker_path, access_scope))

    get_training_run_by_tinker_path_async = awaited(get_training_run_by_tinker_path)

    def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: AccessScope | None = "owned",
        project_id: str | None = None,
    ) -> APIFuture[TrainingRunsResponse]:
        """A page of training runs.

        Args:
            limit: most entries of the page.
            offset: entries before it.
            access_scope: "owned", or "accessible" for those of others that the caller may see.
            project_id: only those of this project.
        """
        return self._ask(rest.list_training_runs(limit, offset, access_scope, project_id))

    list_training_runs_async = awaited(list_training_runs)

    def iter_training_runs(
        self,
        page_size: int = 20,
        access_scope: AccessScope | None = "owned",
        project_id: str | None = None,
    ) -> "Listing[TrainingRun]":
        """All training runs, page by page; see `list_training_runs`."""
        rest.list_training_runs(page_size, 0, access_scope, project_id)

        def ask(offset: int) -> APIFuture[Page[TrainingRun]]:
            future = self.list_training_runs(page_size, offset, access_scope, project_id)
            return future.then(lambda answer: page(answer.training_runs, answer.cursor, offset))

        return Listing(ask)

    def get_sampler(self, sampler_id: str) -> APIFuture[GetSamplerResponse]:
        """What a sampling session samples from."""
        return self._ask(rest.get_sampler(sampler_id))

    get_sampler_async = awaited(get_sampler)

    # Checkpoints ---------------------------------------------------------------------------------

    def list_checkpoints(self, training_run_id: str) -> APIFuture[CheckpointsListResponse]:
        """All checkpoints of a training run, of each type."""
        return self._ask(checkpoints.list_checkpoints(training_run_id))

    list_checkpoints_async = awaited(list_checkpoints)

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> APIFuture[CheckpointsListResponse]:
        """A page of the checkpoints of all of the caller's runs, the newest first."""
        return self._ask(checkpoints.list_user_checkpoints(limit, offset))

    list_user_checkpoints_async = awaited(list_user_checkpoints)

    def iter_user_checkpoints(self, page_size: int = 100) -> "Listing[Checkpoint]":
        """The checkpoints of all of the caller's runs, page by page; see `list_user_checkpoints`."""
        checkpoints.list_user_checkpoints(page_size, 0)

        def ask(offset: int) -> APIFuture[Page[Checkpoint]]:
            future = self.list_user_checkpoints(page_size, offset)
            return future.then(lambda answer: page(answer.checkpoints, answer.cursor, offset))

        return Listing(ask)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[WeightsInfoResponse]:
        """What must be known of a checkpoint to load it."""
        return self._ask(checkpoints.get_weights_info(tinker_path))

    get_weights_info_by_tinker_path_async = awaited(get_weights_info_by_tinker_path)

    def get_external_weights_urls(self, tinker_path: str) -> APIFuture[ExternalWeightsUrlsResponse]:
        """Signed URLs of the files of exported weights; to be fetched by plain GETs, without the key."""
        return self._ask(checkpoints.get_external_weights_urls(tinker_path))

    get_external_weights_urls_async = awaited(get_external_weights_urls)

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> APIFuture[CheckpointArchiveUrlResponse]:
        """Signed URL of a checkpoint's archive, on services that make archives.

        It is to be fetched by a plain GET, without the key. While the archive is being built, the service is asked
        six times, half a minute apart; cancelling the future ends that.

        Args:
            training_run_id: of the run.
            checkpoint_id: `weights/<name>` or `sampler_weights/<name>`.
        """
        path = checkpoints.checkpoint_path(training_run_id, checkpoint_id)
        return self.get_checkpoint_archive_url_from_tinker_path(path)

    get_checkpoint_archive_url_async = awaited(get_checkpoint_archive_url)

    def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str
    ) -> APIFuture[CheckpointArchiveUrlResponse]:
        """`get_checkpoint_archive_url` by the checkpoint's path."""
        return self._follow(checkpoints.get_checkpoint_archive_url(tinker_path, partial(datetime.now, UTC)))

    get_checkpoint_archive_url_from_tinker_path_async = awaited(get_checkpoint_archive_url_from_tinker_path)

    def download_checkpoint(
        self,
        tinker_path: str,
        output_dir: str | os.PathLike[str] = ".",
        *,
        force: bool = False,
        progress: Callable[[int], object] | None = None,
        parallel_files: int = 4,
    ) -> APIFuture[Path]:
        """Fetch a checkpoint into a folder below `output_dir`, named after its path; the folder.

        Exports are fetched file by file, other checkpoints as an archive, and where the service makes no archives,
        training state is exported first. The folder is there whole or not at all. What came before something broke
        off, or the future was cancelled, is kept beside it, and the next call goes on from there.

        Args:
            tinker_path: of training state, sampler weights or an export.
            output_dir: where the folder is made.
            force: take the place of a folder that is there, once the new one is complete.
            progress: called with the number of bytes that came so far, from threads of ours.
            parallel_files: of an export, how many are fetched at a time.

        Raises:
            ValidationError: an argument is wrong, the folder is there, or what the service sent is unsafe.
        """
        from tinker_actors.clients.downloads import start

        if progress is not None and not callable(progress):
            raise ValidationError(f"progress must be callable, got {shown(progress)}")
        path = CheckpointPath.parse(tinker_path)
        future = start(
            self,
            self._runtime,
            path,
            Path(path_text("output_dir", output_dir)),
            force=flag("force", force),
            progress=progress,
            parallel_files=whole("parallel_files", parallel_files, least=1, most=64),
        )
        return APIFuture(self._kept_for(future), is_cancellable=True)

    download_checkpoint_async = awaited(download_checkpoint)

    def push_checkpoint_adapter(
        self,
        tinker_path: str,
        repo_id: str | None = None,
        *,
        revision: str | None = None,
        public: bool = False,
        commit_message: str | None = None,
        create_pr: bool = False,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
        add_model_card: bool = True,
        force: bool = False,
        hf_token: str | None = None,
        endpoint: str | None = None,
    ) -> APIFuture[PushedAdapter]:
        """Put a checkpoint's LoRA adapter on the Hugging Face hub, in one commit of a model repository.

        It is downloaded to a scratch folder, gets the name of its base model and a model card where they are missing,
        and the repository is created if it is not there. Cancelling the future ends it before the commit.

        Args:
            tinker_path: of sampler weights or an export; training state is exported where that is needed.
            repo_id: `owner/name`; without an owner, that of the token. Default: a name made of the base model and
                the run, on a branch called like the checkpoint.
            revision: the branch, which is made from the main one if it is not there; default `main`.
            public: whether everybody may read a repository that is created. A repository that everybody can read is
                refused unless this is True.
            commit_message: default one that names the checkpoint.
            create_pr: offer the files in a pull request for the main branch, and commit nothing.
            allow_patterns: of the files' names; those that fit none stay here. `*` stands for slashes, too.
            ignore_patterns: those that fit one stay here, too, and so does the mark `checkpoint_complete`.
            add_model_card: write a README.md where the checkpoint has none.
            force: take the place of the adapter of another run.
            hf_token: of the hub; default that of the hub's own tools: `HF_TOKEN`, or what `hf auth login` kept.
            endpoint: URL of the hub; default `HF_ENDPOINT`.

        Raises:
            ValidationError: an argument is wrong; in the future: the checkpoint is no adapter, or the repository
                holds that of another run.
            ConfigError: in the future; there is no token of the hub.
            APIStatusError: in the future; the hub refuses: `AuthenticationError` for the token, and so on.
            APIConnectionError: in the future; the hub cannot be reached, or the upload broke off.
        """
        from tinker_actors.clients.pushes import asked, start

        push = asked(
            tinker_path,
            repo_id=repo_id,
            revision=revision,
            public=public,
            commit_message=commit_message,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            add_model_card=add_model_card,
            force=force,
            hf_token=hf_token,
            endpoint=endpoint,
        )
        return APIFuture(self._kept_for(start(self, self._runtime, push)), is_cancellable=True)

    push_checkpoint_adapter_async = awaited(push_checkpoint_adapter)

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """Delete a checkpoint.

        The deletion is repeated when its answer was lost, and may then end with `NotFoundError`.

        Args:
            training_run_id: of the run.
            checkpoint_id: with its kind: `weights/<name>`.
        """
        return self._ask(
            checkpoints.delete_checkpoint(checkpoints.checkpoint_path(training_run_id, checkpoint_id))
        )

    delete_checkpoint_async = awaited(delete_checkpoint)

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """`delete_checkpoint` by the checkpoint's path."""
        return self._ask(checkpoints.delete_checkpoint(tinker_path))

    delete_checkpoint_from_tinker_path_async = awaited(delete_checkpoint_from_tinker_path)

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let everybody read a checkpoint; only its owner may do that.

        Raises:
            ConflictError: in the future; everybody may read it already.
        """
        return self._ask(checkpoints.publish_checkpoint(tinker_path))

    publish_checkpoint_from_tinker_path_async = awaited(publish_checkpoint_from_tinker_path)

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let only its owner read a checkpoint.

        Raises:
            ConflictError: in the future; only the owner may read it already.
        """
        return self._ask(checkpoints.unpublish_checkpoint(tinker_path))

    unpublish_checkpoint_from_tinker_path_async = awaited(unpublish_checkpoint_from_tinker_path)

    def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> APIFuture[None]:
        """Let a checkpoint live for a time, or for ever.

        Args:
            tinker_path: of the checkpoint.
            ttl_seconds: from now, an hour to ten years; None means for ever.
        """
        return self._ask(checkpoints.set_checkpoint_ttl(tinker_path, ttl_seconds))

    set_checkpoint_ttl_from_tinker_path_async = awaited(set_checkpoint_ttl_from_tinker_path)

    def copy_weights(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> APIFuture[str]:
        """Copy a checkpoint into a project; the path of the copy. However often that is sent, one copy is made.

        Args:
            path: of training state or sampler weights.
            destination_project_id: of the project; default `TINKER_PROJECT_ID`.
            ttl_seconds: life of the copy, an hour to ten years; None means for ever.
            weights_access_token: for a checkpoint of another account.
        """
        project_id = destination_project_id
        if project_id is None:
            project_id = self._runtime.published.settings.project_id
        call = checkpoints.copy_weights(
            path,
            project_id,
            ttl_seconds=ttl_seconds,
            weights_access_token=weights_access_token,
            idempotency_key=str(uuid.uuid4()),
        )
        return self._ask(call)

    copy_weights_async = awaited(copy_weights)

    # The key -------------------------------------------------------------------------------------

    def whoami(self) -> APIFuture[WhoamiResponse]:
        """Who the API key belongs to, read from its claims; no request is made.

        Raises:
            ConfigError: in the future; the key is no JWT of the service's own.
        """
        future: Future[WhoamiResponse] = Future()
        credential = self._runtime.published.settings.credential
        if credential.key is not None:
            _identify(credential, future)
        else:  # the command that prints the key may take its time
            threading.Thread(target=_identify, args=(credential, future), name="whoami", daemon=True).start()
        return APIFuture(future)

    whoami_async = awaited(whoami)

    def get_telemetry(self) -> Telemetry | None:
        """What tells the service of this program; None unless `telemetry=` or `TINKER_TELEMETRY` switched it on."""
        return self._runtime.published.telemetry

    # The end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the client's own connections; those of a service client stay open. A second call does nothing."""
        if self._finalizer is not None and self._finalizer.detach() is not None:
            self._runtime.close("success", SOON_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a RestClient belongs to its process; create one there")

    def _ask(self, call: Any) -> APIFuture[Any]:
        return APIFuture(self._kept_for(self._runtime.fetch(call)))

    def _follow(self, steps: RoundTrips[T]) -> APIFuture[T]:
        return APIFuture(self._kept_for(Walk(self._runtime, steps).future), is_cancellable=True)

    def _kept_for(self, future: "Future[T]") -> "Future[T]":
        """The same; until it is done, the client is not collected, and so not closed."""
        if self._finalizer is not None:
            _kept[future] = self
            future.add_done_callback(_let_go)
        return future


def _check_runtime(given: Any) -> None:
    if not isinstance(given, Runtime):
        raise ConfigError(
            f"RestClient takes base_url= and api_key= by name, got a {type(given).__name__} without one"
        )


def _following(request: SessionSearchRequest, answer: SessionSearchResponse) -> SessionSearchRequest | None:
    """The request for the page behind `answer`."""
    if answer.next_cursor is None or not answer.sessions:
        return None
    return msgspec.structs.replace(request, cursor=answer.next_cursor)


_kept: dict[Future[Any], RestClient] = {}
"""Clients that nobody else may keep, by the results they owe."""


def _let_go(done: "Future[Any]") -> None:
    _kept.pop(done, None)


def _identify(credential: Credential, future: "Future[WhoamiResponse]") -> None:
    try:
        key = credential.read().reveal()
        if not key.startswith("eyJ"):
            raise ConfigError(
                "whoami reads the claims of a JWT, got a plain API key; pass the service's JWT as api_key"
            )
        future.set_result(WhoamiResponse.from_claims(claims_of(key)))
    except TinkerActorsError as error:
        future.set_exception(error)
