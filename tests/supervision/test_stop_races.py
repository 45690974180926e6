import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.supervision import (
    NORMAL,
    ActorTree,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DynamicSupervisor,
    Error,
    ExitReason,
    Killed,
    Kind,
    Normal,
    Restart,
    RestartChild,
    Shutdown,
    ShutdownEnded,
    ShutdownWith,
    StartChild,
    Stop,
    SupervisedActor,
    TerminateChild,
    WhichChildren,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, expect

StartTree = Callable[..., ActorTree]


class Leaver(SupervisedActor):
    """Its handler blocks until it is let go, and then ends the actor as the message says."""

    def __init__(self, entered: threading.Semaphore, go_on: threading.Event) -> None:
        super().__init__()
        self.entered, self.go_on = entered, go_on

    def on_receive(self, message: BaseException) -> None:
        self.entered.release()
        self.go_on.wait(20.0)
        raise message


class Doors:
    """Lets leavers out all at once."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()

    def spec(self, name: str, restart: str = "permanent", **fields: Any) -> ChildSpec:
        return ChildSpec(name, lambda: Leaver(self.entered, self.go_on), Restart(restart), **fields)

    def wait_for(self, count: int) -> None:
        """Wait until so many leavers are in their handlers."""
        for _ in range(count):
            self.entered.acquire(timeout=5.0)


@pytest.fixture
def doors() -> Iterator[Doors]:
    one = Doors()
    yield one
    one.go_on.set()


ENDS: dict[str, Callable[[], BaseException]] = {
    "normal": lambda: Stop(NORMAL),
    "shutdown": lambda: Stop(Shutdown("of its own")),
    "shutdown_with": lambda: Stop(ShutdownWith("a word")),
    "error": lambda: ValueError("crashed"),
}
REASONS: dict[str, type[ExitReason]] = {
    "normal": Normal,
    "shutdown": Shutdown,
    "shutdown_with": ShutdownWith,
    "error": Error,
}
CROWD = [(f"{restart}-{end}", restart, end) for restart in Restart for end in ENDS]


def reasons(events: list[ChildExited]) -> dict[str, type[ExitReason]]:
    return {event.path.rpartition("/")[2]: type(event.reason) for event in events}


def begin_to_stop(tree: ActorTree) -> None:
    """Ask the tree to end, as one of its actors would, and see it begin."""
    tree._request_stop(20.0)
    tree.address("root").call(CountChildren())  # answered while the root waits for its children


@contextlib.contextmanager
def nobody_starts(tree: ActorTree) -> Iterator[None]:
    """Nobody starts or is to be restarted in the block."""
    seen: list[object] = []
    unsubscribe = tree.events.subscribe(seen.append)
    yield
    unsubscribe()
    assert [event for event in seen if isinstance(event, ChildRestarting | ChildStarted)] == []


@pytest.fixture
def slow() -> Iterator["Slow"]:
    one = Slow()
    yield one
    one.go_on.set()


class Slow:
    """How to make a child whose `on_stop` takes until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def spec(self, name: str) -> ChildSpec:
        slow = self

        class SlowActor(SupervisedActor):
            def on_stop(self) -> None:
                slow.entered.set()
                slow.go_on.wait(20.0)

        return ChildSpec(name, SlowActor)


def test_children_that_leave_by_themselves_in_a_shutdown_are_noted_and_not_restarted(
    start_tree: StartTree, doors: Doors, slow: Slow
) -> None:
    """SHU-03."""
    tree = start_tree(*(doors.spec(name, restart) for name, restart, _ in CROWD), slow.spec("slow"))
    for name, _, end in CROWD:
        tree.address(f"root/{name}").tell(ENDS[end]())
    doors.wait_for(12)
    with nobody_starts(tree), expect(tree, ShutdownEnded, abandoned=()):
        begin_to_stop(tree)  # the slow one is asked, the twelve are not
        with expect(tree, ChildExited, count=12, expected=False) as left:
            doors.go_on.set()
        slow.go_on.set()
        tree.stop(20.0)
    assert reasons(left.events[:12]) == {name: REASONS[end] for name, _, end in CROWD}
    assert {node.state for node in tree.snapshot().children} == {"stopped"}


def test_children_that_leave_with_a_reason_of_their_own_when_asked_are_noted_and_not_restarted(
    start_tree: StartTree, doors: Doors
) -> None:
    """SHU-03."""
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    for name, restart, _ in CROWD:
        tree.address("root/dyn").call(StartChild(doors.spec(name, restart)))
    for name, _, end in CROWD:
        tree.address(f"root/dyn/{name}").tell(ENDS[end]())
    doors.wait_for(12)
    with nobody_starts(tree), expect(tree, ShutdownEnded, abandoned=()):
        begin_to_stop(tree)
        tree.address("root/dyn").call(CountChildren())  # answered once all twelve are asked
        with expect(tree, ChildExited, count=12, expected=True) as left:
            doors.go_on.set()
        tree.stop(20.0)
    assert reasons(left.events[:12]) == {name: REASONS[end] for name, _, end in CROWD}


def test_children_that_leave_and_are_stopped_at_the_same_time_all_end_once(
    start_tree: StartTree, doors: Doors
) -> None:
    """SHU-03."""
    tree = start_tree(*(doors.spec(name, restart) for name, restart, _ in CROWD))
    for name, _, end in CROWD:
        tree.address(f"root/{name}").tell(ENDS[end]())
    doors.wait_for(12)
    with nobody_starts(tree), expect(tree, ChildExited, count=13) as left:
        begin_to_stop(tree)
        doors.go_on.set()
        tree.stop(20.0)
    assert sorted(event.path for event in left.events) == sorted(
        ["root", *(f"root/{name}" for name, _, _ in CROWD)]
    )


# One child, ended by a command.


@pytest.mark.parametrize(
    ("restart", "fate"),
    [
        ("permanent", "down"),
        ("transient", "down"),
        ("temporary", "gone"),
    ],
)
@pytest.mark.parametrize("end", list(ENDS))
def test_child_that_leaves_while_a_command_ends_it_is_not_restarted(
    start_tree: StartTree, doors: Doors, restart: str, fate: str, end: str
) -> None:
    """SUP-28."""
    tree = start_tree(doors.spec("a", restart))
    tree.address("root/a").tell(ENDS[end]())
    doors.wait_for(1)
    terminated = tree.address("root").ask(TerminateChild("a"))
    tree.address("root").call(CountChildren())  # answered after the command before it was obeyed
    with nobody_starts(tree), expect(tree, ChildExited, path="root/a", expected=True) as left:
        doors.go_on.set()
        assert terminated.result() is None
    node = tree.snapshot().find("root/a")
    assert type(left.event.reason) is REASONS[end]
    assert ("gone" if node is None else node.state) == fate


def test_reason_of_a_child_that_crashed_while_a_command_ended_it_is_kept(
    start_tree: StartTree, doors: Doors
) -> None:
    """SUP-28."""
    error = ValueError("in its last moments")
    tree = start_tree(doors.spec("a"))
    tree.address("root/a").tell(error)
    doors.wait_for(1)
    terminated = tree.address("root").ask(TerminateChild("a"))
    tree.address("root").call(CountChildren())
    doors.go_on.set()
    terminated.result()
    [child] = tree.address("root").call(WhichChildren())
    assert (child.state, child.last_exit) == ("down", Error(error))


# The exit of an incarnation that was given up.


@pytest.fixture
def zombie(start_tree: StartTree, clock: VirtualClock, doors: Doors) -> ActorTree:
    """A tree whose child `a` was terminated, abandoned and started again, and whose first thread still runs."""
    tree = start_tree(doors.spec("a", shutdown_s=2.0), clock=clock)
    root = tree.address("root")
    tree.address("root/a").tell(ValueError("at last"))
    doors.wait_for(1)
    terminated = root.ask(TerminateChild("a"), timeout_s=1000.0)
    root.call(CountChildren())  # the limit is set
    clock.advance(2.0)
    terminated.result()
    root.call(RestartChild("a"))
    return tree


def test_late_exit_of_an_abandoned_incarnation_changes_nothing_for_the_next(
    zombie: ActorTree, doors: Doors
) -> None:
    """SUP-29."""
    with nobody_starts(zombie), expect(zombie, ZombieEnded, path="root/a", epoch=1):
        doors.go_on.set()
    [child] = zombie.address("root").call(WhichChildren())
    assert (child.state, child.epoch, child.last_exit) == ("running", 2, Killed(2.0))


def test_record_of_an_abandoned_incarnation_goes_with_its_exit(zombie: ActorTree, doors: Doors) -> None:
    """SUP-29."""
    assert [(one.path, one.epoch, one.since) for one in zombie.zombies] == [("root/a", 1, 2.0)]
    assert "wait" in zombie.zombies[0].stack
    assert zombie.snapshot().children[0].zombies == (1,)
    with expect(zombie, ZombieEnded):
        doors.go_on.set()
    assert zombie.zombies == ()
    with expect(zombie, ShutdownEnded, abandoned=()):
        zombie.stop(5.0)


def test_abandoned_thread_that_still_runs_is_named_in_the_report(zombie: ActorTree) -> None:
    """SUP-29."""
    with expect(zombie, ShutdownEnded, abandoned=("root/a",)):
        zombie.stop(5.0)
