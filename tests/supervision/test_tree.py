import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError, ConfigError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildAbandoned,
    ChildCounts,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    Depths,
    DynamicSupervisor,
    Error,
    Gate,
    GetChildSpec,
    Kind,
    Restart,
    Shutdown,
    StallWarning,
    StartChild,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    TreeNode,
    WhichChildren,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

DEADLINE_S = 8.0
LATE_S = 9.0  # the deadline, and a tick
STALLED_S = 17.0  # twice the deadline, and a tick
EVERY_5_S = Backoff(base_s=5.0, jitter=0.0)
NOTHING = Depths(control=0, system=0, user=0)


class Door:
    """Where an actor waits, in its factory or in a handler, until somebody opens."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.entered.set()
        self.go_on.wait(20.0)


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


class Busy(Supervisor):
    """A supervisor with messages of its own."""

    def on_receive(self, message: Callable[[SupervisedActor], Any]) -> Any:
        return message(self)


def do_nothing(_actor: SupervisedActor) -> None:
    pass


def spec(name: str = "a", **fields: Any) -> ChildSpec:
    return ChildSpec(name, Doer, **{"handler_deadline_s": DEADLINE_S, **fields})


def node_at(tree: ActorTree, path: str) -> TreeNode:
    node = tree.snapshot().find(path)
    assert node is not None
    return node


@pytest.fixture
def door(start_tree: StartTree) -> Iterator[Door]:  # noqa: ARG001 - the tree stops once all doors are open
    door = Door()
    yield door
    door.go_on.set()


def hold(tree: ActorTree, path: str, door: Door) -> None:
    """Keep an actor in a handler."""
    tree.address(path).tell(lambda _actor: door.wait())
    assert door.entered.wait(5.0)
    door.entered.clear()


# What a picture shows.


def test_picture_shows_each_actor_in_start_order_with_kind_state_and_epoch(start_tree: StartTree) -> None:
    mid = ChildSpec("mid", lambda: Supervisor([spec("y"), spec("x")]), kind=Kind.SUPERVISOR)
    root = start_tree(spec("b"), mid, spec("a")).snapshot()
    assert [(node.path, node.id, node.kind) for node in root.children] == [
        ("root/b", "b", Kind.WORKER),
        ("root/mid", "mid", Kind.SUPERVISOR),
        ("root/a", "a", Kind.WORKER),
    ]
    assert [node.path for node in root.children[1].children] == ["root/mid/y", "root/mid/x"]
    assert {(node.state, node.epoch, node.restarts) for node in (root, *root.children)} == {("running", 1, 0)}


def test_idle_actor_waits_for_nothing_and_handles_nothing(start_tree: StartTree) -> None:
    node = node_at(start_tree(spec()), "root/a")
    assert (node.waiting, node.handling, node.handling_s) == (NOTHING, None, 0.0)
    assert (node.due_in_s, node.last_exit, node.zombies, node.children) == (None, None, (), ())


def test_nobody_is_found_where_nobody_is(start_tree: StartTree) -> None:
    assert start_tree(spec()).snapshot().find("root/b") is None


def test_picture_does_not_change(start_tree: StartTree) -> None:
    tree = start_tree(spec())
    before = tree.snapshot()
    tree.address("root").call(TerminateChild("a"))
    assert [node.state for node in before.children] == ["running"]
    assert node_at(tree, "root/a").state == "down"
    with pytest.raises(FrozenInstanceError):
        before.state = "down"  # type: ignore[misc]  # that is the point


def test_root_that_is_no_supervisor_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind supervisor"):
        ActorTree(spec())


# Messages that wait.


def test_messages_in_the_mailbox_are_counted_by_lane(start_tree: StartTree, door: Door) -> None:
    tree = start_tree(spec())
    hold(tree, "root/a", door)
    for _ in range(3):
        tree.address("root/a").tell(do_nothing)
    for _ in range(2):
        tree.address("root/a").ask(CountChildren())
    assert node_at(tree, "root/a").waiting == Depths(control=2, system=0, user=3)


def test_news_of_others_waits_in_the_system_lane(start_tree: StartTree, door: Door) -> None:
    tree = start_tree(spec("watcher"), spec())
    tree.address("root/watcher").call(lambda actor: actor.context.monitor("root/a"))
    hold(tree, "root/watcher", door)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert node_at(tree, "root/watcher").waiting == Depths(control=0, system=1, user=0)


def test_commands_and_signals_wait_in_the_control_lane_of_a_busy_supervisor(
    start_tree: StartTree, door: Door
) -> None:
    tree = start_tree(ChildSpec("mid", lambda: Busy([]), kind=Kind.SUPERVISOR))
    hold(tree, "root/mid", door)
    for _ in range(4):
        tree.address("root/mid").ask(WhichChildren())
    assert node_at(tree, "root/mid").waiting == Depths(control=4, system=0, user=0)


def test_messages_that_wait_for_a_restart_count_as_user_messages(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = start_tree(spec(backoff=EVERY_5_S), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    for _ in range(3):
        tree.address("root/a").tell(do_nothing)
    assert node_at(tree, "root/a").waiting == Depths(control=0, system=0, user=3)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(5.0)
    tree.address("root/a").call(do_nothing)
    assert node_at(tree, "root/a").waiting == NOTHING


# What is being handled.


def test_handler_is_shown_with_the_type_of_its_message_and_its_age(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    tree = start_tree(spec(handler_deadline_s=1000.0), clock=clock)
    clock.advance(100.0)
    hold(tree, "root/a", door)
    clock.advance(7.5)
    node = node_at(tree, "root/a")
    assert (node.handling, node.handling_s) == ("function", 7.5)


def test_age_of_a_handler_begins_anew_with_each_sign_of_progress(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    second = Door()

    def beat_between(actor: Doer) -> None:
        door.wait()
        actor.context.beat()
        second.wait()

    tree = start_tree(spec(handler_deadline_s=1000.0), clock=clock)
    reply = tree.address("root/a").ask(beat_between, timeout_s=1000.0)
    assert door.entered.wait(5.0)
    clock.advance(30.0)
    door.go_on.set()
    assert second.entered.wait(5.0)
    clock.advance(4.0)
    assert node_at(tree, "root/a").handling_s == 4.0
    second.go_on.set()
    assert reply.result() is None
    tree.address("root").call(TerminateChild("a"))
    assert node_at(tree, "root/a").handling is None


def test_actor_that_waits_on_purpose_handles_nothing(start_tree: StartTree, door: Door) -> None:
    def wait(actor: Doer) -> None:
        with actor.context.waiting():
            door.wait()

    tree = start_tree(spec())
    tree.address("root/a").tell(wait)
    assert door.entered.wait(5.0)
    assert node_at(tree, "root/a").handling is None


# Restarts.


def test_time_until_the_restart_is_shown_while_it_waits(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(spec(backoff=EVERY_5_S), clock=clock)
    clock.advance(100.0)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").due_in_s) == ("backing_off", 5.0)
    clock.advance(3.0)
    assert node_at(tree, "root/a").due_in_s == 2.0
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(2.0)
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").due_in_s) == ("running", None)


def test_no_time_is_shown_for_a_restart_that_a_gate_decides(start_tree: StartTree) -> None:
    gate = Gate(is_open=False)
    tree = start_tree(spec(backoff=EVERY_5_S, free_causes=(TimeoutError,), gate=gate))
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"), TimeoutError("away"))
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").due_in_s) == ("backing_off", None)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        gate.open()


def test_no_time_is_shown_once_a_waiting_child_is_terminated(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = start_tree(spec(backoff=EVERY_5_S), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    tree.address("root").call(TerminateChild("a"))
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").due_in_s) == ("down", None)


def test_supervisor_shows_the_restarts_that_count_and_each_child_all_of_its_own(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = start_tree(spec(), spec("b"), clock=clock, within_s=60.0)
    for name, epoch in (("a", 2), ("a", 3), ("b", 2)):
        with expect(tree, ChildStarted, path=f"root/{name}", epoch=epoch):
            crash(tree.address(f"root/{name}"))
    root = tree.snapshot()
    assert (root.restarts_in_window, [node.restarts for node in root.children]) == (3, [2, 1])
    clock.advance(100.0)
    with expect(tree, ChildStarted, path="root/a", epoch=4):
        crash(tree.address("root/a"))
    root = tree.snapshot()
    assert (root.restarts_in_window, [node.restarts for node in root.children]) == (1, [3, 1])


def test_free_restarts_are_none_that_count(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(spec(backoff=EVERY_5_S, free_causes=(TimeoutError,)), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"), TimeoutError("away"))
    assert (tree.snapshot().restarts_in_window, node_at(tree, "root/a").restarts) == (0, 1)


def test_supervisor_that_was_restarted_begins_to_count_anew(start_tree: StartTree) -> None:
    mid = ChildSpec("mid", lambda: Supervisor([spec()], max_restarts=1), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    with expect(tree, ChildStarted, path="root/mid/a", epoch=2):
        crash(tree.address("root/mid/a"))
    assert node_at(tree, "root/mid").restarts_in_window == 1
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        crash(tree.address("root/mid"))
    assert node_at(tree, "root/mid").restarts_in_window == 0


def test_last_exit_is_how_the_incarnation_before_ended(start_tree: StartTree) -> None:
    tree = start_tree(spec())
    error = ValueError("spoilt")
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"), error)
    assert node_at(tree, "root/a").last_exit == Error(error)
    tree.address("root").call(TerminateChild("a"))
    assert node_at(tree, "root/a").last_exit == Shutdown()


# Zombies.


def test_zombies_are_shown_by_epoch_until_their_threads_end(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    tree = start_tree(spec(), spec("b"), clock=clock)
    for epoch in (1, 2):
        hold(tree, "root/a", door)
        with expect(tree, ChildStarted, path="root/a", epoch=epoch + 1):
            clock.advance(STALLED_S)
    assert (node_at(tree, "root/a").zombies, node_at(tree, "root/b").zombies) == ((1, 2), ())
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").handling) == ("running", None)
    with expect(tree, ZombieEnded, count=2, path="root/a"):
        door.go_on.set()
    assert node_at(tree, "root/a").zombies == ()


def test_child_that_was_killed_by_its_termination_is_down_with_a_zombie(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    tree = start_tree(spec(shutdown_s=1.0), clock=clock)
    hold(tree, "root/a", door)
    terminated = tree.address("root").ask(TerminateChild("a"), timeout_s=1000.0)
    with expect(tree, ChildAbandoned, path="root/a"):
        clock.wait_for_timers()
        clock.advance(1.0)
    assert terminated.result() is None
    assert (node_at(tree, "root/a").state, node_at(tree, "root/a").zombies) == ("down", (1,))


# Answers while children are stuck.


class Stuck:
    """A tree with a child that is late, one that starts, one that waits for its restart, and one that is well."""

    def __init__(self, tree: ActorTree, late: ChildSpec) -> None:
        self.tree, self.late = tree, late
        self.dynamic = tree.address("root/dyn")


@pytest.fixture
def stuck(start_tree: StartTree, clock: VirtualClock) -> Iterator[Stuck]:
    late, starting = Door(), Door()

    def start_slowly() -> SupervisedActor:
        starting.wait()
        return Doer()

    late_spec = spec("late", restart=Restart.TRANSIENT)
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR), clock=clock)
    dynamic = tree.address("root/dyn")
    for child in (late_spec, spec("well"), spec("waiting", backoff=Backoff(base_s=1e6, cap_s=1e6))):
        dynamic.call(StartChild(child))
    dynamic.ask(StartChild(ChildSpec("starting", start_slowly, start_timeout_s=1e6)))
    assert starting.entered.wait(5.0)
    hold(tree, "root/dyn/late", late)
    with expect(tree, ChildRestarting, path="root/dyn/waiting"):
        crash(tree.address("root/dyn/waiting"))
    with expect(tree, StallWarning, path="root/dyn/late"):
        clock.advance(LATE_S)
    yield Stuck(tree, late_spec)
    late.go_on.set()
    starting.go_on.set()


def test_children_are_listed_while_one_is_stuck_and_one_starts(stuck: Stuck) -> None:
    """SUP-13."""
    children = stuck.dynamic.call(WhichChildren())
    assert [(child.id, child.state, child.epoch) for child in children] == [
        ("late", "running", 1),
        ("well", "running", 1),
        ("waiting", "backing_off", 1),
        ("starting", "starting", 1),
    ]


def test_children_are_counted_while_one_is_stuck_and_one_starts(stuck: Stuck) -> None:
    """SUP-13."""
    counts = stuck.dynamic.call(CountChildren())
    assert counts == ChildCounts(specs=4, active=2, supervisors=0, workers=4)


def test_spec_of_a_child_is_told_while_it_is_stuck(stuck: Stuck) -> None:
    """SUP-13."""
    assert stuck.dynamic.call(GetChildSpec("late")) == stuck.late
    assert stuck.dynamic.call(GetChildSpec("starting")).start_timeout_s == 1e6


def test_spec_of_an_unknown_child_is_refused(stuck: Stuck) -> None:
    with pytest.raises(CommandRefusedError) as caught:
        stuck.dynamic.call(GetChildSpec("nobody"))
    assert caught.value.answer == "not_found"


def test_picture_is_taken_while_one_is_stuck_and_one_starts(stuck: Stuck) -> None:
    """SUP-13."""
    late, well, waiting, starting = node_at(stuck.tree, "root/dyn").children
    assert (late.state, late.handling, late.handling_s) == ("running", "function", LATE_S)
    assert (well.state, well.handling) == ("running", None)
    assert (waiting.state, waiting.due_in_s is None) == ("backing_off", False)
    assert (starting.state, starting.epoch, starting.handling) == ("starting", 1, None)


def test_picture_is_taken_while_every_supervisor_is_stuck(start_tree: StartTree, door: Door) -> None:
    """SUP-13."""
    mid = ChildSpec("mid", lambda: Busy([spec()]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid)
    hold(tree, "root/mid", door)
    assert node_at(tree, "root/mid").handling == "function"
    assert node_at(tree, "root/mid/a").state == "running"


def test_siblings_of_a_stuck_child_are_started_and_ended_meanwhile(stuck: Stuck) -> None:
    """SUP-13."""
    address = stuck.dynamic.call(StartChild(spec("new")))
    assert address.call(lambda actor: actor.context.epoch) == 1
    stuck.dynamic.call(TerminateChild("well"))
    assert [node.id for node in node_at(stuck.tree, "root/dyn").children] == [
        "late",
        "waiting",
        "starting",
        "new",
    ]
