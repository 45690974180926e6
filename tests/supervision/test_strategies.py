import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildAbandoned,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    Escalated,
    ExitReason,
    Gate,
    Kind,
    Restart,
    RestartChild,
    ShutdownEnded,
    StartChild,
    Stop,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    TreeNode,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]


class Recorder(SupervisedActor):
    """Writes down its starts and ends."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_start(self) -> None:
        self.log.append(f"+{self.context.id}")

    def on_receive(self, message: Any) -> Any:
        return message

    def on_exit(self, reason: ExitReason) -> None:
        self.log.append(f"-{self.context.id} {type(reason).__name__}")


class Reluctant(Recorder):
    """Its second incarnation fails to start."""

    def on_start(self) -> None:
        if self.context.epoch == 2:
            raise ValueError("not yet")
        super().on_start()


class Hopeless(Recorder):
    """Starts once and never again."""

    def on_start(self) -> None:
        if self.context.epoch > 1:
            raise ValueError("never again")
        super().on_start()


@pytest.fixture
def log() -> list[str]:
    return []


def spec(name: str, log: list[str], **fields: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Recorder(log), **fields)


def children_of(tree: ActorTree, path: str) -> tuple[TreeNode, ...]:
    node = tree.snapshot().find(path)
    return () if node is None else node.children


def epochs(tree: ActorTree, path: str = "root") -> dict[str, int]:
    return {node.id: node.epoch for node in children_of(tree, path)}


def states(tree: ActorTree, path: str = "root") -> dict[str, str]:
    return {node.id: node.state for node in children_of(tree, path)}


def wait_until_all_run(tree: ActorTree, path: str) -> None:
    wait_for(tree, lambda tree: set(states(tree, path).values()) == {"running"})


def test_one_for_one_leaves_the_siblings_alone(start_tree: StartTree, log: list[str]) -> None:
    """SUP-15."""
    tree = start_tree(*(spec(name, log) for name in "cab"))
    with expect(tree, ChildStarted, path="root/a"):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"c": 1, "a": 2, "b": 1}


def test_one_for_all_ends_the_others_in_reverse_and_starts_all_in_order(
    start_tree: StartTree, log: list[str]
) -> None:
    """SUP-16."""
    tree = start_tree(*(spec(name, log) for name in "cab"), strategy=Strategy.ONE_FOR_ALL)
    log.clear()
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    assert log == ["-a Error", "-b Shutdown", "-c Shutdown", "+c", "+a", "+b"]


def test_rest_for_one_restarts_only_those_started_later(start_tree: StartTree, log: list[str]) -> None:
    """SUP-17."""
    tree = start_tree(*(spec(name, log) for name in "dcab"), strategy=Strategy.REST_FOR_ONE)
    log.clear()
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/c"))
    assert log == ["-c Error", "-b Shutdown", "-a Shutdown", "+c", "+a", "+b"]
    assert epochs(tree) == {"d": 1, "c": 2, "a": 2, "b": 2}


def test_after_a_group_restart_the_tree_still_stops_in_reverse(start_tree: StartTree, log: list[str]) -> None:
    """SUP-17."""
    tree = start_tree(*(spec(name, log) for name in "cab"), strategy=Strategy.REST_FOR_ONE)
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    log.clear()
    tree.stop(5.0)
    assert log == ["-b Shutdown", "-a Shutdown", "-c Shutdown"]


GROUPS = pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])


@GROUPS
def test_group_restart_ends_a_temporary_sibling_for_good(
    start_tree: StartTree, log: list[str], strategy: Strategy
) -> None:
    """SUP-16, SUP-17."""
    children = spec("a", log), spec("t", log, restart=Restart.TEMPORARY), spec("b", log)
    tree = start_tree(*children, strategy=strategy)
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("restart", "taken"),
    [
        ("permanent", True),
        ("transient", True),
        ("temporary", False),
    ],
)
def test_message_waits_for_a_sibling_that_comes_back_from_a_group_restart_and_for_no_other(
    start_tree: StartTree, log: list[str], restart: str, taken: bool
) -> None:
    """SUP-16."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def on_stop(self) -> None:
            entered.set()
            go_on.wait(20.0)

    slow = ChildSpec("s", lambda: Slow(log), Restart(restart))
    tree = start_tree(spec("a", log), slow, strategy=Strategy.ONE_FOR_ALL)
    crash(tree.address("root/a"))
    entered.wait(5.0)
    reply = tree.address("root/s").ask("hello")
    assert reply.done() is not taken
    go_on.set()
    assert (reply.exception() is None) is taken


def test_temporary_child_that_started_before_the_failed_one_outlives_a_rest_for_one_restart(
    start_tree: StartTree, log: list[str]
) -> None:
    """SUP-17."""
    children = spec("t", log, restart=Restart.TEMPORARY), spec("a", log), spec("b", log)
    tree = start_tree(*children, strategy=Strategy.REST_FOR_ONE)
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"t": 1, "a": 2, "b": 2}


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("end", ["crash", "normal", "terminate"])
def test_id_of_a_temporary_child_is_free_again_after_its_end_in_any_strategy(
    start_tree: StartTree, log: list[str], strategy: Strategy, end: str
) -> None:
    """SUP-14."""
    one = spec("t", log, restart=Restart.TEMPORARY)
    tree = start_tree(spec("a", log), one, strategy=strategy)
    root, t = tree.address("root"), tree.address("root/t")
    ways: dict[str, Callable[[], object]] = {
        "crash": lambda: crash(t),
        "normal": lambda: crash(t, Stop()),
        "terminate": lambda: root.ask(TerminateChild("t")),
    }
    with expect(tree, ChildDeleted, path="root/t"):
        ways[end]()
    assert root.call(StartChild(one)).call("hello") == "hello"
    assert epochs(tree) == {"a": 1, "t": 2}


@GROUPS
def test_group_restart_gives_each_child_its_own_time_to_end(
    start_tree: StartTree, log: list[str], clock: VirtualClock, strategy: Strategy
) -> None:
    """SUP-16, SUP-17."""
    entered, go_on = threading.Event(), threading.Event()

    class Stubborn(Recorder):
        def on_receive(self, _message: Any) -> None:
            entered.set()
            go_on.wait(20.0)

    stubborn = ChildSpec("s", lambda: Stubborn(log), shutdown_s=3.0)
    tree = start_tree(spec("a", log), spec("b", log), stubborn, strategy=strategy, clock=clock)
    tree.address("root/s").tell("block")
    entered.wait(5.0)
    log.clear()
    with expect(tree, ChildExited, path="root/a"):
        crash(tree.address("root/a"))
    tree.address("root").call(CountChildren())  # the limit of the stubborn one is set
    clock.advance(2.9)
    assert log == ["-a Error"]
    with expect(tree, ChildAbandoned, path="root/s", after_s=3.0), expect(tree, ChildStarted, path="root/s"):
        clock.advance(0.1)
    assert log == ["-a Error", "-b Shutdown", "+a", "+b", "+s"]
    go_on.set()


def test_group_restart_is_one_unit_of_the_budget(start_tree: StartTree, log: list[str]) -> None:
    """SUP-18."""
    tree = start_tree(*(spec(name, log) for name in "abcd"), strategy=Strategy.ONE_FOR_ALL, max_restarts=1)
    with expect(tree, ChildStarted, path="root/d"):
        crash(tree.address("root/a"))
    tree.address("root").call(CountChildren())
    assert not tree.stopped.is_set()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_all", ["-a Error", "-b Shutdown", "+a", "-b StartFailed", "-a Shutdown", "+a", "+b"]),
        ("rest_for_one", ["-a Error", "-b Shutdown", "+a", "-b StartFailed", "+b"]),
    ],
)
def test_sibling_that_fails_to_start_in_a_group_restart_is_retried_from(
    start_tree: StartTree, log: list[str], strategy: str, expected: list[str]
) -> None:
    """SUP-18."""

    tree = start_tree(spec("a", log), ChildSpec("b", lambda: Reluctant(log)), strategy=strategy)
    log.clear()
    with expect(tree, ChildStarted, path="root/b", epoch=3), expect(tree, ChildStartFailed, path="root/b"):
        crash(tree.address("root/a"))
    assert log == expected


@pytest.mark.parametrize(
    ("strategy", "a", "b", "c"),
    [
        ("one_for_all", "pending", "backing_off", "pending"),
        ("rest_for_one", "running", "backing_off", "pending"),
    ],
)
def test_siblings_behind_one_that_fails_to_start_stay_down_until_it_is_up(
    start_tree: StartTree, log: list[str], clock: VirtualClock, strategy: str, a: str, b: str, c: str
) -> None:
    """SUP-18."""
    late = ChildSpec("b", lambda: Reluctant(log), backoff=Backoff(base_s=2.0, jitter=0.0))
    tree = start_tree(spec("a", log), late, spec("c", log), strategy=strategy, clock=clock)
    with expect(tree, ChildRestarting, path="root/b"):
        crash(tree.address("root/a"))
    wait_for(tree, lambda tree: states(tree) == {"a": a, "b": b, "c": c})
    log.clear()
    with expect(tree, ChildStarted, path="root/c"):
        clock.advance(2.0)
    assert log[-2:] == ["+b", "+c"]
    assert set(states(tree).values()) == {"running"}


@GROUPS
def test_each_try_to_start_a_sibling_in_a_group_restart_counts(
    start_tree: StartTree, log: list[str], strategy: Strategy
) -> None:
    """SUP-18."""
    children = [spec("a", log), ChildSpec("b", lambda: Hopeless(log))]
    sup = ChildSpec(
        "sup", lambda: Supervisor(children, strategy=strategy, max_restarts=3), kind=Kind.SUPERVISOR
    )
    tree = start_tree(sup, max_restarts=0)
    with (
        expect(tree, ChildRestarting, count=3) as restarts,
        expect(tree, ChildStartFailed, count=3, path="root/sup/b"),
        expect(tree, Escalated, path="root/sup"),
    ):
        crash(tree.address("root/sup/a"))
    assert [event.path for event in restarts.events] == ["root/sup/a", "root/sup/b", "root/sup/b"]
    assert [event.in_window for event in restarts.events] == [1, 2, 3]


def test_group_restart_waits_for_the_backoff_of_the_failed_child(
    start_tree: StartTree, log: list[str], clock: VirtualClock
) -> None:
    pause = Backoff(base_s=2.0, jitter=0.0)
    tree = start_tree(
        spec("a", log, backoff=pause), spec("b", log), strategy=Strategy.REST_FOR_ONE, clock=clock
    )
    log.clear()
    with expect(tree, ChildExited, path="root/b"):
        crash(tree.address("root/a"))
    tree.address("root").call(CountChildren())
    assert log == ["-a Error", "-b Shutdown"]
    with expect(tree, ChildStarted, path="root/b"):
        clock.advance(2.0)
    assert log[2:] == ["+a", "+b"]


def test_crash_of_an_earlier_sibling_widens_a_group_restart_under_way(
    start_tree: StartTree, log: list[str], clock: VirtualClock
) -> None:
    pause = Backoff(base_s=2.0, jitter=0.0)
    tree = start_tree(
        spec("a", log),
        spec("b", log, backoff=pause),
        spec("c", log),
        strategy=Strategy.REST_FOR_ONE,
        clock=clock,
    )
    with expect(tree, ChildRestarting, path="root/b"):
        crash(tree.address("root/b"))
    with expect(tree, ChildStarted, path="root/c", epoch=2):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"a": 2, "b": 2, "c": 2}


class Busy(Supervisor):
    """Its handler blocks until it is let go."""

    entered, go_on = threading.Event(), threading.Event()

    def on_receive(self, _message: Any) -> None:
        self.entered.set()
        self.go_on.wait(20.0)


@contextlib.contextmanager
def in_one_instant(tree: ActorTree, path: str) -> Iterator[None]:
    """Whatever happens in the block, the supervisor at `path` learns of it all at once, in order."""
    Busy.entered.clear()
    Busy.go_on.clear()
    tree.address(path).tell("block")
    Busy.entered.wait(5.0)
    try:
        yield
    finally:
        Busy.go_on.set()


def crash_and_end(tree: ActorTree, path: str) -> None:
    """Crash the first incarnation, and wait until it has said so and its thread is gone."""
    thread = next(one for one in threading.enumerate() if one.name == f"actor:{path}#1")
    crash(tree.address(path))
    thread.join(5.0)


@pytest.mark.parametrize(
    ("strategy", "crashing", "a", "b", "c", "restarts"),
    [
        ("one_for_one", "ac", 2, 1, 2, 2),
        ("one_for_one", "ca", 2, 1, 2, 2),
        ("one_for_all", "ac", 2, 2, 2, 1),
        ("one_for_all", "ca", 2, 2, 2, 1),
        ("rest_for_one", "ac", 2, 2, 2, 1),
        ("rest_for_one", "ca", 2, 2, 3, 2),  # the later one is on its way back already
    ],
)
def test_two_children_that_crash_at_once_are_restarted_once_each(
    start_tree: StartTree,
    log: list[str],
    strategy: str,
    crashing: str,
    a: int,
    b: int,
    c: int,
    restarts: int,
) -> None:
    """SUP-27."""
    children = [spec(name, log) for name in "abc"]
    sup = ChildSpec("sup", lambda: Busy(children, strategy=Strategy(strategy)), kind=Kind.SUPERVISOR)
    tree = start_tree(sup)
    with expect(tree, ChildRestarting, count=restarts), in_one_instant(tree, "root/sup"):
        for name in crashing:
            crash_and_end(tree, f"root/sup/{name}")
    wait_until_all_run(tree, "root/sup")
    assert epochs(tree, "root/sup") == {"a": a, "b": b, "c": c}
    assert tree.snapshot().children[0].restarts_in_window == restarts


@pytest.mark.parametrize("crashing", ["ac", "ca"])
def test_two_dynamic_children_that_crash_at_once_are_restarted_once_each(
    start_tree: StartTree, log: list[str], crashing: str
) -> None:
    """SUP-27."""

    class BusyDynamic(DynamicSupervisor, Busy):
        pass

    tree = start_tree(ChildSpec("sup", BusyDynamic, kind=Kind.SUPERVISOR))
    for name in "abc":
        tree.address("root/sup").call(StartChild(spec(name, log)))
    with expect(tree, ChildRestarting, count=2), in_one_instant(tree, "root/sup"):
        for name in crashing:
            crash_and_end(tree, f"root/sup/{name}")
    wait_until_all_run(tree, "root/sup")
    assert epochs(tree, "root/sup") == {"a": 2, "b": 1, "c": 2}


def test_group_restart_by_an_earlier_sibling_keeps_a_child_before_its_closed_gate(
    start_tree: StartTree, log: list[str], clock: VirtualClock
) -> None:
    gate = Gate(is_open=False)
    held = spec("a", log, backoff=Backoff(base_s=2.0), free_causes=(TimeoutError,), gate=gate)
    tree = start_tree(spec("x", log), held, spec("b", log), strategy=Strategy.REST_FOR_ONE, clock=clock)
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"), TimeoutError("away"))
    with expect(tree, ChildStarted, path="root/x", epoch=2):
        crash(tree.address("root/x"))
    tree.address("root").call(CountChildren())
    assert states(tree) == {"x": "running", "a": "backing_off", "b": "pending"}
    with expect(tree, ChildStarted, path="root/b", epoch=2):
        gate.open()


@GROUPS
def test_group_restart_starts_a_sibling_that_was_terminated_earlier(
    start_tree: StartTree, log: list[str], strategy: Strategy
) -> None:
    tree = start_tree(spec("a", log), spec("b", log), strategy=strategy)
    tree.address("root").call(TerminateChild("b"))
    with expect(tree, ChildStarted, path="root/b", epoch=2):
        crash(tree.address("root/a"))


@GROUPS
def test_group_restart_leaves_a_sibling_down_that_a_command_is_ending(
    start_tree: StartTree, log: list[str], strategy: Strategy
) -> None:
    """SUP-28."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def on_stop(self) -> None:
            entered.set()
            go_on.wait(20.0)

    slow = ChildSpec("b", lambda: Slow(log))
    tree = start_tree(spec("a", log), slow, spec("c", log), strategy=strategy)
    terminated = tree.address("root").ask(TerminateChild("b"))
    entered.wait(5.0)
    with expect(tree, ChildExited, path="root/c"):
        crash(tree.address("root/a"))
    with expect(tree, ChildStarted, path="root/c", epoch=2):
        go_on.set()
    assert terminated.result() is None
    assert states(tree) == {"a": "running", "b": "down", "c": "running"}


def test_crash_of_a_child_started_by_command_does_not_lose_those_that_wait_in_a_group_restart(
    start_tree: StartTree, log: list[str], clock: VirtualClock
) -> None:
    first = spec("a", log, backoff=Backoff(base_s=2.0, jitter=0.0))
    tree = start_tree(first, spec("b", log), spec("c", log), strategy=Strategy.REST_FOR_ONE, clock=clock)
    root = tree.address("root")
    with expect(tree, ChildExited, path="root/b"):
        crash(tree.address("root/a"))
    root.call(TerminateChild("c"))
    root.call(RestartChild("c"))
    with expect(tree, ChildStarted, path="root/c", epoch=3):
        crash(tree.address("root/c"))
    assert epochs(tree) == {"a": 2, "b": 2, "c": 3}


def test_crash_of_a_child_started_by_command_begins_a_group_restart_under_way_anew(
    start_tree: StartTree, log: list[str]
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                entered.set()
                go_on.wait(20.0)
            super().on_start()

    first = ChildSpec("a", lambda: Slow(log))
    tree = start_tree(first, spec("b", log), spec("c", log), strategy=Strategy.REST_FOR_ONE)
    root = tree.address("root")
    crash(tree.address("root/a"))
    entered.wait(5.0)
    root.call(TerminateChild("c"))
    root.call(RestartChild("c"))
    with expect(tree, ChildRestarting, path="root/c"):
        crash(tree.address("root/c"))
    log.clear()
    with expect(tree, ChildStarted, path="root/c", epoch=3):
        go_on.set()
    assert log == ["+a", "-a Shutdown", "+a", "+b", "+c"]


def test_restart_command_for_a_child_whose_group_is_starting_waits_for_its_turn(
    start_tree: StartTree, log: list[str], clock: VirtualClock
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                entered.set()
                go_on.wait(10.0)

    pause = Backoff(base_s=2.0, jitter=0.0)
    first = ChildSpec("a", lambda: Slow(log))
    tree = start_tree(first, spec("b", log, backoff=pause), strategy=Strategy.ONE_FOR_ALL, clock=clock)
    root = tree.address("root")
    with expect(tree, ChildExited, path="root/a"):
        crash(tree.address("root/b"))
    early = root.ask(RestartChild("b"))
    entered.wait(5.0)
    with pytest.raises(CommandRefusedError):
        root.call(RestartChild("b"))
    go_on.set()
    assert early.result().call("hello") == "hello"
    assert epochs(tree) == {"a": 2, "b": 2}


def endless_loop(start_tree: StartTree, log: list[str], strategy: str) -> ActorTree:
    """A tree in which `root/sup/b` is restarted for ever, never comes up, and has a sibling on each side."""

    def supervisor() -> Supervisor:
        if strategy == "dynamic":
            return DynamicSupervisor(max_restarts=10**9)
        return Supervisor([], strategy=Strategy(strategy), max_restarts=10**9)

    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR))
    for one in (spec("a", log), ChildSpec("b", lambda: Hopeless(log)), spec("c", log)):
        tree.address("root/sup").call(StartChild(one))
    with expect(tree, ChildStartFailed, path="root/sup/b", count=3):
        crash(tree.address("root/sup/b"))
    return tree


@pytest.mark.parametrize(
    ("strategy", "fate"),
    [
        ("one_for_one", {"b": "down"}),
        ("one_for_all", {"b": "down"}),
        ("rest_for_one", {"b": "down"}),
        ("dynamic", {}),
    ],
)
def test_after_the_termination_of_a_child_in_an_endless_restart_loop_its_siblings_run(
    start_tree: StartTree, log: list[str], strategy: str, fate: dict[str, str]
) -> None:
    """SUP-20."""
    tree = endless_loop(start_tree, log, strategy)
    tree.address("root/sup").call(TerminateChild("b"))
    wait_for(tree, lambda tree: states(tree, "root/sup") == {"a": "running", "c": "running", **fate})


EACH_STRATEGY = pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])


@EACH_STRATEGY
@pytest.mark.parametrize("command", [DeleteChild("b"), RestartChild("b"), StartChild(spec("b", []))])
def test_child_in_an_endless_restart_loop_cannot_be_deleted_or_started(
    start_tree: StartTree, log: list[str], strategy: str, command: DeleteChild | RestartChild | StartChild
) -> None:
    """SUP-20."""
    tree = endless_loop(start_tree, log, strategy)
    with pytest.raises(CommandRefusedError):
        tree.address("root/sup").call(command)


@EACH_STRATEGY
def test_supervisor_with_an_endless_restart_loop_can_be_stopped(
    start_tree: StartTree, log: list[str], strategy: str
) -> None:
    """SUP-20."""
    tree = endless_loop(start_tree, log, strategy)
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert set(states(tree, "root/sup").values()) == {"stopped"}
