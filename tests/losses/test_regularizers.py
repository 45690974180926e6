"""Regularizers: their values by their formulas, their gradients by finite differences and, where it is, by PyTorch."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

import tinker_actors as ta
from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.losses import (
    L1,
    L2,
    Array,
    Consistency,
    ElasticNet,
    Entropy,
    Evaluation,
    Field,
    GradientPenalty,
    KLDivergence,
    Orthogonality,
    value_and_grad,
)

RNG = np.random.default_rng(5)
FLAT = [RNG.uniform(-3.0, -0.2, size) for size in (5, 3, 4)]
"""As services give them for one target a token."""
WIDE = [np.log(RNG.dirichlet(np.ones(4), size)) for size in (3, 2)]
"""With four candidates a token."""
STEP = 1e-6


def near(rows: Sequence[Array], seed: int) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [row + generator.normal(0, 0.3, row.shape) for row in rows]


def datum(**inputs: Array) -> ta.Datum:
    tensors = {name: ta.TensorData(array.astype(np.float32)) for name, array in inputs.items()}
    return ta.Datum(model_input=ta.ModelInput.from_ints([1]), loss_fn_inputs=tensors)


def data(rows: Sequence[Array]) -> list[ta.Datum]:
    """One datum a row, with the logprobs of another wording as an input."""
    return [datum(original_logprobs=other) for other in near(rows, 3)]


@value_and_grad
def cubes(_data: Sequence[Any], logprobs: Sequence[Array]) -> Any:
    return sum((row**3).sum() for row in logprobs), [3 * row**2 for row in logprobs]


def regularizers(rows: Sequence[Array]) -> dict[str, Any]:
    """Each mode of each, for logprobs like `rows`."""
    reference = near(rows, 4)
    return {
        "l1": L1(lambda_=0.3),
        "l1 mean": L1(reduction="mean"),
        "l1 probs": L1(target="probs"),
        "l2": L2(lambda_=0.7),
        "l2 mean": L2(reduction="mean", target="probs"),
        "l2 about a number": L2(center=-1.0),
        "l2 about the mean": L2(center="mean", clip=0.9, lambda_=2.0),
        "elastic net": ElasticNet(lambda_=0.5, l1_ratio=0.3),
        "entropy": Entropy(),
        "entropy sum": Entropy(mode="maximize", reduction="sum", temperature=0.7),
        "entropy normalised": Entropy(normalize=True, reduction="none"),
        "kl": KLDivergence(reference_logprobs=reference),
        "kl reverse": KLDivergence(reference_logprobs=reference, direction="reverse", reduction="sum"),
        "kl symmetric": KLDivergence(compute_reference=lambda *_: reference, symmetric=True),
        "kl of a field": KLDivergence(reference_field="original_logprobs"),
        **{f"consistency {metric}": Consistency(metric=metric) for metric in ("mse", "l1", "cosine", "kl")},
        **{
            f"orthogonality {mode} {axis} {normalize}": Orthogonality(
                mode=mode, axis=axis, normalize=normalize
            )
            for mode in ("soft", "hard", "spectral")
            for axis in ("rows", "vocabulary")
            for normalize in (True, False)
        },
        "gradient penalty": GradientPenalty(loss_fn=cubes, target_norm=2.0),
    }


def differences(loss: Callable[[list[Array]], float], rows: Sequence[Array]) -> list[Array]:
    """The gradient by central differences."""
    gradients = [np.zeros_like(row) for row in rows]
    for number, row in enumerate(rows):
        for place in np.ndindex(row.shape):
            sides = []
            for side in (STEP, -STEP):
                moved = [one.copy() for one in rows]
                moved[number][place] += side
                sides.append(loss(moved))
            gradients[number][place] = (sides[0] - sides[1]) / (2 * STEP)
    return gradients


@pytest.mark.parametrize("shape", ["flat", "wide"])
@pytest.mark.parametrize("name", regularizers(FLAT))
def test_the_gradient_is_that_of_the_value(name: str, shape: str) -> None:
    rows = FLAT if shape == "flat" else WIDE
    regularizer, batch = regularizers(rows)[name], data(rows)
    gradients = regularizer.value_and_grad(batch, rows).gradients
    expected = differences(lambda moved: float(regularizer.value_and_grad(batch, moved).value), rows)
    assert any(np.abs(one).max() > 1e-3 for one in gradients) or name.startswith("orthogonality")
    for mine, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


X = [np.log([0.5, 0.25, 0.25]), np.log([0.9, 0.1])]
P = [np.exp(row) for row in X]
ENTROPIES = [1.5 * math.log(2), -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))]
Q = [np.log([0.25, 0.5, 0.25]), np.log([0.5, 0.5])]
KLS = [float((p * (x - q)).sum()) for p, x, q in zip(P, X, Q, strict=True)]
BACK = [float((np.exp(q) * (q - x)).sum()) for x, q in zip(X, Q, strict=True)]
ALL = np.concatenate(X)


@pytest.mark.parametrize(
    ("regularizer", "value"),
    [
        (L1(lambda_=2.0), 2 * -ALL.sum()),
        (L1(reduction="mean"), -ALL.mean()),
        (L1(target="probs"), 2.0),
        (L2(), (ALL**2).sum()),
        (L2(center="mean", reduction="mean"), ALL.var()),
        (L2(center=-1.0, clip=0.5), (np.clip(ALL + 1, -0.5, 0.5) ** 2).sum()),
        (ElasticNet(lambda_=3.0, l1_ratio=0.25), 3 * (0.25 * -ALL.sum() + 0.75 * (ALL**2).sum())),
        (Entropy(), np.mean(ENTROPIES)),
        (Entropy(mode="maximize", reduction="sum"), -sum(ENTROPIES)),
        (Entropy(normalize=True), np.mean([ENTROPIES[0] / math.log(3), ENTROPIES[1] / math.log(2)])),
        (KLDivergence(reference_logprobs=Q), np.mean(KLS)),
        (KLDivergence(reference_logprobs=Q, direction="reverse", reduction="sum"), sum(BACK)),
        (KLDivergence(reference_logprobs=Q, symmetric=True), (np.mean(KLS) + np.mean(BACK)) / 2),
    ],
    ids=repr,
)
def test_the_value_is_that_of_the_formula(regularizer: Any, value: float) -> None:
    assert regularizer.value_and_grad([], X).value == pytest.approx(value)


def test_an_entropy_at_a_temperature_is_that_of_the_softened_distribution() -> None:
    softened = np.sqrt(P[1]) / np.sqrt(P[1]).sum()
    found = Entropy(temperature=2.0).value_and_grad([], [X[1]]).value
    assert found == pytest.approx(-(softened * np.log(softened)).sum())


def test_terms_out_of_reach_count_nothing() -> None:
    far = [np.array([0.0, -200.0])]
    assert Entropy().value_and_grad([], far).value == 0.0
    assert KLDivergence(reference_logprobs=[np.array([-300.0, 0.0])]).value_and_grad([], far).value == 100.0


def test_a_pair_of_wordings_is_compared_by_each_metric() -> None:
    batch = data(FLAT)
    others = [one.loss_fn_inputs["original_logprobs"].to_numpy().astype(np.float64) for one in batch]
    gap = np.concatenate(FLAT) - np.concatenate(others)
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(FLAT, others, strict=True)]
    assert {
        metric: Consistency(metric=metric).value_and_grad(batch, FLAT).value
        for metric in ("mse", "l1", "cosine")
    } == {
        "mse": pytest.approx((gap**2).mean()),
        "l1": pytest.approx(np.abs(gap).mean()),
        "cosine": pytest.approx(1 - np.mean(cosines)),
    }


def test_rows_are_compared_by_their_products() -> None:
    rows = [np.array([3.0, 0.0]), np.array([4.0, 3.0])]
    values = {
        mode: Orthogonality(mode=mode, normalize=False).value_and_grad([], rows).value
        for mode in ("soft", "hard", "spectral")
    }
    soft = 2 * 12.0**2
    assert values == {"soft": soft, "hard": soft + 8.0**2 + 24.0**2, "spectral": soft + 32.0**2}
    assert Orthogonality().value_and_grad([], rows).value == pytest.approx(2 * 0.8**2)


def test_the_length_of_a_gradient_is_held_against_the_one_wanted() -> None:
    found = GradientPenalty(loss_fn=cubes, target_norm=2.0).value_and_grad([], [np.array([-1.0])])
    assert (found.value, found.metrics["gradient_norm"]) == (1.0, 3.0)


def test_an_interpolation_lies_between_the_logprobs_and_the_reference_and_can_be_repeated() -> None:
    def lengths() -> list[float]:
        penalty = GradientPenalty(
            loss_fn=cubes, mode="interpolated", reference_field="original_logprobs", seed=7
        )
        return [penalty.value_and_grad(batch, [np.array([-1.0])]).metrics["gradient_norm"] for _ in range(20)]

    batch = [datum(original_logprobs=np.array([-2.0]))]
    first = lengths()
    assert first == lengths()
    assert len(set(first)) == 20
    assert all(3.0 <= one <= 12.0 for one in first)


def test_a_gradient_of_length_0_has_no_direction() -> None:
    found = GradientPenalty(loss_fn=cubes).value_and_grad([], [np.zeros(2)])
    assert (found.value, found.gradients[0].tolist()) == (1.0, [0.0, 0.0])


def test_an_input_of_the_loss_is_a_constant() -> None:
    batch = [datum(scores=np.array([1.0, -2.0])), datum()]
    found = L1(target=Field("scores")).value_and_grad(batch, FLAT[:2])
    assert found.value == 3.0
    assert [one.tolist() for one in found.gradients] == [[0.0] * 5, [0.0] * 3]


def test_figures_named_raw_are_without_the_factor() -> None:
    found = L1(lambda_=10.0).value_and_grad([], [np.array([-1.0, -3.0])])
    assert (found.value, found.metrics) == (40.0, {"l1_raw": 4.0, "l1_mean": 2.0})


@pytest.mark.parametrize(
    ("regularizer", "names"),
    [
        (L1(), {"l1_raw", "l1_mean"}),
        (L2(), {"l2_raw", "l2_mean", "center"}),
        (ElasticNet(), {"elastic_net", "l1_ratio"}),
        (Entropy(), {"entropy", "mode", "temperature"}),
        (
            KLDivergence(reference_logprobs=Q),
            {"kl_divergence", "kl_direction", "kl_symmetric", "kl_max", "kl_min"},
        ),
        (Orthogonality(), {"orthogonality"}),
    ],
    ids=repr,
)
def test_metrics_have_their_names(regularizer: Any, names: set[str]) -> None:
    assert set(regularizer.value_and_grad([], X).metrics) == names


def test_consistency_tells_its_metric() -> None:
    found: Evaluation = Consistency(metric="l1").value_and_grad(data(FLAT), FLAT)
    assert found.metrics == {"consistency_metric": "l1"}


@pytest.mark.parametrize("regularizer", [L1(), L2(center="mean"), Entropy(), Orthogonality()], ids=repr)
def test_no_data_cost_nothing(regularizer: Any) -> None:
    assert regularizer.value_and_grad([], []).value == 0.0
    assert regularizer.value_and_grad([], [np.zeros(0)]).gradients[0].shape == (0,)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (L1, {"target": "probabilities"}),
        (L1, {"target": ALL}),
        (L1, {"reduction": "median"}),
        (L1, {"lambda_": "much"}),
        (L2, {"center": "median"}),
        (L2, {"center": ALL}),
        (L2, {"clip": 0}),
        (ElasticNet, {"l1_ratio": 1.5}),
        (ElasticNet, {"lambda_": None}),
        (Entropy, {"mode": "more"}),
        (Entropy, {"temperature": 0.0}),
        (Entropy, {"normalize": "yes"}),
        (KLDivergence, {}),
        (KLDivergence, {"reference_field": "x", "direction": "back"}),
        (Consistency, {"metric": "l3"}),
        (Consistency, {"pair_field": ""}),
        (Orthogonality, {"mode": "firm"}),
        (Orthogonality, {"axis": "columns"}),
        (GradientPenalty, {"loss_fn": 3}),
        (GradientPenalty, {"loss_fn": cubes, "mode": "between"}),
        (GradientPenalty, {"loss_fn": cubes, "mode": "interpolated"}),
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused(make: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**arguments)


@pytest.mark.parametrize(
    "regularizer",
    [L1(target=Field("nothing")), KLDivergence(reference_field="nothing"), Consistency(pair_field="nothing")],
    ids=repr,
)
def test_an_input_that_is_missing_is_named(regularizer: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"'nothing' is wanted in loss_fn_inputs, got \['original_logprobs'\]"
    ):
        regularizer.value_and_grad(data(FLAT), FLAT)


def test_a_target_of_no_datum_is_refused() -> None:
    with pytest.raises(ValidationError, match="a datum is wanted"):
        L1(target=Field("scores")).value_and_grad([], [])


def test_a_reference_of_other_shapes_is_refused() -> None:
    with pytest.raises(ShapeError, match="reference logprobs must have the shapes of the logprobs"):
        KLDivergence(reference_logprobs=Q).value_and_grad([], FLAT)


# Beside PyTorch ---------------------------------------------------------------------------------------


def distances(p: Any, q: Any) -> Any:
    return (p.exp() * (p - q)).sum(-1).flatten()


def entropies(row: Any) -> Any:
    return -(row.softmax(-1) * row.log_softmax(-1)).sum(-1).flatten()


def likeness(x: Any, y: Any) -> Any:
    return ((x * y).sum() / (x.norm() * y.norm())).flatten()


AGAIN: dict[str, Callable[[Any, list[Any], list[Any], list[Any]], Any]] = {
    "l1": lambda flat, _rows, _pairs, _reference: 0.3 * flat.abs().sum(),
    "l2": lambda flat, _rows, _pairs, _reference: 0.7 * (flat**2).sum(),
    "elastic net": lambda flat, _rows, _pairs, _reference: 0.15 * flat.abs().sum() + 0.35 * (flat**2).sum(),
    "entropy": lambda _flat, rows, _pairs, _reference: mean(map(entropies, rows)),
    "kl": lambda _flat, rows, _pairs, reference: mean(map(distances, rows, reference)),
    "kl symmetric": lambda _flat, rows, _pairs, reference: (
        (mean(map(distances, rows, reference)) + mean(map(distances, reference, rows))) / 2
    ),
    "consistency cosine": lambda _flat, rows, pairs, _reference: 1 - mean(map(likeness, rows, pairs)),
    "gradient penalty": lambda flat, _rows, _pairs, _reference: ((3 * flat**2).norm() - 2.0) ** 2,
}
"""The formulas again, for autograd."""


def mean(values: Iterable[Any]) -> Any:
    import torch

    return torch.cat(list(values)).mean()


@pytest.mark.torch
@pytest.mark.parametrize("shape", ["flat", "wide"])
@pytest.mark.parametrize("name", AGAIN)
def test_value_and_gradient_are_those_of_pytorch(name: str, shape: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    arrays = FLAT if shape == "flat" else WIDE
    batch = data(arrays)
    rows = [torch.tensor(row, requires_grad=True) for row in arrays]
    pairs = [
        torch.tensor(one.loss_fn_inputs["original_logprobs"].to_numpy().astype(np.float64)) for one in batch
    ]
    reference = [torch.tensor(row) for row in near(arrays, 4)]
    expected = AGAIN[name](torch.cat([row.flatten() for row in rows]), rows, pairs, reference)
    expected.backward()
    found = regularizers(arrays)[name].value_and_grad(batch, arrays)
    assert found.value == pytest.approx(expected.item(), rel=1e-6)
    for mine, row in zip(found.gradients, rows, strict=True):
        np.testing.assert_allclose(mine, row.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.torch
def test_a_penalty_on_a_torch_function_is_that_on_the_same_in_numpy() -> None:
    pytest.importorskip("torch", reason="compares with PyTorch")

    def cubes_in_torch(_data: Any, logprobs: Any) -> Any:
        return sum((row**3).sum() for row in logprobs), {}

    mine = GradientPenalty(loss_fn=cubes).value_and_grad([], FLAT)
    theirs = GradientPenalty(loss_fn=cubes_in_torch).value_and_grad([], FLAT)
    assert theirs.value == pytest.approx(mine.value, rel=1e-4)
    for one, other in zip(mine.gradients, theirs.gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.torch
def test_a_penalty_on_a_linear_torch_function_has_no_gradient() -> None:
    pytest.importorskip("torch", reason="compares with PyTorch")
    found = GradientPenalty(loss_fn=lambda _data, rows: (2 * rows[0].sum(), {})).value_and_grad([], FLAT[:1])
    assert found.value == pytest.approx((2 * math.sqrt(5) - 1) ** 2)
    assert not found.gradients[0].any()
