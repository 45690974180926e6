import numpy as np
import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.engine.optimizer import AdamState, adam_step, clip_scale


def test_adam_follows_the_textbook_formula() -> None:
    random = np.random.default_rng(0)
    parameters, gradients = random.standard_normal(7), random.standard_normal((5, 7))
    expected, first, second = parameters.copy(), np.zeros(7), np.zeros(7)
    state = AdamState.zeros(parameters)
    for step, gradient in enumerate(gradients, start=1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        corrected = first / (1 - 0.8**step), second / (1 - 0.9**step)
        expected -= 0.01 * (corrected[0] / (np.sqrt(corrected[1]) + 1e-3) + 0.1 * expected)
        settings = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}
        adam_step(parameters, gradient.copy(), state, **settings)
    assert np.allclose(parameters, expected, rtol=1e-12)
    assert state.steps == 5


def test_a_parameter_without_gradient_stays_finite_at_eps_zero() -> None:
    parameters = np.ones(2, np.float32)
    adam_step(parameters, np.zeros(2, np.float32), AdamState.zeros(parameters), eps=0.0)
    assert parameters.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("norm", "limit", "expected"),
    [
        (5.0, 0.0, 1.0),
        (5.0, 9.0, 1.0),
        (5.0, 1.0, 0.2),
        (0.0, 1.0, 1.0),
    ],
)
def test_clipping_only_shortens(norm: float, limit: float, expected: float) -> None:
    assert clip_scale(norm, limit) == expected


@pytest.mark.parametrize(
    "setting", [{"beta1": 1.0}, {"beta2": -0.1}, {"learning_rate": -1.0}, {"eps": float("nan")}]
)
def test_settings_outside_their_range_change_nothing(setting: dict[str, float]) -> None:
    parameters = np.ones(2)
    state = AdamState.zeros(parameters)
    with pytest.raises(ValidationError):
        adam_step(parameters, np.ones(2), state, **setting)
    assert state.steps == 0
    assert parameters.tolist() == [1.0, 1.0]
