import numpy as np
import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import load_base_model, model_config, model_names, rope_order
from tinker_actors.tokenization import get_tokenizer


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="local/tiny"):
        load_base_model("local/none")


def test_models_without_files_are_listed() -> None:
    assert model_names() == ("local/small", "local/tiny")


def test_the_small_model_is_large_enough_to_measure_with() -> None:
    config = model_config("local/small")
    per_layer = config.hidden_size * (config.qkv_width + config.query_width + 3 * config.intermediate_size)
    assert 20e6 < config.layers * per_layer < 50e6


def test_two_loads_give_equal_bits() -> None:
    first, second = load_base_model("local/tiny").weights, load_base_model("local/tiny").weights
    assert first.embedding.tobytes() == second.embedding.tobytes()
    assert first.layers[-1].down.tobytes() == second.layers[-1].down.tobytes()
    assert first.unembedding.tobytes() == second.unembedding.tobytes()


@pytest.mark.parametrize("name", model_names())
def test_models_have_a_row_for_each_token(name: str) -> None:
    assert model_config(name).vocab_size == get_tokenizer(name).vocab_size


def test_rope_order_puts_the_two_halves_of_a_head_side_by_side() -> None:
    config = load_base_model("local/tiny").config
    half, order = config.head_dim // 2, rope_order(config)
    assert order[:4].tolist() == [0, half, 1, half + 1]
    assert order[config.rotated_width :].tolist() == list(range(config.rotated_width, config.qkv_width))
    assert np.array_equal(np.sort(order), np.arange(config.qkv_width))
