from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import RuntimeStoppedError
from tinker_actors.supervision import (
    ActorTree,
    ChildExited,
    ChildSpec,
    ChildStarted,
    Escalated,
    Kind,
    Shutdown,
    ShutdownEnded,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def crash_and_come_back(tree: ActorTree, path: str, error: Exception | None = None) -> None:
    with expect(tree, ChildStarted, path=path):
        crash(tree.address(path), error)


def test_restarts_one_period_apart_go_on_for_ever(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(ChildSpec("a", Echo), clock=clock, max_restarts=1, within_s=10.0)
    for _ in range(5):
        crash_and_come_back(tree, "root/a")
        clock.advance(10.0)
    assert not tree.stopped.is_set()


def test_one_restart_too_many_within_the_period_ends_the_supervisor(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = start_tree(ChildSpec("a", Echo), clock=clock, max_restarts=2, within_s=10.0)
    for _ in range(2):
        crash_and_come_back(tree, "root/a")
        clock.advance(4.9)
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/a"))


def test_budget_of_zero_gives_up_at_the_first_crash(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo), max_restarts=0)
    with expect(tree, Escalated, path="root"), expect(tree, ShutdownEnded):
        crash(tree.address("root/a"))


def test_children_share_the_budget_of_their_supervisor(start_tree: StartTree) -> None:
    tree = start_tree(*(ChildSpec(name, Echo) for name in "abc"), max_restarts=2)
    crash_and_come_back(tree, "root/a")
    crash_and_come_back(tree, "root/b")
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/c"))


def two_levels(**limits: Any) -> ChildSpec:
    inner = [ChildSpec("leaf", Echo), ChildSpec("other", Echo)]
    return ChildSpec("mid", lambda: Supervisor(inner, **limits), kind=Kind.SUPERVISOR)


def test_supervisor_that_gives_up_is_restarted_with_its_children(start_tree: StartTree) -> None:
    tree = start_tree(two_levels(max_restarts=0))
    with expect(tree, ChildStarted, path="root/mid") as got:
        crash(tree.address("root/mid/leaf"))
    assert got.event.epoch == 2
    assert tree.address("root/mid/other").call("hello") == "hello"


def test_supervisor_that_gives_up_ends_its_children_first(start_tree: StartTree) -> None:
    tree = start_tree(two_levels(max_restarts=0))
    with expect(tree, ChildExited, count=3) as got:
        crash(tree.address("root/mid/leaf"))
    assert [event.path for event in got.events] == ["root/mid/leaf", "root/mid/other", "root/mid"]
    assert isinstance(got.events[2].reason, Shutdown)


def test_escalation_through_two_levels_keeps_the_first_exception(start_tree: StartTree) -> None:
    first, second = ValueError("the first"), ValueError("the second")
    tree = start_tree(two_levels(max_restarts=1), max_restarts=0)
    crash_and_come_back(tree, "root/mid/leaf", first)
    with expect(tree, Escalated, count=2) as got, expect(tree, ShutdownEnded, first_cause=first):
        crash(tree.address("root/mid/leaf"), second)
    assert [event.path for event in got.events] == ["root/mid", "root"]
    assert got.event.reason == Shutdown("more than 1 restarts within 60 s", cause=first, last=second)
    assert tree.first_cause is first


def test_addresses_fail_with_the_first_cause_once_the_root_gave_up(start_tree: StartTree) -> None:
    cause = ValueError("the root of it")
    tree = start_tree(ChildSpec("a", Echo), max_restarts=0)
    a = tree.address("root/a")
    with expect(tree, ShutdownEnded):
        crash(a, cause)
    with pytest.raises(RuntimeStoppedError) as told:
        a.tell("anyone?")
    with pytest.raises(RuntimeStoppedError) as asked:
        a.call("anyone?")
    assert told.value.first_cause is asked.value.first_cause is cause


def test_supervisor_whose_own_handler_raises_ends_its_children_and_is_restarted(
    start_tree: StartTree,
) -> None:
    class Fragile(Supervisor):
        def on_receive(self, message: Any) -> Any:
            raise ValueError(message)

    mid = ChildSpec("mid", lambda: Fragile([ChildSpec("leaf", Echo)]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    with expect(tree, ChildExited, count=2) as ended, expect(tree, ChildStarted, path="root/mid") as started:
        tree.address("root/mid").tell("break")
    assert [event.path for event in ended.events] == ["root/mid/leaf", "root/mid"]
    assert started.event.epoch == 2


def test_supervisor_subclass_handles_messages_of_its_own(start_tree: StartTree) -> None:
    class Counting(Supervisor):
        def on_receive(self, message: int) -> int:
            return message + 1

    mid = ChildSpec("mid", lambda: Counting([ChildSpec("leaf", Echo)]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    assert tree.address("root/mid").call(1) == 2
