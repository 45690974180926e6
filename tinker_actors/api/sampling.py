"""Sampling endpoints."""

from msgspec import UNSET

from tinker_actors.types import ModelInput, SamplingParams
from tinker_actors.wire.calls import Call, Pool, json_body, read_json
from tinker_actors.wire.documents import (
    CreateSamplingSessionRequest,
    FutureHandle,
    SampleRequest,
    SamplingSessionCreated,
)
from tinker_actors.wire.retry import PATIENT

__all__ = ["asample", "create_sampling_session"]


def create_sampling_session(
    session_id: str,
    sampling_session_seq_id: int,
    *,
    base_model: str | None = None,
    model_path: str | None = None,
) -> Call[SamplingSessionCreated]:
    """A sampler over a base model or over saved sampler weights (exactly one of the two)."""
    request = CreateSamplingSessionRequest(
        session_id=session_id,
        sampling_session_seq_id=sampling_session_seq_id,
        base_model=base_model or UNSET,
        model_path=model_path or UNSET,
    )
    return Call(
        operation="create_sampling_session",
        path="create_sampling_session",
        body=json_body(request),
        pool=Pool.SAMPLE,
        retry=PATIENT,
        read=read_json(SamplingSessionCreated),
    )


def asample(
    sampling_session_id: str,
    seq_id: int,
    prompt: ModelInput,
    sampling_params: SamplingParams,
    *,
    num_samples: int = 1,
    prompt_logprobs: bool = False,
) -> Call[FutureHandle]:
    """Sequences that continue `prompt`; the same ids give the same request."""
    request = SampleRequest(
        prompt=prompt,
        sampling_params=sampling_params,
        sampling_session_id=sampling_session_id,
        seq_id=seq_id,
        num_samples=num_samples,
        prompt_logprobs=prompt_logprobs,
    )
    return Call(
        operation="asample",
        path="asample",
        body=json_body(request),
        headers={"x-tinker-sampling-backpressure": "1"},
        pool=Pool.SAMPLE,
        retry=PATIENT,
        read=read_json(FutureHandle),
    )
