import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from tinker_actors.supervision import (
    IGNORED,
    NORMAL,
    ActorTree,
    Address,
    Backoff,
    ChildDeleted,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DeleteChild,
    Down,
    DynamicSupervisor,
    Error,
    Escalated,
    ExitReason,
    Killed,
    Kind,
    Monitor,
    Restart,
    RestartChild,
    Scope,
    Shutdown,
    ShutdownWith,
    Stalled,
    StartChild,
    StartFailed,
    Stop,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    ZombieEnded,
)
from tinker_actors.supervision.testing import InjectedCrashError, VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]

DEADLINE_S = 8.0
STALLED_S = 17.0  # twice that, and a tick


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)


class Watcher(SupervisedActor):
    """Does what it is told, and remembers each `Down` and each word in the order in which it hears them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.watches: list[Monitor] = []

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.heard.append(message)
        return None


def watch(path: str, scope: Scope = Scope.INCARNATION) -> Callable[[Watcher], int]:
    """Tells the watcher to watch `path`; answers the id of the watch."""

    def act(watcher: Watcher) -> int:
        watcher.watches.append(watcher.context.monitor(path, scope=scope))
        return watcher.watches[-1].id

    return act


def heard(watcher: Watcher) -> list[Any]:
    return list(watcher.heard)


def fail(_actor: Doer) -> None:
    raise ValueError("spoilt")


def stop(reason: ExitReason) -> Callable[[Doer], None]:
    def act(_actor: Doer) -> None:
        raise Stop(reason)

    return act


WATCHER = ChildSpec("w", Watcher, handler_deadline_s=float("inf"))
DYNAMIC = ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR)


def spec(name: str = "a", restart: str = "permanent", **fields: Any) -> ChildSpec:
    return ChildSpec(name, Doer, Restart(restart), handler_deadline_s=DEADLINE_S, **fields)


def watches_on(tree: ActorTree, path: str) -> list[Monitor]:
    """The watches that the table of names holds on to."""
    slot = tree._runtime.names.get(path)
    return [] if slot is None else slot._monitors._watches


@pytest.fixture
def go_on(start_tree: StartTree) -> Iterator[threading.Event]:  # noqa: ARG001 - the tree stops once all are free
    event = threading.Event()
    yield event
    event.set()


# One Down for one end.


def test_watcher_hears_once_of_the_end_with_its_epoch_and_reason(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a"))
    for epoch in (2, 3):
        with expect(tree, ChildStarted, path="root/a", epoch=epoch):
            crash(tree.address("root/a"))
    [down] = watcher.call(heard)
    assert (down.id, down.path, down.epoch) == (watch_id, "root/a", 1)
    assert isinstance(down.reason, Error)
    assert isinstance(down.reason.error, InjectedCrashError)


def test_next_incarnation_is_watched_by_asking_again(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    for epoch in (1, 2, 3):
        watcher.call(watch("root/a"))
        with expect(tree, ChildStarted, path="root/a", epoch=epoch + 1):
            crash(tree.address("root/a"))
    assert [down.epoch for down in watcher.call(heard)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("reason", "restart"),
    [
        (NORMAL, "permanent"),
        (NORMAL, "transient"),
        (NORMAL, "temporary"),
        (Shutdown("enough"), "permanent"),
        (ShutdownWith("a word"), "transient"),
    ],
)
def test_reason_of_a_clean_end_comes_with_the_down(
    start_tree: StartTree, reason: ExitReason, restart: str
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec(restart=restart))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a"))
    with expect(tree, ChildExited, path="root/a"):
        tree.address("root/a").tell(stop(reason))
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, reason)]


def test_two_watches_of_one_actor_are_two_downs(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    ids = [watcher.call(watch("root/a")), watcher.call(watch("root/a"))]
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert [down.id for down in watcher.call(heard)] == ids


def test_down_goes_before_the_messages_that_wait(start_tree: StartTree, go_on: threading.Event) -> None:
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a"))
    watcher.tell(lambda _watcher: go_on.wait(20.0))
    for word in "xyz":
        watcher.tell(word)
    with expect(tree, ChildExited, path="root/a"):
        tree.address("root/a").tell(stop(NORMAL))
    go_on.set()
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, NORMAL), "x", "y", "z"]


def test_down_is_heard_before_the_end_is_published(start_tree: StartTree) -> None:
    known: SimpleQueue[int] = SimpleQueue()

    def look(event: object) -> None:
        if isinstance(event, ChildExited):
            known.put(len(watcher.call(heard)))

    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watcher.call(watch("root/a"))
    unsubscribe = tree.events.subscribe(look)
    crash(tree.address("root/a"))
    assert known.get(timeout=5.0) == 1
    unsubscribe()


# Names where nobody is.


@pytest.mark.parametrize("scope", list(Scope))
def test_unknown_name_is_down_at_once(start_tree: StartTree, scope: Scope) -> None:
    """MON-01."""
    watcher = start_tree(WATCHER).address("root/w")
    watch_id = watcher.call(watch("root/nobody", scope))
    assert watcher.call(heard) == [Down(watch_id, "root/nobody", 0, None)]


@pytest.mark.parametrize("scope", list(Scope))
def test_actor_that_is_down_is_down_at_once_with_its_last_reason(start_tree: StartTree, scope: Scope) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    tree.address("root").call(TerminateChild("a"))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a", scope))
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, Shutdown())]


@pytest.mark.parametrize("scope", list(Scope))
def test_actor_that_was_deleted_is_down_at_once(start_tree: StartTree, scope: Scope) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec(restart="temporary"))
    tree.address("root").call(TerminateChild("a"))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a", scope))
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, None)]


def test_actor_that_waits_for_its_restart_is_down_at_once_for_its_incarnation_only(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec(backoff=Backoff(base_s=5.0)), clock=clock)
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"))
    watcher = tree.address("root/w")
    incarnation_id = watcher.call(watch("root/a"))
    watcher.call(watch("root/a", Scope.SPEC))
    [down] = watcher.call(heard)
    assert (down.id, down.epoch) == (incarnation_id, 1)
    assert isinstance(down.reason, Error)


def test_actor_that_never_ran_has_no_reason(start_tree: StartTree) -> None:
    """MON-01."""

    class Early(Watcher):
        def on_start(self) -> None:
            self.context.monitor("root/later")

    tree = start_tree(ChildSpec("w", Early), spec("later"))
    [down] = tree.address("root/w").call(heard)
    assert (down.epoch, down.reason) == (0, None)


def test_actor_that_was_ignored_is_down_with_that_reason(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", lambda: IGNORED, Restart.TRANSIENT), WATCHER)
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a"))
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, IGNORED)]


# Starting actors.


class Starting:
    """A factory that waits to be let on, and may fail then."""

    def __init__(self, go_on: threading.Event, error: Exception | None = None) -> None:
        self.entered, self.go_on, self.error = threading.Event(), go_on, error

    def __call__(self) -> SupervisedActor:
        self.entered.set()
        self.go_on.wait(20.0)
        if self.error is not None:
            raise self.error
        return Doer()


def test_watch_on_a_starting_actor_hears_nothing_before_its_end(
    start_tree: StartTree, go_on: threading.Event
) -> None:
    tree = start_tree(WATCHER, DYNAMIC)
    factory, watcher = Starting(go_on), tree.address("root/w")
    started = tree.address("root/dyn").ask(StartChild(ChildSpec("a", factory)))
    factory.entered.wait(5.0)
    watch_id = watcher.call(watch("root/dyn/a"))
    go_on.set()
    started.result().call(lambda _actor: None)
    assert watcher.call(heard) == []
    tree.address("root/dyn").call(TerminateChild("a"))
    assert watcher.call(heard) == [Down(watch_id, "root/dyn/a", 1, Shutdown())]


@pytest.mark.parametrize("scope", list(Scope))
def test_watch_on_a_starting_actor_hears_of_its_failure(
    start_tree: StartTree, go_on: threading.Event, scope: Scope
) -> None:
    tree = start_tree(WATCHER, DYNAMIC)
    error = ValueError("no such luck")
    factory, watcher = Starting(go_on, error), tree.address("root/w")
    started = tree.address("root/dyn").ask(StartChild(ChildSpec("a", factory)))
    factory.entered.wait(5.0)
    watch_id = watcher.call(watch("root/dyn/a", scope))
    go_on.set()
    assert started.exception() is not None
    assert watcher.call(heard) == [Down(watch_id, "root/dyn/a", 1, StartFailed(error))]


def test_watch_on_a_starting_actor_hears_that_its_time_was_over(
    start_tree: StartTree, clock: VirtualClock, go_on: threading.Event
) -> None:
    tree = start_tree(WATCHER, DYNAMIC, clock=clock)
    factory, watcher = Starting(go_on), tree.address("root/w")
    started = tree.address("root/dyn").ask(StartChild(ChildSpec("a", factory, start_timeout_s=3.0)))
    factory.entered.wait(5.0)
    watcher.call(watch("root/dyn/a"))
    clock.advance(3.0)
    assert started.exception() is not None
    [down] = watcher.call(heard)
    assert isinstance(down.reason, StartFailed)
    assert isinstance(down.reason.error, TimeoutError)


# Ends of an unusual kind.


def test_watch_on_an_abandoned_actor_hears_of_the_stall_once(
    start_tree: StartTree, clock: VirtualClock, go_on: threading.Event
) -> None:
    tree = start_tree(WATCHER, spec(), clock=clock)
    watcher, entered = tree.address("root/w"), threading.Event()

    def stick(_actor: Doer) -> None:
        entered.set()
        go_on.wait(20.0)

    watcher.call(watch("root/a"))
    tree.address("root/a").tell(stick)
    assert entered.wait(5.0)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        go_on.set()
    [down] = watcher.call(heard)
    assert (down.path, down.epoch) == ("root/a", 1)
    assert isinstance(down.reason, Stalled)


def test_watch_on_an_actor_that_did_not_end_in_time_hears_that_it_was_killed(
    start_tree: StartTree, clock: VirtualClock, go_on: threading.Event
) -> None:
    tree = start_tree(WATCHER, spec(shutdown_s=2.0), clock=clock)
    watcher, entered = tree.address("root/w"), threading.Event()

    def stick(_actor: Doer) -> None:
        entered.set()
        go_on.wait(20.0)

    watch_id = watcher.call(watch("root/a"))
    tree.address("root/a").tell(stick)
    assert entered.wait(5.0)
    terminated = tree.address("root").ask(TerminateChild("a"), timeout_s=1000.0)
    clock.wait_for_timers()
    clock.advance(2.0)
    assert terminated.result() is None
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, Killed(2.0))]


def mid(**limits: Any) -> ChildSpec:
    return ChildSpec("mid", lambda: Supervisor([spec()], **limits), kind=Kind.SUPERVISOR)


def test_crash_of_a_supervisor_is_the_end_of_its_children_too(start_tree: StartTree) -> None:
    tree = start_tree(WATCHER, mid())
    watcher = tree.address("root/w")
    watcher.call(watch("root/mid"))
    watch_id = watcher.call(watch("root/mid/a"))
    watcher.call(watch("root/mid/a", Scope.SPEC))
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        crash(tree.address("root/mid"))
    of_child, of_supervisor = watcher.call(heard)
    assert of_child == Down(watch_id, "root/mid/a", 1, Shutdown())
    assert (of_supervisor.path, type(of_supervisor.reason)) == ("root/mid", Error)


def test_children_of_an_abandoned_supervisor_are_killed_and_their_watchers_told(
    start_tree: StartTree, clock: VirtualClock, go_on: threading.Event
) -> None:
    entered = threading.Event()

    class Busy(Supervisor):
        def on_receive(self, _message: Any) -> None:
            entered.set()
            go_on.wait(20.0)

    stuck = ChildSpec("mid", lambda: Busy([spec()]), kind=Kind.SUPERVISOR, handler_deadline_s=DEADLINE_S)
    tree = start_tree(WATCHER, stuck, clock=clock)
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/mid/a"))
    tree.address("root/mid").tell("stick")
    assert entered.wait(5.0)
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        clock.advance(STALLED_S)
    assert watcher.call(heard) == [Down(watch_id, "root/mid/a", 1, Killed(0.0))]


def test_supervisor_that_gives_up_is_down_with_the_first_failure(start_tree: StartTree) -> None:
    tree = start_tree(WATCHER, mid(max_restarts=0))
    watcher = tree.address("root/w")
    watcher.call(watch("root/mid"))
    with expect(tree, ChildStarted, path="root/mid", epoch=2), expect(tree, Escalated):
        tree.address("root/mid/a").tell(fail)
    [down] = watcher.call(heard)
    assert isinstance(down.reason, Shutdown)
    assert isinstance(down.reason.cause, ValueError)


# The end for good.


def test_restarts_are_no_end_for_one_who_watches_the_spec(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a", Scope.SPEC))
    for epoch in (2, 3):
        with expect(tree, ChildStarted, path="root/a", epoch=epoch):
            crash(tree.address("root/a"))
    assert watcher.call(heard) == []
    tree.address("root").call(TerminateChild("a"))
    assert watcher.call(heard) == [Down(watch_id, "root/a", 3, Shutdown())]


@pytest.mark.parametrize(
    ("restart", "end", "reason"),
    [
        ("transient", stop(NORMAL), NORMAL),
        ("temporary", stop(NORMAL), NORMAL),
        ("temporary", stop(Shutdown("enough")), Shutdown("enough")),
    ],
)
def test_end_without_a_restart_is_the_end_for_good(
    start_tree: StartTree, restart: str, end: Callable[[Doer], None], reason: ExitReason
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec(restart=restart))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/a", Scope.SPEC))
    with expect(tree, ChildExited, path="root/a"):
        tree.address("root/a").tell(end)
    tree.address("root").call(CountChildren())  # answered after the decision
    assert watcher.call(heard) == [Down(watch_id, "root/a", 1, reason)]


def test_termination_of_a_dynamic_child_is_its_end_for_good(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, DYNAMIC)
    tree.address("root/dyn").call(StartChild(spec()))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/dyn/a", Scope.SPEC))
    with expect(tree, ChildDeleted, path="root/dyn/a"):
        tree.address("root/dyn").call(TerminateChild("a"))
    assert watcher.call(heard) == [Down(watch_id, "root/dyn/a", 1, Shutdown())]


def test_child_that_is_terminated_during_its_backoff_is_down_for_good(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec(backoff=Backoff(base_s=5.0)), clock=clock)
    watcher = tree.address("root/w")
    watcher.call(watch("root/a", Scope.SPEC))
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"))
    tree.address("root").call(TerminateChild("a"))
    [down] = watcher.call(heard)
    assert (down.epoch, type(down.reason)) == (1, Error)


def test_child_started_again_after_its_end_for_good_is_a_matter_of_a_new_watch(
    start_tree: StartTree,
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher, root = tree.address("root/w"), tree.address("root")
    watcher.call(watch("root/a", Scope.SPEC))
    root.call(TerminateChild("a"))
    root.call(RestartChild("a"))
    root.call(TerminateChild("a"))
    root.call(DeleteChild("a"))
    assert [down.epoch for down in watcher.call(heard)] == [1]


def test_dynamic_children_that_a_restart_of_their_supervisor_leaves_out_are_down_for_good(
    start_tree: StartTree,
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, DYNAMIC)
    tree.address("root/dyn").call(StartChild(spec()))
    watcher = tree.address("root/w")
    watch_id = watcher.call(watch("root/dyn/a", Scope.SPEC))
    with expect(tree, ChildStarted, path="root/dyn", epoch=2):
        crash(tree.address("root/dyn"))
    assert watcher.call(heard) == [Down(watch_id, "root/dyn/a", 1, Shutdown())]


@pytest.mark.parametrize("then", ["nothing", "delete"])
def test_actors_below_a_supervisor_that_is_down_for_good_are_so_too(start_tree: StartTree, then: str) -> None:
    """MON-01."""
    outer = ChildSpec("outer", lambda: Supervisor([mid()]), kind=Kind.SUPERVISOR)
    tree = start_tree(WATCHER, outer)
    watcher, root = tree.address("root/w"), tree.address("root")
    for path in ("root/outer/mid/a", "root/outer/mid"):
        watcher.call(watch(path, Scope.SPEC))
    root.call(TerminateChild("outer"))
    if then == "delete":
        root.call(DeleteChild("outer"))
    downs = watcher.call(heard)
    assert {(down.path, down.reason) for down in downs} == {
        ("root/outer/mid/a", Shutdown()),
        ("root/outer/mid", Shutdown()),
    }
    assert len(downs) == 2


def test_watch_that_begins_below_a_supervisor_that_is_down_for_good_is_over_at_once(
    start_tree: StartTree,
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, mid())
    watcher = tree.address("root/w")
    tree.address("root").call(TerminateChild("mid"))
    watch_id = watcher.call(watch("root/mid/a", Scope.SPEC))
    assert watcher.call(heard) == [Down(watch_id, "root/mid/a", 1, Shutdown())]


@pytest.mark.parametrize("path", ["root/a", "root/mid/a"])
@pytest.mark.parametrize("scope", list(Scope))
def test_stop_of_the_tree_is_the_end_for_good_of_all(start_tree: StartTree, path: str, scope: Scope) -> None:
    """MON-01."""
    downs: list[Down] = []
    tree = start_tree(spec(), mid())
    slot = tree._runtime.names.get(path)
    assert slot is not None
    watch = Monitor(path, scope, downs.append)
    slot.monitor(watch)
    tree.stop(5.0)
    assert downs == [Down(watch.id, path, 1, Shutdown())]
    assert watches_on(tree, path) == []


# Giving a watch up.


def test_watch_that_was_given_up_is_silent(start_tree: StartTree) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watcher.call(watch("root/a"))
    watcher.call(lambda watcher: watcher.watches[0].cancel())
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert watcher.call(heard) == []


def test_watch_that_is_given_up_while_its_down_waits_is_silent(
    start_tree: StartTree, go_on: threading.Event
) -> None:
    """MON-01."""
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    kept = watcher.call(watch("root/a"))
    watcher.call(watch("root/a"))

    def cancel_late(watcher: Watcher) -> int:
        go_on.wait(20.0)
        waiting = watcher.actor_inbox.depths().system  # type: ignore[attr-defined]  # the kit's mailbox
        watcher.watches[1].cancel()
        return int(waiting)

    busy = watcher.ask(cancel_late)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    go_on.set()
    assert busy.result() == 2
    assert [down.id for down in watcher.call(heard)] == [kept]


def test_watch_may_be_given_up_twice_and_after_its_down(start_tree: StartTree) -> None:
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watcher.call(watch("root/a"))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert len(watcher.call(heard)) == 1
    for _ in range(2):
        watcher.call(lambda watcher: watcher.watches[0].cancel())
    assert len(watcher.call(heard)) == 1


def test_watch_that_was_given_up_leaves_nothing_behind(start_tree: StartTree) -> None:
    tree = start_tree(WATCHER, spec())
    watcher = tree.address("root/w")
    watcher.call(watch("root/a"))
    watcher.call(watch("root/a", Scope.SPEC))
    assert len(watches_on(tree, "root/a")) == 2
    watcher.call(lambda watcher: [one.cancel() for one in watcher.watches])
    assert watches_on(tree, "root/a") == []


# Watchers end, too.


@pytest.mark.parametrize("scope", list(Scope))
def test_watcher_that_ends_first_leaves_nothing_behind(start_tree: StartTree, scope: Scope) -> None:
    """MON-02."""
    tree = start_tree(WATCHER, spec())
    tree.address("root/w").call(watch("root/a", scope))
    with expect(tree, ChildStarted, path="root/w", epoch=2):
        crash(tree.address("root/w"))
    assert watches_on(tree, "root/a") == []
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert tree.address("root/w").call(heard) == []


def test_watcher_that_was_given_up_hears_nothing_more(
    start_tree: StartTree, clock: VirtualClock, go_on: threading.Event
) -> None:
    """MON-02."""
    entered = threading.Event()

    def stick(_watcher: Watcher) -> None:
        entered.set()
        go_on.wait(20.0)

    tree = start_tree(ChildSpec("w", Watcher, handler_deadline_s=DEADLINE_S), spec(), clock=clock)
    tree.address("root/w").call(watch("root/a"))
    tree.address("root/w").tell(stick)
    assert entered.wait(5.0)
    with expect(tree, ChildStarted, path="root/w", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    with expect(tree, ZombieEnded, path="root/w"):
        go_on.set()
    assert tree.address("root/w").call(heard) == []
    assert watches_on(tree, "root/a") == []


def test_actors_may_watch_each_other(start_tree: StartTree) -> None:
    """MON-02."""
    tree = start_tree(ChildSpec("x", Watcher), ChildSpec("y", Watcher))
    x, y = tree.address("root/x"), tree.address("root/y")
    x.call(watch("root/y"))
    y.call(watch("root/x"))
    with expect(tree, ChildStarted, path="root/x", epoch=2):
        crash(x)
    assert [down.path for down in y.call(heard)] == ["root/x"]
    assert watches_on(tree, "root/y") == []
    with expect(tree, ChildStarted, path="root/y", epoch=2):
        crash(y)
    assert x.call(heard) == []


def test_actors_that_watch_each_other_end_together_without_harm(start_tree: StartTree) -> None:
    """MON-02."""
    tree = start_tree(ChildSpec("x", Watcher), ChildSpec("y", Watcher))
    for one, other in (("x", "y"), ("y", "x")):
        for scope in Scope:
            tree.address(f"root/{one}").call(watch(f"root/{other}", scope))
    tree.stop(5.0)
    assert (watches_on(tree, "root/x"), watches_on(tree, "root/y")) == ([], [])


def test_actor_that_watches_itself_hears_nothing(start_tree: StartTree) -> None:
    tree = start_tree(WATCHER)
    watcher = tree.address("root/w")
    watcher.call(watch("root/w"))
    with expect(tree, ChildStarted, path="root/w", epoch=2):
        crash(watcher)
    assert watcher.call(heard) == []
    assert watches_on(tree, "root/w") == []


def test_thousand_watchers_hear_of_one_end_once_each(start_tree: StartTree) -> None:
    """MON-02."""
    tree = start_tree(DYNAMIC, spec())
    started = [
        tree.address("root/dyn").ask(StartChild(ChildSpec(f"w{number}", Watcher))) for number in range(1000)
    ]
    watchers: list[Address] = [reply.result() for reply in started]
    ids = [reply.result() for reply in [watcher.ask(watch("root/a")) for watcher in watchers]]
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    downs = [reply.result() for reply in [watcher.ask(heard) for watcher in watchers]]
    assert [[down.id for down in each] for each in downs] == [[watch_id] for watch_id in ids]
    assert watches_on(tree, "root/a") == []
