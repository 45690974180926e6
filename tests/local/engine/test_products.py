"""Products that two threads share are those that one computes."""

import numpy as np
import pytest

from tinker_actors.local.engine import products
from tinker_actors.local.engine.products import product, share


@pytest.mark.parametrize("shape", [(1, 5, 3), (32, 64, 2000), (7, 259, 3000), (40, 2816, 512)])
@pytest.mark.parametrize("shared_from", [0, 2**60])
def test_a_product_is_the_same_by_one_thread_and_by_two(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], shared_from: int
) -> None:
    monkeypatch.setattr(products, "SHARED_FROM", shared_from)
    rows, width, inner = shape
    random = np.random.default_rng(0)
    left, weight = random.standard_normal((rows, inner)), random.standard_normal((width, inner))
    outs = [product(left, weight, np.full((rows, width), np.nan)) for _ in range(2)]
    assert np.allclose(outs[0], left @ weight.T, rtol=1e-12)
    assert outs[0].tobytes() == outs[1].tobytes()


def test_what_goes_wrong_on_the_other_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SHARED_FROM", 0)
    with pytest.raises(ValueError, match="mismatch"):
        product(np.zeros((4, 5)), np.zeros((300, 6)), np.zeros((4, 300)))


@pytest.mark.parametrize("here", [True, False])
def test_what_is_shared_has_ended_on_both_threads_whatever_goes_wrong(*, here: bool) -> None:
    done: list[int] = []

    def fail() -> None:
        raise KeyError(1)

    def work() -> None:
        done.append(1)

    with pytest.raises(KeyError):
        share(*((fail, work) if here else (work, fail)))
    share(work, work)
    assert done == [1, 1, 1]
