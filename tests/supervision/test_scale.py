import sys
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from tinker_actors.supervision import (
    ActorTree,
    ChildCounts,
    ChildDeleted,
    ChildExited,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DynamicSupervisor,
    Kind,
    Restart,
    ShutdownEnded,
    StartChild,
    SupervisedActor,
    Supervisor,
    SupervisorFlags,
    TerminateChild,
    WhichChildren,
    Zombie,
)
from tinker_actors.supervision.children import Children
from tinker_actors.supervision.lifecycle import Lifecycle
from tinker_actors.supervision.mailbox import Mailbox
from tinker_actors.supervision.testing import crash, expect

StartTree = Callable[..., ActorTree]

MANY = 2_000
NAMES = [f"a{number}" for number in range(MANY)]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def static() -> Supervisor:
    return Supervisor([ChildSpec(name, Echo) for name in NAMES])


@pytest.fixture
def dynamic_tree(start_tree: StartTree) -> ActorTree:
    """A tree whose `root/sup` has been given its many children by command."""
    tree = start_tree(ChildSpec("sup", lambda: DynamicSupervisor(max_restarts=MANY), kind=Kind.SUPERVISOR))
    sup = tree.address("root/sup")
    replies = [sup.ask(StartChild(ChildSpec(name, Echo))) for name in NAMES]
    assert [reply.result().path for reply in replies] == [f"root/sup/{name}" for name in NAMES]
    return tree


@pytest.fixture
def static_tree(start_tree: StartTree) -> ActorTree:
    """A tree whose `root/sup` begins with its many children."""
    return start_tree(ChildSpec("sup", static, kind=Kind.SUPERVISOR))


def assert_all_run(tree: ActorTree) -> None:
    """Lists, counts and asks them, twice."""
    sup = tree.address("root/sup")
    for _ in range(2):
        children = [(child.id, child.state) for child in sup.call(WhichChildren())]
        assert children == [(name, "running") for name in NAMES]
        assert sup.call(CountChildren()) == ChildCounts(specs=MANY, active=MANY, supervisors=0, workers=MANY)
        replies = [tree.address(f"root/sup/{name}").ask(name) for name in NAMES]
        assert [reply.result() for reply in replies] == NAMES
    assert len(pykka.ActorRegistry.get_all()) == MANY + 2


def test_many_static_children_run_and_end_in_reverse_order(static_tree: ActorTree) -> None:
    """SUP-33."""
    assert_all_run(static_tree)
    with (
        expect(static_tree, ChildExited, count=MANY + 2, expected=True) as ended,
        expect(static_tree, ShutdownEnded, abandoned=()),
    ):
        static_tree.stop(60.0)
    children = [f"root/sup/{name}" for name in reversed(NAMES)]
    assert [event.path for event in ended.events] == [*children, "root/sup", "root"]


def test_many_dynamic_children_run_and_end_once_each(dynamic_tree: ActorTree) -> None:
    """SUP-33."""
    assert_all_run(dynamic_tree)
    with (
        expect(dynamic_tree, ChildExited, count=MANY + 2, expected=True) as ended,
        expect(dynamic_tree, ShutdownEnded, abandoned=()),
    ):
        dynamic_tree.stop(60.0)
    children = [f"root/sup/{name}" for name in NAMES]
    assert sorted(event.path for event in ended.events[:MANY]) == sorted(children)


def test_many_dynamic_children_that_all_crash_are_all_restarted_and_can_be_terminated(
    dynamic_tree: ActorTree,
) -> None:
    """SUP-33."""
    with expect(dynamic_tree, ChildStarted, count=MANY, epoch=2, timeout_s=60.0):
        for name in NAMES:
            crash(dynamic_tree.address(f"root/sup/{name}"))
    assert_all_run(dynamic_tree)
    sup = dynamic_tree.address("root/sup")
    replies = [sup.ask(TerminateChild(name)) for name in NAMES]
    assert {reply.result() for reply in replies} == {None}
    assert sup.call(CountChildren()) == ChildCounts(specs=0, active=0, supervisors=0, workers=0)


def test_many_temporary_children_leave_nothing_behind(start_tree: StartTree) -> None:
    """SUP-33."""
    tree = start_tree(ChildSpec("sup", DynamicSupervisor, kind=Kind.SUPERVISOR))
    sup = tree.address("root/sup")
    with expect(tree, ChildDeleted, count=MANY, timeout_s=60.0):
        for name in NAMES:
            sup.call(StartChild(ChildSpec(name, Echo, Restart.TEMPORARY)))
            crash(tree.address(f"root/sup/{name}"))
    assert sup.call(WhichChildren()) == []
    assert tree.snapshot().children[0].children == ()
    assert len(pykka.ActorRegistry.get_all()) == 2


def test_threads_left_behind_are_counted_while_others_come_and_go(start_tree: StartTree) -> None:
    """Many supervisors share the list of zombies; each looks at it at each restart."""
    tree = start_tree()
    zombies, stop = tree._runtime.zombies, threading.Event()

    def come_and_go() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            zombies[f"root/x{number % 50}/a", 1] = Zombie(f"root/x{number % 50}/a", 1, 0.0, "")
            zombies.pop((f"root/x{(number + 7) % 50}/a", 1), None)

    restless = threading.Thread(target=come_and_go)
    restless.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    home = tree._runtime.names.get("root")
    assert home is not None
    children = Children(Lifecycle(tree._runtime, Mailbox(1)), home, SupervisorFlags(), lambda _spec: None)
    try:
        assert all(children._zombies() == 0 for _ in range(5_000))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        restless.join(10.0)
        zombies.clear()
