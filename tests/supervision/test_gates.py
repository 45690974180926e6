import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DynamicSupervisor,
    Gate,
    Kind,
    RestartChild,
    Shutdown,
    ShutdownEnded,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    TreeNode,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

EACH_STRATEGY = pytest.mark.parametrize("strategy", [*Strategy, "dynamic"])
GROUPS = pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


@pytest.fixture
def gate() -> Gate:
    return Gate(is_open=False)


def patient(name: str, gate: Gate | None, factory: Callable[[], SupervisedActor] = Echo) -> ChildSpec:
    """A child for whom a time-out is not its fault."""
    pause = Backoff(base_s=1.0, cap_s=1.0, jitter=0.0)
    return ChildSpec(name, factory, backoff=pause, free_causes=(TimeoutError,), gate=gate)


def grow(
    start_tree: StartTree, clock: VirtualClock, strategy: str, *children: ChildSpec, max_restarts: int = 0
) -> ActorTree:
    """A tree in which `root/sup` runs the children, and which is down once they have used up their restarts."""

    def supervisor() -> Supervisor:
        if strategy == "dynamic":
            return DynamicSupervisor(max_restarts=max_restarts)
        return Supervisor([], strategy=Strategy(strategy), max_restarts=max_restarts)

    tree = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR), clock=clock, max_restarts=0)
    for child in children:
        tree.address("root/sup").call(StartChild(child))
    return tree


def fail_for_free(tree: ActorTree, name: str = "a") -> ChildRestarting:
    """Crash a child by what is not its fault, and wait until its supervisor has thought about it."""
    with expect(tree, ChildRestarting, path=f"root/sup/{name}") as got:
        crash(tree.address(f"root/sup/{name}"), TimeoutError("the service is away"))
    tree.address("root/sup").call(CountChildren())
    return got.event


def node(tree: ActorTree, name: str = "a") -> TreeNode:
    found = tree.snapshot().find(f"root/sup/{name}")
    assert found is not None
    return found


# Free causes.


@EACH_STRATEGY
def test_free_cause_fifty_times_uses_up_no_restart(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, strategy, patient("a", None))
    for epoch in range(2, 52):
        assert fail_for_free(tree).in_window == 0
        assert node(tree).state == "backing_off"
        with expect(tree, ChildStarted, path="root/sup/a", epoch=epoch):
            clock.advance(1.0)
    assert node(tree).restarts == 50


@EACH_STRATEGY
def test_free_cause_fifty_times_at_a_closed_gate_uses_up_no_restart(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: str
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    for epoch in range(2, 52):
        assert fail_for_free(tree).in_window == 0
        assert (node(tree).state, node(tree).due_in_s) == ("backing_off", None)
        with expect(tree, ChildStarted, path="root/sup/a", epoch=epoch):
            gate.open()
        gate.close()
    assert node(tree).restarts == 50


class Unlucky(Echo):
    """Fails fifty starts, not by its own fault."""

    def on_start(self) -> None:
        if 2 <= self.context.epoch <= 51:
            raise TimeoutError("the service is away")


@EACH_STRATEGY
def test_start_that_fails_by_a_free_cause_fifty_times_uses_up_no_restart(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, strategy, patient("a", None, Unlucky))
    fail_for_free(tree)
    for epoch in range(2, 52):
        with expect(tree, ChildRestarting, epoch=epoch, in_window=0):
            clock.advance(1.0)
    with expect(tree, ChildStarted, path="root/sup/a", epoch=52):
        clock.advance(1.0)


@EACH_STRATEGY
@pytest.mark.parametrize("is_open", [True, False])
def test_another_cause_in_the_same_child_still_counts(
    start_tree: StartTree, clock: VirtualClock, strategy: str, is_open: bool
) -> None:
    """SUP-23."""
    gate = Gate()
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    fail_for_free(tree)
    with expect(tree, ChildStarted, path="root/sup/a", epoch=2):
        clock.advance(1.0)
    (gate.open if is_open else gate.close)()
    with expect(tree, ShutdownEnded):
        crash(tree.address("root/sup/a"), ValueError("my own fault"))


def test_another_cause_does_not_wait_at_the_gate(
    start_tree: StartTree, clock: VirtualClock, gate: Gate
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, "one_for_one", patient("a", gate), max_restarts=1)
    with expect(tree, ChildRestarting, path="root/sup/a", in_window=1):
        crash(tree.address("root/sup/a"), ValueError("my own fault"))
    with expect(tree, ChildStarted, path="root/sup/a", epoch=2):
        clock.advance(1.0)


@pytest.mark.parametrize(
    ("cause", "is_free"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (ConnectionError(), True),
        (OSError(), False),
        (ValueError(), False),
    ],
)
def test_cause_is_free_if_it_is_of_one_of_the_classes(
    start_tree: StartTree, clock: VirtualClock, cause: Exception, is_free: bool
) -> None:
    """SUP-23."""
    spec = ChildSpec("a", Echo, backoff=Backoff(base_s=1.0), free_causes=(TimeoutError, ConnectionError))
    tree = grow(start_tree, clock, "one_for_one", spec, max_restarts=1)
    with expect(tree, ChildRestarting) as got:
        crash(tree.address("root/sup/a"), cause)
    assert got.event.in_window == (0 if is_free else 1)


def test_supervisor_that_gave_up_by_a_free_cause_uses_up_no_restart(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SUP-23."""
    leaf = [ChildSpec("leaf", Echo)]
    mid = ChildSpec(
        "a",
        lambda: Supervisor(leaf, max_restarts=0),
        kind=Kind.SUPERVISOR,
        backoff=Backoff(base_s=1.0, jitter=0.0),
        free_causes=(TimeoutError,),
    )
    tree = grow(start_tree, clock, "one_for_one", mid)
    with expect(tree, ChildRestarting, path="root/sup/a", in_window=0) as got:
        crash(tree.address("root/sup/a/leaf"), TimeoutError("the service is away"))
    assert isinstance(got.event.reason, Shutdown)


# At a gate.


def test_child_waits_at_a_closed_gate_however_long_it_takes(
    start_tree: StartTree, clock: VirtualClock, gate: Gate
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, "one_for_one", patient("a", gate))
    fail_for_free(tree)
    clock.advance(1_000_000.0)
    tree.address("root/sup").call(CountChildren())
    assert (node(tree).state, node(tree).epoch) == ("backing_off", 1)


def test_messages_for_a_child_at_the_gate_wait_with_it(
    start_tree: StartTree, clock: VirtualClock, gate: Gate
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, "one_for_one", patient("a", gate))
    fail_for_free(tree)
    replies = [tree.address("root/sup/a").ask(n) for n in range(3)]
    gate.open()
    assert [reply.result() for reply in replies] == [0, 1, 2]


def test_open_gate_leaves_the_ordinary_pause(start_tree: StartTree, clock: VirtualClock) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, "one_for_one", patient("a", Gate()))
    fail_for_free(tree)
    clock.advance(0.9)
    tree.address("root/sup").call(CountChildren())
    assert (node(tree).state, node(tree).epoch) == ("backing_off", 1)
    with expect(tree, ChildStarted, path="root/sup/a", epoch=2):
        clock.advance(0.1)


@EACH_STRATEGY
def test_gate_that_closes_during_the_pause_holds_the_child_back(
    start_tree: StartTree, clock: VirtualClock, strategy: str
) -> None:
    """SUP-23."""
    gate = Gate()
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    fail_for_free(tree)
    gate.close()
    clock.advance(100.0)
    tree.address("root/sup").call(CountChildren())
    assert (node(tree).state, node(tree).epoch) == ("backing_off", 1)
    with expect(tree, ChildStarted, path="root/sup/a", epoch=2):
        gate.open()


def test_one_gate_lets_all_through_who_wait(start_tree: StartTree, clock: VirtualClock, gate: Gate) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, "dynamic", *(patient(name, gate) for name in "abc"))
    for name in "abc":
        fail_for_free(tree, name)
    with expect(tree, ChildStarted, count=3) as got:
        gate.open()
    assert {event.path for event in got.events} == {"root/sup/a", "root/sup/b", "root/sup/c"}


def test_child_that_fails_again_behind_the_gate_is_parked_again(
    start_tree: StartTree, clock: VirtualClock, gate: Gate
) -> None:
    """SUP-23."""

    class Twice(Echo):
        def on_start(self) -> None:
            if self.context.epoch == 2:
                gate.close()
                raise TimeoutError("away again")

    tree = grow(start_tree, clock, "one_for_one", patient("a", gate, Twice))
    fail_for_free(tree)
    with expect(tree, ChildStartFailed, epoch=2), expect(tree, ChildRestarting, epoch=2):
        gate.open()
    clock.advance(100.0)
    tree.address("root/sup").call(CountChildren())
    assert (node(tree).state, node(tree).epoch) == ("backing_off", 2)
    with expect(tree, ChildStarted, path="root/sup/a", epoch=3):
        gate.open()


# Commands to a child at its gate.


@EACH_STRATEGY
def test_child_terminated_at_its_gate_does_not_start_when_it_opens(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: str
) -> None:
    """SUP-23, SUP-25."""
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    fail_for_free(tree)
    tree.address("root/sup").call(TerminateChild("a"))
    gate.open()
    assert tree.address("root/sup").call(CountChildren()).active == 0


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one", "dynamic"])
def test_child_restarted_by_command_does_not_wait_for_its_gate(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: str
) -> None:
    """SUP-23, SUP-25."""
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    fail_for_free(tree)
    restarted = tree.address("root/sup").ask(RestartChild("a"), timeout_s=1000.0)
    tree.address("root/sup").call(CountChildren())
    assert node(tree).state != "backing_off"
    assert restarted.result().call("hello") == "hello"
    gate.open()
    tree.address("root/sup").call(CountChildren())
    assert (node(tree).state, node(tree).epoch) == ("running", 2)


@EACH_STRATEGY
def test_supervisor_whose_child_waits_at_a_gate_can_be_stopped(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: str
) -> None:
    """SUP-23, SUP-25."""
    tree = grow(start_tree, clock, strategy, patient("a", gate), ChildSpec("b", Echo))
    fail_for_free(tree)
    with expect(tree, ShutdownEnded, abandoned=(), first_cause=None):
        tree.stop(5.0)
    gate.open()
    assert node(tree).epoch == 1


@EACH_STRATEGY
@pytest.mark.parametrize("command", [TerminateChild("a"), RestartChild("a"), TerminateChild("sup")])
def test_gate_keeps_nobody_who_waits_no_more(
    start_tree: StartTree,
    clock: VirtualClock,
    gate: Gate,
    strategy: str,
    command: TerminateChild | RestartChild,
) -> None:
    """SUP-25."""
    tree = grow(start_tree, clock, strategy, patient("a", gate))
    fail_for_free(tree)
    tree.address("root" if command.id == "sup" else "root/sup").call(command)
    assert gate._waiting == {}


# Gates in strategies with groups.


@GROUPS
def test_group_waits_for_the_gate_of_the_failed_child_and_starts_in_order(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: Strategy
) -> None:
    """SUP-23."""
    tree = grow(start_tree, clock, strategy, patient("a", gate), ChildSpec("b", Echo), ChildSpec("c", Echo))
    with expect(tree, ChildExited, count=3):
        fail_for_free(tree)
    clock.advance(1000.0)
    tree.address("root/sup").call(CountChildren())
    assert [node(tree, name).state for name in "abc"] == ["backing_off", "pending", "pending"]
    with expect(tree, ChildStarted, count=3) as got:
        gate.open()
    assert [event.path for event in got.events] == ["root/sup/a", "root/sup/b", "root/sup/c"]


def test_earlier_siblings_run_while_a_later_one_waits_at_its_gate(
    start_tree: StartTree, clock: VirtualClock, gate: Gate
) -> None:
    """SUP-23."""
    tree = grow(
        start_tree, clock, "rest_for_one", ChildSpec("z", Echo), patient("a", gate), ChildSpec("b", Echo)
    )
    with expect(tree, ChildExited, path="root/sup/b"):
        fail_for_free(tree)
    assert tree.address("root/sup/z").call("hello") == "hello"
    assert node(tree, "z").epoch == 1
    with expect(tree, ChildStarted, path="root/sup/b", epoch=2):
        gate.open()


@GROUPS
def test_group_whose_gated_child_is_terminated_starts_without_it(
    start_tree: StartTree, clock: VirtualClock, gate: Gate, strategy: Strategy
) -> None:
    """SUP-23, SUP-25."""
    tree = grow(start_tree, clock, strategy, patient("a", gate), ChildSpec("b", Echo))
    with expect(tree, ChildExited, path="root/sup/b"):
        fail_for_free(tree)
    with expect(tree, ChildStarted, path="root/sup/b", epoch=2):
        tree.address("root/sup").call(TerminateChild("a"))
    assert node(tree).state == "down"


# The gate itself.


def test_gate_is_open_unless_told_otherwise() -> None:
    assert Gate().is_open
    assert not Gate(is_open=False).is_open


def test_who_comes_to_an_open_gate_goes_through_at_once() -> None:
    through: list[str] = []
    Gate().when_open(lambda: through.append("a"))
    assert through == ["a"]


def test_who_waits_at_a_closed_gate_goes_through_once(gate: Gate) -> None:
    through: list[str] = []
    gate.when_open(lambda: through.append("a"))
    gate.when_open(lambda: through.append("b"))
    assert through == []
    for _ in range(2):
        gate.open()
        gate.close()
    assert through == ["a", "b"]


def test_who_gives_up_does_not_go_through(gate: Gate) -> None:
    through: list[str] = []
    give_up = gate.when_open(lambda: through.append("a"))
    give_up()
    give_up()
    gate.open()
    assert through == []


def test_who_comes_while_a_gate_opens_goes_through_too(gate: Gate) -> None:
    through: list[str] = []
    gate.when_open(lambda: gate.when_open(lambda: through.append("inner")))
    gate.open()
    assert through == ["inner"]


def test_of_many_threads_at_a_gate_each_goes_through_once(gate: Gate) -> None:
    through: list[int] = []
    barrier = threading.Barrier(9)

    def come(number: int) -> None:
        barrier.wait(10.0)
        gate.when_open(lambda: through.append(number))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait(10.0)
    gate.open()
    for thread in threads:
        thread.join(10.0)
    gate.open()
    assert sorted(through) == list(range(8))
