"""Sampling endpoints."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET

from tinker_actors.api.chunks import JSON_TOKEN_BYTES, estimate_input_bytes
from tinker_actors.api.futures import read_handle
from tinker_actors.errors import APIResponseValidationError, RequestFailedError
from tinker_actors.types import (
    ModelInput,
    PromptAltTokens,
    SampleResponse,
    SampleStreamChunk,
    SamplingParams,
    TensorData,
)
from tinker_actors.types.sampling import StopReason
from tinker_actors.wire.calls import Call, Pool, WhenOpen, json_body, read_json
from tinker_actors.wire.documents import (
    CreateSamplingSessionRequest,
    FutureHandle,
    SamplingSessionCreated,
    SentSampleRequest,
    SentSamplingParams,
)
from tinker_actors.wire.json import tensor_document
from tinker_actors.wire.retry import PATIENT
from tinker_actors.wire.sse import EVENT_STREAM, ServerSentEvent

__all__ = [
    "SampleOptions",
    "StreamReader",
    "asample",
    "complete",
    "create_sampling_session",
    "join_sampling_session",
    "stream_sample",
]

STREAM_TIMEOUT_S = 300.0
"""Longest wait for a byte of a stream: its request may stand in a queue of the service before the first one."""

_BACKPRESSURE = {"x-tinker-sampling-backpressure": "1"}
"""Says that we know what to do when there is too much to do."""


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


class _Joined(msgspec.Struct, frozen=True):
    client_counter: int


def join_sampling_session(sampling_session_id: str) -> Call[int]:
    """A number of our own, from 1, for a client that shares the sampler: its requests are told apart by it."""
    read = read_json(_Joined)
    return Call(
        operation="join_sampling_session",
        path="join_sampling_session",
        body=json_body({"sampling_session_id": sampling_session_id, "type": "join_sampling_session"}),
        pool=Pool.SAMPLE,
        retry=PATIENT,
        read=lambda answer: read(answer).client_counter,
    )


class SampleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample request asks for beside its prompt and how tokens are drawn."""

    num_samples: int = 1
    """Sequences."""
    prompt_logprobs: bool = False
    """Score the prompt's tokens."""
    topk_prompt_logprobs: int = 0
    """Give so many of the likeliest tokens at each prompt position."""
    topk_sample_logprobs: int = 0
    """Give so many of the likeliest tokens at each drawn position."""
    target_prompt_logprobs: TensorData | None = None
    """Score these ids; int64, shape (prompt tokens - 1, K), -1 for none."""
    prompt_alt_tokens_k: int = 0
    """Draw so many tokens in place of each of the prompt's."""
    prompt_logprobs_last_n: int | None = None
    """Score only so many of the prompt's last tokens."""
    record_stability_info: bool = False
    """Have the service keep what `stable_reinforce` needs of the sequences."""


def asample(
    sampling_session_id: str,
    seq_id: int,
    prompt: ModelInput,
    sampling_params: SamplingParams,
    options: SampleOptions,
    *,
    when_open: WhenOpen = WhenOpen.FAIL,
) -> Call[FutureHandle]:
    """Sequences that continue `prompt`; the same ids give the same request."""
    return Call(
        operation="asample",
        path="asample",
        body=_sample_body(sampling_session_id, seq_id, prompt, sampling_params, options),
        headers=_BACKPRESSURE,
        pool=Pool.SAMPLE,
        size=estimate_input_bytes(prompt, token_bytes=JSON_TOKEN_BYTES),
        retry=PATIENT,
        when_open=when_open,
        read=read_handle,
    )


def stream_sample(
    sampling_session_id: str,
    seq_id: int,
    prompt: ModelInput,
    sampling_params: SamplingParams,
    options: SampleOptions,
    *,
    when_open: WhenOpen = WhenOpen.FAIL,
) -> Call[None]:
    """Sequences that continue `prompt`, as server-sent events; no endpoint of the official API."""
    return Call(
        operation="stream_sample",
        path="stream_sample",
        body=_sample_body(sampling_session_id, seq_id, prompt, sampling_params, options),
        accept=EVENT_STREAM,
        timeout_s=STREAM_TIMEOUT_S,
        pool=Pool.STREAM,
        size=estimate_input_bytes(prompt, token_bytes=JSON_TOKEN_BYTES),
        retry=PATIENT,
        when_open=when_open,
        read=lambda _: None,
    )


def _sample_body(
    sampling_session_id: str,
    seq_id: int,
    prompt: ModelInput,
    sampling_params: SamplingParams,
    options: SampleOptions,
) -> bytes:
    targets, last_n = options.target_prompt_logprobs, options.prompt_logprobs_last_n
    request = SentSampleRequest(
        prompt=prompt,
        sampling_params=_sent(sampling_params),
        sampling_session_id=sampling_session_id,
        seq_id=seq_id,
        num_samples=options.num_samples,
        prompt_logprobs=options.prompt_logprobs,
        topk_prompt_logprobs=options.topk_prompt_logprobs,
        topk_sample_logprobs=options.topk_sample_logprobs,
        target_prompt_logprobs=UNSET if targets is None else tensor_document(targets),
        prompt_alt_tokens_k=options.prompt_alt_tokens_k,
        prompt_logprobs_last_n=UNSET if last_n is None else last_n,
        record_stability_info=options.record_stability_info,
    )
    return json_body(request)


class _StreamData(msgspec.Struct, frozen=True):
    """What the data of an event may hold; what an event is, its fields say."""

    token: str = ""
    token_id: int | None = None
    index: int | None = None
    logprob: float | None = None
    sequence: int = 0
    finish_reason: StopReason | None = None
    finish_reasons: list[StopReason] | None = None
    error: str | None = None
    category: str = "unknown"


_decode_stream_data = msgspec.json.Decoder(_StreamData).decode


class StreamReader:
    """Turns the events of one stream into chunks.

    Args:
        num_samples: how many sequences were asked for.
    """

    def __init__(self, num_samples: int) -> None:
        self._lengths = [0] * num_samples
        self.tokens = 0
        """How many came."""
        self.is_done = False
        """Whether the last event is there."""

    def read(self, event: ServerSentEvent) -> list[SampleStreamChunk]:
        """The chunks of one event; none of what is no document.

        Raises:
            RequestFailedError: the service failed while sampling.
            APIResponseValidationError: the event makes no sense.
        """
        if not event.data.lstrip().startswith("{"):
            return []
        try:
            data = _decode_stream_data(event.data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise APIResponseValidationError(
                f"an event of a stream was wanted, after {self.tokens} tokens: {error}"
            ) from error
        if data.error is not None:
            raise RequestFailedError(
                f"the stream failed after {self.tokens} tokens: {data.error}",
                category=data.category if data.category in ("user", "server") else "unknown",
            )
        if data.finish_reason is not None:
            self.is_done = True
            return self._ends(data.finish_reasons or [data.finish_reason] * len(self._lengths))
        if data.token_id is None or not 0 <= data.sequence < len(self._lengths):
            raise APIResponseValidationError(
                f"a token of one of {len(self._lengths)} sequences was wanted, got {event.event!r} without one"
            )
        place = self._lengths[data.sequence]
        self._lengths[data.sequence] += 1
        self.tokens += 1
        return [
            SampleStreamChunk(
                token=data.token,
                token_id=data.token_id,
                index=place if data.index is None else data.index,
                logprob=data.logprob,
                sequence=data.sequence,
            )
        ]

    def _ends(self, reasons: Sequence[StopReason]) -> list[SampleStreamChunk]:
        return [
            SampleStreamChunk(index=length, finish_reason=reason, sequence=number)
            for number, (length, reason) in enumerate(zip(self._lengths, reasons, strict=False))
        ]


def _sent(params: SamplingParams) -> SentSamplingParams:
    return SentSamplingParams(
        max_tokens=UNSET if params.max_tokens is None else params.max_tokens,
        seed=UNSET if params.seed is None else params.seed,
        stop=UNSET if params.stop is None else params.stop,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
    )


def complete(
    response: SampleResponse, options: SampleOptions, sequence_ids: Sequence[str] | None
) -> SampleResponse:
    """`response` with the ids that its sequences were given when they were asked for.

    Services that do not know an option leave out its answer and say nothing.

    Args:
        response: as the service gave it.
        options: what it was asked.
        sequence_ids: out of the answer to asample; None if the service gives none.

    Raises:
        APIResponseValidationError: an answer that was asked for is missing, or covers what it should not.
    """
    for name, answer in _asked(response, options):
        if answer is None:
            raise APIResponseValidationError(
                f"{name} was asked for, but the service gave none; it may be older than that option"
            )
    _check_last_n(response.prompt_logprobs, options.prompt_logprobs_last_n)
    _check_targets(response.target_prompt_logprobs, options.target_prompt_logprobs)
    _check_alternatives(response.prompt_alt_tokens, options.prompt_alt_tokens_k)
    if sequence_ids is not None:
        if len(sequence_ids) != len(response.sequences):
            raise APIResponseValidationError(
                f"each sequence needs an id, got {len(sequence_ids)} for {len(response.sequences)} sequences"
            )
        for sequence, sequence_id in zip(response.sequences, sequence_ids, strict=True):
            sequence.sequence_id = sequence_id
    return response


def _asked(response: SampleResponse, options: SampleOptions) -> Iterator[tuple[str, object]]:
    """Each option that asks for an answer, and that answer."""
    if options.prompt_logprobs:
        yield "include_prompt_logprobs", response.prompt_logprobs
    if options.topk_prompt_logprobs:
        yield "topk_prompt_logprobs", response.topk_prompt_logprobs_np
    if options.target_prompt_logprobs is not None:
        yield "target_prompt_logprobs", response.target_prompt_logprobs
    if options.prompt_alt_tokens_k:
        yield "prompt_alt_tokens_k", response.prompt_alt_tokens
    if options.topk_sample_logprobs:
        for sequence in response.sequences:
            if sequence.tokens:
                yield "topk_sample_logprobs", sequence.topk_logprobs_np


def _check_last_n(logprobs: list[float | None] | None, last_n: int | None) -> None:
    if logprobs is None or last_n is None:
        return
    scored = [place for place, logprob in enumerate(logprobs[:-last_n]) if logprob is not None]
    if scored:
        raise APIResponseValidationError(
            f"prompt_logprobs_last_n={last_n} was asked for, but the service scored position {scored[0]} of "
            f"{len(logprobs)}, too; it may be older than that option"
        )


def _check_targets(answer: TensorData | None, question: TensorData | None) -> None:
    if answer is None or question is None:
        return
    if (answer.dtype, answer.shape) != ("float32", question.shape):
        raise APIResponseValidationError(
            f"target_prompt_logprobs must be float32 of shape {question.shape}, got {answer!r}"
        )


def _check_alternatives(answer: PromptAltTokens | None, k: int) -> None:
    if answer is None or not k:
        return
    shape = answer.tokens.shape
    dtypes = (answer.tokens.dtype, answer.logprobs.dtype)
    if dtypes != ("int64", "float32") or answer.logprobs.shape != shape or shape[1:] != [k]:
        raise APIResponseValidationError(
            f"prompt_alt_tokens must be int64 ids and float32 logprobs of shape [prompt tokens - 1, {k}], "
            f"got {answer.tokens!r} and {answer.logprobs!r}"
        )
