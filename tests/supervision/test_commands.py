from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError, HandleClosedError, NotDeliveredError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildCounts,
    ChildDeleted,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    Kind,
    Restart,
    RestartChild,
    StartChild,
    SupervisedActor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


START = StartChild(ChildSpec("a", Echo))


def refusal(tree: ActorTree, command: Command) -> str:
    with pytest.raises(CommandRefusedError) as caught:
        tree.address("root").call(command)
    return caught.value.answer


@pytest.mark.parametrize(
    ("state", "command", "answer"),
    [
        ("running", START, "already_started"),
        ("running", RestartChild("a"), "running"),
        ("running", DeleteChild("a"), "running"),
        ("backing_off", START, "already_present"),
        ("backing_off", DeleteChild("a"), "restarting"),
        ("down", START, "already_present"),
        ("unknown", RestartChild("a"), "not_found"),
        ("unknown", TerminateChild("a"), "not_found"),
        ("unknown", DeleteChild("a"), "not_found"),
    ],
)
def test_command_that_does_not_fit_the_state_is_refused(
    start_tree: StartTree, clock: VirtualClock, state: str, command: Command, answer: str
) -> None:
    assert refusal(tree_with_child(start_tree, clock, state), command) == answer


@pytest.mark.parametrize(
    ("state", "command", "after"),
    [
        ("running", TerminateChild("a"), "down"),
        ("backing_off", TerminateChild("a"), "down"),
        ("backing_off", RestartChild("a"), "running"),
        ("down", TerminateChild("a"), "down"),
        ("down", RestartChild("a"), "running"),
        ("down", DeleteChild("a"), "unknown"),
        ("unknown", START, "running"),
    ],
)
def test_command_that_fits_the_state_is_carried_out(
    start_tree: StartTree, clock: VirtualClock, state: str, command: Command, after: str
) -> None:
    tree = tree_with_child(start_tree, clock, state)
    tree.address("root").call(command)
    node = tree.snapshot().find("root/a")
    assert (node.state if node else "unknown") == after


def tree_with_child(start_tree: StartTree, clock: VirtualClock, state: str) -> ActorTree:
    if state == "unknown":
        return start_tree(clock=clock)
    tree = start_tree(ChildSpec("a", Echo, backoff=Backoff(base_s=5.0)), clock=clock)
    if state == "backing_off":
        with expect(tree, ChildRestarting):
            crash(tree.address("root/a"))
    if state == "down":
        tree.address("root").call(TerminateChild("a"))
    return tree


def test_terminating_during_the_backoff_makes_the_timer_harmless(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = tree_with_child(start_tree, clock, "backing_off")
    tree.address("root").call(TerminateChild("a"))
    clock.advance(100.0)
    assert tree.address("root").call(WhichChildren())[0].state == "down"


def test_starting_a_child_answers_with_its_address(start_tree: StartTree) -> None:
    address = start_tree().address("root").call(StartChild(ChildSpec("new", Echo)))
    assert address.path == "root/new"
    assert address.call("hello") == "hello"


def test_children_are_listed_and_counted_without_asking_them(start_tree: StartTree) -> None:
    tree = start_tree(
        ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR),
        ChildSpec("b", Echo),
        ChildSpec("a", Echo),
    )
    root = tree.address("root")
    root.call(TerminateChild("b"))
    assert [(child.id, child.state) for child in root.call(WhichChildren())] == [
        ("dyn", "running"),
        ("b", "down"),
        ("a", "running"),
    ]
    assert root.call(CountChildren()) == ChildCounts(specs=3, active=2, supervisors=1, workers=2)


def test_terminated_temporary_child_is_forgotten(start_tree: StartTree) -> None:
    root = start_tree(ChildSpec("a", Echo, Restart.TEMPORARY)).address("root")
    root.call(TerminateChild("a"))
    assert root.call(CountChildren()).specs == 0


def test_address_of_a_deleted_child_is_closed(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    a, root = tree.address("root/a"), tree.address("root")
    root.call(TerminateChild("a"))
    with pytest.raises(NotDeliveredError):
        a.tell("down")
    root.call(DeleteChild("a"))
    with pytest.raises(HandleClosedError):
        a.tell("deleted")
    assert isinstance(a.ask("deleted").exception(), HandleClosedError)


def test_address_works_again_after_the_id_is_added_again_with_a_higher_epoch(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    a, root = tree.address("root/a"), tree.address("root")
    root.call(TerminateChild("a"))
    root.call(DeleteChild("a"))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        root.call(StartChild(ChildSpec("a", Echo)))
    assert a.call("hello") == "hello"


def test_dynamic_supervisor_starts_empty_and_takes_children(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    dynamic = tree.address("root/dyn")
    assert dynamic.call(CountChildren()).specs == 0
    assert dynamic.call(StartChild(ChildSpec("training:1", Echo))).path == "root/dyn/training:1"


def test_dynamic_children_restart_independently(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    for name in "ab":
        tree.address("root/dyn").call(StartChild(ChildSpec(name, Echo)))
    with expect(tree, ChildStarted, path="root/dyn/a", epoch=2):
        crash(tree.address("root/dyn/a"))
    assert [child.epoch for child in tree.address("root/dyn").call(WhichChildren())] == [2, 1]


def test_terminated_dynamic_child_is_deleted(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    a = tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo)))
    with expect(tree, ChildDeleted, path="root/dyn/a"):
        tree.address("root/dyn").call(TerminateChild("a"))
    with pytest.raises(HandleClosedError):
        a.tell("hello")


def test_dynamic_supervisor_counts_every_child_against_its_bound(start_tree: StartTree) -> None:
    spec = ChildSpec("dyn", lambda: DynamicSupervisor(max_children=1), kind=Kind.SUPERVISOR)
    dynamic = start_tree(spec).address("root/dyn")
    dynamic.call(StartChild(ChildSpec("a", Echo)))
    with pytest.raises(CommandRefusedError) as caught:
        dynamic.call(StartChild(ChildSpec("b", Echo)))
    assert caught.value.answer == "max_children"


def test_restarted_dynamic_supervisor_is_empty_and_its_old_children_are_down(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    a = tree.address("root/dyn").call(StartChild(ChildSpec("a", Echo)))
    with expect(tree, ChildStarted, path="root/dyn", epoch=2):
        crash(tree.address("root/dyn"))
    assert tree.address("root/dyn").call(CountChildren()).specs == 0
    with pytest.raises(NotDeliveredError):
        a.tell("hello")


def test_worker_refuses_commands(start_tree: StartTree) -> None:
    a = start_tree(ChildSpec("a", Echo)).address("root/a")
    with pytest.raises(CommandRefusedError):
        a.call(CountChildren())


def test_child_added_by_command_is_restarted_like_any_other(start_tree: StartTree) -> None:
    class Reluctant(Echo):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not yet")

    tree = start_tree()
    a = tree.address("root").call(StartChild(ChildSpec("a", Reluctant)))
    with expect(tree, ChildStarted, path="root/a", epoch=3):
        crash(a)
