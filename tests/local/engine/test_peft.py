from collections.abc import Callable

import numpy as np
import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import BaseModel
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.peft import adapter_config, from_peft, to_peft


def test_parameters_have_the_names_and_shapes_of_peft(make_base: Callable[..., BaseModel]) -> None:
    arrays = to_peft(new_adapter(make_base().config, rank=3, seed=1).parameters)
    name = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"
    assert arrays[name].shape == (12, 3)
    assert arrays["base_model.model.lm_head.lora_A.weight"].shape == (3, 12)


def test_what_was_written_for_peft_can_be_read_back(make_base: Callable[..., BaseModel]) -> None:
    parameters = new_adapter(make_base().config, rank=3, seed=1).parameters
    back = from_peft(to_peft(parameters))
    assert back.keys() == parameters.keys()
    assert all(np.array_equal(back[name], parameters[name]) for name in back)


def test_arrays_that_are_not_from_peft_are_refused() -> None:
    with pytest.raises(ValidationError, match="got lm_head"):
        from_peft({"lm_head.lora_A.weight": np.zeros((1, 2))})


@pytest.mark.parametrize(
    ("switches", "modules"),
    [
        ((True, False, False), ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ((False, True, False), ["down_proj", "gate_proj", "up_proj"]),
        ((False, False, True), ["lm_head"]),
        ((False, True, True), ["down_proj", "gate_proj", "lm_head", "up_proj"]),
    ],
)
def test_the_configuration_names_the_modules_that_are_trained(
    switches: tuple[bool, bool, bool], modules: list[str]
) -> None:
    names = ("train_attn", "train_mlp", "train_unembed")
    config = adapter_config("local/tiny", 8, **dict(zip(names, switches, strict=True)))
    assert config["target_modules"] == modules
    assert (config["r"], config["lora_alpha"]) == (8, 32)
