"""The smaller values callers build: optimizer parameters and checkpoint paths."""

from typing import Any

import msgspec
import pytest

from tinker_actors.errors import TinkerPathError, ValidationError
from tinker_actors.types import AdamParams, CheckpointPath, LoraConfig, SamplingParams


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (LoraConfig(), {"rank": 32, "train_unembed": True, "train_mlp": True, "train_attn": True}),
        (
            AdamParams(),
            {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0},
        ),
        (
            SamplingParams(),
            {"max_tokens": None, "seed": None, "stop": None, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
        ),
    ],
)  # fmt: skip
def test_defaults_are_those_of_the_official_sdk(made: msgspec.Struct, defaults: dict[str, Any]) -> None:
    assert {name: getattr(made, name) for name in defaults} == defaults
    assert set(msgspec.structs.asdict(made)) - {"seed"} == defaults.keys() - {"seed"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1.0},
        {"beta1": 1.0},
        {"eps": float("nan")},
        {"learning_rate": "fast"},
        {"beta2": True},
    ],
)
def test_adam_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AdamParams(**wrong)


def test_a_checkpoint_path_keeps_the_colons_of_its_run() -> None:
    path = "tinker://s-1:train:0/weights/step-3"
    parsed = CheckpointPath.parse(path, kind="weights")
    assert (parsed.training_run_id, parsed.name, str(parsed)) == ("s-1:train:0", "step-3", path)


@pytest.mark.parametrize(
    "path", ["", "x", "tinker://a/weights", "tinker://a/b/c", "tinker://a/weights/n/m", "tinker:///weights/n"]
)
def test_malformed_checkpoint_paths_are_refused(path: str) -> None:
    with pytest.raises(TinkerPathError, match="read tinker://"):
        CheckpointPath.parse(path)


def test_a_sampler_path_where_a_training_path_belongs_is_refused() -> None:
    with pytest.raises(TinkerPathError, match="kind weights"):
        CheckpointPath.parse("tinker://a/sampler_weights/n", kind="weights")


@pytest.mark.parametrize("kind", ["state", 3, ["weights"], b"weights"])
def test_a_kind_of_checkpoints_that_is_none_is_refused(kind: Any) -> None:
    with pytest.raises(ValidationError, match="kind must be one of weights, sampler_weights"):
        CheckpointPath.parse("tinker://a/weights/n", kind=kind)
