import numpy as np
import pytest

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.losses import find_loss


def test_an_unknown_loss_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValidationError, match="cross_entropy"):
        find_loss("mystery")


def test_cross_entropy_is_the_weighted_negative_logprob() -> None:
    logprobs, weights = np.array([-1.0, -2.0, -3.0]), np.array([0.0, 0.5, 2.0])
    losses, slopes = find_loss("cross_entropy").per_token(logprobs, {"weights": weights}, {})
    assert losses.tolist() == [0.0, 1.0, 6.0]
    assert slopes.tolist() == [-0.0, -0.5, -2.0]


def test_a_missing_input_is_refused() -> None:
    with pytest.raises(ValidationError, match="weights"):
        find_loss("cross_entropy").check({"target_tokens": np.zeros(3)}, 3)


def test_an_input_of_another_length_is_refused() -> None:
    inputs = {"target_tokens": np.zeros(3), "weights": np.zeros(2)}
    with pytest.raises(ShapeError, match="weights"):
        find_loss("cross_entropy").check(inputs, 3)
