import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tinker_actors.errors import StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    Detail,
    Event,
    EventStream,
    StartChild,
    SupervisedActor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect, wait_for

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


def test_events_say_when_they_happened_by_the_clock_of_the_tree(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    tree = start_tree(ChildSpec("a", Emitter), clock=clock)
    clock.advance(7.0)
    with expect(tree, Event, count=3) as got:
        crash(tree.address("root/a"))
    assert [event.at for event in got.events] == [7.0] * 3


def test_events_are_equal_whenever_they_happened(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    with expect(tree, ChildStarted) as got:
        crash(tree.address("root/a"))
    assert got.event == ChildStarted(path="root/a", epoch=2)


def test_start_that_fails_is_not_announced_as_a_start(start_tree: StartTree) -> None:
    class Refusing(Emitter):
        def on_start(self) -> None:
            raise ValueError("no")

    tree = start_tree()
    with expect(tree, Event, count=2) as got, pytest.raises(StartFailedError):
        tree.address("root").call(StartChild(ChildSpec("a", Refusing)))
    assert [type(event) for event in got.events] == [ChildStartFailed, ChildDeleted]


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


def test_a_listener_of_some_kinds_hears_no_others() -> None:
    stream = EventStream(lambda: 0.0)
    heard: list[object] = []
    stream.subscribe(heard.append, str, float)
    for event in ("a", 1, 2.0, b"b"):
        stream.publish(event)
    stream.close(5.0)
    assert heard == ["a", 2.0]


class Plenty(Detail):
    """One of very many."""


class More(Plenty):
    pass


def test_what_is_plenty_is_heard_by_those_who_name_it_alone() -> None:
    stream = EventStream(lambda: 0.0)
    everything: list[object] = []
    plenty: list[object] = []
    of_more: list[object] = []
    stream.subscribe(everything.append)
    stream.subscribe(plenty.append, str, Plenty)
    stream.subscribe(of_more.append, More)
    one, two = Plenty(), More()
    for event in ("a", one, two):
        stream.publish(event)
    stream.close(5.0)
    assert (everything, plenty, of_more) == (["a"], ["a", one, two], [two])


def test_a_stream_says_which_kinds_anybody_would_hear() -> None:
    stream = EventStream(lambda: 0.0)
    wanted = [stream.wants(str)]
    stop = stream.subscribe(print)
    wanted += [stream.wants(str), stream.wants(Plenty), stream.wants(str, Plenty)]
    stop_plenty = stream.subscribe(print, Plenty)
    wanted += [stream.wants(Plenty), stream.wants(More)]
    stop_plenty()
    wanted += [stream.wants(Plenty), stream.wants(str)]
    stop()
    wanted += [stream.wants(str)]
    stream.close(5.0)
    assert wanted == [False, True, False, True, True, True, False, True, False]


def test_unsubscribing_twice_is_the_same_as_once() -> None:
    stream = EventStream(lambda: 0.0)
    unsubscribe = stream.subscribe(print)
    unsubscribe()
    unsubscribe()
    assert stream.dropped == 0


def test_listener_that_unsubscribes_itself_hears_no_more() -> None:
    stream = EventStream(lambda: 0.0)
    heard: list[object] = []
    gone = threading.Event()

    def once(event: object) -> None:
        heard.append(event)
        unsubscribe()
        gone.set()

    unsubscribe = stream.subscribe(once)
    stream.publish("first")
    gone.wait(5.0)
    stream.publish("second")
    stream.close(5.0)
    assert heard == ["first"]


def test_what_a_listener_missed_is_remembered_after_it_has_gone() -> None:
    stream = EventStream(lambda: 0.0, max_queued=1)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_event: object) -> None:
        entered.set()
        go_on.wait(20.0)

    unsubscribe = stream.subscribe(slow)
    stream.publish("first")
    entered.wait(5.0)
    stream.publish("lost")
    stream.publish("kept")
    unsubscribe()
    go_on.set()
    assert stream.dropped == 1


def test_closing_does_not_wait_for_a_listener_that_blocks() -> None:
    stream = EventStream(lambda: 0.0)
    entered, go_on = threading.Event(), threading.Event()

    def stuck(_event: object) -> None:
        entered.set()
        go_on.wait(20.0)

    stream.subscribe(stuck)
    stream.publish("first")
    entered.wait(5.0)
    stream.close(0.0)  # returns while the listener still waits
    go_on.set()


def test_listener_may_close_the_stream_it_listens_to() -> None:
    stream = EventStream(lambda: 0.0)
    closed = threading.Event()

    def close(_event: object) -> None:
        stream.close(5.0)
        closed.set()

    stream.subscribe(close)
    stream.publish("the last one")
    assert closed.wait(2.0)


def test_listener_that_comes_after_the_end_hears_nothing() -> None:
    stream = EventStream(lambda: 0.0)
    stream.close(0.0)
    heard: list[object] = []
    stream.subscribe(heard.append)
    stream.publish("too late")
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


def test_wait_for_takes_a_condition_or_the_next_event_of_a_class(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Emitter))
    wait_for(tree, lambda tree: tree.snapshot().state == "running")
    with pytest.raises(AssertionError, match="did not come true"):
        wait_for(tree, lambda _tree: False, timeout_s=0.01)
    with pytest.raises(AssertionError, match="ChildStarted"):
        wait_for(tree, ChildStarted, timeout_s=0.01)
