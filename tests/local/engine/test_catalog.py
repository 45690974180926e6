import numpy as np
import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.catalog import load_base_model, model_names, rope_order
from tinker_actors.tokenization import get_tokenizer


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="local/tiny"):
        load_base_model("local/none")


def test_the_tiny_model_is_listed() -> None:
    assert model_names() == ("local/tiny",)


def test_two_loads_give_equal_bits() -> None:
    first, second = load_base_model("local/tiny").weights, load_base_model("local/tiny").weights
    assert first.embedding.tobytes() == second.embedding.tobytes()
    assert first.layers[-1].down.tobytes() == second.layers[-1].down.tobytes()
    assert first.unembedding.tobytes() == second.unembedding.tobytes()


def test_the_tiny_model_has_a_row_for_each_token() -> None:
    assert load_base_model("local/tiny").config.vocab_size == get_tokenizer("local/tiny").vocab_size


def test_rope_order_puts_the_two_halves_of_a_head_side_by_side() -> None:
    config = load_base_model("local/tiny").config
    half, order = config.head_dim // 2, rope_order(config)
    assert order[:4].tolist() == [0, half, 1, half + 1]
    assert order[config.rotated_width :].tolist() == list(range(config.rotated_width, config.qkv_width))
    assert np.array_equal(np.sort(order), np.arange(config.qkv_width))
