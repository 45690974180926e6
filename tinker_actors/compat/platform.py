"""A training platform as frameworks see one: sessions, gradients, steps, checkpoints; and ours as one.

A training loop that is written against `TrainingPlatform` runs on whatever implements it.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from tinker_actors.clients.sampling import SamplingClient
from tinker_actors.clients.service import ServiceClient
from tinker_actors.clients.training import TrainingClient
from tinker_actors.errors import SamplerLostError, ValidationError
from tinker_actors.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    OptimParams,
    OptimStepResponse,
    SampleResponse,
    SamplingParams,
)

__all__ = ["SessionConfig", "TinkerPlatform", "TinkerSession", "TrainingPlatform"]

S = TypeVar("S")


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a session trains."""

    base_model: str
    """Name of the model that is fine-tuned."""
    rank: int = 32
    """Of the low-rank matrices."""
    seed: int | None = None
    """Of their initial values."""
    checkpoint: str | None = None
    """Path of training state that the session begins in; None begins afresh."""
    restores_optimizer: bool = True
    """Whether the state of the optimizer is taken from there, too."""
    name: str | None = None
    """Tells it from other sessions of a resumable platform; None numbers them."""


@runtime_checkable
class TrainingPlatform(Protocol[S]):
    """What a training loop needs. Each call waits for its result; those of each step have a twin that is awaited.

    `S` is the platform's own kind of session: a loop gets it from `create_session` and hands it back.
    """

    def create_session(self, config: SessionConfig) -> S:
        """Begin to train, or go on where a session of that name left off."""
        ...

    def steps_taken(self, session: S) -> int:
        """Optimizer steps that the session has behind it: where a loop that is started again goes on."""
        ...

    def forward(self, session: S, data: Sequence[Datum], loss_fn: str) -> ForwardBackwardOutput:
        """Logprobs and loss of `data`; nothing is learned."""
        ...

    def forward_backward(self, session: S, data: Sequence[Datum], loss_fn: str) -> ForwardBackwardOutput:
        """Logprobs and loss of `data`; their gradients add up until the next step."""
        ...

    def optim_step(self, session: S, params: OptimParams | None = None) -> OptimStepResponse:
        """Change the weights by the gradients since the last step."""
        ...

    def save_checkpoint(self, session: S, name: str) -> str:
        """Save training state; its path."""
        ...

    def load_checkpoint(self, path: str, config: SessionConfig) -> S:
        """A session that begins in saved training state."""
        ...

    def sample(
        self, session: S, prompt: ModelInput, num_samples: int, params: SamplingParams
    ) -> SampleResponse:
        """Continuations of `prompt` under the session's weights as they are now."""
        ...

    def close(self) -> None:
        """End all sessions."""
        ...

    async def create_session_async(self, config: SessionConfig) -> S:
        """See `create_session`."""
        ...

    async def forward_backward_async(
        self, session: S, data: Sequence[Datum], loss_fn: str
    ) -> ForwardBackwardOutput:
        """See `forward_backward`; the order of the calls is the order of the work."""
        ...

    async def optim_step_async(self, session: S, params: OptimParams | None = None) -> OptimStepResponse:
        """See `optim_step`."""
        ...

    async def save_checkpoint_async(self, session: S, name: str) -> str:
        """See `save_checkpoint`."""
        ...


class TinkerSession:
    """One model in training, and a sampler over its newest weights once somebody samples."""

    def __init__(self, training: TrainingClient) -> None:
        self.training = training
        """The client underneath, for what the protocol does not have."""
        self.sampler: tuple[int, SamplingClient] | None = None
        """With the number of steps that its weights have behind them."""


class TinkerPlatform:
    """The Tinker API as a training platform: the hosted service, or the embedded server.

    Args:
        service: whose client it uses, and closes; one over a run directory resumes its sessions.
    """

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    @classmethod
    def open(cls, **arguments: Any) -> Self:
        """A platform over a new `ServiceClient`; `base_url="local"` is the embedded server."""
        return cls(ServiceClient(**arguments))

    def create_session(self, config: SessionConfig) -> TinkerSession:
        """See `TrainingPlatform`.

        Raises:
            ValidationError: `config` is none.
            ConfigError: the session is in the run directory, and was created otherwise.
        """
        return TinkerSession(self._create(config).result())

    async def create_session_async(self, config: SessionConfig) -> TinkerSession:
        """See `create_session`."""
        return TinkerSession(await self._create(config))

    def _create(self, config: SessionConfig) -> Any:
        if not isinstance(config, SessionConfig):
            raise ValidationError(f"a session is created from a SessionConfig, got {type(config).__name__}")
        service = self._service
        if config.checkpoint is None:
            return service.create_lora_training_client(
                config.base_model, rank=config.rank, seed=config.seed, run=config.name
            )
        make = (
            service.create_training_client_from_state_with_optimizer
            if config.restores_optimizer
            else service.create_training_client_from_state
        )
        return make(config.checkpoint, run=config.name)

    def steps_taken(self, session: TinkerSession) -> int:
        """See `TrainingPlatform`."""
        return session.training.step

    def forward(
        self, session: TinkerSession, data: Sequence[Datum], loss_fn: str = "cross_entropy"
    ) -> ForwardBackwardOutput:
        """See `TrainingPlatform`."""
        return session.training.forward(data, loss_fn).result()

    def forward_backward(
        self, session: TinkerSession, data: Sequence[Datum], loss_fn: str = "cross_entropy"
    ) -> ForwardBackwardOutput:
        """See `TrainingPlatform`."""
        return session.training.forward_backward(data, loss_fn).result()

    async def forward_backward_async(
        self, session: TinkerSession, data: Sequence[Datum], loss_fn: str = "cross_entropy"
    ) -> ForwardBackwardOutput:
        """See `TrainingPlatform`."""
        return await session.training.forward_backward(data, loss_fn)

    def optim_step(self, session: TinkerSession, params: OptimParams | None = None) -> OptimStepResponse:
        """See `TrainingPlatform`; AdamW with the service's defaults where `params` are None."""
        return session.training.optim_step(AdamParams() if params is None else params).result()

    async def optim_step_async(
        self, session: TinkerSession, params: OptimParams | None = None
    ) -> OptimStepResponse:
        """See `optim_step`."""
        return await session.training.optim_step(AdamParams() if params is None else params)

    def save_checkpoint(self, session: TinkerSession, name: str) -> str:
        """See `TrainingPlatform`."""
        return session.training.save_state(name).result().path

    async def save_checkpoint_async(self, session: TinkerSession, name: str) -> str:
        """See `TrainingPlatform`."""
        return (await session.training.save_state(name)).path

    def load_checkpoint(self, path: str, config: SessionConfig) -> TinkerSession:
        """See `TrainingPlatform`; base model and rank are those of the checkpoint."""
        return self.create_session(msgspec.structs.replace(config, checkpoint=path))

    def sample(
        self, session: TinkerSession, prompt: ModelInput, num_samples: int, params: SamplingParams
    ) -> SampleResponse:
        """See `TrainingPlatform`; the weights are saved for it once after each step, and when the service lost them."""
        try:
            return _sampler_of(session).sample(prompt, num_samples, params).result()
        except SamplerLostError:
            session.sampler = None
            return _sampler_of(session).sample(prompt, num_samples, params).result()

    def close(self) -> None:
        """Save what no checkpoint covers, and end the session on the service."""
        self._service.close().result()

    def __enter__(self) -> Self:
        self._service.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.__exit__(kind, error, trace)


def _sampler_of(session: TinkerSession) -> SamplingClient:
    """Over the weights as they are."""
    step = session.training.step
    if session.sampler is None or session.sampler[0] != step:
        session.sampler = step, session.training.save_weights_and_get_sampling_client().result()
    return session.sampler[1]
