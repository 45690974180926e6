import gc
import threading
import weakref
from collections.abc import Callable
from itertools import count, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import (
    HandleClosedError,
    NotDeliveredError,
    RuntimeStoppedError,
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
    DeleteChild,
    DynamicSupervisor,
    Kind,
    Restart,
    StartChild,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    ZombieEnded,
)
from tinker_actors.supervision import names as names_module
from tinker_actors.supervision.names import NameTable, Slot
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    reply_errors = (TinkerActorsError,)

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


def epoch(actor: Doer) -> int:
    return actor.context.epoch


def me(actor: Doer) -> Address:
    return actor.context.me


def spec(name: str = "a", **fields: Any) -> ChildSpec:
    return ChildSpec(name, Doer, **fields)


def mid(*children: ChildSpec) -> ChildSpec:
    return ChildSpec("mid", lambda: Supervisor(children), kind=Kind.SUPERVISOR)


DYNAMIC = ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR)


def join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(5.0)


# Across restarts.


def test_one_handle_reaches_the_incarnation_of_the_moment_before_during_and_after_a_restart(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """HAN-01."""
    tree = start_tree(spec(backoff=Backoff(base_s=1.0, jitter=0.0)), clock=clock)
    a = tree.address("root/a")
    assert a.call(epoch) == 1
    with expect(tree, ChildRestarting):
        crash(a)
    waiting, hasty = a.ask(epoch), a.ask(epoch, mode="fast")
    assert isinstance(hasty.exception(), NotDeliveredError)
    with expect(tree, ChildStarted, path="root/a"):
        clock.advance(1.0)
    assert waiting.result() == 2
    assert a.ask(epoch, mode="fast").result() == 2


def test_handle_that_an_actor_keeps_survives_the_restart_of_the_whole_branch(start_tree: StartTree) -> None:
    """HAN-01."""

    class Friend(Doer):
        def on_start(self) -> None:
            self.friend = self.context.address("root/mid/a")

    tree = start_tree(ChildSpec("friend", Friend), mid(spec()))
    ask_friend: Callable[[Any], int] = lambda actor: actor.friend.call(epoch)  # noqa: E731 - a message
    assert tree.address("root/friend").call(ask_friend) == 1
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        crash(tree.address("root/mid"))
    assert tree.address("root/friend").call(ask_friend) == 2


def test_handle_holds_no_actor(start_tree: StartTree) -> None:
    """HAN-02."""
    made: list[weakref.ref[Doer]] = []

    class Remembered(Doer):
        def on_start(self) -> None:
            made.append(weakref.ref(self))

    tree = start_tree(ChildSpec("a", Remembered))
    a = tree.address("root/a")
    mine = a.call(me)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(a)
    join("actor:root/a#1")
    gc.collect()
    assert [actor() is None for actor in made] == [True, False]
    assert (a.call(epoch), mine.epoch) == (2, 1)


def test_handle_may_be_made_before_its_tree_starts() -> None:
    """HAN-01."""
    tree = ActorTree(ChildSpec("root", lambda: Supervisor([spec()]), kind=Kind.SUPERVISOR))
    a = tree.address("root/a")
    with pytest.raises(NotDeliveredError):
        a.tell(epoch)
    with tree:
        assert a.call(epoch) == 1


def test_handle_of_a_tree_that_is_down_says_so(start_tree: StartTree) -> None:
    """HAN-01."""
    tree = start_tree(spec())
    a = tree.address("root/a")
    mine = a.call(me)
    tree.stop(5.0)
    with pytest.raises(RuntimeStoppedError):
        a.tell(epoch)
    assert isinstance(a.ask(epoch).exception(), RuntimeStoppedError)
    assert isinstance(mine.ask(epoch).exception(), NotDeliveredError)


# Which handles are the same.


def test_handles_are_equal_by_tree_and_name_and_those_of_incarnations_by_epoch_too(
    start_tree: StartTree,
) -> None:
    tree, other = start_tree(spec()), start_tree(spec())
    a = tree.address("root/a")
    first = a.call(me)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(a)
    second = a.call(me)
    same = [a, tree.address("root/a"), first, first, second, other.address("root/a")]
    assert len(set(same)) == 4
    assert a != "root/a"
    assert second == a.call(me)


def test_handle_says_whose_it_is(start_tree: StartTree) -> None:
    a = start_tree(spec()).address("root/a")
    assert repr(a) == "<Address root/a>"
    assert repr(a.call(me)) == "<IncarnationAddress root/a>"


# Asking oneself, and asking in a circle.


def test_actor_may_ask_itself_if_it_does_not_wait(start_tree: StartTree) -> None:
    """HAN-04."""
    answered = threading.Event()

    def ask_oneself(actor: Doer) -> None:
        for address in (actor.context.me, actor.context.address("root/a")):
            reply = address.ask(epoch)
            reply.add_done_callback(lambda done: answered.set() if done.result() == 1 else None)

    start_tree(spec()).address("root/a").call(ask_oneself)
    assert answered.wait(5.0)


def test_actors_that_ask_in_a_circle_are_freed_by_their_time_limits(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """HAN-04."""

    def ask_on(*path: str) -> Callable[[Doer], Any]:
        def act(actor: Doer) -> Any:
            if not path:
                return "never"
            return actor.context.address(path[0]).call(ask_on(*path[1:]), timeout_s=float(len(path)))

        return act

    tree = start_tree(spec("a"), spec("b"), spec("c"), clock=clock)
    asked = tree.address("root/a").ask(ask_on("root/b", "root/c", "root/a"))
    clock.wait_for_timers(3)
    clock.advance(1.0)
    assert isinstance(asked.exception(), NotDeliveredError)
    assert [tree.address(f"root/{name}").call(epoch) for name in "abc"] == [1, 1, 1]


# Deleted names.


def test_message_that_waits_for_a_child_fails_when_the_child_is_deleted(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """HAN-05."""
    tree = start_tree(DYNAMIC, clock=clock)
    a = tree.address("root/dyn").call(StartChild(spec(backoff=Backoff(base_s=9.0))))
    with expect(tree, ChildRestarting):
        crash(a)
    waiting = a.ask(epoch, timeout_s=1000.0)
    with expect(tree, DeadLetter, path="root/dyn/a"):
        a.tell(epoch)
        tree.address("root/dyn").call(TerminateChild("a"))
    assert isinstance(waiting.exception(), HandleClosedError)


def test_handle_of_a_temporary_child_that_ended_is_closed(start_tree: StartTree) -> None:
    """HAN-05."""
    tree = start_tree(spec(restart=Restart.TEMPORARY))
    a = tree.address("root/a")
    tree.address("root").call(TerminateChild("a"))
    with pytest.raises(HandleClosedError):
        a.call(epoch)


def test_handles_below_a_deleted_supervisor_are_closed_and_work_again_with_higher_epochs(
    start_tree: StartTree,
) -> None:
    """HAN-05."""
    tree = start_tree(mid(spec()))
    a, root = tree.address("root/mid/a"), tree.address("root")
    root.call(TerminateChild("mid"))
    with pytest.raises(NotDeliveredError):
        a.tell(epoch)
    root.call(DeleteChild("mid"))
    with pytest.raises(HandleClosedError):
        a.tell(epoch)
    root.call(StartChild(mid(spec())))
    assert a.call(epoch) == 2


def test_handle_of_an_incarnation_stays_dead_when_its_id_is_added_again(start_tree: StartTree) -> None:
    """HAN-05."""
    tree = start_tree(DYNAMIC)
    dynamic = tree.address("root/dyn")
    a = dynamic.call(StartChild(spec()))
    first = a.call(me)
    dynamic.call(TerminateChild("a"))
    dynamic.call(StartChild(spec()))
    with expect(tree, DeadLetter, path="root/dyn/a", epoch=1):
        first.tell(epoch)
    assert isinstance(first.ask(epoch).exception(), NotDeliveredError)
    assert a.call(epoch) == 2


def test_handle_follows_its_id_to_another_kind_of_actor(start_tree: StartTree) -> None:
    """HAN-05."""

    class Echo(SupervisedActor):
        def on_receive(self, message: Any) -> Any:
            return message

    dynamic = start_tree(DYNAMIC).address("root/dyn")
    a = dynamic.call(StartChild(spec()))
    dynamic.call(TerminateChild("a"))
    dynamic.call(StartChild(ChildSpec("a", Echo)))
    assert a.call("hello") == "hello"


def test_child_added_again_begins_without_the_history_of_the_one_before(start_tree: StartTree) -> None:
    """HAN-05."""
    tree = start_tree(DYNAMIC)
    dynamic = tree.address("root/dyn")
    a = dynamic.call(StartChild(spec()))
    with expect(tree, ChildStarted, path="root/dyn/a", epoch=2):
        crash(a)
    dynamic.call(TerminateChild("a"))
    dynamic.call(StartChild(spec()))
    node = tree.snapshot().find("root/dyn/a")
    assert node is not None
    assert (node.epoch, node.restarts, node.last_exit) == (3, 0, None)


def test_id_of_a_zombie_may_be_used_again_and_the_zombie_harms_nobody(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """HAN-05."""
    entered, go_on = threading.Event(), threading.Event()

    def stick(_actor: Doer) -> None:
        entered.set()
        go_on.wait(20.0)

    tree = start_tree(DYNAMIC, clock=clock)
    dynamic = tree.address("root/dyn")
    a = dynamic.call(StartChild(spec(shutdown_s=1.0)))
    a.tell(stick)
    assert entered.wait(5.0)
    terminated = dynamic.ask(TerminateChild("a"), timeout_s=1000.0)
    clock.wait_for_timers()
    clock.advance(1.0)
    assert terminated.result() is None
    dynamic.call(StartChild(spec()))
    with expect(tree, ZombieEnded, path="root/dyn/a", epoch=1):
        go_on.set()
    assert a.call(epoch) == 2


# Epochs.


def new_table() -> NameTable:
    return NameTable(lambda _slot, _envelope, _error: None, VirtualClock())


SPECS = {name: spec(name) for name in "abcdefgh"}


class Deletions:
    """A table in which ids come, get epochs and go, and all that it gave out."""

    def __init__(self) -> None:
        self.table = new_table()
        self.given: list[tuple[str, int]] = []
        self._there: dict[str, Slot] = {}

    def start(self, path: str, child: ChildSpec) -> None:
        """Give the id its next epoch, as a start or a restart does."""
        slot = self._there.get(path)
        if slot is None:
            slot = self._there[path] = self.table.declare(path, child, None)
        self.given.append((path, slot.reserve()))

    def delete(self, path: str) -> None:
        slot = self._there.pop(path, None)
        if slot is not None:
            self.table.delete(slot)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(SPECS)), st.sampled_from(["start", "delete"])), max_size=200)
)
def test_epochs_of_one_id_always_rise_however_many_others_were_deleted_meanwhile(
    steps: list[tuple[str, str]],
) -> None:
    """HAN-06."""
    deletions = Deletions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_module, "_MAX_TOMBSTONES", 3)
        for name, step in steps:
            if step == "start":
                deletions.start(name, SPECS[name])
            else:
                deletions.delete(name)
    for name in SPECS:
        epochs = [number for path, number in deletions.given if path == name]
        assert epochs == sorted(set(epochs))


def test_id_created_again_among_tens_of_thousands_of_deleted_ones_never_gets_an_epoch_twice() -> None:
    """HAN-06."""
    deletions, others = Deletions(), count()
    for gap in (0, 1, 0, 500, 9_999, 10_001, 2):
        deletions.start("a", SPECS["a"])
        deletions.start("a", SPECS["a"])
        deletions.delete("a")
        for number in islice(others, gap):
            deletions.start(f"other-{number}", SPECS["a"])
            deletions.delete(f"other-{number}")
    epochs = [epoch for path, epoch in deletions.given if path == "a"]
    assert len(epochs) == 14
    assert epochs == sorted(set(epochs))


def test_million_restarts_of_one_id_have_a_million_epochs() -> None:
    """HAN-06."""
    slot = new_table().declare("a", SPECS["a"], None)
    assert all(slot.reserve() == number for number in range(1, 1_000_001))


def test_epochs_reserved_by_many_threads_at_once_are_unique() -> None:
    """HAN-06."""
    slot = new_table().declare("a", SPECS["a"], None)
    epochs: list[int] = []

    def reserve_many() -> None:
        epochs.extend([slot.reserve() for _ in range(5_000)])

    threads = [threading.Thread(target=reserve_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(1, 40_001))


def test_names_that_were_deleted_long_ago_are_forgotten() -> None:
    """HAN-06."""
    deletions = Deletions()
    for number in range(12_000):
        deletions.start(f"child-{number}", SPECS["a"])
        deletions.delete(f"child-{number}")
    assert deletions.table.get("child-0") is None
    assert deletions.table.get("child-11999") is not None
    assert len(deletions.table._slots) == 10_000


def test_handle_of_a_name_that_was_forgotten_finds_nobody_and_then_its_successor(
    start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAN-05, HAN-06."""
    monkeypatch.setattr(names_module, "_MAX_TOMBSTONES", 1)
    dynamic = start_tree(DYNAMIC).address("root/dyn")
    a = dynamic.call(StartChild(spec()))
    for name in ("a", "b"):
        if name == "b":
            dynamic.call(StartChild(spec("b")))
        dynamic.call(TerminateChild(name))
    with pytest.raises(NotDeliveredError, match="there is no actor"):
        a.tell(epoch)
    dynamic.call(StartChild(spec()))
    assert a.call(epoch) == 2
