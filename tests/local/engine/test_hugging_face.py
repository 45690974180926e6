import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_directories import LLAMA, arrays_of, write_json, write_model
from safetensors.numpy import save_file

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import load_base_model, model_config
from tinker_actors.local.engine.hugging_face import digest_of, read_config, read_weights
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.training import Example, Trainer
from tinker_actors.local.engine.weights import RopeScaling, Weights, rope_order

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def load(directory: Path, dtype: str = "float32") -> Weights:
    return read_weights(directory, read_config(directory), dtype)


def same(left: Weights, right: Weights) -> bool:
    pairs = [(left.embedding, right.embedding), (left.unembedding, right.unembedding)]
    for mine, theirs in zip(left.layers, right.layers, strict=True):
        pairs += [(getattr(mine, name), getattr(theirs, name)) for name in ("qkv", "o", "gate_up", "down")]
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_a_directory_is_a_base_model_by_its_path(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    base = load_base_model(str(tmp_path))
    assert base.name == str(tmp_path)
    assert base.config.architecture == "llama"
    assert np.array_equal(base.weights.embedding, arrays["model.embed_tokens.weight"])
    assert np.array_equal(base.weights.layers[1].down, arrays["model.layers.1.mlp.down_proj.weight"])


def test_projections_of_one_input_are_stacked(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    config = read_config(tmp_path)
    parts = [arrays[f"model.layers.0.self_attn.{kind}_proj.weight"] for kind in "qkv"]
    assert np.array_equal(load(tmp_path).layers[0].qkv, np.concatenate(parts)[rope_order(config)])


def test_a_directory_can_be_trained(tmp_path: Path) -> None:
    write_model(tmp_path, model_type="qwen3", head_dim=6, tie_word_embeddings=True)
    base = load_base_model(str(tmp_path))
    trainer = Trainer(base, new_adapter(base.config, rank=2, seed=0))
    example = Example(np.array([1, 2, 3]), {"target_tokens": np.array([2, 3, 4]), "weights": np.ones(3)})
    _, before = trainer.forward_backward([example])
    trainer.optim_step(1e-2)
    assert trainer.forward_backward([example])[1]["loss:sum"] < before["loss:sum"]


def test_qwen3_has_norms_of_heads_in_the_order_of_its_rows(tmp_path: Path) -> None:
    arrays = write_model(tmp_path, model_type="qwen3", head_dim=6)
    weights = load(tmp_path)
    assert weights.config.qk_norm
    assert weights.config.head_dim == 6
    gain = weights.layers[0].k_norm
    assert gain is not None
    assert np.array_equal(gain, arrays["model.layers.0.self_attn.k_norm.weight"][[0, 3, 1, 4, 2, 5]])


def test_tied_embeddings_are_one_array(tmp_path: Path) -> None:
    write_model(tmp_path, tie_word_embeddings=True)
    weights = load(tmp_path)
    assert weights.unembedding is weights.embedding


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    whole = load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: arrays[name] for name in part}, tmp_path / file)
    file_of = {name: file for file, part in shards.items() for name in part}
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": file_of})
    assert same(load(tmp_path), whole)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_short_numbers_become_those_of_the_engine(tmp_path: Path, kind: Any, dtype: str) -> None:
    arrays = write_model(tmp_path)
    save_file({name: array.astype(kind) for name, array in arrays.items()}, tmp_path / "model.safetensors")
    embedding = load(tmp_path, dtype).embedding
    assert embedding.dtype == dtype
    assert np.array_equal(embedding, arrays["model.embed_tokens.weight"].astype(kind).astype(dtype))


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
        {"rope_scaling": LLAMA3, "rope_theta": 500.0},
        {"rope_scaling": {**LLAMA3, "type": "llama3", "rope_type": None}, "rope_theta": 500.0},
    ],
)
def test_both_spellings_of_rope_scaling_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_model(tmp_path, **changes)
    config = read_config(tmp_path)
    assert config.rope_theta == 500.0
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32)


def test_scaling_stretches_long_wavelengths_and_leaves_short_ones() -> None:
    scaling = RopeScaling(8.0, 1.0, 4.0, 64)
    speeds = 2 * np.pi / np.array([8.0, 15.9, 32.0, 64.1, 500.0])
    ratios = scaling.stretched(speeds) / speeds
    assert ratios[[0, 1, 3, 4]].tolist() == [1.0, 1.0, 0.125, 0.125]
    assert ratios[2] == pytest.approx(1 / 3 + 2 / 3 / 8)


def test_the_context_is_bounded_by_what_attention_would_take(tmp_path: Path) -> None:
    write_model(tmp_path, max_position_embeddings=1_000_000)
    assert read_config(tmp_path).max_context_length == 5792


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, 'model_type must be "llama" or "qwen3", got "qwen2"'),
        ({"hidden_act": "gelu"}, 'hidden_act must be "silu", got "gelu"'),
        ({"attention_bias": True}, "attention_bias must be false"),
        ({"mlp_bias": True}, "mlp_bias must be false"),
        ({"use_sliding_window": True}, "use_sliding_window must be false"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 'rope_type must be "default" or "llama3"'),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "rope_type llama3 needs factor, low_freq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be null"),
        ({"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, got 4 and 3"),
        ({"num_attention_heads": 0}, "num_attention_heads must be positive, got 0"),
        ({"head_dim": 5}, "head_dim must be positive and even, got 5"),
        ({"hidden_size": "wide"}, "config.json is none we can read"),
        (
            {"vocab_size": 41},
            r"model.embed_tokens.weight must have shape \(41, 16\), as config.json says, got \(40, 16\)",
        ),
        ({"num_hidden_layers": 3}, "must hold the array model.layers.2.input_layernorm.weight"),
        ({"model_type": "qwen3"}, "must hold the array model.layers.0.self_attn.q_norm.weight"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_model(tmp_path)
    write_json(tmp_path / "config.json", {**LLAMA, **changes})
    with pytest.raises(ValidationError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "must hold config.json, and does not"),
        ("tokenizer.json", "must hold tokenizer.json, and does not"),
        ("model.safetensors", "must hold model.safetensors, or model.safetensors.index.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, file: str, message: str) -> None:
    write_model(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ValidationError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_rubbish_is_named(tmp_path: Path, file: str) -> None:
    write_model(tmp_path)
    (tmp_path / file).write_bytes(b"\xff" * 100)
    with pytest.raises(ValidationError, match=file):
        read_config(tmp_path)


def test_a_missing_unembedding_is_named_with_the_way_out(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    del arrays["lm_head.weight"]
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(ValidationError, match=r"lm_head.weight, and does not; set tie_word_embeddings"):
        read_config(tmp_path)


def test_numbers_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of(LLAMA)
    write_model(tmp_path)
    arrays["model.norm.weight"] = np.ones(16, np.int8)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(
        ValidationError, match=r"model.norm.weight must hold F64, F32, F16, BF16 numbers, got I8"
    ):
        read_config(tmp_path)


def test_an_index_cannot_lead_out_of_its_directory(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    index = {"weight_map": {"model.norm.weight": "../model/model.safetensors"}}
    write_json(tmp_path / "model" / "model.safetensors.index.json", index)
    with pytest.raises(ValidationError, match=r"must name files beside itself, got '\.\./model"):
        read_config(tmp_path / "model")


def test_arrays_of_other_shapes_are_told_from_other_mistakes(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    arrays["model.norm.weight"] = np.ones(15, np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(ShapeError, match=r"model.norm.weight must have shape \(16,\)"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["local/none", "relative/path", "../up", ""])
def test_other_names_are_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ValidationError, match=r"local/small, local/tiny, or the absolute path .* got '"):
        model_config(name)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="none is none"):
        model_config(str(tmp_path / "none"))


def test_a_digest_tells_other_weights_and_shapes_apart(tmp_path: Path) -> None:
    arrays = write_model(tmp_path)
    found = [digest_of(tmp_path), digest_of(tmp_path)]
    arrays["model.norm.weight"][3] += 0.5
    save_file(arrays, tmp_path / "model.safetensors")
    found.append(digest_of(tmp_path))
    write_json(tmp_path / "config.json", {**LLAMA, "rope_theta": 20_000.0})
    found.append(digest_of(tmp_path))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copy", copy_function=shutil.copyfile)
    assert digest_of(tmp_path / "copy") == digest_of(tmp_path / "model")
