"""What is refused before it is accepted, so that it uses up no place in a model's order."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import UnsetType

from tinker_actors.errors import ValidationError
from tinker_actors.local.bodies import sample_spec
from tinker_actors.local.engine import lora as adapters
from tinker_actors.local.engine import training
from tinker_actors.local.engine.catalog import ModelConfig
from tinker_actors.local.engine.sampling import SampleSpec
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


def check_name(name: str) -> None:
    """Nothing if a checkpoint may be called `name`.

    Raises:
        RefusedError: 400, it may not.
    """
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise RefusedError(
            400, f"checkpoint names are 1 to 255 of A-Z a-z 0-9 _ . - and neither . nor .., got {name!r}"
        )


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


def check_sample(request: SampleRequest, config: ModelConfig) -> SampleSpec:
    """What the engine is to draw, if a model of this shape can.

    Raises:
        RefusedError: 400, it cannot.
    """
    if request.record_stability_info:
        raise RefusedError(400, "record_stability_info is not offered by this server; leave it out")
    with _refusing():
        spec = sample_spec(request, None)
        room = spec.check(config)
    most = spec.most_samples(config, CACHE_BYTES)
    if spec.num_samples > most:
        steps = len(spec.prompt) + room
        raise RefusedError(
            400, f"num_samples must lie in [1, {most}] for {steps} tokens each, got {spec.num_samples}"
        )
    return spec


@contextmanager
def _refusing() -> Iterator[None]:
    """Make what the engine finds wrong a refusal."""
    try:
        yield
    except ValidationError as error:
        raise RefusedError(400, str(error)) from error
