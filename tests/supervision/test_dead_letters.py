"""MBX-02, MBX-03, MBX-07, HAN-01: messages that find nobody, and those that wait until somebody is there.

What `test_messages.py` proves is left out here: parking in the backoff, `fail` and `carry` in short, deadlines.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pykka
import pytest

from tinker_actors.errors import (
    ConfigError,
    MailboxFullError,
    NotDeliveredError,
    OutcomeUnknownError,
    TinkerActorsError,
)
from tinker_actors.supervision import (
    ActorTree,
    Address,
    Backoff,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    DeadLetter,
    OnPending,
    Reply,
    RestartChild,
    StartChild,
    SupervisedActor,
    TerminateChild,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

LONG_S = 1e6
PAUSE = Backoff(base_s=50.0, cap_s=50.0, jitter=0.0)


class Station:
    """What the actor heard, and the test's hold on its start and on its handler."""

    def __init__(self) -> None:
        self.starts, self.may_start = threading.Event(), threading.Event()
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.may_start.set()
        self.heard: list[tuple[int, Any]] = []
        self.me: list[Address] = []
        self.refs: list[pykka.ActorRef[Any]] = []
        self.later: list[Reply] = []

    def spec(self, **fields: Any) -> ChildSpec:
        return ChildSpec("a", lambda: Hearer(self), **fields)

    def hold(self, address: Address, message: str = "block") -> Reply:
        """The answer to `message`, which its handler holds back by now."""
        reply = address.ask(message, timeout_s=LONG_S)
        assert self.entered.wait(5.0)
        return reply


class Hearer(SupervisedActor):
    """Logs what it hears, but for some words that it obeys."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self.station = station

    def on_start(self) -> None:
        self.station.me.append(self.context.me)
        self.station.refs.append(self.actor_ref)
        self.station.starts.set()
        self.station.may_start.wait(20.0)

    def on_receive(self, message: Any) -> Any:
        match message:
            case "block" | "crash" | "exit":
                self.station.entered.set()
                self.station.go_on.wait(20.0)
            case "later":
                self.station.later.append(Reply())
                return self.station.later[0]
            case "answer":
                self.station.later[0].set("late")
            case _:
                self.station.heard.append((self.context.epoch, message))
        if message == "crash":
            raise ValueError(message)
        if message == "exit":
            sys.exit(1)
        return message


@pytest.fixture
def station() -> Iterator[Station]:
    station = Station()
    yield station
    station.may_start.set()
    station.go_on.set()


# The ring.


def test_latest_hundred_are_kept_and_all_are_counted(start_tree: StartTree, station: Station) -> None:
    tree = start_tree(station.spec())
    with expect(tree, ChildStarted):
        crash(tree.address("root/a"))
    with expect(tree, DeadLetter, count=150, path="root/a", epoch=1):
        for message in [*range(50), *("x" * 100)]:
            station.me[0].tell(message)
    assert [letter.message for letter in tree.dead_letters] == ["str"] * 100
    assert tree.dead_letter_count == 150


@dataclass(frozen=True)
class Secret:
    key: str


def test_dead_letter_has_type_and_age_but_never_the_contents(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(), clock=clock)
    station.hold(tree.address("root/a"), "crash")
    tree.address("root/a").tell(Secret("hush"), key="hush")
    clock.advance(3.0)
    with expect(tree, DeadLetter) as got, expect(tree, ChildStarted):
        station.go_on.set()
    assert (got.event.message, got.event.age_s, got.event.epoch) == ("Secret", 3.0, 1)
    assert "hush" not in repr(got.event)
    assert tree.dead_letters == (got.event,)


def test_age_of_a_message_that_came_by_a_pykka_ref_is_not_known(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree(station.spec())
    station.hold(tree.address("root/a"), "crash")
    station.refs[0].tell("hello")
    with expect(tree, DeadLetter) as got, expect(tree, ChildStarted):
        station.go_on.set()
    assert math.isnan(got.event.age_s)


def test_asks_left_behind_by_a_crash_fail_and_are_no_dead_letters(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree(station.spec())
    station.hold(tree.address("root/a"), "crash")
    asks = [tree.address("root/a").ask(number) for number in range(10)]
    with expect(tree, ChildStarted):
        station.go_on.set()
    assert {type(ask.exception()) for ask in asks} == {NotDeliveredError}
    assert tree.dead_letter_count == 0


# Answers that come too late (MBX-03); that of a plain handler: `test_messages.py`.


def test_late_error_is_counted_and_the_asker_keeps_the_outcome_it_saw(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(), clock=clock)
    a = tree.address("root/a")
    reply = a.ask("crash", timeout_s=1.0)
    assert station.entered.wait(5.0)
    clock.advance(1.0)
    assert isinstance(reply.exception(), OutcomeUnknownError)
    with expect(tree, DeadLetter, why="the answer came too late"), expect(tree, ChildStarted):
        station.go_on.set()
    assert isinstance(reply.exception(), OutcomeUnknownError)
    assert tree.dead_letter_count == 1


def test_late_answer_that_the_handler_had_put_off_is_counted_and_the_actor_lives_on(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(), clock=clock)
    a = tree.address("root/a")
    reply = a.ask("later", timeout_s=1.0)
    a.call("heard")
    clock.advance(1.0)
    assert isinstance(reply.exception(), OutcomeUnknownError)
    with expect(tree, DeadLetter, path="root/a", message="str", why="the answer came too late"):
        a.call("answer")
    assert tree.dead_letter_count == 1
    assert a.call("after") == "after"
    assert station.heard == [(1, "heard"), (1, "after")]


# Carrying (MBX-02).


@pytest.mark.parametrize("on_pending", list(OnPending))
def test_outcome_of_the_ask_under_way_is_unknown_and_it_is_not_tried_again(
    start_tree: StartTree, station: Station, on_pending: OnPending
) -> None:
    tree = start_tree(station.spec(on_pending=on_pending))
    under_way = station.hold(tree.address("root/a"), "exit")
    with expect(tree, ChildStarted):
        station.go_on.set()
    assert isinstance(under_way.exception(), OutcomeUnknownError)
    tree.address("root/a").call("after")
    assert station.heard == [(2, "after")]


def test_carried_messages_go_ahead_of_those_sent_during_the_backoff(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(
        station.spec(on_pending=OnPending.CARRY, backoff=PAUSE, carry_timeout_s=math.inf), clock=clock
    )
    a = tree.address("root/a")
    station.hold(a, "crash")
    a.tell(1)
    asked = a.ask(2, timeout_s=LONG_S)
    with expect(tree, ChildRestarting):
        station.go_on.set()
    a.tell(3)
    with expect(tree, ChildStarted):
        clock.advance(50.0)
    assert a.call(4) == 4
    assert asked.result() == 2
    assert station.heard == [(2, number) for number in (1, 2, 3, 4)]


def test_carried_messages_whose_time_is_over_are_dropped_and_newer_ones_wait_on(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(
        station.spec(on_pending=OnPending.CARRY, backoff=PAUSE, carry_timeout_s=3.0), clock=clock
    )
    a = tree.address("root/a")
    station.hold(a, "crash")
    asked = a.ask("carried", timeout_s=LONG_S)
    a.tell("carried")
    with expect(tree, ChildRestarting):
        station.go_on.set()
    a.tell("newer")
    clock.advance(2.9)
    assert not asked.done()
    with expect(tree, DeadLetter, path="root/a", message="str", age_s=3.0):
        clock.advance(0.1)
    assert type(asked.exception()) is NotDeliveredError
    with expect(tree, ChildStarted):
        clock.advance(47.0)
    a.call("after")
    assert station.heard == [(2, "newer"), (2, "after")]


def test_time_of_carried_messages_begins_anew_with_each_crash(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    pause = Backoff(base_s=2.0, cap_s=2.0, jitter=0.0)
    tree = start_tree(
        station.spec(on_pending=OnPending.CARRY, backoff=pause, carry_timeout_s=3.0), clock=clock
    )
    a = tree.address("root/a")
    for _ in range(3):
        station.entered.clear()
        station.go_on.clear()
        station.hold(a, "crash")
        a.tell("patience")
        with expect(tree, ChildRestarting):
            station.go_on.set()
        with expect(tree, ChildStarted):
            clock.advance(2.0)
    a.call("after")
    assert tree.dead_letter_count == 0
    assert station.heard == [(2, "patience"), (3, "patience"), (4, "patience"), (4, "after")]


def test_message_that_waits_for_a_child_started_again_outlives_the_time_of_those_dropped_before(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(
        station.spec(on_pending=OnPending.CARRY, backoff=PAUSE, carry_timeout_s=3.0), clock=clock
    )
    root, a = tree.address("root"), tree.address("root/a")
    station.hold(a, "crash")
    for _ in range(20):
        a.tell("carried")
    with expect(tree, ChildRestarting):
        station.go_on.set()
    with expect(tree, DeadLetter, count=20, message="str"):
        root.call(TerminateChild("a"))
    station.may_start.clear()
    station.starts.clear()
    root.ask(RestartChild("a"))
    assert station.starts.wait(5.0)
    for number in range(50):  # some of them lie where the dropped ones lay
        a.tell(number)
    clock.advance(3.0)
    station.may_start.set()
    a.call("after", timeout_s=LONG_S)
    assert [message for _, message in station.heard] == [*range(50), "after"]


def test_message_that_would_not_wait_is_not_carried(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(on_pending=OnPending.CARRY, backoff=PAUSE), clock=clock)
    a = tree.address("root/a")
    station.hold(a, "crash")
    asked = a.ask("in a hurry", mode="fast", timeout_s=LONG_S)
    with expect(tree, DeadLetter, path="root/a", epoch=1, message="str"):
        a.tell("in a hurry", mode="fast")
        station.go_on.set()
    assert type(asked.exception()) is NotDeliveredError


def test_each_senders_messages_arrive_once_and_in_order_over_many_crashes(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree(station.spec(on_pending=OnPending.CARRY, max_mailbox=10**6), max_restarts=10**6)
    a = tree.address("root/a")

    def send(sender: int) -> None:
        for number in range(500):
            a.tell((sender, number))
            if number % 50 == sender:
                crash_unless_down(a)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert a.call("last") == "last"
    heard = [message for _, message in station.heard[:-1]]
    by_sender = [[number for who, number in heard if who == sender] for sender in range(4)]
    assert by_sender == [list(range(500))] * 4
    assert station.heard[-1][0] > 1


def crash_unless_down(address: Address) -> None:
    try:
        crash(address)
    except TinkerActorsError:
        return


# Waiting for the start (MBX-07).


def test_messages_sent_during_the_start_are_bounded_and_kept_in_order(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree()
    station.may_start.clear()
    started = tree.address("root").ask(StartChild(station.spec(max_mailbox=3)))
    assert station.starts.wait(5.0)
    a = tree.address("root/a")
    for number in range(3):
        a.tell(number)
    with pytest.raises(MailboxFullError):
        a.tell("one too many")
    assert isinstance(a.ask("one too many").exception(), MailboxFullError)
    station.may_start.set()
    assert started.result() == a
    station.me[0].call("last")
    assert station.heard == [(1, 0), (1, 1), (1, 2), (1, "last")]


def test_messages_sent_during_a_start_that_fails_for_good_are_published_when_dropped(
    start_tree: StartTree,
) -> None:
    starts, may_fail = threading.Event(), threading.Event()

    class Stillborn(SupervisedActor):
        def on_start(self) -> None:
            starts.set()
            may_fail.wait(20.0)
            raise ValueError("stillborn")

    tree = start_tree()
    started = tree.address("root").ask(StartChild(ChildSpec("a", Stillborn)))
    assert starts.wait(5.0)
    asked = tree.address("root/a").ask("hello")
    with expect(tree, DeadLetter, count=2, path="root/a", epoch=0):
        tree.address("root/a").tell("hello")
        tree.address("root/a").tell("hello again")
        may_fail.set()
    assert isinstance(started.exception(), TinkerActorsError)
    assert isinstance(asked.exception(), TinkerActorsError)
    assert tree.dead_letter_count == 2


def test_messages_that_wait_for_a_restart_are_published_when_the_child_is_terminated(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(backoff=PAUSE), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    asked = tree.address("root/a").ask("hello", timeout_s=LONG_S)
    with expect(tree, DeadLetter, path="root/a", epoch=0, message="str"):
        tree.address("root/a").tell("hello")
        tree.address("root").call(TerminateChild("a"))
    assert type(asked.exception()) is NotDeliveredError


# Waiting or not (HAN-01).


def check_refused_at_once(address: Address) -> None:
    with pytest.raises(NotDeliveredError):
        address.tell("in a hurry", mode="fast")
    assert type(address.ask("in a hurry", mode="fast", timeout_s=LONG_S).exception()) is NotDeliveredError


def test_message_that_would_not_wait_is_refused_while_the_actor_starts(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree()
    station.may_start.clear()
    started = tree.address("root").ask(StartChild(station.spec()))
    assert station.starts.wait(5.0)
    check_refused_at_once(tree.address("root/a"))
    station.may_start.set()
    started.result()
    assert tree.address("root/a").ask("in a hurry", mode="fast").result() == "in a hurry"


def test_message_that_would_not_wait_is_refused_during_the_backoff(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(backoff=PAUSE), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    check_refused_at_once(tree.address("root/a"))
    with expect(tree, ChildStarted):
        clock.advance(50.0)
    assert tree.address("root/a").ask("in a hurry", mode="fast").result() == "in a hurry"


@pytest.mark.parametrize("mode", ["wait", "fast"])
def test_message_to_an_actor_that_stays_down_is_refused_either_way(
    start_tree: StartTree, station: Station, mode: Any
) -> None:
    tree = start_tree(station.spec())
    tree.address("root").call(TerminateChild("a"))
    with pytest.raises(NotDeliveredError):
        tree.address("root/a").tell("hello", mode=mode)
    assert type(tree.address("root/a").ask("hello", mode=mode).exception()) is NotDeliveredError


def test_full_mailbox_refuses_messages_that_would_not_wait_too(
    start_tree: StartTree, station: Station
) -> None:
    tree = start_tree(station.spec(max_mailbox=1))
    a = tree.address("root/a")
    station.hold(a)
    a.tell("first", mode="fast")
    with pytest.raises(MailboxFullError):
        a.tell("second", mode="fast")


def test_messages_sent_before_during_and_after_a_restart_are_handled_in_order(
    start_tree: StartTree, clock: VirtualClock, station: Station
) -> None:
    tree = start_tree(station.spec(backoff=PAUSE), clock=clock)
    a = tree.address("root/a")
    for number in range(10):
        a.tell(number)
    a.call("before")
    with expect(tree, ChildRestarting):
        crash(a)
    during = [a.ask(number, timeout_s=LONG_S) for number in range(10)]
    with expect(tree, ChildStarted):
        clock.advance(50.0)
    for number in range(10):
        a.tell(number)
    a.call("after")
    assert [ask.result() for ask in during] == list(range(10))
    assert station.heard == [
        *((1, message) for message in [*range(10), "before"]),
        *((2, message) for message in [*range(10), *range(10), "after"]),
    ]


def test_mode_must_be_one_of_the_two(start_tree: StartTree, station: Station) -> None:
    a = start_tree(station.spec()).address("root/a")
    hasty: Any = "Fast"
    with pytest.raises(ConfigError, match="mode"):
        a.tell("hello", mode=hasty)
    with pytest.raises(ConfigError, match="mode"):
        a.ask("hello", mode=hasty)
