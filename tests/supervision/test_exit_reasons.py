import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import StartFailedError
from tinker_actors.supervision import (
    NORMAL,
    ActorTree,
    ChildExited,
    ChildInfo,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DynamicSupervisor,
    Error,
    ExitReason,
    Killed,
    Kind,
    Restart,
    Shutdown,
    ShutdownWith,
    Stalled,
    StartChild,
    Stop,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


def end_with(reason: ExitReason) -> Callable[[Doer], None]:
    def act(_actor: Doer) -> None:
        raise Stop(reason)

    return act


def fail(_actor: Doer) -> None:
    raise ValueError("spoilt")


def leave(_actor: Doer) -> None:
    sys.exit(3)


class Hang:
    """A handler that does not return until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, _actor: Doer) -> None:
        self.entered.set()
        self.go_on.wait(20.0)


@pytest.fixture
def hang() -> Iterator[Hang]:
    one = Hang()
    yield one
    one.go_on.set()


def static() -> Supervisor:
    return Supervisor(())


def dynamic() -> Supervisor:
    return DynamicSupervisor()


EACH_SUPERVISOR = pytest.mark.parametrize("supervisor", [static, dynamic])


def cells(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Each row for both supervisors: its last two columns are the fates under a static and under a dynamic one."""
    return [
        (supervisor, *row[:-2], fate)
        for row in rows
        for supervisor, fate in zip((static, dynamic), row[-2:], strict=True)
    ]


def grow(
    start_tree: StartTree, supervisor: Callable[[], Supervisor], spec: ChildSpec, clock: VirtualClock
) -> ActorTree:
    """A tree in which `spec` runs as `root/sup/a`."""
    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), clock=clock)
    tree.address("root/sup").call(StartChild(spec))
    return tree


def what_became(tree: ActorTree) -> str:
    """What became of the child, once its supervisor has decided."""
    tree.address("root/sup").call(CountChildren())  # answered after the decision
    wait_for(tree, lambda tree: state(tree) != "starting")
    return state(tree)


def state(tree: ActorTree) -> str:
    node = tree.snapshot().find("root/sup/a")
    return "gone" if node is None else node.state


def info(tree: ActorTree) -> list[ChildInfo]:
    children: list[ChildInfo] = tree.address("root/sup").call(WhichChildren())
    return children


ENDS: dict[str, Callable[[Doer], None]] = {
    "normal": end_with(NORMAL),
    "shutdown": end_with(Shutdown()),
    "shutdown_with": end_with(ShutdownWith("done")),
    "killed": end_with(Killed(1.0)),
    "error": fail,
    "sys.exit": leave,
}


@pytest.mark.parametrize(
    ("supervisor", "restart", "end", "fate"),
    cells(
        ("permanent", "normal", "running", "running"),
        ("permanent", "shutdown", "running", "running"),
        ("permanent", "shutdown_with", "running", "running"),
        ("permanent", "killed", "running", "running"),
        ("permanent", "error", "running", "running"),
        ("permanent", "sys.exit", "running", "running"),
        ("transient", "normal", "down", "gone"),
        ("transient", "shutdown", "down", "gone"),
        ("transient", "shutdown_with", "down", "gone"),
        ("transient", "killed", "running", "running"),
        ("transient", "error", "running", "running"),
        ("transient", "sys.exit", "running", "running"),
        ("temporary", "normal", "gone", "gone"),
        ("temporary", "shutdown", "gone", "gone"),
        ("temporary", "shutdown_with", "gone", "gone"),
        ("temporary", "killed", "gone", "gone"),
        ("temporary", "error", "gone", "gone"),
        ("temporary", "sys.exit", "gone", "gone"),
    ),
)
def test_restart_type_and_exit_reason_decide_together(
    start_tree: StartTree,
    clock: VirtualClock,
    supervisor: Callable[[], Supervisor],
    restart: str,
    end: str,
    fate: str,
) -> None:
    """SUP-14."""
    tree = grow(start_tree, supervisor, ChildSpec("a", Doer, Restart(restart)), clock)
    with expect(tree, ChildExited, path="root/sup/a", expected=False):
        tree.address("root/sup/a").tell(ENDS[end])
    assert what_became(tree) == fate


@pytest.mark.parametrize(
    ("supervisor", "restart", "fate"),
    cells(
        ("permanent", "running", "running"),
        ("transient", "running", "running"),
        ("temporary", "gone", "gone"),
    ),
)
def test_stalled_child_comes_back_unless_it_is_temporary(
    start_tree: StartTree,
    clock: VirtualClock,
    hang: Hang,
    supervisor: Callable[[], Supervisor],
    restart: str,
    fate: str,
) -> None:
    """SUP-14."""
    spec = ChildSpec("a", Doer, Restart(restart), handler_deadline_s=8.0)
    tree = grow(start_tree, supervisor, spec, clock)
    tree.address("root/sup/a").tell(hang)
    hang.entered.wait(5.0)
    with expect(tree, ChildExited, path="root/sup/a", expected=False) as got:
        clock.advance(20.0)
    assert isinstance(got.event.reason, Stalled)
    assert what_became(tree) == fate


@pytest.mark.parametrize(
    ("supervisor", "restart", "retries", "fate"),
    cells(
        ("permanent", True, "running", "running"),
        ("permanent", False, "gone", "gone"),
        ("transient", True, "running", "running"),
        ("transient", False, "gone", "gone"),
        ("temporary", True, "gone", "gone"),
        ("temporary", False, "gone", "gone"),
    ),
)
def test_child_whose_first_start_fails_is_tried_again_if_its_starter_said_so(
    start_tree: StartTree,
    clock: VirtualClock,
    supervisor: Callable[[], Supervisor],
    restart: str,
    retries: bool,
    fate: str,
) -> None:
    """SUP-14."""
    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), clock=clock)
    attempts = iter([ValueError("not yet")])

    class Reluctant(Doer):
        def on_start(self) -> None:
            for error in attempts:
                raise error

    with pytest.raises(StartFailedError, match="not yet"):
        tree.address("root/sup").call(StartChild(ChildSpec("a", Reluctant, Restart(restart)), retries))
    assert what_became(tree) == fate


@pytest.mark.parametrize("restart", ["permanent", "transient"])
@EACH_SUPERVISOR
def test_restart_that_fails_to_start_is_a_failure_like_any_other(
    start_tree: StartTree, clock: VirtualClock, supervisor: Callable[[], Supervisor], restart: str
) -> None:
    """SUP-14."""

    class Reluctant(Doer):
        def on_start(self) -> None:
            if self.context.epoch in (2, 3):
                raise ValueError("not yet")

    tree = grow(start_tree, supervisor, ChildSpec("a", Reluctant, Restart(restart)), clock)
    with expect(tree, ChildStartFailed, count=2), expect(tree, ChildStarted, path="root/sup/a", epoch=4):
        crash(tree.address("root/sup/a"))


@pytest.mark.parametrize("restart", list(Restart))
def test_static_child_that_fails_its_first_start_fails_the_tree_whatever_its_restart_type(
    start_tree: StartTree, restart: Restart
) -> None:
    """SUP-14."""

    def refuse() -> SupervisedActor:
        raise ValueError("no")

    with pytest.raises(StartFailedError) as caught:
        start_tree(ChildSpec("a", refuse, restart))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("supervisor", "restart", "fate"),
    cells(
        ("permanent", "down", "gone"),
        ("transient", "down", "gone"),
        ("temporary", "gone", "gone"),
    ),
)
def test_child_abandoned_at_its_termination_is_not_restarted(
    start_tree: StartTree,
    clock: VirtualClock,
    hang: Hang,
    supervisor: Callable[[], Supervisor],
    restart: str,
    fate: str,
) -> None:
    """SUP-14."""
    tree = grow(start_tree, supervisor, ChildSpec("a", Doer, Restart(restart), shutdown_s=2.0), clock)
    tree.address("root/sup/a").tell(hang)
    hang.entered.wait(5.0)
    terminated = tree.address("root/sup").ask(TerminateChild("a"), timeout_s=1000.0)
    tree.address("root/sup").call(CountChildren())  # the limit is set
    with expect(tree, ChildExited, path="root/sup/a", expected=True, reason=Killed(2.0)):
        clock.advance(2.0)
    assert terminated.result() is None
    assert what_became(tree) == fate


@EACH_SUPERVISOR
def test_restarted_child_says_how_the_incarnation_before_ended(
    start_tree: StartTree, clock: VirtualClock, supervisor: Callable[[], Supervisor]
) -> None:
    """SUP-14."""
    tree = grow(start_tree, supervisor, ChildSpec("a", Doer), clock)
    error = ValueError("the one before")
    with expect(tree, ChildStarted, path="root/sup/a", epoch=2):
        crash(tree.address("root/sup/a"), error)
    [child] = info(tree)
    node = tree.snapshot().find("root/sup/a")
    assert (child.epoch, child.restarts, child.last_exit) == (2, 1, Error(error))
    assert node is not None
    assert node.last_exit == Error(error)


def test_child_that_is_down_says_how_it_ended(start_tree: StartTree, clock: VirtualClock) -> None:
    """SUP-14."""
    tree = grow(start_tree, static, ChildSpec("a", Doer, Restart.TRANSIENT), clock)
    with expect(tree, ChildExited, path="root/sup/a"):
        tree.address("root/sup/a").tell(end_with(ShutdownWith("done")))
    [child] = info(tree)
    assert (child.state, child.restarts, child.last_exit) == ("down", 0, ShutdownWith("done"))


def test_child_that_never_ended_has_no_last_exit(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = grow(start_tree, static, ChildSpec("a", Doer), clock)
    assert [child.last_exit for child in info(tree)] == [None]
