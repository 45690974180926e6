import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import NotDeliveredError, OutcomeUnknownError, RuntimeStoppedError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildAbandoned,
    ChildRestarting,
    ChildSpec,
    CountChildren,
    DynamicSupervisor,
    ErrorContained,
    Kind,
    ShutdownBegan,
    ShutdownEnded,
    StartChild,
    SupervisedActor,
    Supervisor,
    TerminateChild,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Recorder(SupervisedActor):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_receive(self, message: Any) -> Any:
        return message

    def on_stop(self) -> None:
        self.log.append(self.context.path)


class Stubborn(SupervisedActor):
    """Its handler blocks until it is let go."""

    def __init__(self, entered: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self.entered, self.go_on = entered, go_on

    def on_receive(self, _message: Any) -> str:
        self.entered.set()
        self.go_on.wait(20.0)
        return "late"


class Block:
    """A stubborn child and how to free it."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def spec(self, **fields: Any) -> ChildSpec:
        return ChildSpec("stubborn", lambda: Stubborn(self.entered, self.go_on), **fields)


def test_tree_stops_in_reverse_order_through_all_levels(start_tree: StartTree) -> None:
    log: list[str] = []
    inner = [ChildSpec(name, lambda: Recorder(log)) for name in "yx"]
    tree = start_tree(
        ChildSpec("a", lambda: Recorder(log)),
        ChildSpec("mid", lambda: Supervisor(inner), kind=Kind.SUPERVISOR),
        ChildSpec("b", lambda: Recorder(log)),
    )
    tree.stop(5.0)
    assert log == ["root/b", "root/mid/x", "root/mid/y", "root/a"]


def test_stop_is_announced_and_reported(start_tree: StartTree) -> None:
    tree = start_tree()
    with (
        expect(tree, ShutdownBegan, timeout_s=5.0),
        expect(tree, ShutdownEnded, abandoned=(), first_cause=None),
    ):
        tree.stop(5.0)
    assert tree.snapshot().state == "stopped"


def test_stopping_twice_is_the_same_as_once(start_tree: StartTree) -> None:
    tree = start_tree()
    tree.stop(5.0)
    tree.stop(5.0)
    assert tree.first_cause is None


def test_tree_that_never_started_can_be_stopped() -> None:
    tree = ActorTree(ChildSpec("root", DynamicSupervisor, kind=Kind.SUPERVISOR))
    tree.stop(1.0)
    with pytest.raises(RuntimeStoppedError):
        tree.address("root").tell("hello")


def test_child_that_ignores_the_stop_is_abandoned_and_the_others_end(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    log: list[str] = []
    block = Block()
    tree = start_tree(ChildSpec("a", lambda: Recorder(log)), block.spec(shutdown_s=2.0), clock=clock)
    tree.address("root/stubborn").tell("block")
    block.entered.wait(5.0)
    stopper = threading.Thread(target=tree.stop, args=(30.0,))
    with expect(tree, ChildAbandoned, path="root/stubborn", after_s=2.0):
        stopper.start()
        clock.wait_for_timers()
        clock.advance(2.0)
    stopper.join(10.0)
    block.go_on.set()
    assert log == ["root/a"]
    assert tree.stopped.is_set()


def test_total_deadline_bounds_each_childs_own_time(start_tree: StartTree, clock: VirtualClock) -> None:
    block = Block()
    tree = start_tree(block.spec(shutdown_s=100.0), clock=clock)
    tree.address("root/stubborn").tell("block")
    block.entered.wait(5.0)
    stopper = threading.Thread(target=tree.stop, args=(3.0,))
    with expect(tree, ShutdownEnded, abandoned=("root/stubborn",)):
        stopper.start()
        clock.wait_for_timers()
        clock.advance(3.0)
    stopper.join(10.0)
    block.go_on.set()


def test_call_in_an_abandoned_actor_has_an_unknown_outcome_and_its_queue_none(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    block = Block()
    tree = start_tree(block.spec(shutdown_s=2.0), clock=clock)
    stubborn = tree.address("root/stubborn")
    begun = stubborn.ask("block")
    block.entered.wait(5.0)
    queued = stubborn.ask("behind it")
    terminated = tree.address("root").ask(TerminateChild("stubborn"), timeout_s=1000.0)
    clock.wait_for_timers()
    clock.advance(2.0)
    assert terminated.result() is None
    block.go_on.set()
    assert isinstance(begun.exception(), OutcomeUnknownError)
    assert isinstance(queued.exception(), NotDeliveredError)


def test_stuck_supervisor_does_not_hold_up_the_stop(start_tree: StartTree) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Stuck(Supervisor):
        def on_receive(self, _message: Any) -> None:
            entered.set()
            go_on.wait(20.0)

    leaf = [ChildSpec("leaf", lambda: Recorder([]))]
    tree = start_tree(ChildSpec("mid", lambda: Stuck(leaf), kind=Kind.SUPERVISOR))
    tree.address("root/mid").tell("block")
    entered.wait(5.0)
    with expect(tree, ShutdownEnded, abandoned=("root/mid", "root/mid/leaf")):
        tree.stop(0.3)
    go_on.set()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)], ids=["error", "sys.exit"])
def test_on_stop_that_raises_runs_once_and_spares_the_others(
    start_tree: StartTree, error: BaseException
) -> None:
    runs: list[str] = []

    class Clumsy(SupervisedActor):
        def on_stop(self) -> None:
            runs.append(self.context.id)
            raise error

    tree = start_tree(ChildSpec("a", Clumsy), ChildSpec("b", Clumsy))
    with expect(tree, ErrorContained, count=2, where="on_stop"), expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert runs == ["b", "a"]


def test_stop_overtakes_the_messages_that_wait(start_tree: StartTree) -> None:
    block = Block()
    tree = start_tree(block.spec())
    stubborn = tree.address("root/stubborn")
    stubborn.tell("block")
    block.entered.wait(5.0)
    queued = [stubborn.ask("waiting") for _ in range(500)]
    terminated = tree.address("root").ask(TerminateChild("stubborn"))
    tree.address("root").call(CountChildren())  # answered after the command before it was obeyed
    block.go_on.set()
    terminated.result()
    assert {type(reply.exception()) for reply in queued} == {NotDeliveredError}


def test_stop_cancels_a_restart_that_waits(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(ChildSpec("a", lambda: Recorder([]), backoff=Backoff(base_s=9.0)), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    waiting = tree.address("root/a").ask("parked")
    tree.stop(5.0)
    assert isinstance(waiting.exception(), NotDeliveredError)
    assert clock.pending() == 0


def test_nobody_waits_for_an_actor_that_will_not_come_back_while_the_tree_ends(start_tree: StartTree) -> None:
    block = Block()
    tree = start_tree(
        ChildSpec("a", lambda: Recorder([]), backoff=Backoff(base_s=9.0)), block.spec(shutdown_s=9.0)
    )
    tree.address("root/stubborn").tell("block")
    block.entered.wait(5.0)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    waiting = tree.address("root/a").ask("parked")
    stopper = threading.Thread(target=tree.stop, args=(30.0,))
    stopper.start()
    assert isinstance(waiting.exception(), NotDeliveredError)  # while the stubborn one still blocks
    with pytest.raises(NotDeliveredError, match="the tree is ending"):
        tree.address("root/a").tell("late")
    block.go_on.set()
    stopper.join(10.0)
    assert tree.stopped.is_set()


def test_crashes_during_the_shutdown_restart_nobody(start_tree: StartTree) -> None:
    class Bitter(SupervisedActor):
        def on_stop(self) -> None:
            sys.exit(1)

        def on_receive(self, message: Any) -> None:
            raise ValueError(message)

    tree = start_tree(*(ChildSpec(name, Bitter) for name in "abc"))
    for name in "abc":
        tree.address(f"root/{name}").tell("crash")
    tree.stop(5.0)
    assert {node.state for node in tree.snapshot().children} == {"stopped"}


def test_dynamic_children_end_side_by_side(start_tree: StartTree) -> None:
    meeting = threading.Barrier(3, timeout=5.0)

    class Sociable(SupervisedActor):
        def on_stop(self) -> None:
            meeting.wait()

    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    for name in "abc":
        tree.address("root/dyn").call(StartChild(ChildSpec(name, Sociable)))
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert not meeting.broken


def test_actor_that_stops_its_own_tree_is_not_blocked_by_it(start_tree: StartTree) -> None:
    trees: list[ActorTree] = []

    class Suicidal(SupervisedActor):
        def on_receive(self, _message: Any) -> str:
            trees[0].stop(5.0)
            return "asked for it"

    tree = start_tree(ChildSpec("a", Suicidal))
    trees.append(tree)
    with expect(tree, ShutdownEnded, abandoned=()):
        assert tree.address("root/a").call("end") == "asked for it"


def test_keyboard_interrupt_in_an_actor_stops_the_tree_in_order(start_tree: StartTree) -> None:
    class Interrupted(SupervisedActor):
        def on_receive(self, _message: Any) -> None:
            raise KeyboardInterrupt

    tree = start_tree(ChildSpec("a", Interrupted))
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.address("root/a").tell("interrupt")


def test_interpreter_ends_quietly_while_actors_are_busy() -> None:
    program = """
import threading
from tinker_actors.supervision import ActorTree, ChildSpec, Kind, SupervisedActor, Supervisor

entered = threading.Event()

class Busy(SupervisedActor):
    def on_receive(self, message):
        entered.set()
        threading.Event().wait()

tree = ActorTree(ChildSpec("root", lambda: Supervisor([ChildSpec("a", Busy)]), kind=Kind.SUPERVISOR))
tree.start()
tree.address("root/a").tell("block")
entered.wait(5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20.0, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
