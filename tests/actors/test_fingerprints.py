"""What is kept of a result, to recognise it."""

import msgspec
import numpy as np
import pytest

from tinker_actors.actors.fingerprints import KEPT, Fingerprint, fingerprint_of
from tinker_actors.types import ForwardBackwardOutput, TensorData


def fingerprint(logprobs: list[float]) -> Fingerprint:
    """Of one datum with these logprobs, as it is after it was written down."""
    tensor = TensorData(np.array(logprobs, "float32"))
    output = ForwardBackwardOutput(
        loss_fn_outputs=[{"logprobs": tensor}], metrics={}, loss_fn_output_type="ArrayRecord"
    )
    return msgspec.json.decode(msgspec.json.encode(fingerprint_of(output)), type=Fingerprint)


@pytest.mark.parametrize(
    ("logprobs", "count", "mean", "first"),
    [
        ([-1.23456789, -3.0], 2, -2.117284, [-1.234568, -3.0]),
        ([float("-inf"), -1.0, float("nan")], 3, None, [None, -1.0, None]),
        ([-1.0] * KEPT + [float("-inf")], KEPT + 1, None, [-1.0] * KEPT),
        ([-0.5] * 40, 40, -0.5, [-0.5] * KEPT),
        ([], 0, 0.0, []),
    ],
)
def test_a_datum_leaves_its_count_its_mean_and_its_first_logprobs(
    logprobs: list[float], count: int, mean: float | None, first: list[float | None]
) -> None:
    (datum,) = fingerprint(logprobs).data
    assert datum is not None
    assert (datum.count, datum.mean, datum.first) == (count, mean, first)


def test_each_datum_leaves_its_own_figures_also_beside_some_without_logprobs() -> None:
    several = [np.arange(-count, 0, dtype="float32") for count in (3, 0, KEPT + 4)]
    entries = [{"logprobs": TensorData(values)} for values in several]
    output = ForwardBackwardOutput(
        loss_fn_outputs=[entries[0], {}, *entries[1:]], metrics={}, loss_fn_output_type="ArrayRecord"
    )
    told = fingerprint_of(output).data
    assert [datum and (datum.count, datum.mean, datum.first) for datum in told] == [
        (3, -2.0, [-3.0, -2.0, -1.0]),
        None,
        (0, 0.0, []),
        (KEPT + 4, -10.5, [float(one) for one in range(-KEPT - 4, -4)]),
    ]
