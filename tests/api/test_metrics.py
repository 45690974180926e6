"""Metrics of several requests as one: the table of reductions, by both generations of the API."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.api.metrics import CURRENT, LEGACY, MetricRules, reduce_metrics

NAN = math.nan


@pytest.mark.parametrize(
    ("name", "values", "current", "legacy"),
    [
        # of requests that weigh 1 and 2
        ("a:sum", [1.0, 4.0], {"a:sum": 5.0}, {"a:sum": 5.0}),
        ("a:min", [1.0, 4.0], {"a:min": 1.0}, {"a:min": 1.0}),
        ("a:max", [1.0, 4.0], {"a:max": 4.0}, {"a:max": 4.0}),
        ("a:mean", [1.0, 4.0], {"a:mean": 3.0}, {"a:mean": 3.0}),
        ("a:slack", [1.0, 4.0], {"a:slack": 1.0}, {"a:slack": 1.0}),
        ("a:unique", [1.0, 4.0], {"a:unique": 1.0, "a:unique_1": 4.0}, {"a:unique": 1.0, "a:unique_2": 4.0}),
        ("a:hash2", [2**63, 2**63 + 1], {"a:hash2": 1}, {"a:hash2": 1}),
        ("a:hash2", [-1.0, 2.0], {"a:hash2": 1}, {"a:hash2": 1}),
        ("a:hash2", [1.0, NAN], {}, {}),
        ("a:odd", [1.0, 4.0], {}, {"a:odd": 3.0}),
        ("a:", [1.0, 4.0], {}, {"a:": 3.0}),
        ("a", [1.0, 4.0], {"a": 3.0}, {"a": 3.0}),
        ("a:b:sum", [1.0, 4.0], {"a:b:sum": 5.0}, {"a:b:sum": 5.0}),
        ("a:sum", [1.0, None], {}, {"a:sum": 1.0}),
        ("a:mean", [1.0, None], {}, {"a:mean": 1.0}),
        ("a:sum", [None, 1.0], {}, {}),
    ],
)
def test_each_reduction(
    name: str, values: list[Any], current: dict[str, float], legacy: dict[str, float]
) -> None:
    metrics = [{} if value is None else {name: value} for value in values]
    assert reduce_metrics(metrics, [1, 2], CURRENT) == current
    assert reduce_metrics(metrics, [1, 2], LEGACY) == legacy


def test_a_hash_of_older_services_does_not_depend_on_the_order() -> None:
    one, other = ({"a:hash_unordered": value} for value in (3.0, 7.0))
    assert reduce_metrics([one, other], [1, 2]) == reduce_metrics([other, one], [2, 1])
    assert reduce_metrics([one, other], [1, 2]) != reduce_metrics([one, one], [1, 2])


@pytest.mark.parametrize("rules", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_nothing_that_was_weighed_has_no_mean_and_fails_nobody(rules: MetricRules) -> None:
    metrics = {"a:mean": 1.0, "a:slack": 1.0}
    assert reduce_metrics([metrics, metrics], [0, 0], rules) == {"a:mean": 0.0, "a:slack": 1.0}


@pytest.mark.parametrize("rules", [CURRENT, LEGACY], ids=["current", "legacy"])
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(["a:sum", "a:mean", "a:slack", "a:unique", "a:hash2", "a:hash_unordered"]),
            st.floats(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_metrics_fail_a_step(rules: MetricRules, metrics: list[dict[str, float]]) -> None:
    reduce_metrics(metrics, [1] * len(metrics), rules)


def test_no_results_have_no_metrics() -> None:
    assert reduce_metrics([], []) == {}
