"""A supervised runtime and client for the Tinker training API.

Names are loaded when they are first used, so that importing the package costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinker_actors.errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    CommandRefusedError,
    ConfigError,
    ConflictError,
    FencedError,
    ForkedProcessError,
    FutureExpiredError,
    HandleClosedError,
    InternalServerError,
    JournalError,
    MailboxFullError,
    NotDeliveredError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PoisonedError,
    RateLimitError,
    RequestFailedError,
    RunHaltedError,
    RuntimeStoppedError,
    SamplerLostError,
    ShapeError,
    StartFailedError,
    StepVoidError,
    TinkerActorsError,
    TinkerError,
    TinkerPathError,
    TLSError,
    UnprocessableEntityError,
    ValidationError,
    WouldDeadlockError,
)

if TYPE_CHECKING:
    from tinker_actors import types
    from tinker_actors.clients.future import APIFuture, ClientFuture
    from tinker_actors.clients.rest import RestClient
    from tinker_actors.clients.sampling import SamplingClient
    from tinker_actors.clients.service import ServiceClient
    from tinker_actors.clients.training import TrainingClient
    from tinker_actors.config import RecoveryPolicy
    from tinker_actors.types import (
        AdamOptimizerConfig,
        AdamParams,
        Datum,
        DimuonOptimizerConfig,
        DimuonParams,
        DmelChunk,
        EncodedTextChunk,
        ForwardBackwardOutput,
        GetInfoResponse,
        ImageAssetPointerChunk,
        ImageChunk,
        LoraConfig,
        ModelInput,
        OptimStepResponse,
        PromptAltTokens,
        PromptProvenanceSpan,
        SampledProvenanceSpan,
        SampledSequence,
        SampleResponse,
        SamplingParams,
        SaveWeightsExternalResponse,
        SaveWeightsForSamplerResponse,
        SaveWeightsResponse,
        ServerCapabilities,
        StopReason,
        TensorData,
        TopkLogprobs,
    )
    from tinker_actors.types.rest import (
        Checkpoint,
        ParsedCheckpointTinkerPath,
        SessionSearchOwner,
        SessionSearchRequest,
        SessionStatusQuery,
        TrainingRun,
    )

__version__ = "0.1.0"

_HOMES = {
    "clients.future": ["APIFuture", "ClientFuture"],
    "clients.rest": ["RestClient"],
    "clients.sampling": ["SamplingClient"],
    "clients.service": ["ServiceClient"],
    "clients.training": ["TrainingClient"],
    "config": ["RecoveryPolicy"],
    "types": [
        "AdamOptimizerConfig",
        "AdamParams",
        "Datum",
        "DimuonOptimizerConfig",
        "DimuonParams",
        "DmelChunk",
        "EncodedTextChunk",
        "ForwardBackwardOutput",
        "GetInfoResponse",
        "ImageAssetPointerChunk",
        "ImageChunk",
        "LoraConfig",
        "ModelInput",
        "OptimStepResponse",
        "PromptAltTokens",
        "PromptProvenanceSpan",
        "SampleResponse",
        "SampledProvenanceSpan",
        "SampledSequence",
        "SamplingParams",
        "SaveWeightsExternalResponse",
        "SaveWeightsForSamplerResponse",
        "SaveWeightsResponse",
        "ServerCapabilities",
        "StopReason",
        "TensorData",
        "TopkLogprobs",
    ],
    "types.rest": [
        "Checkpoint",
        "ParsedCheckpointTinkerPath",
        "SessionSearchOwner",
        "SessionSearchRequest",
        "SessionStatusQuery",
        "TrainingRun",
    ],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIFuture",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AdamOptimizerConfig",
    "AdamParams",
    "AuthenticationError",
    "BadRequestError",
    "BillingError",
    "Checkpoint",
    "ClientFuture",
    "CommandRefusedError",
    "ConfigError",
    "ConflictError",
    "Datum",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "DmelChunk",
    "EncodedTextChunk",
    "FencedError",
    "ForkedProcessError",
    "ForwardBackwardOutput",
    "FutureExpiredError",
    "GetInfoResponse",
    "HandleClosedError",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "InternalServerError",
    "JournalError",
    "LoraConfig",
    "MailboxFullError",
    "ModelInput",
    "NotDeliveredError",
    "NotFoundError",
    "OptimStepResponse",
    "OutcomeUnknownError",
    "ParsedCheckpointTinkerPath",
    "PermissionDeniedError",
    "PoisonedError",
    "PromptAltTokens",
    "PromptProvenanceSpan",
    "RateLimitError",
    "RecoveryPolicy",
    "RequestFailedError",
    "RestClient",
    "RunHaltedError",
    "RuntimeStoppedError",
    "SampleResponse",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplerLostError",
    "SamplingClient",
    "SamplingParams",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "ServerCapabilities",
    "ServiceClient",
    "SessionSearchOwner",
    "SessionSearchRequest",
    "SessionStatusQuery",
    "ShapeError",
    "StartFailedError",
    "StepVoidError",
    "StopReason",
    "TLSError",
    "TensorData",
    "TinkerActorsError",
    "TinkerError",
    "TinkerPathError",
    "TopkLogprobs",
    "TrainingClient",
    "TrainingRun",
    "UnprocessableEntityError",
    "ValidationError",
    "WouldDeadlockError",
    "types",
]


def __getattr__(name: str) -> Any:
    if name == "types":  # the official SDK's way to every type
        return import_module(f"{__name__}.types")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
