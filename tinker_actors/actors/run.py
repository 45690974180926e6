"""A training run, whatever incarnation serves it: what it was created with, what callers asked of it."""

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeAlias

import msgspec

from tinker_actors.actors.custom import FIRST, Awaited, Broken, CallersCode
from tinker_actors.actors.futures import Settler, Submission, Submissions, when_settled
from tinker_actors.actors.status import Hold
from tinker_actors.actors.tracing import Facts, RecoverySpans, Span, Tracing, followed
from tinker_actors.actors.unnamed import UnnamedWeights
from tinker_actors.api import training as calls
from tinker_actors.api.chunks import combine, split
from tinker_actors.api.futures import Expectation, forward_result, json_result, output_result
from tinker_actors.api.metrics import CURRENT, LEGACY
from tinker_actors.api.setup import ClientConfig
from tinker_actors.config import Secret
from tinker_actors.errors import ConfigError, CustomLossError, ResultExpiredError, TinkerActorsError
from tinker_actors.journal import replay
from tinker_actors.journal.records import Kind, OperationRecord
from tinker_actors.journal.store import RunImage
from tinker_actors.types import (
    Datum,
    GetInfoResponse,
    LoraConfig,
    OptimStepResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinker_actors.types.optimizers import ADAMW
from tinker_actors.wire.calls import PROTOBUF, Answer, Call, json_body
from tinker_actors.wire.documents import FutureHandle
from tinker_actors.wire.protobuf import encode_training_content

__all__ = [
    "Request",
    "Run",
    "RunConfig",
    "TrainingOperation",
    "call_for",
    "combine_parts",
    "expectation_of",
    "read_parts",
    "read_result",
]

MAX_SEED = 2**31 - 1


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is created with, and compared by when it is resumed."""

    base_model: str
    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    seed: int | None
    """None until the runtime picked one."""
    server: str
    """Base URL, or "local"."""
    optimizer_config: Mapping[str, Any] | None = None
    """The optimizer, its family in `type`; None where the caller chose none."""
    user_metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    from_state: str | None = None
    """The checkpoint it begins in; then that says what the model is. None for a fresh model."""
    restores_optimizer: bool = False
    """Whether the state of the optimizer is taken from there, too."""

    @property
    def optimizer(self) -> Mapping[str, Any]:
        """The optimizer it is created with, its family in `type`."""
        return self.optimizer_config or {"type": ADAMW}

    def lora(self) -> LoraConfig:
        """The low-rank matrices of its models."""
        return LoraConfig(
            rank=self.rank,
            seed=msgspec.UNSET if self.seed is None else self.seed,
            train_unembed=self.train_unembed,
            train_mlp=self.train_mlp,
            train_attn=self.train_attn,
        )

    def seeded(self) -> "RunConfig":
        """The same with a seed."""
        if self.seed is not None:
            return self
        return msgspec.structs.replace(self, seed=secrets.randbelow(MAX_SEED))

    def begins_elsewhere(self, recorded: "RunConfig") -> bool:
        """Whether it asks for another checkpoint to begin in than the recorded run did: that is a new lineage of it."""
        return self.from_state not in (None, recorded.from_state) and self.server == recorded.server

    def check_resumes(self, run: str, recorded: "RunConfig") -> None:
        """Refuse to go on with a run that was created otherwise.

        Raises:
            ConfigError: it names what differs.
        """
        names = (
            "base_model",
            "rank",
            "train_mlp",
            "train_attn",
            "train_unembed",
            "optimizer",
            "server",
            "seed",
            "from_state",
            "restores_optimizer",
        )
        differences = [
            f"{name} was {getattr(recorded, name)!r}, now {getattr(self, name)!r}"
            for name in names
            if getattr(recorded, name) != getattr(self, name) and not (name == "seed" and self.seed is None)
        ]
        if differences:
            raise ConfigError(
                f"run {run!r} was created otherwise: {'; '.join(differences)}; "
                "use the same arguments, another run= name or another run_dir"
            )


class TrainingOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One call on a training client, ready to be sent but for ids."""

    kind: Kind
    contents: tuple[bytes, ...]
    """Of each request."""
    name: str | None = None
    """Of a save."""
    metrics: Mapping[str, float] | None = None
    """Of a custom loss: what goes into its result beside the service's."""

    @property
    def digest(self) -> str:
        """Equal for equal requests."""
        digest = hashlib.sha256(self.kind.encode())
        for content in self.contents:
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.hexdigest()

    @classmethod
    def train(
        cls,
        kind: Kind,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
        config: ClientConfig,
    ) -> "TrainingOperation":
        """A forward or forward_backward, in as many requests as its data need under the server's limits."""
        contents = (
            encode_training_content(chunk, loss_fn, loss_fn_config, forward_only=kind is Kind.FORWARD)
            for chunk in split(
                data, max_data=config.fwdbwd_max_chunk_len, max_bytes=config.fwdbwd_max_chunk_bytes_count
            )
        )
        return cls(kind=kind, contents=tuple(contents))

    @classmethod
    def optim_step(cls, params: Mapping[str, Any]) -> "TrainingOperation":
        """An optimizer step; see `types.optimizers.optimizer_params`."""
        return cls(kind=Kind.OPTIM_STEP, contents=(json_body(params),))

    @classmethod
    def save(cls, kind: Kind, content: calls.SaveContent) -> "TrainingOperation":
        """A save of training state or of sampler weights."""
        return cls(kind=kind, contents=(json_body(content),), name=content.name)


Request: TypeAlias = TrainingOperation | Awaited | Broken
"""What callers ask for: an operation, or one whose body their own code makes later."""


def call_for(kind: Kind, model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """The request for one part of an operation."""
    make: dict[Kind, Callable[[str, int, bytes], Call[FutureHandle]]] = {
        Kind.FORWARD_BACKWARD: calls.forward_backward,
        Kind.FORWARD: calls.forward_backward,
        Kind.OPTIM_STEP: calls.optim_step,
        Kind.SAVE_WEIGHTS: calls.save_weights,
        Kind.SAVE_FOR_SAMPLER: calls.save_weights_for_sampler,
        Kind.SAVE_EXTERNAL: calls.save_weights_external,
    }
    return make[kind](model_id, seq_id, content)


_EXPECTED: dict[Kind, Expectation] = {
    Kind.FORWARD_BACKWARD: output_result,
    Kind.FORWARD: forward_result,
    Kind.OPTIM_STEP: json_result("OptimStep", OptimStepResponse),
    Kind.SAVE_WEIGHTS: json_result("SaveWeights", SaveWeightsResponse),
    Kind.SAVE_FOR_SAMPLER: json_result("SaveWeightsForSampler", SaveWeightsForSamplerResponse),
    Kind.SAVE_EXTERNAL: json_result("SaveWeightsExternal", SaveWeightsExternalResponse),
}


def expectation_of(kind: Kind) -> Expectation:
    """What the future of such an operation gives."""
    return _EXPECTED[kind]


def read_result(kind: Kind, answers: Sequence[Answer]) -> Any:
    """The result of an operation out of the answers to its requests.

    Raises:
        APIResponseValidationError: an answer cannot be understood.
    """
    return combine_parts(kind, read_parts(kind, answers), answers)


def read_parts(kind: Kind, answers: Sequence[Answer]) -> list[Any]:
    """The result of each request of an operation.

    Raises:
        APIResponseValidationError: an answer cannot be understood.
    """
    return [_EXPECTED[kind].read(answer) for answer in answers]


def combine_parts(kind: Kind, results: list[Any], answers: Sequence[Answer]) -> Any:
    """The result of an operation out of those of its requests."""
    if kind in (Kind.FORWARD_BACKWARD, Kind.FORWARD):
        is_of_today = any(answer.content_type == PROTOBUF for answer in answers)
        return combine(results, CURRENT if is_of_today else LEGACY)
    return results[0]


class Run:
    """What a run is, whatever incarnation serves it; thread-safe.

    Args:
        name: within the run directory.
        config: what the caller wants; the journal's takes its place when the run is resumed.
        settler: settles its futures.
        access_token: opens the checkpoint that it begins in; never in the journal.
        tracing: makes spans of its operations.
    """

    def __init__(
        self,
        name: str,
        config: RunConfig,
        settler: Settler,
        *,
        access_token: Secret | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.name = name
        self.key = name
        """Its name in the journal, where each lineage has one of its own; set when it is opened."""
        self.config = config
        self.access_token = access_token
        self.submissions: Submissions[Request] = Submissions(settler, cancellable=False)
        self.ready: Future[GetInfoResponse] = Future()
        """Done once the model is there and all that an earlier process committed to has ended."""
        self.left_behind: list[OperationRecord] = []
        """What a dead process asked for behind its last optimizer step, until it is asked for again."""
        self.busy: str | None = None
        """What of the caller's own it waits for."""
        self.hold: Hold | None = None
        """What keeps it from sending; None while nothing does."""
        self.ended: BaseException | None = None
        """Why it will not go on in this process."""
        self.session_id: str | None = None
        """Where its model lives; None before there is one."""
        self.restores = 0
        """Restores of its model since anything new had its result."""
        self.checkpointed_at: float | None = None
        """When its last checkpoint was asked for, on the tree's clock."""
        self._unnamed: list[UnnamedWeights] = []
        self._settler = settler
        self._callers_code = CallersCode(f"custom-loss:{name}")
        self._is_resumed = False
        self._lock = threading.Lock()
        self._done = 0
        self._submitted = 0
        self._called = 0
        self._tracing = tracing
        self._facts: Facts = {"run": name, "model": config.base_model}
        self._opening: Span | None = None
        """Of the creation of the client."""
        self.recovering = RecoverySpans(tracing, self._facts)
        if tracing is not None:
            self._opening = tracing.begin("create_training_client", self._facts)
            followed(self._opening, lambda: self.ready)

    def span_of(self, ticket: str | None = None) -> Span | None:
        """What a request for the operation behind `ticket` belongs to; None where nobody waits for it, or looks."""
        if self._tracing is None:
            return None
        opening = None if self.ready.done() else self._opening
        return self.submissions.span_of(ticket) or self.recovering.span or opening

    @property
    def steps_done(self) -> int:
        """Optimizer steps with a result."""
        return self._done

    @property
    def steps_submitted(self) -> int:
        """Optimizer steps submitted, by this process or an earlier one."""
        return self._submitted

    def resume(self, image: RunImage) -> None:
        """Begin where the last incarnation, or an earlier process, left the run."""
        with self._lock:
            self._done = replay.steps_done(image)
            if not self._is_resumed:  # what is submitted later is not yet in the journal
                self._is_resumed = True
                self.left_behind = replay.dangling(image)
                self._submitted = replay.steps_submitted(image)

    @property
    def optim_steps_called(self) -> int:
        """Calls of optim_step in this process."""
        return self._called

    def submit(self, operation: TrainingOperation) -> "Future[Any]":
        """Reserve the next place for `operation`; the future of its result.

        Raises:
            TinkerActorsError: the run is closed or halted.
        """
        future = self._add(operation)
        if operation.kind is Kind.OPTIM_STEP:
            with self._lock:
                self._called += 1
                self._submitted += 1
        return future

    def _add(self, operation: TrainingOperation) -> "Future[Any]":
        if self._tracing is None:
            return self.submissions.add(operation)
        span = self._tracing.begin(operation.kind, self._facts)
        return followed(span, lambda: self.submissions.add(operation, span))

    def submit_custom(
        self, forward: TrainingOperation, complete: Callable[[Any], TrainingOperation]
    ) -> "Future[Any]":
        """Reserve the next two places: for `forward`, and for what `complete` makes of its result.

        Args:
            forward: the first request.
            complete: the caller's code; it runs in a thread of its own.

        Returns:
            The future of the second result. What stands behind it waits for `complete`.

        Raises:
            TinkerActorsError: the run is closed or halted.
        """
        if self._tracing is None:
            return self._add_custom(forward, complete)
        span = self._tracing.begin("forward_backward_custom", self._facts)
        return followed(span, lambda: self._add_custom(forward, complete, span))

    def _add_custom(
        self,
        forward: TrainingOperation,
        complete: Callable[[Any], TrainingOperation],
        span: Span | None = None,
    ) -> "Future[Any]":
        first, second = self.submissions.add_pair(forward, Awaited(), FIRST, span)
        here = copy_context()  # of the caller, whose code it is
        when_settled(
            first.future,
            lambda done: self._callers_code.run(lambda: here.run(self._complete, second, complete, done)),
        )
        return second.future

    def _complete(
        self,
        submission: Submission["Request"],
        complete: Callable[[Any], TrainingOperation],
        forward: "Future[Any]",
    ) -> None:
        if submission.future.done():
            return  # its step is void, or the run is closed
        request: Request
        self.busy = "a loss of the caller's own"
        try:
            with self.submissions.held_up(submission.ticket):
                request = complete(forward.result())
        except ResultExpiredError as error:
            request = Broken(CustomLossError(f"the forward pass of a custom loss has no result: {error}"))
        except TinkerActorsError as error:
            request = Broken(error)
        except BaseException as error:  # noqa: BLE001 - the caller's code, SystemExit included: it fails this call alone
            broken = CustomLossError(f"a custom loss failed: {type(error).__name__}: {error}")
            broken.__cause__ = error
            request = Broken(broken)
        self.busy = None
        self.submissions.replace(submission.ticket, request)

    def note_steps_done(self, steps: int) -> None:
        """So many have their result."""
        self._done = steps

    def note_step_void(self) -> None:
        """One that was submitted was not taken."""
        with self._lock:
            self._submitted -= 1

    def note_unnamed(self, weights: UnnamedWeights) -> None:
        """A sampler lives on what an unnamed save of this run holds. Callable from any thread."""
        with self._lock:
            self._unnamed = [one for one in self._unnamed if one.is_needed()] + [weights]
        if self.ended is not None:
            weights.lose()

    @property
    def unnamed(self) -> list[UnnamedWeights]:
        """Weights of its unnamed saves that samplers live on and may be saved again."""
        with self._lock:
            return [one for one in self._unnamed if one.is_needed() and not one.is_lost]

    def note_ready(self, info: GetInfoResponse) -> None:
        """The client may be used."""
        self._settler.settle(self.ready, info)

    def close(self, error: BaseException) -> None:
        """It will not go on in this process."""
        self.ended = self.ended or error
        self.hold = Hold(f"nothing more: {error}")
        self._settler.fail(self.ready, error)
        self.submissions.close(error)
        self._callers_code.close()
        for weights in self.unnamed:
            weights.lose()
