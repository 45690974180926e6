import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pykka
import pytest

from tinker_actors.errors import (
    ConfigError,
    RuntimeStoppedError,
    StartFailedError,
    WouldDeadlockError,
)
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildAbandoned,
    ChildCounts,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStartFailed,
    CountChildren,
    DeleteChild,
    DynamicSupervisor,
    Event,
    ExitReason,
    Kind,
    Restart,
    RestartChild,
    ShutdownBegan,
    ShutdownEnded,
    StartChild,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    Timer,
    WhichChildren,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect, wait_for

StartTree = Callable[..., ActorTree]

DYNAMIC = ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR)


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Recorder(Echo):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_start(self) -> None:
        self.log.append(f"+{self.context.id}")

    def on_exit(self, _reason: ExitReason) -> None:
        self.log.append(f"-{self.context.id}")


class Blocked:
    """A factory that blocks until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> SupervisedActor:
        self.entered.set()
        self.go_on.wait(20.0)
        return Echo()


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    one = Blocked()
    yield one
    one.go_on.set()


@pytest.fixture
def log() -> list[str]:
    return []


def refuse() -> NoReturn:
    raise ValueError("no such luck")


def exit_at_once() -> NoReturn:
    raise SystemExit(2)


def make_nothing() -> Any:
    return "no actor"


class RefusesInOnStart(Echo):
    def on_start(self) -> None:
        refuse()


class ExitsInOnStart(Echo):
    def on_start(self) -> None:
        exit_at_once()


def cannot_start(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def in_turn(*factories: Callable[[], SupervisedActor]) -> Callable[[], SupervisedActor]:
    """A factory that does what each of these does, one incarnation after the other."""
    left = iter(factories)

    def make() -> SupervisedActor:
        factory = next(left)
        return factory()

    return make


def tree_of(*children: ChildSpec, clock: VirtualClock | None = None) -> ActorTree:
    root = ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR)
    return ActorTree(root, clock=clock)


def state(tree: ActorTree, path: str) -> str:
    node = tree.snapshot().find(path)
    return "unknown" if node is None else node.state


# A supervisor without children.


@pytest.mark.parametrize("supervisor", [lambda: Supervisor([]), DynamicSupervisor], ids=["static", "dynamic"])
def test_empty_supervisor_counts_nobody(start_tree: StartTree, supervisor: Callable[[], Supervisor]) -> None:
    """SUP-01."""
    empty = start_tree(ChildSpec("sup", supervisor, kind=Kind.SUPERVISOR)).address("root/sup")
    assert empty.call(CountChildren()) == ChildCounts(specs=0, active=0, supervisors=0, workers=0)
    assert empty.call(WhichChildren()) == []


def test_empty_tree_stops_cleanly(start_tree: StartTree) -> None:
    """SUP-01."""
    tree = start_tree()
    with expect(tree, ShutdownEnded, abandoned=(), first_cause=None):
        tree.stop(5.0)


# A list of children.


def test_static_children_start_in_list_order(start_tree: StartTree, log: list[str]) -> None:
    """SUP-03."""
    start_tree(*(ChildSpec(name, lambda: Recorder(log)) for name in "cab"))
    assert log == ["+c", "+a", "+b"]


def test_next_child_starts_only_when_the_one_before_is_up(blocked: Blocked, log: list[str]) -> None:
    """SUP-03."""
    tree = tree_of(ChildSpec("slow", blocked), ChildSpec("next", lambda: Recorder(log)))
    starter = threading.Thread(target=tree.start)
    starter.start()
    blocked.entered.wait(5.0)
    assert (state(tree, "root/slow"), state(tree, "root/next"), log) == ("starting", "pending", [])
    blocked.go_on.set()
    starter.join()
    assert log == ["+next"]
    tree.stop(5.0)


def test_failed_start_of_a_child_ends_the_earlier_ones_in_reverse_and_fails_the_tree(log: list[str]) -> None:
    """SUP-03."""
    tree = tree_of(
        *(ChildSpec(name, lambda: Recorder(log)) for name in "cab"),
        ChildSpec("bad", refuse),
        ChildSpec("late", lambda: Recorder(log)),
    )
    with pytest.raises(StartFailedError, match="root/bad") as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, ValueError)
    assert log == ["+c", "+a", "+b", "-b", "-a", "-c"]
    assert tree.stopped.is_set()


def test_failed_start_two_levels_down_names_the_child_and_keeps_its_cause() -> None:
    """SUP-03."""
    inner = [ChildSpec("bad", refuse)]
    tree = tree_of(ChildSpec("mid", lambda: Supervisor(inner), kind=Kind.SUPERVISOR))
    with pytest.raises(StartFailedError, match="root/mid/bad") as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(tree.first_cause, ValueError)


class Moody(Recorder):
    """Does not start while it is in a bad mood."""

    def __init__(self, log: list[str], moods: list[str]) -> None:
        super().__init__(log)
        self.moods = moods

    def on_start(self) -> None:
        if self.moods.pop(0) == "bad":
            raise ValueError("not in the mood")
        super().on_start()


def test_supervisor_that_fails_its_start_at_a_restart_is_tried_again(
    start_tree: StartTree, log: list[str]
) -> None:
    """SUP-03."""
    moods = ["good", "bad", "good"]
    inner = [ChildSpec("first", lambda: Recorder(log)), ChildSpec("moody", lambda: Moody(log, moods))]
    tree = start_tree(ChildSpec("mid", lambda: Supervisor(inner), kind=Kind.SUPERVISOR))
    log.clear()
    with (
        expect(tree, ChildRestarting, path="root/mid", count=2) as got,
        expect(tree, ChildStarted, path="root/mid", epoch=3),
    ):
        crash(tree.address("root/mid"))
    assert [event.in_window for event in got.events] == [1, 2]
    assert log == ["-moody", "-first", "+first", "-moody", "-first", "+first", "+moody"]


# Starts that fail.

FAILING = pytest.mark.parametrize(
    ("factory", "cause"),
    [
        (refuse, ValueError),
        (exit_at_once, SystemExit),
        (make_nothing, ConfigError),
        (RefusesInOnStart, ValueError),
        (ExitsInOnStart, SystemExit),
    ],
)


@FAILING
def test_child_that_fails_to_start_fails_the_start_of_the_tree(
    clock: VirtualClock, factory: Callable[[], SupervisedActor], cause: type[BaseException]
) -> None:
    """SUP-08."""
    with pytest.raises(StartFailedError, match="root/bad") as caught:
        tree_of(ChildSpec("bad", factory), clock=clock).start(10.0)
    assert isinstance(caught.value.__cause__, cause)
    assert pykka.ActorRegistry.get_all() == []


@FAILING
def test_root_that_fails_to_start_fails_the_start_of_the_tree(
    clock: VirtualClock, factory: Callable[[], SupervisedActor], cause: type[BaseException]
) -> None:
    """SUP-08."""
    tree = ActorTree(ChildSpec("root", factory, kind=Kind.SUPERVISOR), clock=clock)
    with pytest.raises(StartFailedError, match="root did not start"):
        tree.start(10.0)
    assert isinstance(tree.first_cause, cause | ConfigError)  # a worker is no root, whatever it does next


@FAILING
@pytest.mark.parametrize("path", ["root", "root/dyn"])
def test_child_that_fails_to_start_by_command_is_forgotten(
    start_tree: StartTree, path: str, factory: Callable[[], SupervisedActor], cause: type[BaseException]
) -> None:
    """SUP-08."""
    tree = start_tree(DYNAMIC)
    supervisor = tree.address(path)
    before = supervisor.call(CountChildren())
    with pytest.raises(StartFailedError) as caught:
        supervisor.call(StartChild(ChildSpec("bad", factory)))
    assert isinstance(caught.value.__cause__, cause)
    assert supervisor.call(CountChildren()) == before
    assert state(tree, f"{path}/bad") == "unknown"


@pytest.mark.parametrize("restart", Restart)
def test_child_of_any_restart_type_that_fails_to_start_by_command_is_forgotten(
    start_tree: StartTree, restart: Restart
) -> None:
    """SUP-08."""
    root = start_tree().address("root")
    with pytest.raises(StartFailedError):
        root.call(StartChild(ChildSpec("bad", refuse, restart)))
    assert root.call(CountChildren()).specs == 0


def test_child_that_fails_to_start_by_command_is_kept_and_tried_again_if_its_starter_said_so(
    start_tree: StartTree, clock: VirtualClock, log: list[str]
) -> None:
    """SUP-08."""
    tree = start_tree(clock=clock)
    spec = ChildSpec("a", lambda: Moody(log, moods), backoff=Backoff(base_s=5.0))
    moods = ["bad", "good"]
    with expect(tree, ChildRestarting, path="root/a", in_window=1), pytest.raises(StartFailedError):
        tree.address("root").call(StartChild(spec, retries=True))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(10.0)


@pytest.mark.parametrize("factory", [refuse, exit_at_once, make_nothing, RefusesInOnStart, ExitsInOnStart])
def test_start_that_fails_is_announced_once_and_never_as_a_start(
    start_tree: StartTree, factory: Callable[[], SupervisedActor]
) -> None:
    """SUP-08."""
    tree, seen = start_tree(), []

    def note(event: object) -> None:
        if isinstance(event, Event) and event.path == "root/bad":
            seen.append(type(event).__name__)

    tree.events.subscribe(note)
    reply = tree.address("root").ask(StartChild(ChildSpec("bad", factory)))
    assert isinstance(reply.exception(), StartFailedError)
    tree.stop(5.0)
    assert seen == ["ChildStartFailed", "ChildDeleted"]


def test_factory_that_returns_the_same_actor_again_is_refused(start_tree: StartTree) -> None:
    """SUP-08."""
    made: list[Echo] = []

    def once() -> Echo:
        if not made:
            made.append(Echo())
        return made[0]

    tree = start_tree(ChildSpec("a", once), max_restarts=2)
    with expect(tree, ChildStartFailed) as got:
        crash(tree.address("root/a"))
    assert isinstance(got.event.error, ConfigError)


@pytest.mark.parametrize(("kind", "factory"), [("supervisor", Echo), ("worker", DynamicSupervisor)])
def test_child_that_is_not_of_the_kind_it_should_be_is_a_failed_start(
    start_tree: StartTree, kind: str, factory: Callable[[], SupervisedActor]
) -> None:
    """SUP-04."""
    root = start_tree().address("root")
    with pytest.raises(StartFailedError) as caught:
        root.call(StartChild(ChildSpec("a", factory, kind=Kind(kind))))
    assert isinstance(caught.value.__cause__, ConfigError)
    assert "ChildSpec.kind of 'a'" in str(caught.value.__cause__)
    assert root.call(CountChildren()).specs == 0


def test_root_that_is_a_worker_after_all_is_a_failed_start(clock: VirtualClock) -> None:
    """SUP-04."""
    with pytest.raises(StartFailedError) as caught:
        ActorTree(ChildSpec("root", Echo, kind=Kind.SUPERVISOR), clock=clock).start(10.0)
    assert isinstance(caught.value.__cause__, ConfigError)


# Threads that cannot be had.


def test_thread_that_cannot_be_started_is_a_failed_start(
    start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SUP-08."""
    dynamic = start_tree(DYNAMIC).address("root/dyn")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(StartFailedError) as caught:
            dynamic.call(StartChild(ChildSpec("a", Echo)))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert dynamic.call(CountChildren()).specs == 0
    assert dynamic.call(StartChild(ChildSpec("a", Echo))).call("hello") == "hello"


def test_restart_without_a_thread_is_tried_again(
    start_tree: StartTree, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SUP-08."""
    tree = start_tree(ChildSpec("a", Echo, backoff=Backoff(base_s=1.0)), clock=clock)
    with expect(tree, ChildStartFailed, epoch=2) as failed, expect(tree, ChildRestarting, count=2):
        crash_into_the_pause(tree)
        monkeypatch.setattr(threading.Thread, "start", cannot_start)
        clock.advance(5.0)
    assert isinstance(failed.event.error, RuntimeError)
    monkeypatch.undo()
    with expect(tree, ChildStarted, path="root/a", epoch=3):
        clock.advance(5.0)


def crash_into_the_pause(tree: ActorTree) -> None:
    with expect(tree, ChildRestarting, path="root/a"):
        crash(tree.address("root/a"))


def test_static_child_without_a_thread_fails_the_tree(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """SUP-08."""

    class Exhausting(Recorder):
        def on_start(self) -> None:
            super().on_start()
            monkeypatch.setattr(threading.Thread, "start", cannot_start)

    tree = tree_of(ChildSpec("a", lambda: Exhausting(log)), ChildSpec("b", Echo), clock=clock)
    with pytest.raises(StartFailedError, match="root/b") as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert log == ["+a", "-a"]


def test_tree_without_a_thread_fails_to_start(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """SUP-08."""
    tree = tree_of(ChildSpec("a", Echo), clock=clock)
    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    with pytest.raises(StartFailedError) as caught:
        tree.start(10.0)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert tree.stopped.is_set()


# Starting a tree.


def test_supervised_actor_is_not_started_the_pykka_way() -> None:
    with pytest.raises(ConfigError):
        Echo.start()


def test_tree_starts_once(start_tree: StartTree) -> None:
    tree = start_tree()
    with pytest.raises(RuntimeStoppedError):
        tree.start()


def test_tree_whose_root_fails_at_once_leaves_no_thread_of_its_clock_behind() -> None:
    """SUP-08."""
    before = set(threading.enumerate())
    for _ in range(20):
        with pytest.raises(StartFailedError):
            ActorTree(ChildSpec("root", refuse, kind=Kind.SUPERVISOR)).start(10.0)
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(5.0)
    assert [thread.name for thread in left if thread.is_alive()] == []


def test_tree_that_is_not_up_in_time_is_taken_down(blocked: Blocked) -> None:
    tree = tree_of(ChildSpec("slow", blocked, shutdown_s=0.0))

    def let_go(event: object) -> None:
        if isinstance(event, ShutdownBegan):
            blocked.go_on.set()

    tree.events.subscribe(let_go)
    with pytest.raises(StartFailedError, match="within"):
        tree.start(0.05)
    assert tree.stopped.is_set()


# A start that takes its time.


def test_blocking_constructor_blocks_nobody_else(start_tree: StartTree, blocked: Blocked) -> None:
    """SUP-07, SUP-13."""
    tree = start_tree(ChildSpec("a", Echo))
    root = tree.address("root")
    started = root.ask(StartChild(ChildSpec("slow", blocked)))
    blocked.entered.wait(5.0)
    assert [child.state for child in root.call(WhichChildren())] == ["running", "starting"]
    assert tree.address("root/a").call("hello") == "hello"
    assert not started.done()
    blocked.go_on.set()
    assert started.result() == tree.address("root/slow")


@pytest.mark.parametrize("path", ["root", "root/dyn"])
def test_other_children_come_and_go_while_one_is_in_its_constructor(
    start_tree: StartTree, blocked: Blocked, path: str
) -> None:
    """SUP-07."""
    supervisor = start_tree(DYNAMIC).address(path)
    slow = supervisor.ask(StartChild(ChildSpec("slow", blocked)))
    blocked.entered.wait(5.0)
    assert supervisor.call(StartChild(ChildSpec("a", Echo))).call("hello") == "hello"
    supervisor.call(TerminateChild("a"))
    supervisor.call(StartChild(ChildSpec("b", Echo)))
    assert not slow.done()


def test_down_child_is_started_and_deleted_while_another_is_in_its_constructor(
    start_tree: StartTree, blocked: Blocked
) -> None:
    """SUP-07."""
    root = start_tree(ChildSpec("a", Echo)).address("root")
    slow = root.ask(StartChild(ChildSpec("slow", blocked)))
    blocked.entered.wait(5.0)
    root.call(TerminateChild("a"))
    assert root.call(RestartChild("a")).call("hello") == "hello"
    root.call(TerminateChild("a"))
    root.call(DeleteChild("a"))
    assert not slow.done()


def test_sibling_restarts_while_another_is_in_its_constructor(
    start_tree: StartTree, blocked: Blocked
) -> None:
    """SUP-07."""
    tree = start_tree(ChildSpec("a", Echo))
    slow = tree.address("root").ask(StartChild(ChildSpec("slow", blocked)))
    blocked.entered.wait(5.0)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    assert not slow.done()


def test_constructor_that_blocks_at_a_restart_blocks_nobody_else(
    start_tree: StartTree, blocked: Blocked
) -> None:
    """SUP-07."""
    tree = start_tree(ChildSpec("slow", in_turn(Echo, blocked)), ChildSpec("a", Echo))
    crash(tree.address("root/slow"))
    blocked.entered.wait(5.0)
    root = tree.address("root")
    assert [child.state for child in root.call(WhichChildren())] == ["starting", "running"]
    root.call(TerminateChild("a"))
    assert root.call(RestartChild("a")).call("hello") == "hello"


def test_supervisor_answers_commands_while_its_first_children_start(blocked: Blocked) -> None:
    """SUP-07, SUP-13."""
    tree = tree_of(ChildSpec("slow", blocked))
    starter = threading.Thread(target=tree.start)
    starter.start()
    blocked.entered.wait(5.0)
    assert tree.address("root").call(CountChildren()).active == 0
    blocked.go_on.set()
    starter.join()
    tree.stop(5.0)


def test_child_added_while_the_first_ones_start_comes_after_them(blocked: Blocked, log: list[str]) -> None:
    tree = tree_of(ChildSpec("slow", blocked), ChildSpec("last", lambda: Recorder(log)))
    starter = threading.Thread(target=tree.start)
    starter.start()
    blocked.entered.wait(5.0)
    added = tree.address("root").ask(StartChild(ChildSpec("added", lambda: Recorder(log))))
    blocked.go_on.set()
    assert added.result().call("hello") == "hello"
    starter.join()
    assert log == ["+last", "+added"]
    tree.stop(5.0)


def test_child_added_while_the_first_ones_start_fails_for_itself_alone(blocked: Blocked) -> None:
    tree = tree_of(ChildSpec("slow", blocked), ChildSpec("last", Echo))
    starter = threading.Thread(target=tree.start)
    starter.start()
    blocked.entered.wait(5.0)
    added = tree.address("root").ask(StartChild(ChildSpec("added", refuse)))
    blocked.go_on.set()
    assert isinstance(added.exception(), StartFailedError)
    starter.join()
    assert tree.address("root").call(CountChildren()).active == 2
    tree.stop(5.0)


class Stuck(Echo):
    """Does not come back from its message until it is let go."""

    go_on: threading.Event

    def on_receive(self, message: threading.Event) -> Any:
        message.set()
        self.go_on.wait(20.0)


def test_pictures_of_the_children_come_while_one_is_stuck_and_one_starts(
    start_tree: StartTree, blocked: Blocked
) -> None:
    """SUP-13."""

    class StuckHere(Stuck):
        go_on = blocked.go_on

    tree, entered = start_tree(ChildSpec("stuck", StuckHere)), threading.Event()
    root = tree.address("root")
    tree.address("root/stuck").tell(entered)
    slow = root.ask(StartChild(ChildSpec("slow", blocked)))
    entered.wait(5.0)
    blocked.entered.wait(5.0)
    assert [(child.id, child.state) for child in root.call(WhichChildren())] == [
        ("stuck", "running"),
        ("slow", "starting"),
    ]
    assert root.call(CountChildren()) == ChildCounts(specs=2, active=1, supervisors=0, workers=2)
    assert [(node.id, node.state) for node in tree.snapshot().children] == [
        ("stuck", "running"),
        ("slow", "starting"),
    ]
    assert not slow.done()


# Start time-outs.


def test_start_time_out_fences_the_incarnation_and_leaves_the_name_to_the_next(
    start_tree: StartTree, clock: VirtualClock, blocked: Blocked
) -> None:
    """SUP-09."""
    tree = start_tree(DYNAMIC, clock=clock)
    dynamic = tree.address("root/dyn")
    started = dynamic.ask(StartChild(ChildSpec("a", blocked, start_timeout_s=3.0)))
    blocked.entered.wait(5.0)
    with expect(tree, ChildAbandoned, path="root/dyn/a", epoch=1), expect(tree, ChildStartFailed):
        clock.advance(3.0)
    error = started.exception()
    assert isinstance(error, StartFailedError)
    assert isinstance(error.__cause__, TimeoutError)
    assert dynamic.call(StartChild(ChildSpec("a", Echo))).call("hello") == "hello"
    with expect(tree, ZombieEnded, path="root/dyn/a", epoch=1):
        blocked.go_on.set()
    assert tree.address("root/dyn/a").call("hello") == "hello"


class SlowToStart(Echo):
    """Its first incarnation blocks in `on_start`, and then sees whether it is fenced."""

    def __init__(self, entered: threading.Event, go_on: threading.Event, fenced: list[bool]) -> None:
        super().__init__()
        self.entered, self.go_on, self.fenced = entered, go_on, fenced

    def on_start(self) -> None:
        if self.context.epoch == 1:
            self.entered.set()
            self.go_on.wait(20.0)
            self.fenced.append(self.context.is_fenced)


def test_acknowledgement_that_comes_after_the_start_time_out_is_ignored(
    start_tree: StartTree, clock: VirtualClock, blocked: Blocked
) -> None:
    """SUP-09."""
    fenced: list[bool] = []
    tree = start_tree(clock=clock)
    root = tree.address("root")
    spec = ChildSpec(
        "a",
        lambda: SlowToStart(blocked.entered, blocked.go_on, fenced),
        start_timeout_s=3.0,
        backoff=Backoff(base_s=50.0),
    )
    started = root.ask(StartChild(spec, retries=True))
    blocked.entered.wait(5.0)
    with expect(tree, ChildRestarting, path="root/a", epoch=1):
        clock.advance(3.0)
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        blocked.go_on.set()
    root.call(CountChildren())  # answered after whatever the late one posted
    assert (state(tree, "root/a"), fenced) == ("backing_off", [True])
    assert isinstance(started.exception(), StartFailedError)
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(100.0)


def test_start_time_out_at_a_restart_starts_another_and_uses_up_a_restart(
    start_tree: StartTree, clock: VirtualClock, blocked: Blocked
) -> None:
    """SUP-09."""
    spec = ChildSpec("a", in_turn(Echo, blocked, Echo), start_timeout_s=3.0)
    tree = start_tree(spec, clock=clock)
    crash(tree.address("root/a"))
    blocked.entered.wait(5.0)
    with expect(tree, ChildRestarting, epoch=2) as got, expect(tree, ChildStarted, epoch=3):
        clock.advance(3.0)
    assert got.event.in_window == 2


class LateClock(VirtualClock):
    """Keeps what it was to call, so that a timer can fire although it was cancelled a moment before."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: dict[float, Callable[[], object]] = {}

    def schedule(
        self, delay_s: float, callback: Callable[[], object], *, in_background: bool = False
    ) -> Timer:
        self.callbacks[delay_s] = callback
        return super().schedule(delay_s, callback, in_background=in_background)


def test_late_timer_of_a_start_leaves_the_child_alone_that_is_up(start_tree: StartTree) -> None:
    """SUP-09."""
    clock = LateClock()
    tree = start_tree(ChildSpec("a", Echo, start_timeout_s=7.0), clock=clock)
    clock.callbacks[7.0]()
    assert tree.address("root").call(CountChildren()).active == 1
    assert tree.address("root/a").call("hello") == "hello"


# What `on_start` may do.


def test_on_start_may_write_to_itself_and_to_its_supervisor(start_tree: StartTree) -> None:
    """SUP-10."""
    above: list[str] = []
    below: list[str] = []

    class Parent(Supervisor):
        def on_receive(self, message: str) -> None:
            above.append(message)

    class Eager(SupervisedActor):
        def on_start(self) -> None:
            self.context.me.tell("to myself")
            self.context.address("root/mid").tell("to my supervisor")
            self.context.address(self.context.path).tell("to my name")

        def on_receive(self, message: str) -> None:
            below.append(message)

    eager = [ChildSpec("a", Eager)]
    tree = start_tree(ChildSpec("mid", lambda: Parent(eager), kind=Kind.SUPERVISOR))
    tree.address("root/mid/a").call("a question")
    tree.address("root/mid").call("another")
    assert above == ["to my supervisor", "another"]
    assert below == ["to myself", "to my name", "a question"]


def test_on_start_may_ask_its_supervisor_about_its_siblings(start_tree: StartTree) -> None:
    """SUP-10."""
    counts: list[ChildCounts] = []

    class Curious(Echo):
        def on_start(self) -> None:
            counts.append(self.context.address("root").call(CountChildren(), timeout_s=10.0))

    start_tree(ChildSpec("first", Echo), ChildSpec("a", Curious))
    assert counts == [ChildCounts(specs=2, active=1, supervisors=0, workers=2)]


def test_on_start_that_waits_for_itself_is_told_so(start_tree: StartTree) -> None:
    """SUP-10."""

    class Introvert(Echo):
        def on_start(self) -> None:
            self.context.address(self.context.path).call("anybody there?")

    root = start_tree().address("root")
    with pytest.raises(StartFailedError) as caught:
        root.call(StartChild(ChildSpec("a", Introvert)))
    assert isinstance(caught.value.__cause__, WouldDeadlockError)


def test_child_is_visible_as_running_once_its_start_is_announced(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    node = tree.snapshot().find("root/a")
    assert node is not None
    assert (node.state, node.epoch, node.restarts) == ("running", 2, 1)
    wait_for(tree, lambda tree: tree.snapshot().state == "running")
