import pytest

from tinker_actors.local.batches import MAX_FILLING, MAX_TOKENS, rectangles


@pytest.mark.parametrize("lengths", [[5], [700, 3, 3, 900], list(range(1, 200)), [40] * 300])
def test_each_example_is_in_one_rectangle(lengths: list[int]) -> None:
    groups = rectangles(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(lengths[group[0]] == max(lengths[index] for index in group) for group in groups)


def test_rectangles_are_bounded_and_mostly_full() -> None:
    lengths = [1 + index * 37 % 500 for index in range(400)]
    for group in rectangles(lengths):
        area = len(group) * lengths[group[0]]
        filled = sum(lengths[index] for index in group)
        assert area <= MAX_TOKENS
        assert area <= 256 or area - filled <= MAX_FILLING * area


def test_an_example_longer_than_the_bound_stands_alone() -> None:
    assert rectangles([10, MAX_TOKENS + 5]) == [[1], [0]]
