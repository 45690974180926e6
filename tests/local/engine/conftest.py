"""A model small enough for finite differences, and a batch for it."""

from collections.abc import Callable

import numpy as np
import pytest

from tinker_actors.local.engine.catalog import BaseModel, ModelConfig, random_weights
from tinker_actors.local.engine.lora import Adapter, new_adapter
from tinker_actors.local.engine.training import Example, Trainer

MakeBase = Callable[..., BaseModel]
MakeAdapter = Callable[..., Adapter]
MakeTrainer = Callable[..., Trainer]


def _base(dtype: str = "float64", *, qk_norm: bool = False) -> BaseModel:
    config = ModelConfig(
        vocab_size=17,
        hidden_size=12,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=6,
        intermediate_size=10,
        max_context_length=24,
        qk_norm=qk_norm,
    )
    return BaseModel("small", random_weights(config, 3, dtype))


def _busy_adapter(base: BaseModel, rank: int = 3) -> Adapter:
    """An adapter both of whose factors are far from zero."""
    adapter = new_adapter(base.config, rank=rank, seed=1, dtype=base.weights.embedding.dtype)
    adapter.flat += np.random.default_rng(1).standard_normal(adapter.flat.size) * 0.03 * rank**0.5
    return adapter


def _trainer(dtype: str = "float32", rank: int = 3, *, qk_norm: bool = False) -> Trainer:
    base = _base(dtype, qk_norm=qk_norm)
    return Trainer(base, _busy_adapter(base, rank))


@pytest.fixture
def make_base() -> MakeBase:
    return _base


@pytest.fixture
def make_adapter() -> MakeAdapter:
    return _busy_adapter


@pytest.fixture
def make_trainer() -> MakeTrainer:
    return _trainer


@pytest.fixture
def examples() -> list[Example]:
    random = np.random.default_rng(5)
    return [
        Example(
            random.integers(17, size=length),
            {
                "target_tokens": random.integers(17, size=length),
                "weights": random.choice([0.0, 0.5, 1.0], size=length),
            },
        )
        for length in (9, 4, 6, 9)
    ]
