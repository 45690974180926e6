"""The way in: one client per service, as the official SDK names it."""

import itertools
import os
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from tinker_actors.actors.circuits import Circuits
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.run import Run, RunConfig
from tinker_actors.actors.runtime import TELL_TIMEOUT_S, Runtime
from tinker_actors.actors.sampling import Sampler
from tinker_actors.actors.unnamed import UnnamedWeights
from tinker_actors.api.sessions import get_server_capabilities
from tinker_actors.clients import program
from tinker_actors.clients.application import Application
from tinker_actors.clients.background import work_for
from tinker_actors.clients.future import APIFuture, ClientFuture
from tinker_actors.clients.rest import RestClient
from tinker_actors.clients.sampling import SamplingClient
from tinker_actors.clients.tracing import tracing_for
from tinker_actors.clients.training import TrainingClient
from tinker_actors.clients.twins import awaited
from tinker_actors.config import RecoveryPolicy, SamplingLimits, Secret, Settings
from tinker_actors.errors import ConfigError, RunHaltedError, RuntimeStoppedError, ValidationError
from tinker_actors.journal.story import RunHistory
from tinker_actors.supervision import Address, BreakerMode, BreakerSettings, TreeNode
from tinker_actors.supervision.checks import check_choice
from tinker_actors.types import (
    CheckpointPath,
    OptimizerConfig,
    ServerCapabilities,
    ServiceStatus,
)
from tinker_actors.types.checks import flag, metadata, one_of, path_text, secret, shown, text, whole
from tinker_actors.types.console import session_page, sessions_page
from tinker_actors.types.optimizers import family_fields

__all__ = ["ServiceClient"]

CLOSE_TIMEOUT_S = 30.0
_MAX_SEED = 2**63 - 1
_RUN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class ServiceClient:
    """Everything that training and sampling on one service need, under one supervisor.

    Made in a `with` block, it finishes its session at the end: with "success", or "errored" after an exception.

    Args:
        user_metadata: kept with the session.
        project_id: of the session; default `TINKER_PROJECT_ID`.
        display_name: of the session.
        base_url: of the service, or "local" for the embedded server; default `TINKER_BASE_URL`.
        api_key: default `TINKER_API_KEY`; the embedded server needs none.
        run_dir: where runs remember what they did, so that a killed program goes on where it was; None keeps
            that in memory, so that only crashes inside of the process are survived.
        recovery: how runs are recovered.
        default_headers: sent with every request, beside our own.
        default_headers_overrides: the official SDK's name of `default_headers`.
        default_query: added to the URL of every request.
        proxy: URL of an HTTP proxy; by default what the environment says.
        transport: "fast" (extra `fast`) or "httpx" (its engine, httpcore); by default `TINKER_ACTORS_TRANSPORT`,
            else the fast one where it is installed.
        codec: "protobuf" or "json" for what travels of training; by default `TINKER_ACTORS_CODEC`, else what the
            service turns out to read.
        circuit_breaker: when endpoints that fail are left alone: settings for all, or by the API's name of the
            operation.
        sampling_waits: samples wait for a circuit that is open; by default they fail with `CircuitOpenError`.
        sampling_limits: how many samples are submitted at a time, and what follows when the service has too many.
        otel_propagate: trace with OpenTelemetry (extra `otel`): spans of what is done, and the trace context in every
            request; by default `TINKER_ACTORS_OTEL_PROPAGATE`, else not.
        telemetry: tell the service how this program fails and what its runtime had to do, with messages and tracebacks;
            `get_telemetry()` tells it more. By default `TINKER_TELEMETRY`, else not.

    Raises:
        ConfigError: an argument or a variable of the environment is wrong.
        ValidationError: `user_metadata` or `display_name` cannot be sent.
        JournalError: the run directory cannot be used.
    """

    def __init__(
        self,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        recovery: RecoveryPolicy | None = None,
        default_headers: Mapping[str, Any] | None = None,
        default_headers_overrides: Mapping[str, Any] | None = None,
        default_query: Mapping[str, Any] | None = None,
        proxy: str | None = None,
        transport: str | None = None,
        codec: str | None = None,
        circuit_breaker: BreakerSettings | Mapping[str, BreakerSettings] | None = None,
        sampling_waits: bool = False,
        sampling_limits: SamplingLimits | None = None,
        otel_propagate: bool | None = None,
        telemetry: bool | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            warnings.warn(f"ServiceClient ignores {', '.join(sorted(unknown))}", stacklevel=2)
        if default_headers is not None and default_headers_overrides is not None:
            raise ConfigError("default_headers and default_headers_overrides are one setting, got both")
        settings = Settings.resolve(
            base_url=base_url,
            api_key=api_key,
            project_id=project_id,
            default_headers=default_headers_overrides if default_headers is None else default_headers,
            default_query=default_query,
            proxy=proxy,
            transport=transport,
            codec=codec,
            otel_propagate=otel_propagate,
            telemetry=telemetry,
        )
        self._runtime = Runtime(
            settings,
            _policy(recovery),
            None if run_dir is None else _path(run_dir),
            metadata("user_metadata", user_metadata),
            _display_name(display_name),
            Circuits(circuit_breaker, sampling_waits=flag("sampling_waits", sampling_waits)),
            _limits(sampling_limits),
            tracing_for(settings),
        )
        self._server = settings.base_url
        self._ordinals = itertools.count(1)
        self._samplers = itertools.count(1)
        self._names: set[str] = set()
        self._closing = threading.Lock()
        """Taken for good by who closes the client."""
        self._closed: Future[None] = Future()
        self._closed.set_running_or_notify_cancel()
        program.note_open(self)

    # Clients -------------------------------------------------------------------------------------

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer: OptimizerConfig | None = None,
        *,
        run: str | None = None,
    ) -> ClientFuture[TrainingClient]:
        """A model in training; the one that the run directory remembers, if it does.

        Args:
            base_model: what is fine-tuned.
            rank: of the low-rank matrices.
            seed: of their initial values; None picks one and remembers it.
            train_mlp: also in the feed-forward layers.
            train_attn: also in the attention layers.
            train_unembed: also at the output embedding.
            user_metadata: kept with the model.
            optimizer: its family: `AdamOptimizerConfig`, the default, or `DimuonOptimizerConfig`.
            run: the run's name; by default "1" for the first call of this client, "2" for the second.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        config = RunConfig(
            base_model=text("base_model", base_model),
            rank=whole("LoRA rank", rank, least=1),
            train_mlp=flag("train_mlp", train_mlp),
            train_attn=flag("train_attn", train_attn),
            train_unembed=flag("train_unembed", train_unembed),
            seed=None if seed is None else whole("seed", seed, least=0, most=_MAX_SEED),
            server=self._server,
            user_metadata=metadata("user_metadata", user_metadata),
            optimizer_config=_family(optimizer),
        )
        if not (train_mlp or train_attn or train_unembed):
            raise ValidationError(
                "something must be trained; set one of train_mlp, train_attn, train_unembed"
            )
        return self._start(config, run)

    create_lora_training_client_async = awaited(create_lora_training_client)

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: OptimizerConfig | None = None,
        *,
        run: str | None = None,
    ) -> ClientFuture[TrainingClient]:
        """A model in training that begins in a checkpoint, with an optimizer that begins anew.

        What it is (rank, layers) the checkpoint says.

        Args:
            path: of a training checkpoint, `tinker://.../weights/...`.
            base_model: what the checkpoint's base model must be; None takes any.
            optimizer: its family: `AdamOptimizerConfig`, the default, or `DimuonOptimizerConfig`.
            user_metadata: kept with the model.
            weights_access_token: for a checkpoint of somebody else. It is not kept: give it again to go on after
                the program ended before its first checkpoint.
            run: the run's name; by default the number of the call that creates it.

        Raises:
            ValidationError: an argument is wrong; nothing was sent.
        """
        return self._from_state(
            path, base_model, user_metadata, weights_access_token, run, optimizer=_family(optimizer)
        )

    create_training_client_from_state_async = awaited(create_training_client_from_state)

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        *,
        run: str | None = None,
    ) -> ClientFuture[TrainingClient]:
        """Like `create_training_client_from_state`, with the optimizer in the state that the checkpoint has."""
        return self._from_state(
            path, base_model, user_metadata, weights_access_token, run, restores_optimizer=True
        )

    create_training_client_from_state_with_optimizer_async = awaited(
        create_training_client_from_state_with_optimizer
    )

    def _from_state(
        self,
        path: str,
        base_model: str | None,
        user_metadata: Mapping[str, str] | None,
        access_token: str | None,
        run: str | None,
        *,
        optimizer: Mapping[str, Any] | None = None,
        restores_optimizer: bool = False,
    ) -> ClientFuture[TrainingClient]:
        config = RunConfig(
            base_model="" if base_model is None else text("base_model", base_model),
            rank=0,
            train_mlp=True,
            train_attn=True,
            train_unembed=True,
            seed=None,
            server=self._server,
            user_metadata=metadata("user_metadata", user_metadata),
            from_state=str(CheckpointPath.parse(path, kind="weights")),
            restores_optimizer=restores_optimizer,
            optimizer_config=optimizer,
        )
        token = None if access_token is None else Secret(secret("weights_access_token", access_token))
        return self._start(config, run, token)

    def _start(
        self, config: RunConfig, run: str | None, access_token: Secret | None = None
    ) -> ClientFuture[TrainingClient]:
        wanted = Run(
            self._run_name(run),
            config,
            self._runtime.settler,
            access_token=access_token,
            tracing=self._runtime.published.tracing,
        )
        self._runtime.start_run(wanted)
        free_name = partial(self._names.discard, wanted.name)
        made = APIFuture(wanted.ready).then(
            lambda info: TrainingClient(wanted, info, self._runtime, self._make_sampler, free_name)
        )
        client: Future[TrainingClient] = Future()
        client.set_running_or_notify_cancel()

        def look(done: "Future[TrainingClient]") -> None:
            error = done.exception()
            if error is None:
                client.set_result(done.result())
            elif isinstance(error, RunHaltedError | RuntimeStoppedError):
                client.set_exception(error)
            else:  # nothing came of it: its name is free before its caller hears that
                work_for(client, self._runtime, "run-ending", partial(self._give_up, wanted, error))

        made.add_done_callback(look)
        return ClientFuture(client)

    def _give_up(self, run: Run, error: BaseException) -> NoReturn:
        self._runtime.end_run(run, error)
        self._names.discard(run.name)
        raise error

    def _run_name(self, run: str | None) -> str:
        name = str(next(self._ordinals)) if run is None else run
        if not isinstance(name, str) or not _RUN_NAME.fullmatch(name):
            raise ValidationError(
                f"a run name has 1 to 100 letters, digits, '_', '.' or '-', got {shown(name)}"
            )
        if name in self._names:
            raise ValidationError(f"run {name!r} is already open in this client; use another run= name")
        self._names.add(name)
        return name

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: Any = None,  # noqa: ARG002 - the SDK's; ours retries by rules of its own
        record_stability_info: bool = False,
    ) -> ClientFuture[SamplingClient]:
        """A sampler over saved weights or over a base model.

        Raises:
            ValidationError: both or neither given, or the path is malformed.
        """
        if (model_path is None) == (base_model is None):
            raise ValidationError("create_sampling_client wants one of model_path and base_model")
        if model_path is not None:
            model_path = str(CheckpointPath.parse(model_path, kind="sampler_weights"))
        else:
            text("base_model", base_model)
        return self._make_sampler(
            model_path,
            base_model=base_model,
            record_stability_info=flag("record_stability_info", record_stability_info),
        )

    create_sampling_client_async = awaited(create_sampling_client)

    def _make_sampler(
        self,
        model_path: str | None = None,
        *,
        base_model: str | None = None,
        sampling_session_id: str | None = None,
        trained_from: str = "",
        record_stability_info: bool = False,
        step: int | None = None,
        weights: UnnamedWeights | None = None,
    ) -> ClientFuture[SamplingClient]:
        sampler = Sampler(
            str(next(self._samplers)),
            self._runtime.settler,
            base_model=base_model,
            model_path=model_path,
            sampling_session_id=sampling_session_id,
            record_stability_info=record_stability_info,
            trained_from=trained_from,
            step=step,
            tracing=self._runtime.published.tracing,
            weights=weights,
        )
        self._runtime.start_sampler(sampler)
        ready = APIFuture(sampler.ready)

        def make(_: None) -> SamplingClient:
            runtime = self._runtime
            client = SamplingClient(
                sampler,
                sampler.trained_from,
                runtime.tree.clock,
                partial(_locate, runtime),
                model_path=model_path,
                telemetry=runtime.published.telemetry,
            )
            weakref.finalize(client, runtime.retire_sampler, sampler).atexit = False
            return client

        return ClientFuture(ready.then(make).future())

    # The service ---------------------------------------------------------------------------------

    def get_server_capabilities(self) -> ClientFuture[ServerCapabilities]:
        """The base models on offer; like the official SDK's, it can be used without waiting for it first."""
        return ClientFuture(self._runtime.fetch(get_server_capabilities()))

    get_server_capabilities_async = awaited(get_server_capabilities)

    def create_rest_client(self) -> RestClient:
        """What the service keeps; over the connections of this client, and closed with it."""
        return RestClient(self._runtime)

    def copy_weights(
        self, path: str, *, ttl_seconds: int | None = None, weights_access_token: str | None = None
    ) -> APIFuture[str]:
        """Copy a checkpoint into this client's project; see `RestClient.copy_weights`."""
        rest = self.create_rest_client()
        return rest.copy_weights(path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token)

    def get_telemetry(self) -> Telemetry | None:
        """What tells the service of this program; None unless `telemetry=` or `TINKER_TELEMETRY` switched it on."""
        return self._runtime.published.telemetry

    def get_console_url(self) -> str:
        """The page about the session on the hosted service's console; about all sessions before there is one."""
        session_id = self._runtime.published.session_id
        return sessions_page() if session_id is None else session_page(session_id)

    @property
    def holder(self) -> "SessionHolder":
        """What knows the session's id; other tools ask it."""
        return SessionHolder(self._runtime)

    # The tree ------------------------------------------------------------------------------------

    def tree(self) -> TreeNode:
        """The supervision tree as it stands: states, restarts, last exits."""
        self._runtime.check_process()
        return self._runtime.tree.snapshot()

    def status(self) -> ServiceStatus:
        """Why one is waiting: the session, what each client waits for and since when, the circuit breakers.

        It is read off what the actors publish, so it answers at once, also while one of them is stuck.
        `print(service.status())` gives a line for each.
        """
        return self._runtime.status()

    def set_circuit_mode(self, operation: str, mode: BreakerMode | str) -> None:
        """Hold the circuit breaker of one operation open or closed, switch it off, or let it go again.

        Args:
            operation: its name in the API, such as "asample"; it need not have been called yet.
            mode: "forced_open" refuses its calls as any open circuit does, "forced_closed" admits and counts them,
                "disabled" admits them and counts none, "automatic" goes by what becomes of them.

        Raises:
            ValidationError: `operation` is no text.
            ConfigError: there is no such mode.
        """
        self._runtime.check_process()
        name = text("operation", operation)
        self._runtime.published.circuits.force(name, check_choice("mode", mode, BreakerMode))

    def history(self) -> APIFuture[list[RunHistory]]:
        """What became of each run of the run directory: its models, why each was replaced, its checkpoints, its failures.

        Runs of earlier processes are among them. `tinker-actors journal explain` tells the same in sentences.
        """
        return APIFuture(self._runtime.histories())

    def address(self, path: str) -> Address:
        """The address of an actor in the tree, such as `service/session/heartbeat`."""
        return self._runtime.tree.address(text("path", path))

    def subscribe(self, callback: Callable[[Any], object], *kinds: type[object]) -> Callable[[], None]:
        """Call `callback` with every event from now on, on a thread of its own; returns the way to end that.

        Args:
            callback: told of the events, one after another.
            kinds: of the events that it is told of, with those below them. By default all but `RequestBegan` and
                `RequestEnded`, of which there are too many.

        Raises:
            ValidationError: it cannot be called, or a kind is no class.
        """
        if not callable(callback):
            raise ValidationError(f"events are given to a function, got {shown(callback)}")
        self._runtime.check_process()
        for kind in kinds:
            if not isinstance(kind, type):
                raise ValidationError(
                    f"kinds of events are classes of tinker_actors.events, got {shown(kind)}"
                )
        return self._runtime.tree.events.subscribe(callback, *kinds)

    @property
    def application(self) -> Application:
        """Actors of your own, supervised in the same tree."""
        self._runtime.check_process()
        return Application(self._runtime.application)

    @property
    def server_pid(self) -> int | None:
        """Process id of the embedded server; None for another service, and while it is down."""
        endpoint = self._runtime.published.endpoint
        return None if endpoint is None else endpoint.pid

    # The end -------------------------------------------------------------------------------------

    def close(self, status: str = "success", detail: str | None = None) -> APIFuture[None]:
        """Finish what was submitted, save what no checkpoint covers, end the session, stop everything.

        It takes at most 30 s, on a thread of its own; wait for the result before the run directory is used again.
        Further calls give the result of the first.

        Args:
            status: of the session: "success", "errored" or "interrupted".
            detail: why, for people; kept with the session.

        Raises:
            ValidationError: an argument is wrong.
        """
        known = one_of("status", status, "success", "errored", "interrupted")
        close = partial(self._close, known, None if detail is None else text("detail", detail))
        if self._closing.acquire(blocking=False):
            if threading.main_thread().is_alive():
                threading.Thread(target=close, name="service-close").start()
            else:  # the interpreter is on its way down, and waits for no thread any more
                close()
        return APIFuture(self._closed)

    def _close(self, status: str, detail: str | None) -> None:
        try:
            self._runtime.close(status, program.closing_limit_s(CLOSE_TIMEOUT_S), detail)
        except BaseException as error:  # noqa: BLE001 - it belongs to who waits
            self._closed.set_exception(error)
        else:
            self._closed.set_result(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "success"
        if error is not None:
            status = "errored" if isinstance(error, Exception) else "interrupted"
            self._tell(error)
        if self._closing.acquire(blocking=False):
            with program.closing():
                self._close(status, None)  # on this thread, so that another Ctrl-C cuts it short
        if not self._runtime.is_forked:
            self._closed.result()

    def _tell(self, error: BaseException) -> None:
        telemetry = self.get_telemetry()
        if telemetry is not None and isinstance(error, Exception):
            telemetry.log_fatal_exception(error, timeout=TELL_TIMEOUT_S)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a ServiceClient belongs to its process; create one there")


class SessionHolder:
    """The official SDK's way to a session's id."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get_session_id(self) -> str:
        """The service's id of the session.

        Raises:
            ValidationError: no training or sampling client was created yet, and so no session opened.
        """
        session_id = self._runtime.published.session_id
        if session_id is None:
            raise ValidationError(
                "the session opens with the first training or sampling client, and there is none yet; create one"
            )
        return session_id


def _display_name(given: Any) -> str | None:
    """An empty one is none, as elsewhere in the settings."""
    is_empty = given is None or (isinstance(given, str) and not given)
    return None if is_empty else text("display_name", given)


def _locate(runtime: Runtime) -> tuple[str, bool] | None:
    """Where the service listens, and whether it is an embedded server."""
    endpoint = runtime.published.endpoint
    return None if endpoint is None else (endpoint.base_url, runtime.published.settings.is_local)


def _policy(recovery: Any) -> RecoveryPolicy:
    if recovery is None:
        return RecoveryPolicy()
    if not isinstance(recovery, RecoveryPolicy):
        raise ConfigError(f"recovery is a RecoveryPolicy, got {shown(recovery)}")
    return recovery


def _limits(limits: Any) -> SamplingLimits:
    if limits is None:
        return SamplingLimits()
    if not isinstance(limits, SamplingLimits):
        raise ConfigError(f"sampling_limits is SamplingLimits, got {shown(limits)}")
    return limits


def _path(run_dir: str | os.PathLike[str]) -> str:
    try:
        return path_text("run_dir", run_dir)
    except ValidationError as error:
        raise ConfigError(str(error)) from error


def _family(optimizer: object) -> Mapping[str, Any] | None:
    return None if optimizer is None else family_fields(optimizer)
