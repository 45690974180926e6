"""Losses of the caller's own: what counts as one, and what it must give."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import CustomLossError, MissingTorchError, ShapeError, ValidationError
from tinker_actors.losses import L1, evaluate, value_and_grad
from tinker_actors.losses.custom import check_loss_fn, name_of

ROWS = [np.array([-1.0, -2.0], np.float32), np.array([-3.0], np.float32)]


@value_and_grad
def squares(_data: Any, logprobs: Any) -> Any:
    return sum((row**2).sum() for row in logprobs), [2 * row for row in logprobs], {"count": len(logprobs)}


def test_a_loss_in_numpy_gives_its_value_its_gradient_and_its_metrics() -> None:
    found = evaluate(squares, [], ROWS)
    assert (found.value, found.metrics) == (14.0, {"count": 2})
    assert [row.tolist() for row in found.gradients] == [[-2.0, -4.0], [-6.0]]
    assert [row.dtype for row in found.gradients] == [np.float64] * 2


def test_a_loss_in_numpy_computes_with_float64() -> None:
    seen: list[Any] = []

    @value_and_grad
    def looks(_data: Any, logprobs: Any) -> Any:
        seen.extend(row.dtype for row in logprobs)
        return 0.0, [np.zeros_like(row) for row in logprobs]

    evaluate(looks, [], ROWS)
    assert seen == [np.float64] * 2


def test_an_object_may_be_a_loss() -> None:
    class Doubles:
        name = "doubles"

        def value_and_grad(self, _data: Any, logprobs: Any) -> Any:
            return 2 * logprobs[0].sum(), [np.full(2, 2.0)]

    assert evaluate(Doubles(), [], ROWS[:1]).value == -6.0
    assert name_of(Doubles()) == "doubles"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (7.0, CustomLossError, r"must give \(value, gradients\).*got float"),
        ((1.0, [], {}, 2), CustomLossError, "got tuple"),
        ((1.0, [np.zeros(2)]), ShapeError, "wanted 2 of them, got 1"),
        ((1.0, [np.zeros(2), np.zeros(2)]), ShapeError, r"wanted \(1,\) for datum 1, got \(2,\)"),
        ((np.nan, [np.zeros(2), np.zeros(1)]), CustomLossError, "must be a finite number, got nan"),
        ((1.0, [np.zeros(2), np.full(1, np.inf)]), CustomLossError, "that of datum 1 is not"),
        (("high", [np.zeros(2), np.zeros(1)]), CustomLossError, "a number and an array for each datum"),
        ((1.0, None), CustomLossError, "a number and an array for each datum"),
        ((1.0, [np.zeros(2), np.zeros(1)], [3]), CustomLossError, "must be a dict, got list"),
        ((1.0, [np.zeros(2), 1j * np.ones(1)]), CustomLossError, "complex numbers"),
        ((1j, [np.zeros(2), np.zeros(1)]), CustomLossError, "complex numbers"),
    ],
    ids=str,
)
def test_what_is_no_loss_is_refused_by_what_is_wrong(given: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        evaluate(value_and_grad(lambda _data, _logprobs: given), [], ROWS)


def test_a_loss_that_is_a_coroutine_is_refused_and_not_left_unawaited() -> None:
    async def later(_data: Any, _logprobs: Any) -> Any:
        raise AssertionError("nobody awaits it")

    with pytest.raises(CustomLossError, match=r"got a coroutine; .*async_=True"):
        evaluate(value_and_grad(later), [], ROWS)


@pytest.mark.parametrize("kind", [L1, Sequence])
def test_a_class_is_no_loss(kind: Any) -> None:
    with pytest.raises(ValidationError, match=rf"got the class; use {kind.__name__}\("):
        check_loss_fn(kind)


def test_the_name_of_a_built_in_loss_goes_elsewhere() -> None:
    with pytest.raises(ValidationError, match="goes to forward_backward by its name"):
        check_loss_fn("cross_entropy")


def test_a_torch_function_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"tinker-actors\[torch\]"):
        check_loss_fn(lambda _data, logprobs: (logprobs[0].sum(), {}))
    assert issubclass(MissingTorchError, ImportError)
    assert check_loss_fn(squares) is squares


def test_losses_in_numpy_do_not_import_torch() -> None:
    program = (
        "import sys, numpy as np; from tinker_actors.losses import L1, Pipeline; "
        "Pipeline([L1()]).compute([], [np.zeros(2)], L1()); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# Torch functions --------------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="runs losses in PyTorch")


@pytest.mark.torch
def test_a_torch_function_has_the_gradient_of_autograd(torch: Any) -> None:
    def loss(_data: Any, logprobs: Any) -> Any:
        return sum(torch.exp(row).sum() for row in logprobs), {"mine": 1}

    found = evaluate(loss, [], ROWS)
    assert found.value == pytest.approx(sum(np.exp(row).sum() for row in ROWS))
    assert found.metrics == {"mine": 1}
    for gradient, row in zip(found.gradients, ROWS, strict=True):
        np.testing.assert_allclose(gradient, np.exp(row), rtol=1e-6)


@pytest.mark.torch
def test_a_loss_of_several_numbers_is_their_sum(torch: Any) -> None:
    found = evaluate(lambda _data, rows: (torch.cat(rows) * 2, {}), [], ROWS)
    assert found.value == -12.0
    assert [row.tolist() for row in found.gradients] == [[2.0, 2.0], [2.0]]


@pytest.mark.torch
def test_an_object_with_compute_is_a_torch_function(torch: Any) -> None:
    class Loss:
        def compute(self, _data: Any, logprobs: Any) -> Any:
            return torch.cat(logprobs).sum(), {}

    loss: Any = Loss()
    assert evaluate(loss, [], ROWS).value == -6.0


@pytest.mark.torch
def test_logprobs_that_a_torch_function_leaves_out_are_an_error_of_a_loss_alone(torch: Any) -> None:
    def first(_data: Any, logprobs: Any) -> Any:
        return torch.sum(logprobs[0]), {}

    with pytest.raises(CustomLossError, match="no gradient by the logprobs of datum 1"):
        evaluate(first, [], ROWS)
    assert evaluate(first, [], ROWS, partial=True).gradients[1].tolist() == [0.0]
    with pytest.raises(CustomLossError, match="datum 0"):
        evaluate(lambda _data, _rows: (3.0, {}), [], ROWS)
