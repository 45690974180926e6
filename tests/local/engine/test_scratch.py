import numpy as np

from tinker_actors.local.engine.scratch import Scratch


def test_arrays_do_not_overlap_and_lie_on_cache_lines() -> None:
    scratch = Scratch(np.float32)
    for _ in range(2):
        scratch.reset()
        first, second = scratch.take(3, 5), scratch.take(7)
        first[...], second[...] = 1, 2
        assert (first == 1).all()
    assert not np.shares_memory(first, second)
    assert (second.ctypes.data - first.ctypes.data) % 128 == 0


def test_the_second_pass_finds_the_memory_of_the_first() -> None:
    scratch = Scratch(np.float32)
    scratch.take(100)
    scratch.reset()
    before = scratch.take(100)
    scratch.reset()
    assert np.shares_memory(scratch.take(100), before)


def test_release_gives_the_same_memory_again() -> None:
    scratch = Scratch(np.float32)
    scratch.take(100)
    scratch.reset()
    mark = scratch.mark()
    before = scratch.take(50)
    scratch.release(mark)
    assert np.shares_memory(scratch.take(50), before)


def test_a_pass_larger_than_the_block_still_gets_memory() -> None:
    scratch = Scratch(np.float64)
    small, large = scratch.take(4), scratch.take(1000)
    assert (small.shape, large.shape) == ((4,), (1000,))
    assert large.dtype == np.float64


def test_product_is_the_matrix_product() -> None:
    left, right = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    assert np.array_equal(Scratch(np.float64).product(left, right), left @ right)
