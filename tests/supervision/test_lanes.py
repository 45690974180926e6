"""MBX-05 and SHU-08: who goes first. `test_shutdown.py` has a stop that overtakes 500 asks."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from tinker_actors.supervision import (
    ActorTree,
    ChildExited,
    ChildSpec,
    ChildStarted,
    Context,
    CountChildren,
    Depths,
    Down,
    Kind,
    Normal,
    Supervisor,
    TerminateChild,
)
from tinker_actors.supervision.testing import crash, expect

StartTree = Callable[..., ActorTree]

FLOOD = 10_000


class Log:
    """What the actor heard, and the test's hold on it while it handles "block"."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.heard: list[Any] = []
        self.context: Context
        self.ref: pykka.ActorRef[Any]


class Listener(Supervisor):
    """Blocks on "block"; logs the rest. A supervisor, so that it takes commands too."""

    def __init__(self, log: Log) -> None:
        super().__init__([])
        self.log = log
        log.ref = self.actor_ref

    def on_start(self) -> None:
        self.log.context = self.context

    def on_receive(self, message: Any) -> Any:
        if message == "block":
            self.log.entered.set()
            self.log.go_on.wait(20.0)
        else:
            self.log.heard.append("down" if isinstance(message, Down) else message)
        return message


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.go_on.set()


@pytest.fixture
def tree(start_tree: StartTree, log: Log) -> ActorTree:
    """With a listener that blocks."""
    spec = ChildSpec("a", lambda: Listener(log), kind=Kind.SUPERVISOR, max_mailbox=2 * FLOOD)
    tree = start_tree(spec)
    tree.address("root/a").tell("block")
    assert log.entered.wait(5.0)
    return tree


def test_commands_go_before_news_and_news_before_messages(tree: ActorTree, log: Log) -> None:
    a = tree.address("root/a")
    a.tell("message")
    log.context.monitor("root/nobody")
    command = a.ask(CountChildren())
    command.add_done_callback(lambda _reply: log.heard.append("command"))
    log.go_on.set()
    a.call("last")
    assert log.heard == ["command", "down", "message", "last"]


def test_command_is_answered_before_a_flood_of_messages(tree: ActorTree, log: Log) -> None:
    a = tree.address("root/a")
    for number in range(FLOOD):
        a.tell(number)
    command = a.ask(CountChildren())
    command.add_done_callback(lambda _reply: log.heard.append("command"))
    log.go_on.set()
    a.call("last")
    assert log.heard == ["command", *range(FLOOD), "last"]


def test_crash_goes_before_a_flood_of_messages(tree: ActorTree, log: Log) -> None:
    a = tree.address("root/a")
    for number in range(FLOOD):
        a.tell(number)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(a)
        log.go_on.set()
    assert log.heard == []
    assert tree.dead_letter_count == FLOOD


def test_each_seventeenth_of_a_flood_of_news_lets_a_message_through(tree: ActorTree, log: Log) -> None:
    a = tree.address("root/a")
    for _ in range(1_000):
        log.context.monitor("root/nobody")
    for number in range(10):
        a.tell(number)
    log.go_on.set()
    a.call("last")
    places = [place for place, message in enumerate(log.heard) if message != "down"]
    assert places == [16 + 17 * number for number in range(11)]
    assert [log.heard[place] for place in places] == [*range(10), "last"]


def test_depths_of_the_lanes_are_seen_without_asking(tree: ActorTree, log: Log) -> None:
    a = tree.address("root/a")
    for number in range(3):
        a.tell(number)
    for _ in range(2):
        log.context.monitor("root/nobody")
    a.ask(CountChildren())
    node = tree.snapshot().find("root/a")
    assert node is not None
    assert node.waiting == Depths(control=1, system=2, user=3)
    assert node.handling == "str"


def test_urgent_stop_overtakes_a_flood_of_messages(tree: ActorTree, log: Log) -> None:
    """SHU-08: the supervisor's stop is on the control lane."""
    for number in range(FLOOD):
        tree.address("root/a").tell(number)
    terminated = tree.address("root").ask(TerminateChild("a"))
    tree.address("root").call(CountChildren())  # answered after the command before it was obeyed
    log.go_on.set()
    assert terminated.result() is None
    assert log.heard == []
    assert tree.dead_letter_count == FLOOD


def test_pykkas_plain_stop_waits_for_a_flood_of_messages(tree: ActorTree, log: Log) -> None:
    """SHU-08: Pykka's stop is a message like any other."""
    for number in range(FLOOD):
        tree.address("root/a").tell(number)
    with expect(tree, ChildExited, path="root/a", epoch=1) as got, expect(tree, ChildStarted, epoch=2):
        log.ref.stop(block=False)
        tree.address("root/a").tell("behind it")
        log.go_on.set()
    assert got.event.reason == Normal()
    assert log.heard == [*range(FLOOD)]
    assert tree.dead_letter_count == 1
