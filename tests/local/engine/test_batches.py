import pytest

from tinker_actors.local.engine.batches import FEW_TOKENS, MAX_FILLING, MAX_TOKENS, rectangles


def areas(lengths: list[int], share: list[list[int]]) -> list[int]:
    return [len(group) * lengths[group[0]] for group in share]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[5], [700, 3, 3, 900], list(range(1, 200)), [40] * 300])
def test_each_example_is_in_one_rectangle_no_wider_than_its_first(lengths: list[int], workers: int) -> None:
    groups = [group for share in rectangles(lengths, workers) for group in share]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(lengths[group[0]] == max(lengths[index] for index in group) for group in groups)


def test_rectangles_are_bounded_and_mostly_full() -> None:
    lengths = [1 + index * 37 % 500 for index in range(400)]
    for group in rectangles(lengths)[0]:
        area = len(group) * lengths[group[0]]
        filled = sum(lengths[index] for index in group)
        assert area <= MAX_TOKENS
        assert area <= FEW_TOKENS or area - filled <= MAX_FILLING * area


def test_an_example_longer_than_the_bound_stands_alone() -> None:
    assert rectangles([10, MAX_TOKENS + 5]) == [[[1], [0]]]


def test_workers_get_nearly_equal_shares() -> None:
    lengths = [28 + index % 9 for index in range(64)]
    first, second = (sum(areas(lengths, share)) for share in rectangles(lengths, 2))
    assert abs(first - second) <= 0.1 * sum(lengths)


def test_a_small_batch_goes_to_one_worker() -> None:
    assert len(rectangles([10, 12], 2)) == 1
