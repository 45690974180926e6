import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from tinker_actors.errors import NotDeliveredError
from tinker_actors.supervision import (
    IGNORED,
    NORMAL,
    ActorTree,
    AutoShutdown,
    Backoff,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    ExitReason,
    Ignored,
    Killed,
    Kind,
    Restart,
    RestartChild,
    Shutdown,
    ShutdownEnded,
    ShutdownWith,
    StartChild,
    Stop,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

ANY, ALL = AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT


class Doer(SupervisedActor):
    """Ends as it is told."""

    def on_receive(self, reason: ExitReason | BaseException) -> Any:
        if isinstance(reason, BaseException):
            raise reason
        raise Stop(reason)


class Recorder(Doer):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_exit(self, _reason: ExitReason) -> None:
        self.log.append(self.context.id)


End = Callable[[ActorTree, str], object]


def by_itself(reason: ExitReason | BaseException) -> End:
    return lambda tree, name: tree.address(f"root/sup/{name}").tell(reason)


def by_command(tree: ActorTree, name: str) -> None:
    tree.address("root/sup").call(TerminateChild(name))


ENDS: dict[str, End] = {
    "by_command": by_command,
    "normal": by_itself(NORMAL),
    "shutdown": by_itself(Shutdown()),
    "shutdown_with": by_itself(ShutdownWith("done")),
    "killed": by_itself(Killed(1.0)),
    "error": by_itself(ValueError("spoilt")),
    "sys.exit": by_itself(SystemExit(1)),
}


def leader(name: str, restart: Restart = Restart.TRANSIENT, **fields: Any) -> ChildSpec:
    return ChildSpec(name, Doer, restart, significant=True, **fields)


def grow(
    start_tree: StartTree, auto_shutdown: AutoShutdown, *children: ChildSpec, **limits: Any
) -> ActorTree:
    """A tree with a supervisor `root/sup` that stays away once it has ended by itself."""
    limits = {"max_restarts": 100, "auto_shutdown": auto_shutdown, **limits}
    sup = ChildSpec("sup", lambda: Supervisor(children, **limits), Restart.TRANSIENT, kind=Kind.SUPERVISOR)
    return start_tree(sup)


def end(tree: ActorTree, name: str, how: str) -> None:
    """End a child and wait until its supervisor has seen it."""
    with expect(tree, ChildExited, path=f"root/sup/{name}"):
        ENDS[how](tree, name)


def nothing_to_run() -> Ignored:
    return IGNORED


def lives(tree: ActorTree) -> bool:
    """Whether the supervisor, once it has thought about what happened to its children, still takes others."""
    probe = StartChild(ChildSpec("probe", nothing_to_run, Restart.TEMPORARY))
    return tree.address("root/sup").ask(probe).exception() is None


def state(tree: ActorTree, path: str) -> str:
    node = tree.snapshot().find(path)
    return "deleted" if node is None else node.state


# Children that are not significant.


@pytest.mark.parametrize("auto_shutdown", AutoShutdown)
@pytest.mark.parametrize("restart", [Restart.TEMPORARY, Restart.TRANSIENT])
@pytest.mark.parametrize("how", ENDS)
def test_end_of_a_child_that_is_not_significant_ends_nobody(
    start_tree: StartTree, auto_shutdown: AutoShutdown, restart: Restart, how: str
) -> None:
    """SUP-26."""
    tree = grow(start_tree, auto_shutdown, ChildSpec("a", Doer, restart))
    end(tree, "a", how)
    assert lives(tree)


# Significant children.


@pytest.mark.parametrize(
    ("restart", "how"),
    [
        ("temporary", "normal"),
        ("temporary", "shutdown"),
        ("temporary", "shutdown_with"),
        ("temporary", "killed"),
        ("temporary", "error"),
        ("temporary", "sys.exit"),
        ("transient", "normal"),
        ("transient", "shutdown"),
        ("transient", "shutdown_with"),
    ],
)
@pytest.mark.parametrize("auto_shutdown", [ANY, ALL])
def test_end_for_good_of_the_only_significant_child_ends_its_supervisor(
    start_tree: StartTree, auto_shutdown: AutoShutdown, restart: str, how: str
) -> None:
    """SUP-26."""
    tree = grow(start_tree, auto_shutdown, leader("a", Restart(restart)), ChildSpec("b", Doer))
    with expect(tree, ChildExited, path="root/sup", expected=False) as got:
        end(tree, "a", how)
    assert isinstance(got.event.reason, Shutdown)
    assert got.event.reason.cause is None


@pytest.mark.parametrize(
    ("restart", "how"),
    [
        ("temporary", "by_command"),
        ("transient", "by_command"),
        ("transient", "killed"),
        ("transient", "error"),
        ("transient", "sys.exit"),
    ],
)
@pytest.mark.parametrize("auto_shutdown", [ANY, ALL])
def test_significant_child_that_was_told_to_end_or_comes_back_ends_nobody(
    start_tree: StartTree, auto_shutdown: AutoShutdown, restart: str, how: str
) -> None:
    """SUP-26."""
    tree = grow(start_tree, auto_shutdown, leader("a", Restart(restart)))
    end(tree, "a", how)
    assert lives(tree)


@pytest.mark.parametrize(
    ("restart", "how"),
    [
        ("temporary", "normal"),
        ("temporary", "error"),
        ("transient", "normal"),
        ("transient", "shutdown_with"),
    ],
)
def test_all_significant_waits_for_the_last_of_them(start_tree: StartTree, restart: str, how: str) -> None:
    """SUP-26."""
    tree = grow(start_tree, ALL, *(leader(name, Restart(restart)) for name in "abc"), ChildSpec("d", Doer))
    for name in "ca":
        end(tree, name, how)
        assert lives(tree)
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "b", how)


@pytest.mark.parametrize("how", ["normal", "error"])
def test_any_significant_does_not_wait_for_the_others(start_tree: StartTree, how: str) -> None:
    """SUP-26."""
    tree = grow(start_tree, ANY, *(leader(name, Restart.TEMPORARY) for name in "abc"))
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "b", how)


def test_child_that_was_terminated_is_not_waited_for(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ALL, leader("a"), leader("b"))
    end(tree, "a", "by_command")
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "b", "normal")


def test_after_a_termination_of_the_last_one_nobody_ends_the_supervisor(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ALL, leader("a"), leader("b"))
    end(tree, "a", "normal")
    end(tree, "b", "by_command")
    assert lives(tree)


def test_child_that_was_started_again_by_command_is_waited_for(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ALL, leader("a"), leader("b"))
    end(tree, "a", "normal")
    tree.address("root/sup").call(RestartChild("a"))
    end(tree, "b", "normal")
    assert lives(tree)


def test_child_that_waits_for_its_restart_is_waited_for(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ALL, leader("a", backoff=Backoff(base_s=1000.0)), leader("b"))
    with expect(tree, ChildRestarting, path="root/sup/a"):
        end(tree, "a", "error")
    end(tree, "b", "normal")
    assert lives(tree)


def test_child_that_was_ignored_is_not_waited_for_and_ends_nobody(start_tree: StartTree) -> None:
    """SUP-02, SUP-26."""
    ignored = ChildSpec("a", nothing_to_run, Restart.TRANSIENT, significant=True)
    tree = grow(start_tree, ALL, ignored, leader("b"))
    assert lives(tree)
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "b", "normal")


@pytest.mark.parametrize("auto_shutdown", [ANY, ALL])
@pytest.mark.parametrize("restart", [Restart.TRANSIENT, Restart.TEMPORARY])
def test_only_significant_child_that_was_ignored_ends_nobody(
    start_tree: StartTree, auto_shutdown: AutoShutdown, restart: Restart
) -> None:
    """SUP-02, SUP-26."""
    ignored = ChildSpec("a", nothing_to_run, restart, significant=True)
    assert lives(grow(start_tree, auto_shutdown, ignored, ChildSpec("b", Doer)))


def test_significant_child_may_be_added_by_command(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ANY)
    tree.address("root/sup").call(StartChild(leader("a")))
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "a", "normal")


# Children that end because of their siblings.


@pytest.mark.parametrize("auto_shutdown", [ANY, ALL])
@pytest.mark.parametrize(
    ("strategy", "restart", "last", "fate"),
    [
        ("one_for_one", "temporary", "a", "running"),
        ("one_for_one", "transient", "a", "running"),
        ("one_for_all", "temporary", "c", "deleted"),
        ("one_for_all", "transient", "c", "running"),
        ("rest_for_one", "temporary", "c", "deleted"),
        ("rest_for_one", "transient", "c", "running"),
    ],
)
def test_significant_child_that_ends_with_its_sibling_ends_nobody(
    start_tree: StartTree, auto_shutdown: AutoShutdown, strategy: str, restart: str, last: str, fate: str
) -> None:
    """SUP-26."""
    tree = grow(
        start_tree,
        auto_shutdown,
        ChildSpec("a", Doer),
        leader("b", Restart(restart)),
        ChildSpec("c", Doer),
        strategy=Strategy(strategy),
    )
    with expect(tree, ChildStarted, path=f"root/sup/{last}", epoch=2):
        crash(tree.address("root/sup/a"))
    assert lives(tree)
    assert state(tree, "root/sup/b") == fate


@pytest.mark.parametrize(
    ("auto_shutdown", "strategy"), list(product([ANY, ALL], [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE]))
)
def test_significant_child_that_came_back_with_its_sibling_ends_its_supervisor_later(
    start_tree: StartTree, auto_shutdown: AutoShutdown, strategy: Strategy
) -> None:
    """SUP-26."""
    tree = grow(start_tree, auto_shutdown, ChildSpec("a", Doer), leader("b"), strategy=strategy)
    with expect(tree, ChildStarted, path="root/sup/b", epoch=2):
        crash(tree.address("root/sup/a"))
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "b", "normal")


# What the end of the supervisor means to others.


def test_supervisor_ends_its_other_children_in_reverse(start_tree: StartTree) -> None:
    """SUP-26."""
    log: list[str] = []
    others = [ChildSpec(name, lambda: Recorder(log)) for name in "cab"]
    tree = grow(start_tree, ANY, *others, leader("x"))
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "x", "normal")
    assert log == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("restart", "event", "fate"),
    [
        ("permanent", ChildStarted, "running"),
        ("transient", ChildExited, "down"),
        ("temporary", ChildDeleted, "deleted"),
    ],
)
def test_supervisor_that_shut_itself_down_has_ended_cleanly_to_its_own_supervisor(
    start_tree: StartTree, restart: str, event: type[Any], fate: str
) -> None:
    """SUP-26."""
    inner = [leader("a")]
    spec = ChildSpec(
        "sup", lambda: Supervisor(inner, auto_shutdown=ANY), Restart(restart), kind=Kind.SUPERVISOR
    )
    tree = start_tree(spec)
    with expect(tree, event, path="root/sup"):
        tree.address("root/sup/a").tell(NORMAL)
    tree.address("root").call(CountChildren())
    assert state(tree, "root/sup") == fate


@pytest.mark.parametrize(("significant", "outer_ends"), [(True, True), (False, False)])
def test_significant_supervisor_that_shut_itself_down_takes_the_one_above_along(
    start_tree: StartTree, significant: bool, outer_ends: bool
) -> None:
    """SUP-26."""
    leaf = [leader("leaf")]
    inner = ChildSpec(
        "inner",
        lambda: Supervisor(leaf, auto_shutdown=ANY),
        Restart.TRANSIENT,
        kind=Kind.SUPERVISOR,
        significant=significant,
    )
    tree = grow(start_tree, ANY, inner)
    with expect(tree, ChildExited, path="root/sup/inner"):
        tree.address("root/sup/inner/leaf").tell(NORMAL)
    assert lives(tree) != outer_ends


def test_root_that_shut_itself_down_leaves_no_cause(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = start_tree(leader("a"), ChildSpec("b", Doer), auto_shutdown=ANY)
    with expect(tree, ShutdownEnded, first_cause=None, abandoned=()):
        tree.address("root/a").tell(NORMAL)
    assert tree.first_cause is None


def test_supervisor_that_shut_itself_down_takes_no_messages(start_tree: StartTree) -> None:
    """SUP-26."""
    tree = grow(start_tree, ANY, leader("a"), ChildSpec("b", Doer))
    with expect(tree, ChildExited, path="root/sup"):
        end(tree, "a", "normal")
    tree.address("root").call(CountChildren())
    assert isinstance(tree.address("root/sup/b").ask(NORMAL).exception(), NotDeliveredError)


# Before the supervisor is up.


@pytest.fixture
def door() -> Iterator[threading.Event]:
    one = threading.Event()
    yield one
    one.set()


@pytest.mark.parametrize("auto_shutdown", [ANY, ALL])
def test_significant_child_that_ends_before_its_supervisor_is_up_ends_it_once_it_is(
    start_tree: StartTree, clock: VirtualClock, door: threading.Event, auto_shutdown: AutoShutdown
) -> None:
    """SUP-26."""

    class Slow(Doer):
        def on_start(self) -> None:
            door.wait(20.0)

    children = [leader("a"), ChildSpec("slow", Slow)]
    spec = ChildSpec(
        "sup",
        lambda: Supervisor(children, auto_shutdown=auto_shutdown),
        Restart.TRANSIENT,
        kind=Kind.SUPERVISOR,
    )
    tree = start_tree(clock=clock)
    with expect(tree, ChildStarted, path="root/sup/a"):
        started = tree.address("root").ask(StartChild(spec))
    with expect(tree, ChildExited, path="root/sup/a"):
        tree.address("root/sup/a").tell(NORMAL)
    with expect(tree, ChildExited, path="root/sup"):
        door.set()
    assert started.exception() is None
