"""What is refused before it is accepted, so that it uses up no place in a model's order."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import UnsetType

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine import lora as adapters
from tinker_actors.local.engine import sampling, training
from tinker_actors.local.engine.catalog import ModelConfig
from tinker_actors.local.engine.training import Example
from tinker_actors.local.refusals import RefusedError
from tinker_actors.types import LoraConfig
from tinker_actors.wire.documents import SampleRequest
from tinker_actors.wire.protobuf import TrainingRequest

__all__ = ["check_examples", "check_lifetime", "check_lora", "check_name", "check_sample"]

NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
MOST_RANK = 512
LEAST_TTL_S = 3600
MOST_TTL_S = 10 * 366 * 86_400
"""Ten years, however many leap days are in them."""
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


def check_lifetime(ttl_seconds: int) -> int:
    """`ttl_seconds`, if a checkpoint may live so long.

    Raises:
        RefusedError: 422, it may not.
    """
    if not LEAST_TTL_S <= ttl_seconds <= MOST_TTL_S:
        raise RefusedError(
            422,
            f"ttl_seconds must lie in [{LEAST_TTL_S}, {MOST_TTL_S}], an hour to ten years, got {ttl_seconds}",
        )
    return ttl_seconds


def check_lora(lora: LoraConfig) -> None:
    """Nothing if an adapter can be made of `lora`.

    Raises:
        RefusedError: 400, it cannot.
    """
    seed = None if isinstance(lora.seed, UnsetType) else lora.seed
    with _refusing():
        adapters.check(
            lora.rank,
            seed,
            train_attn=lora.train_attn,
            train_mlp=lora.train_mlp,
            train_unembed=lora.train_unembed,
        )
    if lora.rank > MOST_RANK:
        raise RefusedError(400, f"LoRA rank must lie in [1, {MOST_RANK}], got {lora.rank}")
    if seed is not None and seed > MOST_SEED:
        raise RefusedError(400, f"LoRA seed must lie in [0, 2**63), got {seed}")


def check_examples(request: TrainingRequest, examples: Sequence[Example], config: ModelConfig) -> None:
    """Nothing if a model of this shape can be trained on `examples`.

    Raises:
        RefusedError: 400, it cannot; the text names the first datum that is wrong.
    """
    with _refusing():
        training.check(examples, request.loss_fn, request.loss_fn_config, config)


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
    params = request.sampling_params
    with _refusing():
        prompt = request.prompt.to_numpy().tolist()
        room = sampling.check(
            config,
            prompt,
            num_samples=request.num_samples,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            seed=params.seed,
            stop=params.stop,
        )
    if params.seed is not None and params.seed > MOST_SEED:
        raise RefusedError(400, f"seed must lie in [0, 2**63), got {params.seed}")
    _check_memory(request.num_samples, len(prompt) + room, config)


def _check_memory(num_samples: int, steps: int, config: ModelConfig) -> None:
    """Keys and values of each sample and step, four bytes a number."""
    step_bytes = 8 * config.layers * config.kv_heads * config.head_dim
    most = max(1, CACHE_BYTES // (step_bytes * steps))
    if num_samples > most:
        raise RefusedError(
            400, f"num_samples must lie in [1, {most}] for {steps} tokens each, got {num_samples}"
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Make what the engine finds wrong a refusal."""
    try:
        yield
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
