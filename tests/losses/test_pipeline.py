"""A loss with its regularizers: sums, order, limits and failures."""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import CustomLossError, ValidationError
from tinker_actors.losses import L1, L2, Array, Pipeline, RegularizerSpec, gradient_norm, value_and_grad
from tinker_actors.losses.threads import run_all

ROWS = [np.array([-1.0, -2.0]), np.array([-3.0])]
WAIT_S = 60.0


@value_and_grad
def total(_data: Sequence[Any], logprobs: Sequence[Array]) -> Any:
    return -sum(row.sum() for row in logprobs), [-np.ones_like(row) for row in logprobs], {"mine:sum": 2}


@value_and_grad
def steep(_data: Sequence[Any], logprobs: Sequence[Array]) -> Any:
    return 0.0, [np.full_like(row, 1e39) for row in logprobs]


def loss_that(does: Callable[[], Any], name: str) -> RegularizerSpec:
    """A regularizer of value 0 that does something."""

    @value_and_grad
    def regularizer(_data: Any, logprobs: Sequence[Array]) -> Any:
        does()
        return 0.0, [np.zeros_like(row) for row in logprobs]

    return RegularizerSpec(regularizer, name=name)


@pytest.mark.parametrize("parallel", [True, False])
def test_the_total_is_the_loss_and_what_each_regularizer_adds(parallel: bool) -> None:
    specs = [RegularizerSpec(L1(), 0.5), RegularizerSpec(L2(), 0.1, name="small")]
    found = Pipeline(specs, track_grad_norms=True, parallel=parallel).compute([], ROWS, total)
    assert found.base_loss.value == 6.0
    assert found.regularizer_total == pytest.approx(0.5 * 6 + 0.1 * 14)
    assert found.loss() == found.loss_total == pytest.approx(10.4)
    assert list(found.regularizers) == ["l1_sparsity", "small"]
    one = found.regularizers["small"]
    assert (one.value, one.weight) == (14.0, 0.1)
    assert one.contribution == pytest.approx(1.4)
    assert one.grad_norm == pytest.approx(2 * np.sqrt(14))
    assert one.grad_norm_weighted == pytest.approx(0.2 * np.sqrt(14))
    expected = [-1 + 0.5 * np.sign(row) + 0.2 * row for row in ROWS]
    for mine, theirs in zip(found.gradients, expected, strict=True):
        np.testing.assert_allclose(mine, theirs)
    assert found.total_grad_norm == pytest.approx(gradient_norm(expected))


def test_without_regularizers_the_whole_gradient_is_that_of_the_loss() -> None:
    found = Pipeline(track_grad_norms=True).compute([], ROWS, total)
    assert found.total_grad_norm == found.base_loss.grad_norm == pytest.approx(np.sqrt(3))
    assert found.loss_total == 6.0


def test_lengths_that_are_not_tracked_are_left_out_of_the_document() -> None:
    document = json.loads(json.dumps(Pipeline([L1()]).compute([], ROWS, total).to_dict()))
    assert document == {
        "loss_total": 12.0,
        "base_loss": {"value": 6.0, "custom": {"mine:sum": 2}},
        "regularizers": {
            "l1_sparsity": {
                "name": "l1_sparsity",
                "value": 6.0,
                "weight": 1.0,
                "contribution": 6.0,
                "custom": {"l1_raw": 6.0, "l1_mean": 2.0},
            }
        },
        "regularizer_total": 6.0,
    }


def test_metrics_tell_what_each_part_added_and_leave_out_what_is_no_number() -> None:
    @value_and_grad
    def told(_data: Any, logprobs: Sequence[Array]) -> Any:
        metrics = {"a": np.float32(1.5), "b": "words", "c": np.zeros(3), "d": np.array([4])}
        return 1.0, [np.zeros_like(row) for row in logprobs], metrics

    with_one = Pipeline([RegularizerSpec(L1(), 0.5)], track_grad_norms=True).compute([], ROWS, told).metrics()
    assert with_one == {
        "a": 1.5,
        "d": 4.0,
        "base_loss:sum": 1.0,
        "regularizer_total:sum": 3.0,
        "regularizer/l1_sparsity:sum": 3.0,
        "regularizer/l1_sparsity/grad_norm:max": pytest.approx(np.sqrt(3)),
        "base_loss/grad_norm:max": 0.0,
        "total_grad_norm:max": pytest.approx(0.5 * np.sqrt(3)),
    }
    assert Pipeline().compute([], ROWS, total).metrics() == {"mine:sum": 2.0}


def test_regularizers_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=WAIT_S)
    specs = [loss_that(together.wait, str(number)) for number in range(3)]
    Pipeline(specs, max_concurrency=3).compute([], ROWS, total)


@pytest.mark.parametrize(
    ("options", "most"), [({"parallel": False, "max_concurrency": 4}, 1), ({"max_concurrency": 2}, 2)]
)
def test_no_more_run_at_a_time_than_may(options: dict[str, Any], most: int) -> None:
    lock, running, seen = threading.Lock(), [0], [0]
    let_go = threading.Event()

    def busy() -> None:
        with lock:
            running[0] += 1
            seen[0] = max(seen[0], running[0])
            if running[0] == most:
                let_go.set()
        let_go.wait(WAIT_S)
        with lock:
            running[0] -= 1

    Pipeline([loss_that(busy, str(number)) for number in range(4)], **options).compute([], ROWS, total)
    assert seen[0] == most


def test_one_after_another_the_first_failure_ends_it() -> None:
    begun = []

    def fail() -> None:
        begun.append("second")
        raise ZeroDivisionError("nothing left")

    specs = [
        loss_that(lambda: begun.append("first"), "first"),
        loss_that(fail, "second"),
        loss_that(lambda: begun.append("third"), "third"),
    ]
    with pytest.raises(
        CustomLossError, match="regularizer 'second' failed: ZeroDivisionError: nothing left"
    ) as caught:
        Pipeline(specs, parallel=False).compute([], ROWS, total)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert begun == ["first", "second"]


def test_a_loss_that_fails_says_so() -> None:
    @value_and_grad
    def broken(_data: Any, _logprobs: Any) -> Any:
        raise KeyError("reward")

    with pytest.raises(CustomLossError, match="loss 'broken' failed: KeyError: 'reward'"):
        Pipeline().compute([], ROWS, broken)


@pytest.mark.parametrize("weight", [1.0, 1e300])
def test_a_gradient_that_the_service_cannot_hold_is_refused_here(weight: float) -> None:
    spec = RegularizerSpec(L1(), weight)
    with pytest.raises(CustomLossError, match=r"gradient of .* must fit float32, below 3.4e\+38; .* datum 0"):
        Pipeline([spec]).compute([], ROWS, steep if weight == 1.0 else total)


def test_a_regularizer_that_hangs_is_given_up_by_its_name() -> None:
    let_go = threading.Event()
    pipeline = Pipeline([loss_that(lambda: let_go.wait(WAIT_S), "endless"), L1()], timeout_s=0.05)
    with pytest.raises(CustomLossError, match=r"regularizer 'endless' must be done in 0.05 s"):
        pipeline.compute([], ROWS, total)
    let_go.set()


def test_a_regularizer_may_be_a_coroutine() -> None:
    async def later(_data: Any, logprobs: Sequence[Array]) -> Any:
        await asyncio.sleep(0)
        return 3.0, [np.zeros_like(row) for row in logprobs]

    spec = RegularizerSpec(value_and_grad(later), 2.0, "later", async_=True)
    assert Pipeline([spec]).compute([], ROWS, total).regularizer_total == 6.0


@pytest.mark.torch
def test_losses_and_regularizers_in_torch_and_numpy_go_together() -> None:
    torch = pytest.importorskip("torch", reason="runs losses in PyTorch")

    async def later(_data: Any, logprobs: Any) -> Any:
        await asyncio.sleep(0)
        return torch.square(logprobs[0]).sum(), {"told": 1.0}

    specs = [RegularizerSpec(later, 0.5, "later", async_=True), RegularizerSpec(L1(), 0.25)]
    found = Pipeline(specs).compute([], ROWS, lambda _data, rows: (torch.cat(rows).sum(), {}))
    assert found.loss_total == pytest.approx(-6 + 0.5 * 5 + 0.25 * 6)
    assert found.regularizers["later"].custom == {"told": 1.0}
    np.testing.assert_allclose(found.gradients[0], 1 + ROWS[0] - 0.25)
    np.testing.assert_allclose(found.gradients[1], [0.75])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pipeline("l1"),  # type: ignore[arg-type]  # what is tested
        lambda: Pipeline([L1(), L1()]),
        lambda: Pipeline([3]),  # type: ignore[list-item]  # what is tested
        lambda: Pipeline([], timeout_s=0),
        lambda: Pipeline([], max_concurrency=0),
        lambda: Pipeline([], track_grad_norms="yes"),  # type: ignore[arg-type]  # what is tested
        lambda: RegularizerSpec(L1(), -1.0),
        lambda: RegularizerSpec(L1(), name=""),
        lambda: Pipeline().compute([], ROWS, "cross_entropy"),  # type: ignore[arg-type]  # what is tested
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValidationError):
        make()


def test_jobs_give_their_results_in_their_order() -> None:
    second_done = threading.Event()

    def first() -> int:
        second_done.wait(WAIT_S)
        return 1

    def second() -> int:
        second_done.set()
        return 2

    assert run_all([first, second], limit=2, timeout_s=None) == [1, 2]
    assert run_all([], limit=2, timeout_s=1.0) == []
