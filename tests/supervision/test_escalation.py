import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import RuntimeStoppedError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    DynamicSupervisor,
    Error,
    Escalated,
    ExitReason,
    Kind,
    Shutdown,
    ShutdownEnded,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import InjectedCrashError, VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]

EACH_STRATEGY = pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Hopeless(Echo):
    """Starts once and never again."""

    def on_start(self) -> None:
        if self.context.epoch > 1:
            raise ValueError("never again")


def crash_and_come_back(tree: ActorTree, path: str, error: Exception | None = None) -> None:
    with expect(tree, ChildStarted, path=path):
        crash(tree.address(path), error)


def nest(name: str, *children: ChildSpec, **limits: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Supervisor(children, **limits), kind=Kind.SUPERVISOR)


def two_levels(**limits: Any) -> ChildSpec:
    return nest("mid", ChildSpec("leaf", Echo), ChildSpec("other", Echo), **limits)


def grow(start_tree: StartTree, strategy: str, *children: ChildSpec, max_restarts: int) -> ActorTree:
    """A tree in which a supervisor `root/sup` of this kind runs the children; nobody restarts it."""

    def supervisor() -> Supervisor:
        if strategy == "dynamic":
            return DynamicSupervisor(max_restarts=max_restarts)
        return Supervisor([], strategy=Strategy(strategy), max_restarts=max_restarts)

    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), max_restarts=0)
    for child in children:
        tree.address("root/sup").call(StartChild(child))
    return tree


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


@EACH_STRATEGY
def test_supervisor_that_spent_its_restarts_gives_up_in_any_strategy(
    start_tree: StartTree, strategy: str
) -> None:
    """SUP-21."""
    children = [ChildSpec(name, Echo) for name in "abc"]
    tree = grow(start_tree, strategy, *children, max_restarts=2)
    for name in "ba":
        crash_and_come_back(tree, f"root/sup/{name}")
        wait_for(tree, all_run)
    with expect(tree, Escalated, count=2) as got, expect(tree, ShutdownEnded, abandoned=()):
        crash(tree.address("root/sup/c"))
    assert [event.path for event in got.events] == ["root/sup", "root"]


def all_run(tree: ActorTree) -> bool:
    sup = tree.snapshot().find("root/sup")
    return sup is not None and {child.state for child in sup.children} == {"running"}


@EACH_STRATEGY
def test_child_that_never_starts_again_brings_its_supervisor_and_siblings_down_in_any_strategy(
    start_tree: StartTree, strategy: str
) -> None:
    """SUP-21."""
    ended: list[str] = []

    class Sibling(Echo):
        def on_exit(self, _reason: ExitReason) -> None:
            ended.append(f"{self.context.id}{self.context.epoch}")

    children = ChildSpec("a", Sibling), ChildSpec("b", Hopeless), ChildSpec("c", Sibling)
    tree = grow(start_tree, strategy, *children, max_restarts=3)
    with (
        expect(tree, ChildStartFailed, path="root/sup/b", count=3) as failed,
        expect(tree, Escalated, path="root/sup") as gave_up,
        expect(tree, ShutdownEnded, abandoned=()),
    ):
        crash(tree.address("root/sup/b"))
    assert [event.epoch for event in failed.events] == [2, 3, 4]
    assert isinstance(gave_up.event.reason, Shutdown)
    assert isinstance(gave_up.event.reason.cause, InjectedCrashError)
    assert isinstance(gave_up.event.reason.last, ValueError)
    assert {"a1", "c1"} <= set(ended)


def test_escalation_through_two_levels_keeps_the_first_exception(start_tree: StartTree) -> None:
    """SUP-21."""
    first, second = ValueError("the first"), ValueError("the second")
    tree = start_tree(two_levels(max_restarts=1), max_restarts=0)
    crash_and_come_back(tree, "root/mid/leaf", first)
    with expect(tree, Escalated, count=2) as got, expect(tree, ShutdownEnded, first_cause=first):
        crash(tree.address("root/mid/leaf"), second)
    assert [event.path for event in got.events] == ["root/mid", "root"]
    assert got.event.reason == Shutdown("more than 1 restarts within 60 s", cause=first, last=second)
    assert tree.first_cause is first


def test_escalation_through_three_levels_keeps_the_first_exception_at_each(start_tree: StartTree) -> None:
    """SUP-21."""
    first, second = ValueError("the first"), ValueError("the second")
    low = nest("low", ChildSpec("leaf", Echo), max_restarts=1)
    tree = start_tree(nest("mid", low, max_restarts=0), max_restarts=0)
    crash_and_come_back(tree, "root/mid/low/leaf", first)
    with expect(tree, Escalated, count=3) as got, expect(tree, ShutdownEnded, first_cause=first):
        crash(tree.address("root/mid/low/leaf"), second)
    assert [(event.path, event.reason) for event in got.events] == [
        ("root/mid/low", Shutdown("more than 1 restarts within 60 s", cause=first, last=second)),
        ("root/mid", Shutdown("more than 0 restarts within 60 s", cause=first, last=first)),
        ("root", Shutdown("more than 0 restarts within 60 s", cause=first, last=first)),
    ]
    assert tree.first_cause is first


def test_each_level_that_gives_up_uses_up_a_restart_of_the_one_above(start_tree: StartTree) -> None:
    """SUP-21."""
    low = nest("low", ChildSpec("leaf", Echo), max_restarts=1)
    tree = start_tree(nest("mid", low, max_restarts=1), max_restarts=0)
    for path in ("root/mid/low/leaf", "root/mid/low", "root/mid/low/leaf"):
        with expect(tree, ChildStarted, path=path):
            crash(tree.address("root/mid/low/leaf"))
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/mid/low/leaf"))


def test_addresses_fail_with_the_first_cause_once_the_root_gave_up(start_tree: StartTree) -> None:
    """SUP-21."""
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


# A supervisor whose own handler raises.


class Fragile(Supervisor):
    """Raises the error it is told, after it has set the event."""

    def on_receive(self, message: tuple[threading.Event, Exception]) -> None:
        begun, error = message
        begun.set()
        raise error


def break_down(tree: ActorTree, path: str, error: Exception | None = None) -> None:
    """Make the supervisor's own handler raise; from here on it obeys nobody and ends its children."""
    begun = threading.Event()
    tree.address(path).tell((begun, error or ValueError("break")))
    begun.wait(5.0)


def test_supervisor_whose_own_handler_raises_ends_its_children_and_is_restarted(
    start_tree: StartTree,
) -> None:
    """SUP-30."""
    mid = ChildSpec("mid", lambda: Fragile([ChildSpec("leaf", Echo)]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    with expect(tree, ChildExited, count=2) as ended, expect(tree, ChildStarted, path="root/mid") as started:
        break_down(tree, "root/mid")
    assert [event.path for event in ended.events] == ["root/mid/leaf", "root/mid"]
    assert started.event.epoch == 2


def test_root_whose_own_handler_raises_ends_its_children_and_says_why() -> None:
    """SUP-30."""
    error, children = ValueError("break"), [ChildSpec(name, Echo) for name in "ab"]
    tree = ActorTree(ChildSpec("root", lambda: Fragile(children), kind=Kind.SUPERVISOR))
    tree.start()
    with (
        expect(tree, ChildExited, count=3) as ended,
        expect(tree, ShutdownEnded, first_cause=error, abandoned=()),
    ):
        break_down(tree, "root", error)
    assert [event.path for event in ended.events] == ["root/b", "root/a", "root"]
    assert ended.events[2].reason == Error(error)
    assert tree.first_cause is error


class Gated(Echo):
    """Its second incarnation starts when it is let in."""

    entered, go_on = threading.Event(), threading.Event()

    def on_start(self) -> None:
        if self.context.epoch == 2:
            self.entered.set()
            self.go_on.wait(20.0)


@pytest.fixture
def gate() -> Iterator[type[Gated]]:
    Gated.entered.clear()
    Gated.go_on.clear()
    yield Gated
    Gated.go_on.set()


def test_supervisor_that_crashes_while_a_child_starts_waits_for_it_and_ends_it(
    start_tree: StartTree, gate: type[Gated]
) -> None:
    """SUP-30."""
    mid = ChildSpec("mid", lambda: Fragile([ChildSpec("leaf", gate)]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    crash(tree.address("root/mid/leaf"))
    gate.entered.wait(5.0)
    with (
        expect(tree, ChildExited, path="root/mid/leaf", epoch=2, expected=True),
        expect(tree, ChildStarted, path="root/mid", epoch=2),
    ):
        break_down(tree, "root/mid")
        gate.go_on.set()
    assert tree.address("root/mid/leaf").call("hello") == "hello"


def test_supervisor_that_crashes_while_a_child_backs_off_forgets_that_pause(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-30."""
    leaf = ChildSpec("leaf", Echo, backoff=Backoff(base_s=9.0))
    mid = ChildSpec("mid", lambda: Fragile([leaf]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid, clock=clock)
    with expect(tree, ChildRestarting, path="root/mid/leaf"):
        crash(tree.address("root/mid/leaf"))
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        break_down(tree, "root/mid")
    assert tree.address("root/mid/leaf").call("hello") == "hello"
    assert clock.pending() == 0


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_supervisor_that_crashes_in_a_group_restart_ends_what_is_up(
    start_tree: StartTree, gate: type[Gated], strategy: Strategy
) -> None:
    """SUP-30."""
    children = ChildSpec("a", Echo), ChildSpec("b", gate), ChildSpec("c", Echo)
    mid = ChildSpec("mid", lambda: Fragile(children, strategy=strategy), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    crash(tree.address("root/mid/a"))
    gate.entered.wait(5.0)  # a is up again, c is to follow
    with (
        expect(tree, ChildExited, count=3) as ended,
        expect(tree, ChildStarted, path="root/mid", epoch=2),
    ):
        break_down(tree, "root/mid")
        gate.go_on.set()
    assert [event.path for event in ended.events] == ["root/mid/b", "root/mid/a", "root/mid"]
    assert tree.address("root/mid/c").call("hello") == "hello"
