"""Request bodies as values: decoding, and the digest by which a repeated request is known."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.prompts import PromptQuestions, Targets
from tinker_actors.local.engine.sampling import SampleSpec
from tinker_actors.local.engine.training import Example
from tinker_actors.local.refusals import RefusedError
from tinker_actors.types import AdamParams
from tinker_actors.wire.documents import (
    ForwardBackwardInput,
    OptimStepRequest,
    SampleRequest,
    TensorDocument,
)
from tinker_actors.wire.json import read_datum, read_tensor
from tinker_actors.wire.protobuf import TrainingRequest, check_cells, decode_training_request

__all__ = [
    "LARGEST_ID",
    "adam_params",
    "decode",
    "digest_of",
    "examples_of",
    "parse",
    "place_of",
    "read_sample",
    "read_training",
    "sample_spec",
]

T = TypeVar("T", bound=msgspec.Struct)
LARGEST_ID = 2**63 - 1


class _Place(msgspec.Struct, frozen=True):
    """Where in a model's order an operation stands."""

    model_id: str
    seq_id: int


class _JSONTraining(msgspec.Struct, frozen=True, kw_only=True):
    """POST forward or forward_backward in JSON."""

    model_id: str
    seq_id: int
    forward_backward_input: ForwardBackwardInput | None = None
    forward_input: ForwardBackwardInput | None = None


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RefusedError: 400, it is none.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise RefusedError(400, f"the body must be JSON: {error}") from error
    if not isinstance(document, dict):
        raise RefusedError(400, f"the body must be a JSON object, got {type(document).__name__}")
    return document


def decode(body: bytes, kind: type[T]) -> tuple[T, dict[str, Any], bytes]:
    """A JSON body as a document, as plain values, and its digest.

    Raises:
        RefusedError: 400, it is no JSON object; 422, it is no such document.
    """
    values = parse(body)
    try:
        document = msgspec.convert(values, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise RefusedError(422, f"the body is no {kind.__name__.strip('_')}: {error}") from error
    for name in values.keys() & set(kind.__struct_fields__):
        value = getattr(document, name)
        if name.endswith("seq_id") and isinstance(value, int) and not 0 <= value <= LARGEST_ID:
            raise RefusedError(422, f"{name} must lie in [0, 2**63), got {value}")
    return document, values, digest_of(values)


def read_sample(body: bytes) -> tuple[SampleRequest, dict[str, Any], bytes]:
    """A sample request as a document, as plain values, and its digest.

    Raises:
        RefusedError: 400 or 422, it cannot be read.
    """
    return decode(body, SampleRequest)


def sample_spec(request: SampleRequest, seed: int | None) -> SampleSpec:
    """What the engine is to draw and to score.

    Args:
        request: the document.
        seed: for a request that names none.

    Raises:
        ValidationError: the prompt is no text, or the targets are no matrix of token ids.
    """
    params = request.sampling_params
    prompt = request.prompt.to_numpy().tolist()
    last_n = request.prompt_logprobs_last_n
    return SampleSpec(
        prompt=prompt,
        num_samples=request.num_samples,
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=seed if params.seed is None else params.seed,
        stop=params.stop,
        topk=request.topk_sample_logprobs,
        questions=PromptQuestions(
            logprobs=bool(request.prompt_logprobs),
            topk=request.topk_prompt_logprobs,
            last_n=last_n if isinstance(last_n, int) else None,
            targets=_targets(request.target_prompt_logprobs, len(prompt)),
            alternatives=request.prompt_alt_tokens_k,
        ),
    )


def _targets(document: TensorDocument | msgspec.UnsetType | None, prompt_length: int) -> Targets | None:
    if not isinstance(document, TensorDocument):
        return None
    name = "target_prompt_logprobs"
    tensor = read_tensor(document)
    if tensor.dtype != "int64" or len(tensor.shape) != 2 or tensor.shape[0] != prompt_length - 1:  # noqa: PLR2004
        raise ShapeError(
            f"{name} must be int64 of shape ({prompt_length - 1}, ids), got {tensor.dtype} of {tensor.shape}"
        )
    indices = tensor.indices()
    if indices is None:
        rows = np.repeat(np.arange(tensor.shape[0]), tensor.shape[1])
    else:
        rows = np.repeat(np.arange(tensor.shape[0]), np.diff(indices[0]))
    return Targets(rows, tensor.values.reshape(-1))


def digest_of(content: Mapping[str, Any] | bytes) -> bytes:
    """A digest of a body; the order of a JSON object's keys does not count."""
    plain = content if isinstance(content, bytes) else msgspec.json.encode(content, order="deterministic")
    return hashlib.blake2b(plain, digest_size=16).digest()


def read_training(media: str, body: bytes) -> TrainingRequest:
    """A forward or forward_backward request of either encoding.

    Raises:
        RefusedError: 400 or 422, it cannot be read.
    """
    try:
        request = decode_training_request(body) if media == "protobuf" else _json_training(body)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
    if not 0 < request.seq_id <= LARGEST_ID:
        raise RefusedError(400, f"seq_id must be positive, got {request.seq_id}")
    return request


def place_of(media: str, body: bytes) -> tuple[str, int] | None:
    """The model and the seq_id that an operation names, however wrong the rest of it is; None if it names none."""
    try:
        named = decode_training_request(body) if media == "protobuf" else msgspec.convert(parse(body), _Place)
    except (RefusedError, ValidationError, msgspec.ValidationError):
        return None
    return (named.model_id, named.seq_id) if 0 < named.seq_id <= LARGEST_ID else None


def _json_training(body: bytes) -> TrainingRequest:
    document, _, _ = decode(body, _JSONTraining)
    content = document.forward_backward_input or document.forward_input
    if content is None:
        raise RefusedError(422, "the body must have forward_backward_input or forward_input")
    data = [read_datum(datum) for datum in content.data]
    check_cells(data)
    return TrainingRequest(
        model_id=document.model_id,
        seq_id=document.seq_id,
        data=data,
        loss_fn=content.loss_fn,
        loss_fn_config=dict(content.loss_fn_config or {}),
        forward_only=document.forward_backward_input is None,
    )


def examples_of(request: TrainingRequest) -> list[Example]:
    """What the engine trains on.

    Raises:
        ValidationError: an input is no list of token ids.
    """
    return [
        Example(
            tokens=datum.model_input.to_numpy().astype(np.int64),
            inputs={name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()},
        )
        for datum in request.data
    ]


def adam_params(request: OptimStepRequest) -> AdamParams:
    """The settings of an optimizer step.

    Raises:
        RefusedError: 400, one lies outside its range.
    """
    try:
        return msgspec.convert(request.adam_params, AdamParams)
    except (msgspec.ValidationError, ValueError) as error:
        raise RefusedError(400, f"adam_params: {error}") from error
