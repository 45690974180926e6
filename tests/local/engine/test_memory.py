"""Blocks that were given back serve who comes next, and show nothing of who had them."""

import numpy as np

from tinker_actors.local.engine.memory import Memory


def test_a_block_that_was_given_back_is_taken_again_and_cleared() -> None:
    memory = Memory(most_bytes=2**20)
    first = memory.take((4, 100), np.float32)
    first[...] = np.nan
    memory.give(first)
    second = memory.take((3, 50), np.float32)
    assert np.shares_memory(first, second)
    assert not second.any()


def test_a_block_is_nobody_elses_while_it_is_used() -> None:
    memory = Memory(most_bytes=2**20)
    memory.give(memory.take((100,), np.float32))
    assert not np.shares_memory(memory.take((50,), np.float32), memory.take((50,), np.float32))


def test_blocks_of_another_type_or_too_small_are_left() -> None:
    memory = Memory(most_bytes=2**20)
    given = memory.take((100,), np.float32)
    memory.give(given)
    assert not np.shares_memory(memory.take((101,), np.float32), given)
    assert memory.take((100,), np.float64).dtype == np.float64


def test_no_more_is_kept_than_said() -> None:
    memory = Memory(most_bytes=400)
    blocks = [memory.take((100,), np.float32) for _ in range(2)]
    for block in blocks:
        memory.give(block)
    taken = [memory.take((100,), np.float32) for _ in range(2)]
    assert [np.shares_memory(taken[0], block) for block in blocks] == [True, False]
    assert not any(np.shares_memory(taken[1], block) for block in blocks)
