"""Checkpoint files: equal states give equal bytes, and no half of one is ever seen."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.checkpoints import STATE, Checkpoints, Facts, adapter_arrays, encode, encode_named
from tinker_actors.local.engine.catalog import load_base_model
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.training import Example, Trainer
from tinker_actors.local.specs import ModelSpec
from tinker_actors.types import CheckpointPath

SPEC = ModelSpec(
    base_model="local/tiny", rank=2, seed=1, train_attn=True, train_mlp=False, train_unembed=False
)
PATH = CheckpointPath("m", "weights", "a")


def trained() -> Trainer:
    base = load_base_model("local/tiny")
    trainer = Trainer(base, new_adapter(base.config, rank=2, seed=1, train_mlp=False, train_unembed=False))
    tokens = np.arange(9)
    inputs: dict[str, Any] = {"target_tokens": tokens[1:], "weights": np.ones(8, np.float32)}
    for _ in range(2):
        trainer.forward_backward([Example(tokens[:-1], inputs)])
        trainer.optim_step(0.1)
    trainer.forward_backward([Example(tokens[:-1], inputs)])
    return trainer


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    (tmp_path / "tmp").mkdir()
    return Checkpoints(tmp_path)


def test_equal_states_give_equal_bytes() -> None:
    assert encode(SPEC, trained()) == encode(SPEC, trained())


def test_a_snapshot_goes_on_bit_for_bit_with_the_gradient_that_waits(checkpoints: Checkpoints) -> None:
    trainer = trained()
    checkpoints.save_snapshot("m", 5, encode(SPEC, trainer, gradient=True))
    other = Trainer(
        trainer.base, new_adapter(trainer.base.config, rank=2, train_mlp=False, train_unembed=False)
    )
    other.load_state(checkpoints.load_snapshot("m", 5))
    assert other.optim_step(0.1) == trainer.optim_step(0.1)
    assert encode(SPEC, other) == encode(SPEC, trainer)


def test_a_checkpoint_says_what_it_is_of(checkpoints: Checkpoints) -> None:
    checkpoints.save(PATH, encode_named("weights", SPEC, trained()))
    assert checkpoints.facts(PATH) == Facts.of(SPEC, 2)
    assert not any(name.startswith("gradient.") for name in checkpoints.arrays(PATH))


def test_sampler_weights_hold_the_adapter_alone(checkpoints: Checkpoints) -> None:
    trainer = trained()
    path = CheckpointPath("m", "sampler_weights", "a")
    checkpoints.save(path, encode_named("sampler_weights", SPEC, trainer))
    arrays = checkpoints.arrays(path)
    assert set(adapter_arrays(arrays)) == set(trainer.adapter.parameters)
    assert len(arrays) == len(trainer.adapter.parameters)


@pytest.mark.parametrize("broken", [None, b"", b"x" * 100])
def test_a_checkpoint_that_cannot_be_read_is_named(checkpoints: Checkpoints, broken: bytes | None) -> None:
    if broken is not None:
        checkpoints.save(PATH, {STATE: broken})
    with pytest.raises(ValidationError, match="tinker://m/weights/a"):
        checkpoints.facts(PATH)
    with pytest.raises(ValidationError, match="tinker://m/weights/a"):
        checkpoints.arrays(PATH)


def test_older_snapshots_are_dropped(checkpoints: Checkpoints) -> None:
    for seq_id in (3, 5, 9):
        checkpoints.save_snapshot("m", seq_id, b"x")
    checkpoints.drop_snapshots("m", keep=9)
    assert [file.name for file in checkpoints.snapshots("m").iterdir()] == ["9.safetensors"]


@pytest.mark.parametrize("name", ["a", "other"])
def test_a_full_disk_leaves_what_was_there_and_no_part(
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    checkpoints.save(PATH, {STATE: b"before"})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(CheckpointPath("m", "weights", name), {STATE: b"after"})
    assert list((tmp_path / "tmp").iterdir()) == []
    names = [path.name for path in (tmp_path / "checkpoints" / "m" / "weights").iterdir()]
    assert names == ["a"]
    assert (tmp_path / "checkpoints/m/weights/a/checkpoint.safetensors").read_bytes() == b"before"
