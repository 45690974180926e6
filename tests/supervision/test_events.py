import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tinker_actors.supervision import (
    ActorTree,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    Event,
    EventStream,
    SupervisedActor,
)
from tinker_actors.supervision.testing import crash, expect

StartTree = Callable[..., ActorTree]


@dataclass(frozen=True)
class Foreign:
    text: str


class Emitter(SupervisedActor):
    def on_receive(self, message: Any) -> None:
        self.context.emit(message)


def test_events_are_numbered_in_the_order_in_which_they_are_seen(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    with expect(tree, Event, count=3) as got:
        crash(tree.address("root/a"))
    assert [type(event) for event in got.events] == [ChildExited, ChildRestarting, ChildStarted]
    first = got.event.seq
    assert [event.seq for event in got.events] == [first, first + 1, first + 2]


def test_foreign_events_travel_on_the_same_stream(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    with expect(tree, Foreign) as got:
        tree.address("root/a").tell(Foreign("from the application"))
    assert got.event == Foreign("from the application")


def test_listener_that_blocks_does_not_delay_supervision(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    go_on = threading.Event()
    tree.events.subscribe(lambda _event: go_on.wait(20.0))
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    go_on.set()


def test_listener_that_raises_hears_the_next_event_too(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    heard, twice = [], threading.Event()

    def bad(event: object) -> None:
        heard.append(event)
        if len(heard) == 2:
            twice.set()
        raise ValueError("bad listener")

    tree.events.subscribe(bad)
    tree.address("root/a").tell(Foreign("one"))
    tree.address("root/a").tell(Foreign("two"))
    assert twice.wait(5.0)


def test_slow_listener_loses_the_oldest_events_and_they_are_counted() -> None:
    stream = EventStream(lambda: 0.0, max_queued=2)
    entered, go_on, heard = threading.Event(), threading.Event(), []

    def slow(event: object) -> None:
        heard.append(event)
        entered.set()
        go_on.wait(20.0)

    stream.subscribe(slow)
    stream.publish("first")
    entered.wait(5.0)
    for text in ("lost", "second", "third"):
        stream.publish(text)
    go_on.set()
    stream.close(5.0)
    assert heard == ["first", "second", "third"]
    assert stream.dropped == 1


def test_nothing_is_heard_after_unsubscribing() -> None:
    stream = EventStream(lambda: 0.0)
    heard: list[object] = []
    unsubscribe = stream.subscribe(heard.append)
    unsubscribe()
    stream.publish("unheard")
    stream.close(5.0)
    assert heard == []


def test_listeners_hear_what_was_published_before_the_close() -> None:
    stream = EventStream(lambda: 0.0)
    heard: list[object] = []
    stream.subscribe(heard.append)
    for number in range(100):
        stream.publish(number)
    stream.close(5.0)
    assert heard == list(range(100))


def test_expect_says_what_did_not_come(start_tree: StartTree) -> None:
    tree = start_tree()
    with pytest.raises(AssertionError, match="ChildStarted"), expect(tree, ChildStarted, timeout_s=0.01):
        pass
