"""MBX-06 in memory: a message that brings its receiver down again and again is not handled for ever."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import ConfigError, NotDeliveredError, OutcomeUnknownError, PoisonedError
from tinker_actors.supervision import (
    ActorTree,
    ChildSpec,
    ChildStarted,
    DeadLetter,
    DeleteChild,
    DynamicSupervisor,
    Kind,
    OnPending,
    Poisoned,
    RestartChild,
    StartChild,
    Stop,
    SupervisedActor,
    TerminateChild,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

LONG_S = 1e6


class DeclaredError(Exception):
    """An answer, no failure."""


class Eater(SupervisedActor):
    """Fails in the way that the message says."""

    reply_errors = (DeclaredError,)

    def __init__(self, meals: "Meals") -> None:
        super().__init__()
        self.meals = meals

    def on_receive(self, message: str) -> str:
        self.meals.eaten.append(message)
        match message:
            case "bad":
                raise ValueError
            case "exit":
                sys.exit(1)
            case "declared":
                raise DeclaredError
            case "stop":
                raise Stop
            case "stall":
                self.meals.entered.set()
                self.meals.go_on.wait(20.0)
        return message


class Tolerant(Eater):
    crash_on_ask_error = False


class Meals:
    """What was eaten, and the test's hold on a stalled eater."""

    def __init__(self) -> None:
        self.eaten: list[str] = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def spec(self, **fields: Any) -> ChildSpec:
        return ChildSpec("a", lambda: Eater(self), **fields)


@pytest.fixture
def meals() -> Iterator[Meals]:
    meals = Meals()
    yield meals
    meals.go_on.set()


def feed(tree: ActorTree, message: str, key: Any, *, times: int) -> list[type[BaseException | None]]:
    """Ask so often, each time of a new incarnation, which the message ends; the classes of the errors."""
    errors: list[type[BaseException | None]] = []
    for _ in range(times):
        with expect(tree, ChildStarted):
            errors.append(type(tree.address("root/a").ask(message, key=key).exception()))
    return errors


def is_refused(tree: ActorTree, key: Any) -> bool:
    error = tree.address("root/a").ask("good", key=key, timeout_s=LONG_S).exception()
    return isinstance(error, PoisonedError)


@pytest.mark.parametrize(("message", "error"), [("bad", ValueError), ("exit", OutcomeUnknownError)])
def test_fourth_message_of_a_key_that_cost_three_incarnations_is_refused(
    start_tree: StartTree, meals: Meals, message: str, error: type[BaseException]
) -> None:
    tree = start_tree(meals.spec())
    assert feed(tree, message, "batch-7", times=3) == [error] * 3
    with expect(tree, Poisoned, path="root/a", epoch=4, key="batch-7", attempts=3):
        fourth = tree.address("root/a").ask(message, key="batch-7").exception()
    assert isinstance(fourth, PoisonedError)
    assert fourth.attempts == 3
    assert meals.eaten == [message] * 3


def test_refused_key_stays_refused_and_others_are_served(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    feed(tree, "bad", 7, times=3)
    assert is_refused(tree, 7)
    with expect(tree, ChildStarted):
        crash(tree.address("root/a"))
    assert is_refused(tree, 7)
    assert not is_refused(tree, 8)
    assert not is_refused(tree, None)


@pytest.mark.parametrize("attempts", [1, 5])
def test_spec_says_how_many_incarnations_a_key_may_cost(
    start_tree: StartTree, meals: Meals, attempts: int
) -> None:
    tree = start_tree(meals.spec(max_poison_attempts=attempts))
    feed(tree, "bad", "k", times=attempts)
    assert is_refused(tree, "k")
    assert meals.eaten == ["bad"] * attempts


def test_different_keys_do_not_add_up(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    for key in ("a", "b", ("a", "b")):
        feed(tree, "bad", key, times=2)
    assert not any(is_refused(tree, key) for key in ("a", "b", ("a", "b")))


def test_messages_without_a_key_are_never_refused(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    assert feed(tree, "bad", None, times=6) == [ValueError] * 6


@pytest.mark.parametrize("harmless", ["good", "declared"])
def test_key_whose_handler_returned_once_is_forgotten(
    start_tree: StartTree, meals: Meals, harmless: str
) -> None:
    tree = start_tree(meals.spec())
    feed(tree, "bad", "k", times=2)
    tree.address("root/a").ask(harmless, key="k").exception()
    feed(tree, "bad", "k", times=2)
    assert not is_refused(tree, "k")


def test_declared_errors_do_not_count(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    for _ in range(4):
        assert isinstance(tree.address("root/a").ask("declared", key="k").exception(), DeclaredError)
    assert not is_refused(tree, "k")


def test_ends_on_purpose_do_not_count(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    assert feed(tree, "stop", "k", times=4) == [OutcomeUnknownError] * 4
    assert not is_refused(tree, "k")


def test_error_that_the_actor_survives_does_not_count(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(ChildSpec("a", lambda: Tolerant(meals)))
    for _ in range(4):
        assert isinstance(tree.address("root/a").ask("bad", key="k").exception(), ValueError)
    assert not is_refused(tree, "k")


def test_crash_for_another_reason_does_not_count(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    for _ in range(4):
        tree.address("root/a").call("good", key="k")
        with expect(tree, ChildStarted):
            crash(tree.address("root/a"))
    assert not is_refused(tree, "k")


def test_message_carried_past_the_crash_of_another_is_not_blamed_for_it(
    start_tree: StartTree, meals: Meals
) -> None:
    tree = start_tree(meals.spec(on_pending=OnPending.CARRY, max_poison_attempts=1))
    a = tree.address("root/a")
    a.tell("stall")
    assert meals.entered.wait(5.0)
    bad, good = a.ask("bad", key="bad"), a.ask("good", key="good")
    meals.go_on.set()
    assert isinstance(bad.exception(), ValueError)
    assert good.result() == "good"


def test_tell_with_a_poisonous_key_is_a_dead_letter(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    for _ in range(3):
        with expect(tree, ChildStarted):
            tree.address("root/a").tell("bad", key="k")
    with expect(tree, Poisoned, key="k"), expect(tree, DeadLetter, path="root/a", epoch=4, message="str"):
        tree.address("root/a").tell("bad", key="k")
    assert meals.eaten == ["bad"] * 3


@pytest.mark.parametrize("returns", [False, True], ids=["stuck", "returned late"])
def test_stalled_handler_counts_also_when_it_returns_after_all(
    start_tree: StartTree, clock: VirtualClock, meals: Meals, returns: bool
) -> None:
    tree = start_tree(meals.spec(handler_deadline_s=1.0, max_poison_attempts=1), clock=clock)
    tree.address("root/a").tell("stall", key="k")
    assert meals.entered.wait(5.0)
    with expect(tree, ChildStarted, epoch=2):
        clock.advance(4.0)
    if returns:
        with expect(tree, ZombieEnded):
            meals.go_on.set()
    assert is_refused(tree, "k")


def test_ask_that_nobody_waits_for_any_more_does_not_clear_its_key(
    start_tree: StartTree, clock: VirtualClock, meals: Meals
) -> None:
    tree = start_tree(meals.spec(max_poison_attempts=1), clock=clock)
    a = tree.address("root/a")
    feed(tree, "bad", "k", times=1)
    a.tell("stall")
    assert meals.entered.wait(5.0)
    late = a.ask("good", key="k", timeout_s=1.0)
    clock.advance(1.0)
    meals.go_on.set()
    assert type(late.exception()) is NotDeliveredError
    assert is_refused(tree, "k")


def test_terminated_child_remembers_and_a_deleted_one_forgets(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(meals.spec())
    root = tree.address("root")
    feed(tree, "bad", "k", times=3)
    root.call(TerminateChild("a"))
    root.call(RestartChild("a"))
    assert is_refused(tree, "k")
    root.call(TerminateChild("a"))
    root.call(DeleteChild("a"))
    root.call(StartChild(meals.spec()))
    assert not is_refused(tree, "k")


def test_dynamic_child_forgets_with_its_end(start_tree: StartTree, meals: Meals) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    dyn, a = tree.address("root/dyn"), tree.address("root/dyn/a")
    spec = meals.spec(max_poison_attempts=1)
    dyn.call(StartChild(spec))
    with expect(tree, ChildStarted, path="root/dyn/a"):
        a.ask("bad", key="k").exception()
    assert isinstance(a.ask("good", key="k").exception(), PoisonedError)
    dyn.call(TerminateChild("a"))
    dyn.call(StartChild(spec))
    assert a.call("good", key="k") == "good"


@pytest.mark.parametrize("key", [[], {}, set()], ids=["list", "dict", "set"])
def test_key_that_cannot_be_one_is_refused_at_its_sender(
    start_tree: StartTree, meals: Meals, key: Any
) -> None:
    a = start_tree(meals.spec()).address("root/a")
    with pytest.raises(ConfigError, match="key"):
        a.tell("good", key=key)
    with pytest.raises(ConfigError, match="key"):
        a.ask("good", key=key)
    assert a.call("good") == "good"
    assert meals.eaten == ["good"]


class Hostile:
    """A key like any other until it is compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ValueError("incomparable")


def test_ask_whose_key_cannot_be_compared_is_settled_all_the_same(
    start_tree: StartTree, clock: VirtualClock, meals: Meals
) -> None:
    tree = start_tree(meals.spec(), clock=clock)
    feed(tree, "bad", Hostile(), times=1)
    assert feed(tree, "good", Hostile(), times=1) == [OutcomeUnknownError]
