import math
import random
from typing import Any

import pytest

from tinker_actors.errors import ConfigError
from tinker_actors.supervision import Backoff, ChildSpec, Kind, Restart, Strategy, SupervisedActor, Supervisor
from tinker_actors.supervision.backoff import RestartBudget
from tinker_actors.supervision.specs import affected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "a/b"),
        ("id", 7),
        ("start", None),
        ("restart", "sometimes"),
        ("shutdown_s", -1.0),
        ("shutdown_s", math.nan),
        ("start_timeout_s", 0.0),
        ("max_mailbox", 0),
        ("on_pending", "lose"),
        ("kind", "boss"),
        ("backoff", 5.0),
        ("free_causes", [ValueError]),
        ("free_causes", (3,)),
    ],
)
def test_wrong_field_of_a_spec_is_refused_by_name(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"id": "a", "start": SupervisedActor, field: value}
    with pytest.raises(ConfigError, match=rf"ChildSpec\.{field}"):
        ChildSpec(**fields)


def test_free_causes_without_a_pause_are_refused() -> None:
    with pytest.raises(ConfigError, match="backoff"):
        ChildSpec("a", SupervisedActor, free_causes=(ValueError,))


def test_choices_may_be_given_as_strings() -> None:
    spec = ChildSpec("a", SupervisedActor, restart="transient", kind="supervisor")  # type: ignore[arg-type]
    assert (spec.restart, spec.kind) == (Restart.TRANSIENT, Kind.SUPERVISOR)


@pytest.mark.parametrize(
    ("kind", "shutdown_s", "start_s"), [("worker", 5.0, 30.0), ("supervisor", math.inf, math.inf)]
)
def test_time_limits_have_defaults_by_kind(kind: str, shutdown_s: float, start_s: float) -> None:
    spec = ChildSpec("a", SupervisedActor, kind=Kind(kind))
    assert (spec.shutdown_limit_s, spec.start_limit_s) == (shutdown_s, start_s)


def test_duplicate_ids_are_refused() -> None:
    twice = [ChildSpec("a", SupervisedActor), ChildSpec("a", SupervisedActor)]
    with pytest.raises(ConfigError, match="twice"):
        Supervisor(twice)


@pytest.mark.parametrize("limits", [{"max_restarts": -1}, {"within_s": 0.0}])
def test_wrong_limits_of_a_supervisor_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Supervisor([], **limits)


@pytest.mark.parametrize(
    ("strategy", "ids"),
    [("one_for_one", ["a"]), ("one_for_all", ["c", "a", "b"]), ("rest_for_one", ["a", "b"])],
)
def test_strategy_says_who_is_restarted(strategy: str, ids: list[str]) -> None:
    assert affected(Strategy(strategy), ["c", "a", "b"], "a") == ids


@pytest.mark.parametrize("field", ["base_s", "cap_s", "jitter", "stable_after_s"])
def test_negative_backoff_is_refused_by_name(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Backoff(**{field: -1.0})


def test_backoff_doubles_up_to_its_cap() -> None:
    backoff = Backoff(base_s=1.0, cap_s=5.0, jitter=0.0)
    assert [backoff.delay_s(n, random.Random(0)) for n in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.delay_s(10_000, random.Random(0)) == 5.0


def test_jitter_stays_within_its_share() -> None:
    backoff, rng = Backoff(base_s=1.0, jitter=0.5), random.Random(0)
    delays = [backoff.delay_s(0, rng) for _ in range(10_000)]
    assert min(delays) >= 1.0
    assert max(delays) <= 1.5
    assert max(delays) > 1.4


def test_no_backoff_is_no_pause() -> None:
    assert Backoff().delay_s(7, random.Random(0)) == 0.0


def test_budget_admits_its_number_within_the_window_and_no_more() -> None:
    budget = RestartBudget(2, 10.0)
    assert [budget.spend(now, None) for now in (0.0, 5.0, 9.9)] == [True, True, False]


def test_budget_forgets_a_restart_that_is_one_window_old() -> None:
    budget = RestartBudget(2, 10.0)
    assert [budget.spend(now, None) for now in (0.0, 5.0, 10.0, 15.0)] == [True] * 4


def test_budget_keeps_the_first_cause_that_still_counts() -> None:
    budget, causes = RestartBudget(9, 10.0), [ValueError(str(n)) for n in range(3)]
    for now, cause in zip((0.0, 8.0, 12.0), causes, strict=True):
        budget.spend(now, cause)
    assert budget.first_cause is causes[1]
