"""The JSON documents of the API, request and response, as types.

Optional request fields are `UNSET` and then left out: the service refuses nulls. Unknown fields of a
document are ignored. Source of every field: the wire protocol of the official SDK 0.38.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from tinker_actors.types import AdamOptimizerConfig, LoraConfig, ModelInput, SamplingParams

__all__ = [
    "CancelFutureRequest",
    "ClonedSampler",
    "CompleteMetadata",
    "CreateModelRequest",
    "CreateSamplingSessionRequest",
    "CreateSessionRequest",
    "ForwardBackwardInput",
    "ForwardBackwardRequest",
    "FutureHandle",
    "GetInfoRequest",
    "JoinSamplingSessionRequest",
    "LoadWeightsRequest",
    "ModelCreated",
    "OptimStepRequest",
    "OptimizerStepRequest",
    "RetrieveFutureRequest",
    "RetrieveFuturesRequest",
    "SampleRequest",
    "SamplingSessionCreated",
    "SaveWeightsExternalRequest",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsRequest",
    "SentSampleRequest",
    "SentSamplingParams",
    "SessionCreated",
    "SessionRequest",
    "TensorDocument",
    "TryAgain",
    "WireDatum",
]


# Service and sessions ---------------------------------------------------------------------------


class CreateSessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST create_session."""

    tags: Sequence[str] = ()
    user_metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    sdk_version: str = ""
    project_id: str | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    type: str = "create_session"


class SessionCreated(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to create_session."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None

    def messages(self) -> list[tuple[Literal["info", "warning", "error"], str]]:
        """What it has to say to people, with how much that matters."""
        levels: tuple[Literal["info", "warning", "error"], ...] = ("info", "warning", "error")
        words = (self.info_message, self.warning_message, self.error_message)
        return [(level, text) for level, text in zip(levels, words, strict=True) if text]


class SessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST session_heartbeat."""

    session_id: str
    type: str = "session_heartbeat"


# Training ---------------------------------------------------------------------------------------


class CreateModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST create_model."""

    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: LoraConfig
    optimizer_config: AdamOptimizerConfig = AdamOptimizerConfig()
    user_metadata: Mapping[str, Any] | UnsetType = UNSET
    type: str = "create_model"


class ModelCreated(msgspec.Struct, frozen=True, kw_only=True):
    """Result of create_model and of load_weights."""

    model_id: str | None = None


class GetInfoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST get_info and unload_model."""

    model_id: str
    type: str = "get_info"


class TensorDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor in JSON: flat values in row-major order; of a sparse (CSR) one, those that are listed."""

    data: Sequence[float | int]
    dtype: Literal["int64", "float32"]
    shape: Sequence[int] | None = None
    sparse_crow_indices: Sequence[int] | None = None
    sparse_col_indices: Sequence[int] | None = None


class WireDatum(msgspec.Struct, frozen=True, kw_only=True):
    """A datum in JSON."""

    model_input: ModelInput
    loss_fn_inputs: Mapping[str, TensorDocument]


class ForwardBackwardInput(msgspec.Struct, frozen=True, kw_only=True):
    """Data and loss in JSON."""

    data: Sequence[WireDatum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str] | None = None


class ForwardBackwardRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST forward_backward in JSON."""

    model_id: str
    seq_id: int
    forward_backward_input: ForwardBackwardInput


class OptimStepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST optim_step, of AdamW."""

    model_id: str
    seq_id: int
    adam_params: Mapping[str, float]
    type: str = "optim_step"


class OptimizerStepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST optim_step, of any other family: its parameters name it in `type`."""

    model_id: str
    seq_id: int
    optimizer_params: Mapping[str, Any]
    type: str = "optim_step"


class SaveWeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST save_weights."""

    model_id: str
    seq_id: int
    path: str | UnsetType = UNSET
    ttl_seconds: int | UnsetType = UNSET
    overwrite: bool = False
    user_metadata: Mapping[str, Any] | UnsetType = UNSET
    type: str = "save_weights"


class SaveWeightsForSamplerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST save_weights_for_sampler: named by `path`, else ephemeral by `sampling_session_seq_id`."""

    model_id: str
    seq_id: int
    path: str | UnsetType = UNSET
    sampling_session_seq_id: int | UnsetType = UNSET
    kind: str = "snapshot"
    ttl_seconds: int | UnsetType = UNSET
    user_metadata: Mapping[str, Any] | UnsetType = UNSET
    type: str = "save_weights_for_sampler"


class SaveWeightsExternalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST save_weights_external."""

    model_id: str
    path: str
    seq_id: int
    ttl_seconds: int | UnsetType = UNSET
    age_encryption_recipients: Sequence[str] | UnsetType = UNSET
    type: str = "save_weights_external"


class LoadWeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST load_weights: into a model by `model_id` and `seq_id`, or as a new model of a session."""

    path: str
    optimizer: bool
    model_id: str | UnsetType = UNSET
    seq_id: int | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    model_seq_id: int | UnsetType = UNSET
    base_model: str | UnsetType = UNSET
    optimizer_config: AdamOptimizerConfig | UnsetType = UNSET
    user_metadata: Mapping[str, Any] | UnsetType = UNSET
    weights_access_token: str | UnsetType = UNSET
    type: str = "load_weights"


# Sampling and futures ---------------------------------------------------------------------------


class CreateSamplingSessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST create_sampling_session: exactly one of `base_model` and `model_path`."""

    session_id: str
    sampling_session_seq_id: int
    base_model: str | UnsetType = UNSET
    model_path: str | UnsetType = UNSET
    type: str = "create_sampling_session"


class SamplingSessionCreated(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to create_sampling_session."""

    sampling_session_id: str


class _SampleFields(msgspec.Struct, frozen=True, kw_only=True):
    prompt: ModelInput
    sampling_session_id: str
    seq_id: int
    num_samples: int = 1
    prompt_logprobs: bool | None = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorDocument | UnsetType | None = UNSET
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | UnsetType | None = UNSET
    record_stability_info: bool | None = False
    type: str = "sample"


class SampleRequest(_SampleFields, frozen=True, kw_only=True):
    """POST asample, as a server reads it."""

    sampling_params: SamplingParams


class SentSamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn, as a client sends it."""

    max_tokens: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    stop: str | Sequence[str | int] | UnsetType = UNSET
    temperature: float
    top_k: int
    top_p: float


class SentSampleRequest(_SampleFields, frozen=True, kw_only=True):
    """POST asample, as a client sends it."""

    sampling_params: SentSamplingParams


class FutureHandle(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to whatever runs in the background."""

    request_id: str
    model_id: str | UnsetType = UNSET
    sample_sequence_ids: Sequence[str] | UnsetType = UNSET


class RetrieveFutureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST retrieve_future."""

    request_id: str
    allow_metadata_only: bool = False


class CompleteMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to retrieve_future when there is a large result: how large."""

    response_payload_size: int
    status: str = "complete_metadata"


class CancelFutureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST cancel_future."""

    request_id: str


class ClonedSampler(msgspec.Struct, frozen=True, kw_only=True):
    """One clone of a sampling client."""

    sampling_session_id: str
    cloned_sampler_id: int = 0
    type: str = "sampling_session"


class RetrieveFuturesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST retrieve_futures: what has ended of a clone's samples."""

    target: ClonedSampler
    prev_cursor: int = 0
    timeout: float | UnsetType | None = UNSET
    retrieved_request_ids: Sequence[str] = ()


class JoinSamplingSessionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST join_sampling_session."""

    sampling_session_id: str
    type: str = "join_sampling_session"


class TryAgain(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to retrieve_future while the request is pending."""

    request_id: str
    queue_state: str = "active"
    queue_state_reason: str | UnsetType = UNSET
    type: str = "try_again"
