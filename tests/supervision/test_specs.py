import math
import random
from dataclasses import FrozenInstanceError
from itertools import combinations, product
from typing import Any

import pytest

from tinker_actors.errors import ConfigError, StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildStartFailed,
    DynamicSupervisor,
    Gate,
    Kind,
    OnPending,
    Restart,
    ShutdownEnded,
    Strategy,
    SupervisedActor,
    Supervisor,
    SupervisorFlags,
)
from tinker_actors.supervision.backoff import RestartBudget
from tinker_actors.supervision.specs import affected
from tinker_actors.supervision.testing import VirtualClock

WRONG: dict[str, list[Any]] = {
    "id": ["", "a/b", 7, None, b"a"],
    "start": [None, "Echo", 3],
    "restart": ["sometimes", None, 1],
    "shutdown_s": [-1.0, math.nan, "5", True],
    "start_timeout_s": [0.0, -1.0, math.nan, "5", True],
    "backoff": [5.0, None],
    "max_mailbox": [0, -1, 2.5, True, "10", None],
    "on_pending": ["lose", None],
    "kind": ["boss", None],
    "free_causes": [[ValueError], (3,), ValueError, (KeyboardInterrupt,), None],
    "gate": [True, "open"],
    "significant": [1, "yes", None],
    "handler_deadline_s": [0.0, -1.0, math.nan, "5", True, None],
    "max_poison_attempts": [0, 2.5, True, None],
    "carry_timeout_s": [0.0, -1.0, math.nan, "5", True, None],
}


def make(**fields: Any) -> ChildSpec:
    return ChildSpec(**{"id": "a", "start": SupervisedActor, **fields})


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_wrong_field_of_a_spec_is_refused_by_name(field: str, value: Any) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match=rf"^ChildSpec\.{field} .*got"):
        make(**{field: value})


@pytest.mark.parametrize(("one", "other"), list(combinations(WRONG, 2)))
def test_of_two_wrong_fields_one_is_named(one: str, other: str) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match=rf"^ChildSpec\.({one}|{other}) "):
        make(**{one: WRONG[one][0], other: WRONG[other][0]})


def test_every_field_of_a_spec_has_wrong_values_here() -> None:
    """SUP-04."""
    assert list(WRONG) == list(ChildSpec.__dataclass_fields__)


@pytest.mark.parametrize(("fields", "missing"), [({"start": SupervisedActor}, "id"), ({"id": "a"}, "start")])
def test_spec_without_an_id_or_a_start_is_none(fields: dict[str, Any], missing: str) -> None:
    """SUP-04."""
    with pytest.raises(TypeError, match=f"'{missing}'"):
        ChildSpec(**fields)


def test_spec_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        make().id = "b"  # type: ignore[misc]


def test_free_causes_without_a_pause_are_refused() -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match="backoff"):
        make(free_causes=(ValueError,))


def test_significant_permanent_child_is_refused() -> None:
    """SUP-04, SUP-26."""
    with pytest.raises(ConfigError, match=r"^ChildSpec\.significant .*got permanent"):
        make(significant=True)


@pytest.mark.parametrize("restart", ["transient", "temporary"])
def test_significant_child_without_auto_shutdown_is_refused(restart: str) -> None:
    """SUP-04, SUP-26."""
    with pytest.raises(ConfigError, match=r"^ChildSpec\.significant .*got never"):
        Supervisor([make(restart=restart, significant=True)])


def test_choices_may_be_given_as_strings() -> None:
    spec = make(restart="transient", kind="supervisor", on_pending="carry")
    assert (spec.restart, spec.kind, spec.on_pending) == (
        Restart.TRANSIENT,
        Kind.SUPERVISOR,
        OnPending.CARRY,
    )


def test_spec_has_the_defaults_of_otp() -> None:
    spec = make()
    assert (spec.restart, spec.kind, spec.significant) == (Restart.PERMANENT, Kind.WORKER, False)


@pytest.mark.parametrize(
    ("kind", "shutdown_s", "start_s"), [("worker", 5.0, 30.0), ("supervisor", math.inf, math.inf)]
)
def test_time_limits_have_defaults_by_kind(kind: str, shutdown_s: float, start_s: float) -> None:
    spec = make(kind=kind)
    assert (spec.shutdown_limit_s, spec.start_limit_s) == (shutdown_s, start_s)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("limit_s", [0, 0.5, 5, math.inf])
def test_time_limits_that_are_given_hold_for_either_kind(kind: Kind, limit_s: float) -> None:
    """SUP-04."""
    assert make(kind=kind, shutdown_s=limit_s).shutdown_limit_s == limit_s
    assert make(kind=kind, start_timeout_s=limit_s + 1).start_limit_s == limit_s + 1


@pytest.mark.parametrize(
    ("restart", "significant", "auto_shutdown"),
    [
        *product(Restart, [False], AutoShutdown),
        *product(
            [Restart.TRANSIENT, Restart.TEMPORARY],
            [True],
            [AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT],
        ),
    ],
)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("shutdown_s", [0, 2.5, math.inf, None])
def test_every_valid_combination_is_accepted(
    restart: Restart, significant: bool, auto_shutdown: AutoShutdown, kind: Kind, shutdown_s: float | None
) -> None:
    """SUP-04."""
    spec = make(restart=restart, significant=significant, kind=kind, shutdown_s=shutdown_s)
    assert Supervisor([spec], auto_shutdown=auto_shutdown).specs == (spec,)


def test_free_causes_with_a_gate_and_a_pause_are_accepted() -> None:
    """SUP-04."""
    gate = Gate()
    assert make(free_causes=(ValueError,), gate=gate, backoff=Backoff(base_s=1.0)).gate is gate


# What a supervisor is made of.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "one_for_none"),
        ("strategy", None),
        ("max_restarts", -1),
        ("max_restarts", 1.5),
        ("max_restarts", math.inf),
        ("max_restarts", "3"),
        ("max_restarts", True),
        ("within_s", 0.0),
        ("within_s", -1.0),
        ("within_s", math.nan),
        ("within_s", "60"),
        ("auto_shutdown", "some_significant"),
        ("auto_shutdown", True),
        ("max_zombies", -1),
        ("max_zombies", 1.5),
    ],
)
def test_wrong_limit_of_a_supervisor_is_refused_by_name(field: str, value: Any) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match=rf"^{field} .*got"):
        Supervisor([], **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_restarts", -1),
        ("within_s", 0.0),
        ("max_zombies", -1),
        ("max_children", -1),
        ("max_children", 2.5),
        ("max_children", True),
        ("max_children", math.inf),
    ],
)
def test_wrong_limit_of_a_dynamic_supervisor_is_refused_by_name(field: str, value: Any) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match=rf"^{field} .*got"):
        DynamicSupervisor(**{field: value})


@pytest.mark.parametrize(
    "fields", [{"strategy": Strategy.ONE_FOR_ALL}, {"auto_shutdown": AutoShutdown.ANY_SIGNIFICANT}]
)
def test_dynamic_supervisor_has_neither_strategy_nor_auto_shutdown(fields: dict[str, Any]) -> None:
    """SUP-26."""
    with pytest.raises(TypeError, match="unexpected keyword"):
        DynamicSupervisor(**fields)


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("max_restarts", [0, 1, 10**9])
@pytest.mark.parametrize("within_s", [0.1, 60, math.inf])
def test_every_valid_limit_of_a_supervisor_is_accepted(
    strategy: Strategy, max_restarts: int, within_s: float
) -> None:
    """SUP-04."""
    supervisor = Supervisor([], strategy=strategy, max_restarts=max_restarts, within_s=within_s)
    assert supervisor.flags == SupervisorFlags(strategy, max_restarts, within_s)


@pytest.mark.parametrize("stranger", ["hej", None, SupervisedActor, {"id": "a"}])
def test_child_that_is_no_spec_is_refused(stranger: Any) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match="children must be ChildSpecs"):
        Supervisor([make(), stranger])


def test_duplicate_ids_are_refused() -> None:
    """SUP-05."""
    with pytest.raises(ConfigError, match=r"^ChildSpec\.id .*'a' twice"):
        Supervisor([make(), make(id="b"), make()])


def test_root_that_is_no_supervisor_is_refused() -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match="kind supervisor, got worker"):
        ActorTree(make())


def two_of_a_name() -> Supervisor:
    return Supervisor([make(), make()])


def no_spec() -> Supervisor:
    return Supervisor([make(), "hej"])  # type: ignore[list-item]


def wrong_limit() -> Supervisor:
    return Supervisor([make()], max_restarts=-1)


def wrong_spec() -> Supervisor:
    return Supervisor([make(), make(id="b", shutdown_s=-1.0)])


@pytest.mark.parametrize("factory", [two_of_a_name, no_spec, wrong_limit, wrong_spec])
def test_supervisor_that_is_wrong_starts_no_child(factory: Any, clock: VirtualClock) -> None:
    """SUP-04, SUP-05."""
    seen: list[object] = []
    tree = ActorTree(ChildSpec("root", factory, kind=Kind.SUPERVISOR), clock=clock)
    tree.events.subscribe(seen.append)
    with pytest.raises(StartFailedError) as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, ConfigError)
    assert [type(event) for event in seen] == [ChildStartFailed, ShutdownEnded]


@pytest.mark.parametrize(
    ("strategy", "ids"),
    [("one_for_one", ["a"]), ("one_for_all", ["c", "a", "b"]), ("rest_for_one", ["a", "b"])],
)
def test_strategy_says_who_is_restarted(strategy: str, ids: list[str]) -> None:
    """SUP-15, SUP-16, SUP-17."""
    assert affected(Strategy(strategy), ["c", "a", "b"], "a") == ids


@pytest.mark.parametrize("field", ["base_s", "cap_s", "jitter", "stable_after_s"])
@pytest.mark.parametrize("value", [-1.0, math.nan, "1", True, None])
def test_wrong_field_of_a_backoff_is_refused_by_name(field: str, value: Any) -> None:
    """SUP-04."""
    with pytest.raises(ConfigError, match=rf"^Backoff\.{field} .*got"):
        Backoff(**{field: value})


def test_backoff_doubles_up_to_its_cap() -> None:
    """SUP-24."""
    backoff = Backoff(base_s=1.0, cap_s=5.0, jitter=0.0)
    assert [backoff.delay_s(n, random.Random(0)) for n in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.delay_s(10_000, random.Random(0)) == 5.0


def test_jitter_stays_within_its_share() -> None:
    """SUP-24."""
    backoff, rng = Backoff(base_s=1.0, jitter=0.5), random.Random(0)
    delays = [backoff.delay_s(0, rng) for _ in range(10_000)]
    assert min(delays) >= 1.0
    assert max(delays) <= 1.5
    assert max(delays) > 1.4


def test_no_backoff_is_no_pause() -> None:
    """SUP-24."""
    assert Backoff().delay_s(7, random.Random(0)) == 0.0


def test_budget_admits_its_number_within_the_window_and_no_more() -> None:
    """SUP-19."""
    budget = RestartBudget(2, 10.0)
    assert [budget.spend(now, None) for now in (0.0, 5.0, 9.9)] == [True, True, False]


def test_budget_forgets_a_restart_that_is_one_window_old() -> None:
    """SUP-19."""
    budget = RestartBudget(2, 10.0)
    assert [budget.spend(now, None) for now in (0.0, 5.0, 10.0, 15.0)] == [True] * 4


def test_budget_keeps_the_first_cause_that_still_counts() -> None:
    """SUP-21."""
    budget, causes = RestartBudget(9, 10.0), [ValueError(str(n)) for n in range(3)]
    for now, cause in zip((0.0, 8.0, 12.0), causes, strict=True):
        budget.spend(now, cause)
    assert budget.first_cause is causes[1]
