"""What is refused before it is accepted, so that it uses up no place in a model's order."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ValidationError
from tinker_actors.local.catalog import ModelConfig
from tinker_actors.local.losses import find_loss
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.training import Example
from tinker_actors.types import LoraConfig
from tinker_actors.wire.documents import SampleRequest
from tinker_actors.wire.protobuf import TrainingRequest

__all__ = ["check_examples", "check_lora", "check_name", "check_sample"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
MOST_RANK = 512
MOST_SEED = 2**63 - 1
CACHE_BYTES = 128 * 2**20
"""Most memory the keys and values of one sample request may take."""
UNSUPPORTED = (
    "topk_prompt_logprobs",
    "topk_sample_logprobs",
    "target_prompt_logprobs",
    "prompt_alt_tokens_k",
    "prompt_logprobs_last_n",
    "record_stability_info",
)
"""Fields of asample that must be absent or say "off"."""


def check_name(name: str) -> str:
    """`name`, if a checkpoint may be called that.

    Raises:
        RefusedError: 400, it may not.
    """
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise RefusedError(
            400, f"checkpoint names are 1 to 255 of A-Z a-z 0-9 _ . - and neither . nor .., got {name!r}"
        )
    return name


def check_lora(lora: LoraConfig) -> None:
    """Nothing if an adapter can be made of `lora`.

    Raises:
        RefusedError: 400, it cannot.
    """
    if not 1 <= lora.rank <= MOST_RANK:
        raise RefusedError(400, f"LoRA rank must lie in [1, {MOST_RANK}], got {lora.rank}")
    if isinstance(lora.seed, int) and not 0 <= lora.seed <= MOST_SEED:
        raise RefusedError(400, f"LoRA seed must lie in [0, 2**63), got {lora.seed}")
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise RefusedError(400, "LoRA must train attention, MLP or unembedding, got none of them")


def check_examples(request: TrainingRequest, examples: Sequence[Example], config: ModelConfig) -> None:
    """Nothing if a model of this shape can be trained on `examples`.

    Raises:
        RefusedError: 400, it cannot; the text names the first datum that is wrong.
    """
    try:
        loss = find_loss(request.loss_fn)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
    if not examples:
        raise RefusedError(400, "data must hold at least one datum, got none")
    for index, example in enumerate(examples):
        try:
            _check_ids("model_input", example.tokens, config)
            loss.check(example.inputs, len(example.tokens))
            _check_ids("target_tokens", example.inputs["target_tokens"], config)
            _check_numbers(example.inputs)
        except ValidationError as error:
            raise RefusedError(400, f"data[{index}]: {error}") from error


def _check_ids(name: str, ids: npt.NDArray[Any], config: ModelConfig) -> None:
    if not 0 < ids.size <= config.max_context_length:
        raise ValidationError(f"{name} must have 1 to {config.max_context_length} tokens, got {ids.size}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValidationError(f"{name} must be int64, got {ids.dtype}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValidationError(
            f"{name} must lie in the vocabulary [0, {config.vocab_size}), got {ids.min()} to {ids.max()}"
        )


def _check_numbers(inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, values in inputs.items():
        if not np.isfinite(values).all():
            raise ValidationError(f"{name} must be finite, got NaN or infinity")


def check_sample(request: SampleRequest, values: Mapping[str, Any], config: ModelConfig) -> None:
    """Nothing if a model of this shape can answer `request`.

    Args:
        request: the document.
        values: all fields of the body, also those the document does not have.
        config: shape of the base model.

    Raises:
        RefusedError: 400, it cannot.
    """
    for name in UNSUPPORTED:
        if values.get(name):
            raise RefusedError(400, f"{name} is not offered by this server; leave it out")
    try:
        prompt = request.prompt.to_numpy()
        _check_ids("prompt", prompt, config)
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
    room = config.max_context_length - len(prompt)
    if room < 1:
        raise RefusedError(
            400,
            f"the prompt must leave room in the context of {config.max_context_length}, got {len(prompt)}",
        )
    params = request.sampling_params
    if params.seed is not None and not 0 <= params.seed <= MOST_SEED:
        raise RefusedError(400, f"seed must lie in [0, 2**63), got {params.seed}")
    if isinstance(params.stop, str | list) and "" in (params.stop, *params.stop):
        raise RefusedError(400, "stop strings must not be empty")
    _check_memory(request.num_samples, len(prompt) + min(room, params.max_tokens or room), config)


def _check_memory(num_samples: int, steps: int, config: ModelConfig) -> None:
    """Keys and values of each sample and step, four bytes a number."""
    step_bytes = 8 * config.layers * config.kv_heads * config.head_dim
    most = max(1, CACHE_BYTES // (step_bytes * steps))
    if not 1 <= num_samples <= most:
        raise RefusedError(
            400, f"num_samples must lie in [1, {most}] for {steps} tokens each, got {num_samples}"
        )
