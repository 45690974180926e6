from collections.abc import Callable

import numpy as np
import pytest

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import BaseModel, load_base_model, rope_order
from tinker_actors.local.engine.lora import Adapter, merge, new_adapter


def test_a_new_adapter_changes_nothing() -> None:
    base = load_base_model("local/tiny")
    merged = merge(base, new_adapter(base.config, rank=8, seed=0))
    assert np.array_equal(merged.layers[0].qkv, base.weights.layers[0].qkv)
    assert np.array_equal(merged.unembedding, base.weights.unembedding)


def test_equal_seeds_give_equal_adapters_and_others_do_not() -> None:
    config = load_base_model("local/tiny").config
    first, second, third = (new_adapter(config, rank=4, seed=seed).flat for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"train_mlp": False, "train_unembed": False}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"train_attn": False, "train_unembed": False}, {"gate_proj", "up_proj", "down_proj"}),
        ({"train_attn": False, "train_mlp": False}, {"lm_head"}),
    ],
)
def test_switches_choose_the_matrices(switches: dict[str, bool], expected: set[str]) -> None:
    adapter = new_adapter(load_base_model("local/tiny").config, rank=2, seed=0, **switches)  # type: ignore[arg-type]
    assert {name.split(".lora_")[0].split(".")[-1] for name in adapter.parameters} == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 0},
        {"rank": 2, "seed": -1},
        {"rank": 2, "train_attn": False, "train_mlp": False, "train_unembed": False},
    ],
)
def test_impossible_adapters_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="LoRA"):
        new_adapter(load_base_model("local/tiny").config, **arguments)  # type: ignore[arg-type]


def test_names_and_shapes_are_those_of_peft() -> None:
    config = load_base_model("local/tiny").config
    parameters = new_adapter(config, rank=4, seed=0).parameters
    assert parameters["model.layers.0.self_attn.k_proj.lora_A.weight"].shape == (4, config.hidden_size)
    assert parameters["model.layers.1.mlp.down_proj.lora_B.weight"].shape == (config.hidden_size, 4)
    assert parameters["lm_head.lora_B.weight"].shape == (config.vocab_size, 4)


def test_merging_adds_the_scaled_product_in_rotary_order(
    make_base: Callable[..., BaseModel], make_adapter: Callable[..., Adapter]
) -> None:
    base = make_base()
    adapter = make_adapter(base)
    parts = [
        adapter.parameters[f"model.layers.1.self_attn.{name}_proj.lora_B.weight"]
        @ adapter.parameters[f"model.layers.1.self_attn.{name}_proj.lora_A.weight"]
        for name in "qkv"
    ]
    expected = base.weights.layers[1].qkv + 32 / 3 * np.concatenate(parts)[rope_order(base.config)]
    assert np.allclose(adapter.merged(base).layers[1].qkv, expected, rtol=1e-12)


def test_a_merge_is_kept_until_the_adapter_changes(
    make_base: Callable[..., BaseModel], make_adapter: Callable[..., Adapter]
) -> None:
    base = make_base()
    adapter = make_adapter(base)
    before = adapter.merged(base)
    assert adapter.merged(base) is before
    adapter.version += 1
    assert adapter.merged(base) is not before


def test_a_copy_is_independent(
    make_base: Callable[..., BaseModel], make_adapter: Callable[..., Adapter]
) -> None:
    adapter = make_adapter(make_base())
    copy = adapter.copy()
    adapter.flat[...] = 0
    assert copy.flat.all()


def test_fill_refuses_a_missing_and_a_misshapen_array(
    make_base: Callable[..., BaseModel], make_adapter: Callable[..., Adapter]
) -> None:
    adapter = make_adapter(make_base())
    arrays = {name: values.copy() for name, values in adapter.parameters.items()}
    with pytest.raises(ShapeError, match="lm_head"):
        adapter.fill(adapter.flat, {**arrays, "lm_head.lora_B.weight": np.zeros((2, 2))})
    del arrays["lm_head.lora_B.weight"]
    with pytest.raises(ValidationError, match="lm_head"):
        adapter.fill(adapter.flat, arrays)
