import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from tinker_actors.supervision import (
    ActorTree,
    ChildExited,
    ChildSpec,
    ChildStarted,
    DeadLetter,
    Normal,
    Restart,
    SupervisedActor,
)
from tinker_actors.supervision.testing import InjectedCrashError, crash, expect

StartTree = Callable[..., ActorTree]


class Counter(SupervisedActor):
    def __init__(self, refs: list[pykka.ActorRef[Any]]) -> None:
        super().__init__()
        self.count = 0
        refs.append(self.actor_ref)

    def on_receive(self, message: Any) -> Any:
        return message

    def add(self, number: int) -> int:
        if number < 0:
            raise ValueError(number)
        self.count += number
        return self.count


@pytest.fixture
def refs() -> list[pykka.ActorRef[Any]]:
    return []


@pytest.fixture
def tree(start_tree: StartTree, refs: list[pykka.ActorRef[Any]]) -> ActorTree:
    return start_tree(ChildSpec("a", lambda: Counter(refs), max_mailbox=10_000))


def test_ref_asks_and_tells(tree: ActorTree, refs: list[pykka.ActorRef[Any]]) -> None:
    assert refs[0].ask("hello", timeout=5.0) == "hello"
    refs[0].tell("hello")
    assert tree.address("root/a").call("after") == "after"


@pytest.mark.usefixtures("tree")
def test_proxy_calls_methods_and_reads_attributes(refs: list[pykka.ActorRef[Any]]) -> None:
    proxy = refs[0].proxy()
    assert proxy.add(2).get(timeout=5.0) == 2
    assert proxy.count.get(timeout=5.0) == 2


def test_error_in_a_proxy_call_is_answered_and_restarts_the_actor(
    tree: ActorTree, refs: list[pykka.ActorRef[Any]]
) -> None:
    with expect(tree, ChildStarted, epoch=2), pytest.raises(ValueError, match="-1"):
        refs[0].proxy().add(-1).get(timeout=5.0)


def test_ref_of_an_ended_incarnation_is_dead_and_unregistered(
    tree: ActorTree, refs: list[pykka.ActorRef[Any]]
) -> None:
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    assert not refs[0].is_alive()
    with pytest.raises(pykka.ActorDeadError):
        refs[0].ask("hello", timeout=5.0)
    assert refs[0] not in pykka.ActorRegistry.get_all()
    assert refs[1] in pykka.ActorRegistry.get_all()


def test_stop_of_a_ref_ends_the_incarnation_cleanly(tree: ActorTree, refs: list[pykka.ActorRef[Any]]) -> None:
    with expect(tree, ChildExited, epoch=1) as got, expect(tree, ChildStarted, epoch=2):
        assert refs[0].stop(timeout=5.0)
    assert got.event.reason == Normal()


def test_stop_of_a_ref_is_answered_when_the_end_is_complete(start_tree: StartTree) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(SupervisedActor):
        def on_stop(self) -> None:
            entered.set()
            go_on.wait(20.0)

    start_tree(ChildSpec("a", Slow, Restart.TRANSIENT))
    [ref] = pykka.ActorRegistry.get_by_class(Slow)
    stopped = ref.stop(block=False)
    entered.wait(5.0)
    with pytest.raises(pykka.Timeout):
        stopped.get(timeout=0.0)
    go_on.set()
    assert stopped.get(timeout=5.0)


def test_stop_of_a_ref_waits_behind_what_is_queued(start_tree: StartTree) -> None:
    """SHU-08."""
    go_on, handled = threading.Event(), []

    class Slow(SupervisedActor):
        def on_receive(self, message: int) -> None:
            go_on.wait(20.0)
            handled.append(message)

    tree = start_tree(ChildSpec("a", Slow, Restart.TRANSIENT, max_mailbox=20_000))
    a = tree.address("root/a")
    for number in range(10_000):
        a.tell(number)
    [ref] = pykka.ActorRegistry.get_by_class(Slow)
    stopped = ref.stop(block=False)
    a.tell(10_000)
    with expect(tree, DeadLetter, path="root/a"):
        go_on.set()
    assert stopped.get(timeout=5.0)
    assert handled == list(range(10_000))


def test_ref_asks_racing_crashes_all_settle(tree: ActorTree, refs: list[pykka.ActorRef[Any]]) -> None:
    futures: list[pykka.Future[Any]] = []

    def ask_many() -> None:
        futures.extend([refs[0].ask("hello", block=False) for _ in range(500)])

    threads = [threading.Thread(target=ask_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    crash(tree.address("root/a"))
    for thread in threads:
        thread.join()
    outcomes = [outcome(future) for future in futures]
    assert len(outcomes) == 2000


def outcome(future: pykka.Future[Any]) -> object:
    try:
        return future.get(timeout=5.0)
    except (pykka.ActorDeadError, InjectedCrashError) as error:
        return error
