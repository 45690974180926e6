import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError, NotDeliveredError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    ExitReason,
    Restart,
    RestartChild,
    Strategy,
    SupervisedActor,
    TerminateChild,
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


@pytest.fixture
def log() -> list[str]:
    return []


def spec(name: str, log: list[str], **fields: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Recorder(log), **fields)


def epochs(tree: ActorTree) -> dict[str, int]:
    return {node.id: node.epoch for node in tree.snapshot().children}


def test_one_for_one_leaves_the_siblings_alone(start_tree: StartTree, log: list[str]) -> None:
    tree = start_tree(*(spec(name, log) for name in "cab"))
    with expect(tree, ChildStarted, path="root/a"):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"c": 1, "a": 2, "b": 1}


def test_one_for_all_ends_the_others_in_reverse_and_starts_all_in_order(
    start_tree: StartTree, log: list[str]
) -> None:
    tree = start_tree(*(spec(name, log) for name in "cab"), strategy=Strategy.ONE_FOR_ALL)
    log.clear()
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    assert log == ["-a Error", "-b Shutdown", "-c Shutdown", "+c", "+a", "+b"]


def test_rest_for_one_restarts_only_those_started_later(start_tree: StartTree, log: list[str]) -> None:
    tree = start_tree(*(spec(name, log) for name in "dcab"), strategy=Strategy.REST_FOR_ONE)
    log.clear()
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/c"))
    assert log == ["-c Error", "-b Shutdown", "-a Shutdown", "+c", "+a", "+b"]
    assert epochs(tree) == {"d": 1, "c": 2, "a": 2, "b": 2}


def test_after_a_group_restart_the_tree_still_stops_in_reverse(start_tree: StartTree, log: list[str]) -> None:
    tree = start_tree(*(spec(name, log) for name in "cab"), strategy=Strategy.REST_FOR_ONE)
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    log.clear()
    tree.stop(5.0)
    assert log == ["-b Shutdown", "-a Shutdown", "-c Shutdown"]


def test_group_restart_ends_a_temporary_sibling_for_good(start_tree: StartTree, log: list[str]) -> None:
    tree = start_tree(
        spec("a", log),
        spec("t", log, restart=Restart.TEMPORARY),
        spec("b", log),
        strategy=Strategy.ONE_FOR_ALL,
    )
    with expect(tree, ChildStarted, path="root/b"):
        crash(tree.address("root/a"))
    assert epochs(tree) == {"a": 2, "b": 2}


def test_group_restart_is_one_unit_of_the_budget(start_tree: StartTree, log: list[str]) -> None:
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
    class Reluctant(Recorder):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                raise ValueError("not yet")
            super().on_start()

    tree = start_tree(spec("a", log), ChildSpec("b", lambda: Reluctant(log)), strategy=strategy)
    log.clear()
    with expect(tree, ChildStarted, path="root/b", epoch=3), expect(tree, ChildStartFailed, path="root/b"):
        crash(tree.address("root/a"))
    assert log == expected


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


def test_two_children_crashing_at_once_end_in_one_consistent_tree(
    start_tree: StartTree, log: list[str]
) -> None:
    tree = start_tree(*(spec(name, log) for name in "abc"), strategy=Strategy.ONE_FOR_ALL)
    with expect(tree, ChildExited, count=3):
        crash(tree.address("root/c"))
        with contextlib.suppress(NotDeliveredError):  # when it is being taken along already
            crash(tree.address("root/a"))
    wait_for(tree, lambda tree: {node.state for node in tree.snapshot().children} == {"running"})
    assert min(epochs(tree).values()) >= 2


def test_group_restart_starts_a_sibling_that_was_terminated_earlier(
    start_tree: StartTree, log: list[str]
) -> None:
    tree = start_tree(spec("a", log), spec("b", log), strategy=Strategy.REST_FOR_ONE)
    tree.address("root").call(TerminateChild("b"))
    with expect(tree, ChildStarted, path="root/b", epoch=2):
        crash(tree.address("root/a"))


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
