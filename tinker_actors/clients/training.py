"""Training, as the official SDK names it."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import msgspec

from tinker_actors.actors.futures import ticket_of
from tinker_actors.actors.published import TRAINING
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.run import Run, TrainingOperation
from tinker_actors.actors.runtime import Runtime
from tinker_actors.actors.unloading import unload
from tinker_actors.actors.unnamed import UnnamedWeights
from tinker_actors.api.training import SaveContent
from tinker_actors.clients.background import work_for
from tinker_actors.clients.batch import check_batch, check_custom_batch, loss_settings
from tinker_actors.clients.future import APIFuture, ClientFuture
from tinker_actors.clients.handle import Handle
from tinker_actors.clients.sampling import SamplingClient
from tinker_actors.clients.twins import as_coroutine, awaited
from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import CustomLossError, ValidationError
from tinker_actors.events import CustomLossComputed, CustomLossFailed
from tinker_actors.journal.history import StepRecord
from tinker_actors.journal.records import Kind
from tinker_actors.tokenization import Tokenizer, get_tokenizer
from tinker_actors.types import (
    AdamParams,
    CheckpointPath,
    Datum,
    ForwardBackwardOutput,
    GetInfoResponse,
    OptimParams,
    OptimStepResponse,
    SamplingClientKind,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinker_actors.types.checks import flag, metadata, one_of, shown, text, whole
from tinker_actors.types.console import training_run_page
from tinker_actors.types.optimizers import optimizer_params

if TYPE_CHECKING:
    from tinker_actors.losses import LossFn, Pipeline, RegularizerSpec

__all__ = ["TrainingClient"]

MOST_RECIPIENTS = 10
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")

MakeSampler = Callable[..., ClientFuture[SamplingClient]]


class TrainingClient:
    """One model in training.

    Calls are carried out in the order in which the methods were called, from whatever threads, whether or not
    earlier results were waited for. The client outlives its actor, its session and its model on the service.
    """

    exposed: ClassVar[tuple[str, ...]] = (  # what the proxy of a handle offers
        "create_sampling_client",
        "forward",
        "forward_backward",
        "forward_backward_custom",
        "get_info",
        "history",
        "model_id",
        "optim_step",
        "run",
        "save_state",
        "save_weights_and_get_sampling_client",
        "save_weights_external",
        "save_weights_for_sampler",
        "step",
        "unload_model",
    )

    def __init__(
        self,
        run: Run,
        info: GetInfoResponse,
        runtime: Runtime,
        make_sampler: MakeSampler,
        free_name: Callable[[], None],
    ) -> None:
        self._run = run
        self._info = info
        self._runtime = runtime
        self._make_sampler = make_sampler
        self._free_name = free_name
        self._unloading = threading.Lock()
        """Taken for good by who unloads the model."""
        self._unloaded: Future[None] = Future()
        self._base_model = run.config.base_model or info.model_name or info.model_data.model_name or ""
        self._vocabulary = Vocabulary(self._base_model)

    @property
    def run(self) -> str:
        """The run's name in its run directory."""
        return self._run.name

    @property
    def handle(self) -> Handle:
        """This client for programs made of actors: `ask`, `tell` and `proxy`."""
        return Handle(self, f"{TRAINING}/training:{self._run.name}", self._runtime.tree.clock)

    @property
    def model_id(self) -> str:
        """The service's id of the model the run had when this client was made."""
        return self._info.model_id

    @property
    def step(self) -> int:
        """Optimizer steps with a result, those of earlier processes included."""
        return self._run.steps_done

    def steps(self, total: int) -> Iterator[int]:
        """Numbers of the optimizer steps still to be submitted, up to `total`.

        It begins at the first step that neither this process nor an earlier one submitted, and moves on when
        `optim_step` is called.

        Raises:
            ValidationError: `total` is negative, or a round of the loop submitted no optim_step.
        """
        total = whole("total", total, least=0)
        while (step := self._run.steps_submitted) < total:
            calls = self._run.optim_steps_called
            yield step
            if self._run.optim_steps_called == calls:
                raise ValidationError(
                    f"each round of steps() submits one optim_step, but step {step} submitted none; call optim_step"
                )

    # Training ------------------------------------------------------------------------------------

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Loss and gradients of `data`; gradients add up until the next `optim_step`.

        Args:
            data: at least one.
            loss_fn: the loss, such as "cross_entropy"; losses are sums over tokens and data.
            loss_fn_config: its settings.

        Raises:
            ValidationError: data are missing or malformed; nothing was sent.
        """
        return self._train(Kind.FORWARD_BACKWARD, data, loss_fn, loss_fn_config)

    forward_backward_async = as_coroutine(forward_backward)

    def forward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Loss of `data` without gradients; otherwise like `forward_backward`."""
        return self._train(Kind.FORWARD, data, loss_fn, loss_fn_config)

    forward_async = as_coroutine(forward)

    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: "LossFn",
        *,
        loss_type_input: Literal["logprobs"] | None = None,
        regularizers: "Pipeline | Sequence[RegularizerSpec | LossFn]" = (),
    ) -> APIFuture[ForwardBackwardOutput]:
        """Gradients of a loss of your own, a function of the logprobs; they add up as those of `forward_backward`.

        It takes two requests: a forward pass for the logprobs, and one that brings the gradient of the loss to the
        service. Both have their places at once, and what is submitted behind them waits: an `optim_step` can follow
        without waiting for the result. Between them the loss runs here, in a thread of its own, one loss of this client
        after another. It may wait for other clients, and never for results of this one that were submitted later.

        Where the loss fails, its step is void, as if the service had failed on it; the client goes on. A program that is
        killed before a loss was computed, and is started again, computes it again.

        Args:
            data: at least one, each with `target_tokens`; without `weights`, they are 0 in the forward pass.
            loss_fn: a function in numpy, marked with `tinker_actors.losses.value_and_grad`, or a torch function
                `(data, logprobs) -> (loss, metrics)`. It gets `data` as they are given here, and one array or tensor of
                logprobs for each datum, in nats, in the shape of its `target_tokens`.
            loss_type_input: of the official SDK, where it is deprecated: losses get logprobs.
            regularizers: of `tinker_actors.losses`, added to the loss; or a `Pipeline` that says how they are computed.

        Returns:
            The service's outputs and metrics; `loss:sum` is the whole loss here, and that of the second request is
            `surrogate_loss:sum`. Metrics of the loss are beside them, and what each regularizer added.

        Raises:
            ValidationError: an argument is wrong, or data are missing or malformed; nothing was sent.
            MissingTorchError: a loss is a torch function, and PyTorch is not installed; nothing was sent.
        """
        from tinker_actors.losses.custom import check_loss_fn
        from tinker_actors.losses.pipeline import Pipeline
        from tinker_actors.losses.surrogate import logprobs_of, weighted_data

        if loss_type_input is not None:
            one_of("loss_type_input", loss_type_input, "logprobs")
        pipeline, known_loss = Pipeline.of(regularizers), check_loss_fn(loss_fn)
        given, known = check_custom_batch(data, self._vocabulary)
        published, tell, run = self._runtime.published, self._runtime.tree.events.publish, self._run.name

        def complete(forward: ForwardBackwardOutput) -> TrainingOperation:
            try:
                found = pipeline.compute(given, logprobs_of(forward, known), known_loss)
            except CustomLossError as error:
                tell(CustomLossFailed(run=run, reason=str(error)))
                raise
            tell(CustomLossComputed(run=run, loss=found.loss_total, metrics=found.metrics()))
            operation = TrainingOperation.train(
                Kind.FORWARD_BACKWARD,
                weighted_data(known, found.gradients),
                "cross_entropy",
                None,
                published.config,
            )
            return msgspec.structs.replace(
                operation, metrics={**found.metrics(), "loss:sum": found.loss_total}
            )

        first = TrainingOperation.train(Kind.FORWARD, known, "cross_entropy", None, published.config)
        return APIFuture(self._run.submit_custom(first, complete))

    forward_backward_custom_async = as_coroutine(forward_backward_custom)

    def optim_step(
        self, optim_params: OptimParams | None = None, *, adam_params: AdamParams | None = None
    ) -> APIFuture[OptimStepResponse]:
        """Update the weights with the gradients since the last update.

        Args:
            optim_params: of the model's optimizer: `AdamParams`, unless it was created with another.
            adam_params: the same, by its older name.

        Raises:
            ValidationError: both or neither of the parameters given, or of another optimizer.
        """
        if (optim_params is None) == (adam_params is None):
            raise ValidationError("optim_step wants one of optim_params and adam_params")
        given = adam_params if optim_params is None else optim_params
        return APIFuture(
            self._run.submit(TrainingOperation.optim_step(optimizer_params(given, self._family)))
        )

    optim_step_async = as_coroutine(optim_step)

    @property
    def _family(self) -> str:
        """Of the model's optimizer: what the service says, else what it was created with."""
        told = self._info.optimizer_config
        return str(self._run.config.optimizer["type"]) if told is None else told.type

    def _train(
        self, kind: Kind, data: Sequence[Datum], loss_fn: str, config: Mapping[str, float | str] | None
    ) -> APIFuture[Any]:
        known, settings = check_batch(data, loss_fn, self._vocabulary), loss_settings(config)
        limits = self._runtime.published.config
        return APIFuture(self._run.submit(TrainingOperation.train(kind, known, loss_fn, settings, limits)))

    # Saving --------------------------------------------------------------------------------------

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, Any] | None = None,
    ) -> APIFuture[SaveWeightsResponse]:
        """Save weights and optimizer state under `name`, as they are after what was submitted before.

        Raises:
            ValidationError: the name or the time to live is malformed.
        """
        content = _save_content(name, ttl_seconds, user_metadata, overwrite=overwrite)
        return APIFuture(self._run.submit(TrainingOperation.save(Kind.SAVE_WEIGHTS, content)))

    save_state_async = as_coroutine(save_state)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: Mapping[str, Any] | None = None
    ) -> APIFuture[SaveWeightsForSamplerResponse]:
        """Save what sampling needs under `name`.

        Raises:
            ValidationError: the name or the time to live is malformed.
        """
        content = _save_content(name, ttl_seconds, user_metadata)
        return APIFuture(self._run.submit(TrainingOperation.save(Kind.SAVE_FOR_SAMPLER, content)))

    save_weights_for_sampler_async = as_coroutine(save_weights_for_sampler)

    def save_weights_external(
        self,
        name: str,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
    ) -> APIFuture[SaveWeightsExternalResponse]:
        """Export the weights under `name`, in the format that other programs read.

        `RestClient.get_external_weights_urls` says where the files can be fetched.

        Args:
            name: of the export.
            ttl_seconds: its life, an hour to ten years; None means for ever.
            age_encryption_recipients: whom every file is encrypted to, at most 10: `age1...` keys or SSH public keys.

        Raises:
            ValidationError: an argument is malformed.
        """
        content = msgspec.structs.replace(
            _save_content(name, ttl_seconds, None),
            age_encryption_recipients=_recipients(age_encryption_recipients),
        )
        return APIFuture(self._run.submit(TrainingOperation.save(Kind.SAVE_EXTERNAL, content)))

    save_weights_external_async = as_coroutine(save_weights_external)

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: Any = None,  # noqa: ARG002 - the SDK's; ours retries by rules of its own
        record_stability_info: bool = False,
        kind: SamplingClientKind = "snapshot",
    ) -> ClientFuture[SamplingClient]:
        """Save what sampling needs, under `name` or under none, and sample from it.

        Args:
            name: of the save; None makes one that lasts as long as the session.
            retry_config: without effect: requests are repeated by rules of our own.
            record_stability_info: have the service keep what `stable_reinforce` needs of each sequence.
            kind: "snapshot" samples from these weights for ever; "inflight", of an unnamed save alone, from these or
                from what later saves of that kind bring.

        Raises:
            ValidationError: the name or `kind` is wrong.
        """
        keeps_stability = flag("record_stability_info", record_stability_info)
        content = SaveContent(kind=_sampler_kind(kind, name))
        if name is not None:
            content = _save_content(name, None, None)
        step = self._run.steps_submitted
        saved = self._run.submit(TrainingOperation.save(Kind.SAVE_FOR_SAMPLER, content))
        ticket = ticket_of(saved)
        here = copy_context()  # of the caller, whose sampler it is
        client: Future[SamplingClient] = Future()
        client.set_running_or_notify_cancel()

        def on_saved(done: "Future[SaveWeightsForSamplerResponse]") -> None:
            try:
                response = done.result()
                sampler = here.run(
                    self._sampler_over, response, ticket, step, record_stability_info=keeps_stability
                )
                sampler.add_done_callback(lambda made: _copy_outcome(made, client))
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to who waits
                client.set_exception(error)

        saved.add_done_callback(on_saved)
        return ClientFuture(client, source=saved)

    save_weights_and_get_sampling_client_async = awaited(save_weights_and_get_sampling_client)

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: Any = None,  # noqa: ARG002 - the SDK's; ours retries by rules of its own
        record_stability_info: bool = False,
    ) -> ClientFuture[SamplingClient]:
        """Sample from sampler weights saved earlier.

        Raises:
            TinkerPathError: the path is malformed, or is not one of sampler weights.
        """
        path = CheckpointPath.parse(model_path, kind="sampler_weights")
        is_own = path.training_run_id == self.model_id
        return self._make_sampler(
            str(path),
            trained_from=self._base_model if is_own else "",  # the service knows what others begin in
            record_stability_info=flag("record_stability_info", record_stability_info),
        )

    create_sampling_client_async = awaited(create_sampling_client)

    def _sampler_over(
        self, saved: SaveWeightsForSamplerResponse, ticket: str, step: int, *, record_stability_info: bool
    ) -> ClientFuture[SamplingClient]:
        weights = None
        if saved.path is None and saved.sampling_session_id is not None:
            weights = UnnamedWeights(ticket, (self._run.session_id, saved.sampling_session_id))
            self._run.note_unnamed(weights)
        return self._make_sampler(
            saved.path,
            sampling_session_id=saved.sampling_session_id,
            step=step,
            trained_from=self._base_model,
            record_stability_info=record_stability_info,
            weights=weights,
        )

    def load_state(self, path: str, weights_access_token: str | None = None) -> NoReturn:
        """Refused: services load only into a model that did nothing yet, which is what creating one from state does.

        Raises:
            ValidationError: always; it names the call to make.
        """
        raise _not_here("create_training_client_from_state", path, weights_access_token)

    load_state_async = as_coroutine(load_state)

    def load_state_with_optimizer(self, path: str, weights_access_token: str | None = None) -> NoReturn:
        """Refused, as `load_state` is.

        Raises:
            ValidationError: always; it names the call to make.
        """
        raise _not_here("create_training_client_from_state_with_optimizer", path, weights_access_token)

    load_state_with_optimizer_async = as_coroutine(load_state_with_optimizer)

    # The end -------------------------------------------------------------------------------------

    def unload_model(self) -> APIFuture[None]:
        """Free the model on the service, and end this client; its checkpoints stay, and so do other clients.

        What was submitted before is finished, and with a run directory saved. The run can be created again, under its
        name, and goes on where it ended; calls of this client fail with `HandleClosedError`. A second call does nothing.

        Raises:
            RunHaltedError: in the future; the run is halted, or could not be saved: its model stays.
        """
        if self._unloading.acquire(blocking=False):
            work_for(self._unloaded, self._runtime, "unload", self._unload)
        return APIFuture(self._unloaded)

    unload_model_async = awaited(unload_model)

    def _unload(self) -> None:
        unload(self._runtime, self._run)
        self._free_name()

    # Looking -------------------------------------------------------------------------------------

    def get_info(self) -> GetInfoResponse:
        """What the service says of the model; no request is made."""
        return msgspec.structs.replace(self._info)

    get_info_async = as_coroutine(get_info)

    def history(self) -> APIFuture[list[StepRecord]]:
        """Every optimizer step with a result, those of earlier processes included."""
        return APIFuture(self._runtime.history(self._run.key))

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer: the one that the service names, else the one of its name; see `get_tokenizer`.

        Raises:
            ValidationError: there is none, or its files cannot be read.
            APIConnectionError: it is on the Hugging Face hub, which cannot be reached.
            MissingExtraError: its files are read by a library that is not installed.
        """
        return get_tokenizer(self._base_model, self._info.model_data.tokenizer_id)

    def get_console_url(self) -> str:
        """The page about the model on the hosted service's console."""
        return training_run_page(self.model_id)

    def get_telemetry(self) -> Telemetry | None:
        """What tells the service of this program; None unless `telemetry=` or `TINKER_TELEMETRY` switched it on."""
        return self._runtime.published.telemetry

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a TrainingClient belongs to its process; create one there with another run_dir")


def _save_content(
    name: str, ttl_seconds: int | None, user_metadata: Mapping[str, Any] | None, *, overwrite: bool = False
) -> SaveContent:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValidationError(
            f"a checkpoint name has 1 to 255 letters, digits, '_', '.' or '-', got {shown(name)}"
        )
    return SaveContent(
        name=name,
        ttl_seconds=None if ttl_seconds is None else whole("ttl_seconds", ttl_seconds, least=1),
        overwrite=flag("overwrite", overwrite),
        user_metadata=metadata("user_metadata", user_metadata) or None,
    )


def _not_here(instead: str, path: Any, access_token: str | None) -> ValidationError:
    checkpoint = CheckpointPath.parse(path, kind="weights")
    token = "" if access_token is None else ", weights_access_token=..."
    return ValidationError(
        "a checkpoint is loaded into a new model alone, got a model that exists; "
        f'use ServiceClient.{instead}("{checkpoint}"{token})'
    )


def _sampler_kind(kind: Any, name: str | None) -> SamplingClientKind:
    if one_of("kind", kind, "snapshot", "inflight") == "snapshot":
        return "snapshot"
    if name is not None:
        raise ValidationError(f"an inflight sampler has no name, as its weights change; got {shown(name)}")
    return "inflight"


def _recipients(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) > MOST_RECIPIENTS:
        raise ValidationError(
            f"age_encryption_recipients is a list of at most {MOST_RECIPIENTS} public keys, got {shown(given)}"
        )
    return tuple(text("a recipient of an export", one) for one in given)


def _copy_outcome(done: "Future[Any]", to: "Future[Any]") -> None:
    error = done.exception()
    if error is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())
