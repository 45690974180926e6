from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.supervision import (
    ActorTree,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    Escalated,
    Kind,
    ShutdownEnded,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def crash_and_come_back(tree: ActorTree, path: str) -> None:
    with expect(tree, ChildStarted, path=path):
        crash(tree.address(path))


def test_restarts_one_period_apart_go_on_for_ever(start_tree: StartTree, clock: VirtualClock) -> None:
    """SUP-19."""
    tree = start_tree(ChildSpec("a", Echo), clock=clock, max_restarts=1, within_s=10.0)
    for _ in range(5):
        crash_and_come_back(tree, "root/a")
        clock.advance(10.0)
    assert not tree.stopped.is_set()


def test_one_restart_too_many_within_the_period_ends_the_supervisor(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-19."""
    tree = start_tree(ChildSpec("a", Echo), clock=clock, max_restarts=2, within_s=10.0)
    for _ in range(2):
        crash_and_come_back(tree, "root/a")
        clock.advance(4.9)
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/a"))


def test_budget_of_zero_gives_up_at_the_first_crash(start_tree: StartTree) -> None:
    """SUP-19."""
    tree = start_tree(ChildSpec("a", Echo), max_restarts=0)
    with expect(tree, Escalated, path="root"), expect(tree, ShutdownEnded):
        crash(tree.address("root/a"))


def test_children_share_the_budget_of_their_supervisor(start_tree: StartTree) -> None:
    """SUP-22."""
    tree = start_tree(*(ChildSpec(name, Echo) for name in "abc"), max_restarts=2)
    crash_and_come_back(tree, "root/a")
    crash_and_come_back(tree, "root/b")
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/c"))


def test_each_restart_says_how_many_count_against_the_limit(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-19."""
    tree = start_tree(ChildSpec("a", Echo), ChildSpec("b", Echo), clock=clock, within_s=10.0)
    counted = []
    for path, later_s in (("root/a", 6.0), ("root/b", 3.9), ("root/a", 0.1), ("root/b", 0.0)):
        with expect(tree, ChildRestarting) as got, expect(tree, ChildStarted, path=path):
            crash(tree.address(path))
        assert tree.snapshot().restarts_in_window == got.event.in_window
        counted.append((got.event.restarts, got.event.in_window))
        clock.advance(later_s)
    assert counted == [(1, 1), (1, 2), (2, 3), (2, 3)]


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
def test_start_that_fails_uses_up_a_restart_like_a_crash(start_tree: StartTree, max_restarts: int) -> None:
    """SUP-19."""

    class Hopeless(Echo):
        def on_start(self) -> None:
            if self.context.epoch > 1:
                raise ValueError("never again")

    tree = start_tree(ChildSpec("a", Hopeless), max_restarts=max_restarts)
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/a"))
    node = tree.snapshot().find("root/a")
    assert node is not None
    assert node.epoch == max_restarts + 1


def test_supervisor_subclass_handles_messages_of_its_own(start_tree: StartTree) -> None:
    class Counting(Supervisor):
        def on_receive(self, message: int) -> int:
            return message + 1

    mid = ChildSpec("mid", lambda: Counting([ChildSpec("leaf", Echo)]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    assert tree.address("root/mid").call(1) == 2
