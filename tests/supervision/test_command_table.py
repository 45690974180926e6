"""Every command in every state of a child."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import CommandRefusedError, NotDeliveredError
from tinker_actors.supervision import (
    ActorTree,
    Address,
    Backoff,
    ChildCounts,
    ChildDeleted,
    ChildExited,
    ChildInfo,
    ChildRestarting,
    ChildSpec,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    GetChildSpec,
    Kind,
    Reply,
    Restart,
    RestartChild,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Door:
    """Holds up whoever comes by, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def hold(self) -> None:
        self.reached.set()
        self.open.wait(20.0)


@pytest.fixture
def door() -> Iterator[Door]:
    one = Door()
    yield one
    one.open.set()


class SlowToStart(Echo):
    def __init__(self, door: Door, *, held_from: int) -> None:
        super().__init__()
        self.door, self.held_from = door, held_from

    def on_start(self) -> None:
        if self.context.epoch >= self.held_from:
            self.door.hold()


class SlowToStop(Echo):
    def __init__(self, door: Door) -> None:
        super().__init__()
        self.door = door

    def on_stop(self) -> None:
        self.door.hold()


# How a child gets into each state. What is started slowly is held at the door.


def unknown(_tree: ActorTree, _door: Door, _restart: Restart) -> None:
    pass


def pending(tree: ActorTree, door: Door, restart: Restart) -> None:
    """A sibling that was restarted with it starts first."""
    before = ChildSpec("before", lambda: SlowToStart(door, held_from=2))
    for spec in (before, ChildSpec("a", Echo, restart)):
        tree.address("root/sup").call(StartChild(spec))
    crash(tree.address("root/sup/before"))
    door.reached.wait(5.0)


def starting(tree: ActorTree, door: Door, restart: Restart) -> None:
    slow = ChildSpec("a", lambda: SlowToStart(door, held_from=1), restart)
    tree.address("root/sup").ask(StartChild(slow))
    door.reached.wait(5.0)


def running(tree: ActorTree, _door: Door, restart: Restart) -> None:
    spec = ChildSpec("a", Echo, restart, backoff=Backoff(base_s=5.0))
    tree.address("root/sup").call(StartChild(spec))


def stopping(tree: ActorTree, door: Door, restart: Restart) -> None:
    tree.address("root/sup").call(StartChild(ChildSpec("a", lambda: SlowToStop(door), restart)))
    tree.address("root/sup").ask(TerminateChild("a"))
    door.reached.wait(5.0)


def backing_off(tree: ActorTree, door: Door, restart: Restart) -> None:
    running(tree, door, restart)
    with expect(tree, ChildRestarting, path="root/sup/a"):
        crash(tree.address("root/sup/a"))


def down(tree: ActorTree, door: Door, restart: Restart) -> None:
    running(tree, door, restart)
    tree.address("root/sup").call(TerminateChild("a"))


INTO = {one.__name__: one for one in (unknown, pending, starting, running, stopping, backing_off, down)}

SUPERVISORS: dict[str, Callable[[], Supervisor]] = {
    "one_for_one": lambda: Supervisor([], max_restarts=100),
    "one_for_all": lambda: Supervisor([], strategy=Strategy.ONE_FOR_ALL, max_restarts=100),
    "dynamic": DynamicSupervisor,
}

START = StartChild(ChildSpec("a", Echo))
RESTART = RestartChild("a")
TERMINATE = TerminateChild("a")
DELETE = DeleteChild("a")

TABLE: list[tuple[str, Command, str | None, str | None, str | None]] = [
    # state, command, answer of one_for_one, of one_for_all, of dynamic; None where that state cannot be.
    # A word alone is a refusal.
    ("unknown", START, "now running", "now running", "now running"),
    ("pending", START, None, "already_present", None),
    ("starting", START, "already_present", "already_present", "already_present"),
    ("running", START, "already_started", "already_started", "already_started"),
    ("stopping", START, "already_present", "already_present", "already_present"),
    ("backing_off", START, "already_present", "already_present", "already_present"),
    ("down", START, "already_present", "already_present", "now running"),
    ("unknown", RESTART, "not_found", "not_found", "not_found"),
    ("pending", RESTART, None, "restarting", None),
    ("starting", RESTART, "starting", "starting", "starting"),
    ("running", RESTART, "running", "running", "running"),
    ("stopping", RESTART, "stopping", "stopping", "stopping"),
    ("backing_off", RESTART, "now running", "now running", "now running"),
    ("down", RESTART, "now running", "now running", "not_found"),
    ("unknown", TERMINATE, "not_found", "not_found", "not_found"),
    ("pending", TERMINATE, None, "now down", None),
    ("starting", TERMINATE, "now down", "now down", "now unknown"),
    ("running", TERMINATE, "now down", "now down", "now unknown"),
    ("stopping", TERMINATE, "now down", "now down", "now unknown"),
    ("backing_off", TERMINATE, "now down", "now down", "now unknown"),
    ("down", TERMINATE, "now down", "now down", "not_found"),
    ("unknown", DELETE, "not_found", "not_found", "not_found"),
    ("pending", DELETE, None, "restarting", None),
    ("starting", DELETE, "starting", "starting", "starting"),
    ("running", DELETE, "running", "running", "running"),
    ("stopping", DELETE, "stopping", "stopping", "stopping"),
    ("backing_off", DELETE, "restarting", "restarting", "restarting"),
    ("down", DELETE, "now unknown", "now unknown", "not_found"),
]


def cells() -> list[tuple[str, str, Command, str]]:
    """Supervisor, state, command, answer."""
    return [
        (supervisor, state, command, answer)
        for state, command, *answers in TABLE
        for supervisor, answer in zip(SUPERVISORS, answers, strict=True)
        if answer is not None
    ]


def title(value: object) -> str:
    return type(value).__name__ if isinstance(value, Command) else str(value)


def grow(
    start_tree: StartTree,
    clock: VirtualClock,
    door: Door,
    supervisor: str,
    state: str,
    restart: Restart = Restart.PERMANENT,
) -> ActorTree:
    """A tree in which `root/sup/a` is in that state."""
    tree = start_tree(ChildSpec("sup", SUPERVISORS[supervisor], kind=Kind.SUPERVISOR), clock=clock)
    INTO[state](tree, door, restart)
    return tree


def state_of(tree: ActorTree) -> str:
    node = tree.snapshot().find("root/sup/a")
    return "unknown" if node is None else node.state


def outcome(tree: ActorTree, reply: Reply) -> str:
    """The refusal, or else the state that the command led to."""
    error = reply.exception()
    return error.answer if isinstance(error, CommandRefusedError) else f"now {state_of(tree)}"


@pytest.mark.parametrize(("supervisor", "state", "command", "answer"), cells(), ids=title)
def test_answer_follows_from_command_and_state(
    start_tree: StartTree,
    clock: VirtualClock,
    door: Door,
    supervisor: str,
    state: str,
    command: Command,
    answer: str,
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, supervisor, state)
    reply = tree.address("root/sup").ask(command)
    tree.address("root/sup").call(CountChildren())  # taken after the command
    door.open.set()
    assert outcome(tree, reply) == answer


@pytest.mark.parametrize(
    ("supervisor", "state", "command"),
    [
        (supervisor, state, command)
        for supervisor, state, command, answer in cells()
        if not answer.startswith("now") or answer == f"now {state}"
    ],
    ids=title,
)
def test_command_that_changes_nothing_is_answered_before_the_child_does_anything(
    start_tree: StartTree, clock: VirtualClock, door: Door, supervisor: str, state: str, command: Command
) -> None:
    """SUP-06, SUP-07."""
    tree = grow(start_tree, clock, door, supervisor, state)
    before = state_of(tree)
    reply = tree.address("root/sup").ask(command)
    tree.address("root/sup").call(CountChildren())
    assert reply.done()
    assert state_of(tree) == before


@pytest.mark.parametrize(
    ("state", "command", "answer"),
    [
        ("starting", TERMINATE, "now unknown"),
        ("running", TERMINATE, "now unknown"),
        ("stopping", TERMINATE, "now unknown"),
        ("starting", DELETE, "starting"),
        ("running", DELETE, "running"),
        ("stopping", DELETE, "stopping"),
        ("starting", RESTART, "starting"),
        ("running", RESTART, "running"),
        ("stopping", RESTART, "stopping"),
        ("starting", START, "already_present"),
        ("running", START, "already_started"),
        ("stopping", START, "already_present"),
    ],
    ids=title,
)
@pytest.mark.parametrize("supervisor", SUPERVISORS)
def test_temporary_child_goes_with_its_spec(
    start_tree: StartTree,
    clock: VirtualClock,
    door: Door,
    supervisor: str,
    state: str,
    command: Command,
    answer: str,
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, supervisor, state, Restart.TEMPORARY)
    reply = tree.address("root/sup").ask(command)
    tree.address("root/sup").call(CountChildren())
    door.open.set()
    assert outcome(tree, reply) == answer


@pytest.mark.parametrize(
    ("supervisor", "state", "listed", "specs", "active"),
    [
        ("one_for_one", "unknown", [], 0, 0),
        ("one_for_one", "starting", ["starting"], 1, 0),
        ("one_for_one", "running", ["running"], 1, 1),
        ("one_for_one", "stopping", ["stopping"], 1, 1),
        ("one_for_one", "backing_off", ["backing_off"], 1, 0),
        ("one_for_one", "down", ["down"], 1, 0),
        ("one_for_all", "unknown", [], 0, 0),
        ("one_for_all", "pending", ["pending"], 2, 0),
        ("one_for_all", "starting", ["starting"], 1, 0),
        ("one_for_all", "running", ["running"], 1, 1),
        ("one_for_all", "stopping", ["stopping"], 1, 1),
        ("one_for_all", "backing_off", ["backing_off"], 1, 0),
        ("one_for_all", "down", ["down"], 1, 0),
        ("dynamic", "unknown", [], 0, 0),
        ("dynamic", "starting", ["starting"], 1, 0),
        ("dynamic", "running", ["running"], 1, 1),
        ("dynamic", "stopping", ["stopping"], 1, 1),
        ("dynamic", "backing_off", ["backing_off"], 1, 0),
        ("dynamic", "down", [], 0, 0),
    ],
)
def test_children_are_listed_and_counted_in_every_state(
    start_tree: StartTree,
    clock: VirtualClock,
    door: Door,
    supervisor: str,
    state: str,
    listed: list[str],
    specs: int,
    active: int,
) -> None:
    """SUP-06, SUP-13."""
    sup = grow(start_tree, clock, door, supervisor, state).address("root/sup")
    children: list[ChildInfo] = sup.call(WhichChildren())
    assert [child.state for child in children if child.id == "a"] == listed
    assert sup.call(CountChildren()) == ChildCounts(specs, active, supervisors=0, workers=specs)


@pytest.mark.parametrize(
    ("supervisor", "state"),
    [cell[:2] for cell in cells() if cell[2] is TERMINATE and cell[3] != "not_found"],
)
def test_spec_is_shown_in_every_state(
    start_tree: StartTree, clock: VirtualClock, door: Door, supervisor: str, state: str
) -> None:
    """SUP-06."""
    spec = grow(start_tree, clock, door, supervisor, state).address("root/sup").call(GetChildSpec("a"))
    assert isinstance(spec, ChildSpec)
    assert (spec.id, spec.restart) == ("a", Restart.PERMANENT)


@pytest.mark.parametrize(
    ("supervisor", "state"),
    [("one_for_one", "unknown"), ("one_for_all", "unknown"), ("dynamic", "unknown"), ("dynamic", "down")],
)
def test_spec_of_a_child_that_is_not_there_is_not_found(
    start_tree: StartTree, clock: VirtualClock, door: Door, supervisor: str, state: str
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, supervisor, state)
    assert outcome(tree, tree.address("root/sup").ask(GetChildSpec("a"))) == "not_found"


# More than one at a time.


@pytest.mark.parametrize("supervisor", SUPERVISORS)
@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_all_who_end_a_child_are_answered_once_it_has_ended(
    start_tree: StartTree, clock: VirtualClock, door: Door, supervisor: str, state: str
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, supervisor, state)
    sup = tree.address("root/sup")
    replies = [sup.ask(TERMINATE) for _ in range(3)]
    with expect(tree, ChildExited, path="root/sup/a", expected=True):
        door.open.set()
    assert [reply.exception() for reply in replies] == [None] * 3


def test_who_ends_a_child_that_starts_waits_until_it_is_up_and_has_ended(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, "one_for_one", "starting")
    sup = tree.address("root/sup")
    terminated = sup.ask(TERMINATE)
    sup.call(CountChildren())
    assert (state_of(tree), terminated.done()) == ("stopping", False)
    with expect(tree, ChildExited, path="root/sup/a", expected=True):
        door.open.set()
    terminated.result()
    assert state_of(tree) == "down"


@pytest.mark.parametrize("supervisor", SUPERVISORS)
def test_who_ends_a_child_that_starts_waits_no_longer_than_its_time_to_start(
    start_tree: StartTree, clock: VirtualClock, door: Door, supervisor: str
) -> None:
    """SUP-06, SUP-09."""
    tree = grow(start_tree, clock, door, supervisor, "starting")
    sup = tree.address("root/sup")
    clock.advance(20.0)
    terminated = sup.ask(TERMINATE)
    sup.call(CountChildren())
    clock.advance(9.9)
    assert not terminated.done()
    with expect(tree, ChildExited, path="root/sup/a", expected=True):
        clock.advance(0.1)
    terminated.result()


def test_deleted_child_can_be_added_again_at_once(
    start_tree: StartTree, clock: VirtualClock, door: Door
) -> None:
    """SUP-06."""
    tree = grow(start_tree, clock, door, "one_for_one", "down")
    sup = tree.address("root/sup")
    with expect(tree, ChildDeleted, path="root/sup/a"):
        sup.call(DELETE)
    assert sup.call(START).call("hello") == "hello"


# While the supervisor itself ends.


@pytest.fixture(params=list(SUPERVISORS))
def ending(request: pytest.FixtureRequest, start_tree: StartTree, clock: VirtualClock, door: Door) -> Address:
    """A supervisor that was asked to end and waits for its child `a`."""
    tree = start_tree(ChildSpec("sup", SUPERVISORS[request.param], kind=Kind.SUPERVISOR), clock=clock)
    tree.address("root/sup").call(StartChild(ChildSpec("a", lambda: SlowToStop(door))))
    tree.address("root").ask(TerminateChild("sup"))
    door.reached.wait(5.0)
    return tree.address("root/sup")


@pytest.mark.parametrize("command", [StartChild(ChildSpec("b", Echo)), START, RESTART], ids=title)
def test_supervisor_that_ends_starts_nobody(ending: Address, command: Command) -> None:
    """SUP-06."""
    with pytest.raises(NotDeliveredError, match="root/sup is shutting down"):
        ending.call(command)


def test_supervisor_that_ends_still_shows_its_children(ending: Address) -> None:
    """SUP-06."""
    assert [child.state for child in ending.call(WhichChildren())] == ["stopping"]
    assert ending.call(CountChildren()).active == 1
    assert ending.call(GetChildSpec("a")).id == "a"


def test_child_of_a_supervisor_that_ends_is_not_deleted(ending: Address) -> None:
    """SUP-06."""
    error = ending.ask(DELETE).exception()
    assert isinstance(error, CommandRefusedError)
    assert error.answer == "stopping"


def test_who_ends_a_child_of_a_supervisor_that_ends_is_answered_at_its_end(
    ending: Address, door: Door
) -> None:
    """SUP-06."""
    terminated = ending.ask(TERMINATE)
    ending.call(CountChildren())
    assert not terminated.done()
    door.open.set()
    assert terminated.exception() is None


# Who is asked what he does not know.


def test_command_that_no_supervisor_knows_is_refused(start_tree: StartTree) -> None:
    """SUP-06."""

    class Promote(Command):
        pass

    error = start_tree().address("root").ask(Promote()).exception()
    assert isinstance(error, CommandRefusedError)
    assert error.answer == "unknown"


@pytest.mark.parametrize("command", [START, RESTART, TERMINATE, DELETE, CountChildren()], ids=title)
def test_worker_refuses_commands(start_tree: StartTree, command: Command) -> None:
    """SUP-06."""
    error = start_tree(ChildSpec("a", Echo)).address("root/a").ask(command).exception()
    assert isinstance(error, CommandRefusedError)
    assert error.answer == "not_a_supervisor"
