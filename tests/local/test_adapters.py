"""Adapters as PEFT's files: equal bytes for equal adapters, and all that loading them wants."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tinker_actors.local.adapters import adapter_files, archive_of
from tinker_actors.local.checkpoints import Checkpoints, Facts, adapter_arrays, encode_named
from tinker_actors.local.engine.catalog import load_base_model
from tinker_actors.local.engine.lora import Adapter, new_adapter
from tinker_actors.local.engine.training import Trainer
from tinker_actors.local.specs import ModelSpec
from tinker_actors.types import CheckpointKind, CheckpointPath

SPEC = ModelSpec(
    base_model="local/tiny", rank=2, seed=1, train_attn=True, train_mlp=False, train_unembed=True
)


def adapter() -> Adapter:
    return SPEC.make(load_base_model("local/tiny").config)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    (tmp_path / "tmp").mkdir()
    return Checkpoints(tmp_path)


def saved(checkpoints: Checkpoints, kind: CheckpointKind) -> CheckpointPath:
    path = CheckpointPath("s:train:0", kind, "a")
    base = load_base_model("local/tiny")
    checkpoints.save(path, encode_named(kind, SPEC, Trainer(base, adapter())))
    return path


def test_equal_adapters_give_equal_files() -> None:
    assert adapter_files(SPEC, adapter().parameters) == adapter_files(SPEC, adapter().parameters)


def test_the_files_say_what_loading_them_wants() -> None:
    files = adapter_files(SPEC, adapter().parameters)
    config = json.loads(files["adapter_config.json"])
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 32)
    assert config["base_model_name_or_path"] == "local/tiny"
    assert set(config["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}
    arrays = load(files["adapter_model.safetensors"])
    assert all(name.startswith("base_model.model.") for name in arrays)
    assert arrays["base_model.model.lm_head.lora_A.weight"].shape == (2, 128)


@pytest.mark.parametrize("kind", ["sampler_weights", "external_weights"])
def test_weights_to_sample_from_are_a_directory_that_peft_reads(
    checkpoints: Checkpoints, tmp_path: Path, kind: CheckpointKind
) -> None:
    path = saved(checkpoints, kind)
    directory = tmp_path / "checkpoints" / "s:train:0" / kind / "a"
    assert {file.name for file in directory.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    arrays = adapter_arrays(checkpoints.arrays(path))
    assert all(np.array_equal(arrays[name], values) for name, values in adapter().parameters.items())
    assert checkpoints.facts(path) == Facts.of(SPEC, 0)


def test_training_state_is_exported_as_the_same_files(checkpoints: Checkpoints) -> None:
    from_state = checkpoints.exported(saved(checkpoints, "weights"))
    from_weights = checkpoints.exported(saved(checkpoints, "sampler_weights"))
    assert {name: Path(str(file)).read_bytes() for name, file in from_weights.items()} == from_state


def test_a_copy_shares_its_bytes_and_outlives_what_it_was_made_from(checkpoints: Checkpoints) -> None:
    path = saved(checkpoints, "weights")
    copy = CheckpointPath("copied", "weights", "a")
    checkpoints.copy(path, copy)
    file = checkpoints._file(copy)
    assert file.stat().st_ino == checkpoints._file(path).stat().st_ino
    before = file.read_bytes()
    checkpoints.save(path, {"checkpoint.safetensors": b"other"})
    checkpoints.remove(path)
    assert file.read_bytes() == before
    assert list(checkpoints.found()) == [copy]


def test_what_is_removed_twice_is_gone_and_leaves_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = saved(checkpoints, "sampler_weights")
    for _ in "12":
        checkpoints.remove(path)
        assert not checkpoints.is_there(path)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_archive_holds_the_files_and_ends_with_the_marker() -> None:
    files: dict[str, Any] = {**adapter_files(SPEC, adapter().parameters)}
    content = archive_of(files)
    assert archive_of(files) == content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == [*files, "checkpoint_complete"]
        assert all(entry.isfile() for entry in archive)
        extracted = archive.extractfile("adapter_model.safetensors")
        assert extracted is not None
        assert extracted.read() == files["adapter_model.safetensors"]


def test_a_fresh_adapter_of_the_facts_has_the_shapes_of_the_files(checkpoints: Checkpoints) -> None:
    path = saved(checkpoints, "external_weights")
    made = new_adapter(
        load_base_model("local/tiny").config,
        **{
            name: getattr(checkpoints.facts(path), name)
            for name in ("rank", "seed", "train_attn", "train_mlp", "train_unembed")
        },
    )
    assert made.parameters.keys() == adapter_arrays(checkpoints.arrays(path)).keys()
