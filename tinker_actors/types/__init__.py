"""The values callers build and receive."""

from tinker_actors.types.checkpoints import (
    CheckpointKind,
    CheckpointPath,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinker_actors.types.data import Datum, EncodedTextChunk, ModelInput, token_ids
from tinker_actors.types.sampling import SampledSequence, SampleResponse, SamplingParams, StopReason
from tinker_actors.types.sessions import ServerCapabilities, SupportedModel
from tinker_actors.types.tensors import DType, TensorData
from tinker_actors.types.training import (
    AdamParams,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoraConfig,
    ModelData,
    OptimizerConfig,
    OptimStepResponse,
)

__all__ = [
    "AdamParams",
    "CheckpointKind",
    "CheckpointPath",
    "DType",
    "Datum",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "LoraConfig",
    "ModelData",
    "ModelInput",
    "OptimStepResponse",
    "OptimizerConfig",
    "SampleResponse",
    "SampledSequence",
    "SamplingParams",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "ServerCapabilities",
    "StopReason",
    "SupportedModel",
    "TensorData",
    "token_ids",
]
