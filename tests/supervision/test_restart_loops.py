"""A child that is restarted again and again and never comes up, and what can be done meanwhile.

Each try is followed by a pause, so that the loop stands still between two steps of the clock.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError, NotDeliveredError, StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildCounts,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    Event,
    GetChildSpec,
    Kind,
    RestartChild,
    ShutdownEnded,
    StartChild,
    StartFailed,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

EACH_STRATEGY = pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])
GROUPS = pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])

EVERY_SECOND = Backoff(base_s=1.0, cap_s=1.0, jitter=0.0)


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Hopeless(Echo):
    """Starts once and never again."""

    def on_start(self) -> None:
        if self.context.epoch > 1:
            raise ValueError("never again")


LOOPING = ChildSpec("b", Hopeless, backoff=EVERY_SECOND)

CRASH = {"one_for_one": 2, "one_for_all": 4, "rest_for_one": 3, "dynamic": 2}
"""How many events the crash of `b` brings: its own end and restart, and the ends of siblings."""
TRY = {"one_for_one": 2, "one_for_all": 4, "rest_for_one": 2, "dynamic": 2}
"""How many events a try brings: its failure and the next restart, and start and end of an earlier sibling."""


def grow(start_tree: StartTree, clock: VirtualClock, strategy: str) -> ActorTree:
    """A tree in which `root/sup/b`, with a sibling on each side, has failed to start again three times."""

    def supervisor() -> Supervisor:
        if strategy == "dynamic":
            return DynamicSupervisor(max_restarts=10**9)
        return Supervisor([], strategy=Strategy(strategy), max_restarts=10**9)

    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), clock=clock)
    for one in (ChildSpec("a", Echo), LOOPING, ChildSpec("c", Echo)):
        tree.address("root/sup").call(StartChild(one))
    with expect(tree, Event, count=CRASH[strategy]):
        crash(tree.address("root/sup/b"))
    for _ in range(3):
        once_more(tree, clock, strategy)
    return tree


def once_more(tree: ActorTree, clock: VirtualClock, strategy: str) -> None:
    """Let the loop go round once."""
    tree.address("root/sup").call(CountChildren())  # it is in its pause when it answers
    with expect(tree, Event, count=TRY[strategy]):
        clock.advance(1.0)
    tree.address("root/sup").call(CountChildren())


def states(tree: ActorTree) -> dict[str, str]:
    sup = tree.snapshot().find("root/sup")
    assert sup is not None
    return {node.id: node.state for node in sup.children}


def refusal(tree: ActorTree, command: Command) -> str:
    with pytest.raises(CommandRefusedError) as caught:
        tree.address("root/sup").call(command)
    return caught.value.answer


@pytest.mark.parametrize(
    ("strategy", "a", "c", "active"),
    [
        ("one_for_one", "running", "running", 2),
        ("one_for_all", "pending", "pending", 0),
        ("rest_for_one", "running", "pending", 1),
        ("dynamic", "running", "running", 2),
    ],
)
def test_loop_is_shown_while_it_goes_on(
    start_tree: StartTree, clock: VirtualClock, strategy: str, a: str, c: str, active: int
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    sup = tree.address("root/sup")
    listed = [(child.id, child.state, child.epoch) for child in sup.call(WhichChildren())]
    assert [state for _, state, _ in listed] == [a, "backing_off", c]
    assert ("b", "backing_off", 4) in listed
    assert sup.call(CountChildren()) == ChildCounts(specs=3, active=active, supervisors=0, workers=3)
    assert sup.call(GetChildSpec("b")) == LOOPING


@EACH_STRATEGY
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (DeleteChild("b"), "restarting"),
        (StartChild(LOOPING), "already_present"),
        (StartChild(ChildSpec("b", Echo)), "already_present"),
    ],
)
def test_child_in_a_loop_is_neither_deleted_nor_added_again(
    start_tree: StartTree, clock: VirtualClock, strategy: str, command: Command, answer: str
) -> None:
    """SUP-20."""
    assert refusal(grow(start_tree, clock, strategy), command) == answer


@pytest.mark.parametrize(
    ("strategy", "fate"),
    [
        ("one_for_one", {"a": "running", "b": "down", "c": "running"}),
        ("one_for_all", {"a": "running", "b": "down", "c": "running"}),
        ("rest_for_one", {"a": "running", "b": "down", "c": "running"}),
        ("dynamic", {"a": "running", "c": "running"}),
    ],
)
def test_termination_ends_the_loop_and_brings_the_siblings_back(
    start_tree: StartTree, clock: VirtualClock, strategy: str, fate: dict[str, str]
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    tree.address("root/sup").call(TerminateChild("b"))
    assert tree.address("root/sup/a").call("hello") == "hello"
    assert tree.address("root/sup/c").call("hello") == "hello"
    clock.advance(100.0)
    tree.address("root/sup").call(CountChildren())
    assert states(tree) == fate


@pytest.mark.parametrize("strategy", Strategy)
def test_child_whose_loop_was_ended_is_deleted_and_added_again(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    sup = tree.address("root/sup")
    for command in (TerminateChild("b"), DeleteChild("b"), StartChild(ChildSpec("b", Echo))):
        sup.call(command)
    assert tree.address("root/sup/b").call("hello") == "hello"
    assert [child.id for child in sup.call(WhichChildren())] == ["a", "c", "b"]


@EACH_STRATEGY
def test_restart_by_command_is_one_more_try_of_the_loop(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    with expect(tree, Event, count=TRY[strategy]), pytest.raises(StartFailedError) as caught:
        tree.address("root/sup").call(RestartChild("b"))
    assert isinstance(caught.value.__cause__, ValueError)
    once_more(tree, clock, strategy)
    assert states(tree)["b"] == "backing_off"


@pytest.mark.parametrize("name", ["a", "c"])
@pytest.mark.parametrize(
    ("strategy", "fate"),
    [
        ("one_for_one", "down"),
        ("one_for_all", "down"),
        ("rest_for_one", "down"),
        ("dynamic", "gone"),
    ],
)
def test_sibling_can_be_terminated_while_the_loop_goes_on(
    start_tree: StartTree, clock: VirtualClock, strategy: str, fate: str, name: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    tree.address("root/sup").call(TerminateChild(name))
    assert states(tree).get(name, "gone") == fate
    assert states(tree)["b"] == "backing_off"


@pytest.mark.parametrize("strategy", ["one_for_one", "dynamic"])
def test_child_is_added_at_once_while_a_loop_of_another_goes_on(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    added = tree.address("root/sup").call(StartChild(ChildSpec("new", Echo)))
    assert added.call("hello") == "hello"


@GROUPS
def test_child_that_is_added_behind_a_loop_of_its_group_starts_when_the_loop_has_ended(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    added = tree.address("root/sup").ask(StartChild(ChildSpec("new", Echo)), timeout_s=1000.0)
    once_more(tree, clock, strategy)
    assert states(tree)["new"] == "pending"
    tree.address("root/sup").call(TerminateChild("b"))
    assert added.result().call("hello") == "hello"


@GROUPS
def test_child_that_is_added_behind_a_loop_of_its_group_can_be_terminated(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    added = tree.address("root/sup").ask(StartChild(ChildSpec("new", Echo)), timeout_s=1000.0)
    tree.address("root/sup").call(TerminateChild("new"))
    assert isinstance(added.exception(), StartFailedError)
    assert states(tree)["new"] == "down"


@EACH_STRATEGY
def test_supervisor_with_a_loop_ends_when_it_is_told_to(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    with expect(tree, ChildExited, path="root/sup", expected=True):
        tree.address("root").call(TerminateChild("sup"))
    assert clock.pending() == 0
    with expect(tree, ShutdownEnded, abandoned=(), first_cause=None):
        tree.stop(5.0)


@EACH_STRATEGY
def test_tree_with_a_loop_in_it_ends_when_it_is_told_to(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    with expect(tree, ShutdownEnded, abandoned=(), first_cause=None):
        tree.stop(5.0)


@EACH_STRATEGY
def test_message_to_a_child_in_a_loop_waits_until_the_loop_is_ended(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    waiting = tree.address("root/sup/b").ask("anybody there?", timeout_s=1000.0)
    once_more(tree, clock, strategy)
    assert not waiting.done()
    tree.address("root/sup").call(TerminateChild("b"))
    assert isinstance(waiting.exception(), Exception)


@GROUPS
def test_sibling_that_a_loop_keeps_down_is_up_once_it_has_ended(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    waiting = tree.address("root/sup/c").ask("hello", timeout_s=1000.0)
    with expect(tree, ChildStarted, path="root/sup/c", epoch=2):
        tree.address("root/sup").call(TerminateChild("b"))
    assert waiting.result() == "hello"


@EACH_STRATEGY
def test_each_try_of_a_loop_is_announced_and_counted(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    with (
        expect(tree, ChildStartFailed, path="root/sup/b", count=3),
        expect(tree, ChildRestarting, path="root/sup/b", count=3) as got,
    ):
        for _ in range(3):
            once_more(tree, clock, strategy)
    assert [(event.epoch, event.restarts, event.in_window) for event in got.events] == [
        (5, 5, 5),
        (6, 6, 6),
        (7, 7, 7),
    ]
    assert {type(event.reason) for event in got.events} == {StartFailed}


@EACH_STRATEGY
def test_message_that_would_not_wait_is_refused_while_a_loop_goes_on(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-20."""
    tree = grow(start_tree, clock, strategy)
    error = tree.address("root/sup/b").ask("anybody there?", mode="fast").exception()
    assert isinstance(error, NotDeliveredError)
