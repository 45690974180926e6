import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tinker_actors.errors import NotDeliveredError, OutcomeUnknownError, RuntimeStoppedError, StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildAbandoned,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    CountChildren,
    DynamicSupervisor,
    ErrorContained,
    Killed,
    Kind,
    RestartChild,
    Shutdown,
    ShutdownBegan,
    ShutdownEnded,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    Timer,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Recorder(SupervisedActor):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def on_receive(self, message: Any) -> Any:
        return message

    def on_stop(self) -> None:
        self.log.append(self.context.path)


class Stubborn(SupervisedActor):
    """Its handler blocks until it is let go."""

    def __init__(self, entered: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self.entered, self.go_on = entered, go_on

    def on_receive(self, _message: Any) -> str:
        self.entered.set()
        self.go_on.wait(20.0)
        return "late"


class Block:
    """Children that block, and how to free them."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def spec(self, name: str = "stubborn", **fields: Any) -> ChildSpec:
        """A child whose handler blocks."""
        return ChildSpec(name, lambda: Stubborn(self.entered, self.go_on), **fields)

    def at(self, hook: str, name: str = "stubborn", *, epoch: int = 1, **fields: Any) -> ChildSpec:
        """A child whose `hook` blocks, in one of its incarnations."""

        def halt(actor: SupervisedActor) -> None:
            if actor.context.epoch == epoch:
                self.entered.set()
                self.go_on.wait(20.0)

        return ChildSpec(name, type("Halting", (SupervisedActor,), {hook: halt}), **fields)

    def begin(self, tree: ActorTree, path: str = "root/stubborn") -> None:
        """Send a child into its handler."""
        self.entered.clear()
        tree.address(path).tell("block")
        self.entered.wait(5.0)


@pytest.fixture
def block() -> Iterator[Block]:
    one = Block()
    yield one
    one.go_on.set()


def begin_to_stop(tree: ActorTree, timeout_s: float = 30.0) -> None:
    """Ask the tree to end, as one of its actors would, and see it begin; some child does not end at once."""
    tree._request_stop(timeout_s)
    obeyed(tree, "root")


def obeyed(tree: ActorTree, path: str) -> None:
    """Return once the supervisor at `path` has acted on what it was told before."""
    tree.address(path).call(CountChildren(), timeout_s=1000.0)


def state(tree: ActorTree, path: str) -> str:
    node = tree.snapshot().find(path)
    return "gone" if node is None else node.state


def nest(name: str, *children: ChildSpec, **fields: Any) -> ChildSpec:
    return ChildSpec(name, lambda: Supervisor(children), kind=Kind.SUPERVISOR, **fields)


def dynamic(start_tree: StartTree, clock: VirtualClock | None, *children: ChildSpec) -> ActorTree:
    """A tree whose `root/dyn` runs these children."""
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR), clock=clock)
    for child in children:
        tree.address("root/dyn").call(StartChild(child))
    return tree


def test_tree_stops_in_reverse_order_through_all_levels(start_tree: StartTree) -> None:
    """SHU-01."""
    log: list[str] = []
    tree = start_tree(
        ChildSpec("a", lambda: Recorder(log)),
        nest("mid", *(ChildSpec(name, lambda: Recorder(log)) for name in "yx")),
        ChildSpec("b", lambda: Recorder(log)),
    )
    tree.stop(5.0)
    assert log == ["root/b", "root/mid/x", "root/mid/y", "root/a"]


def test_stop_is_announced_and_reported(start_tree: StartTree) -> None:
    tree = start_tree()
    with (
        expect(tree, ShutdownBegan, timeout_s=5.0),
        expect(tree, ShutdownEnded, abandoned=(), first_cause=None),
    ):
        tree.stop(5.0)
    assert tree.snapshot().state == "stopped"


def test_stopping_twice_is_the_same_as_once(start_tree: StartTree) -> None:
    tree = start_tree()
    tree.stop(5.0)
    tree.stop(5.0)
    assert tree.first_cause is None


def test_tree_that_never_started_can_be_stopped() -> None:
    tree = ActorTree(ChildSpec("root", DynamicSupervisor, kind=Kind.SUPERVISOR))
    tree.stop(1.0)
    with pytest.raises(RuntimeStoppedError):
        tree.address("root").tell("hello")


def test_tree_says_from_the_first_request_on_that_it_is_ending(start_tree: StartTree, block: Block) -> None:
    tree = start_tree(block.at("on_stop"))
    answers = [tree.is_ending]
    begin_to_stop(tree)
    answers.append(tree.is_ending)
    block.go_on.set()
    tree.stop(5.0)
    answers.append(tree.is_ending)
    assert answers == [False, True, True]


# Time limits.


def test_child_that_ignores_the_stop_is_abandoned_and_the_others_end(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    log: list[str] = []
    tree = start_tree(ChildSpec("a", lambda: Recorder(log)), block.spec(shutdown_s=2.0), clock=clock)
    block.begin(tree)
    begin_to_stop(tree)
    with (
        expect(tree, ChildAbandoned, path="root/stubborn", after_s=2.0),
        expect(tree, ShutdownEnded, abandoned=("root/stubborn",)),
    ):
        clock.advance(2.0)
    assert tree.stopped.wait(5.0)
    assert log == ["root/a"]


@pytest.mark.parametrize("shutdown_s", [100.0, math.inf])
def test_total_deadline_bounds_each_childs_own_time(
    start_tree: StartTree, clock: VirtualClock, block: Block, shutdown_s: float
) -> None:
    """SHU-02."""
    tree = start_tree(block.spec(shutdown_s=shutdown_s), clock=clock)
    block.begin(tree)
    begin_to_stop(tree, 3.0)
    clock.advance(2.5)
    assert state(tree, "root/stubborn") == "stopping"
    with expect(tree, ShutdownEnded, abandoned=("root/stubborn",)):
        clock.advance(0.5)


@pytest.mark.parametrize("shutdown_s", [100.0, math.inf])
def test_total_deadline_also_bounds_the_time_of_a_child_that_was_to_end_before(
    start_tree: StartTree, clock: VirtualClock, block: Block, shutdown_s: float
) -> None:
    """SHU-02."""
    tree = start_tree(block.spec(shutdown_s=shutdown_s), clock=clock)
    block.begin(tree)
    terminated = tree.address("root").ask(TerminateChild("stubborn"), timeout_s=1000.0)
    begin_to_stop(tree, 3.0)
    with expect(tree, ShutdownEnded, abandoned=("root/stubborn",)):
        clock.advance(3.0)
    assert terminated.result() is None


def test_abandoned_child_is_reported_with_the_time_it_was_given(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    tree = start_tree(block.spec(shutdown_s=math.inf), clock=clock)
    block.begin(tree)
    begin_to_stop(tree, 3.0)
    with expect(tree, ChildAbandoned, path="root/stubborn") as got, expect(tree, ChildExited) as ended:
        clock.advance(3.0)
    assert got.event.after_s == 3.0
    assert ended.event.reason == Killed(3.0)


@pytest.mark.parametrize(
    ("supervisor", "first_s", "second_s", "limit_s"),
    [
        ("root", 30.0, 3.0, 3.0),
        ("root", 3.0, 30.0, 3.0),
        ("root/mid", 30.0, 3.0, 2.75),  # mid must have ended before the root gives it up
        ("root/mid", 3.0, 30.0, 2.75),
    ],
)
def test_of_two_requests_to_stop_the_earlier_limit_holds(
    start_tree: StartTree,
    clock: VirtualClock,
    block: Block,
    supervisor: str,
    first_s: float,
    second_s: float,
    limit_s: float,
) -> None:
    """SHU-02."""
    stubborn = block.spec(shutdown_s=100.0)
    tree = start_tree({"root": stubborn, "root/mid": nest("mid", stubborn)}[supervisor], clock=clock)
    block.begin(tree, f"{supervisor}/stubborn")
    begin_to_stop(tree, first_s)
    begin_to_stop(tree, second_s)
    obeyed(tree, supervisor)
    with expect(tree, ShutdownEnded, abandoned=(f"{supervisor}/stubborn",)):
        clock.advance(limit_s)


def test_child_with_unlimited_time_is_waited_for(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    spec = block.spec(shutdown_s=math.inf, handler_deadline_s=math.inf)
    tree = start_tree(spec, clock=clock)
    block.begin(tree)
    terminated = tree.address("root").ask(TerminateChild("stubborn"), timeout_s=1e6)
    obeyed(tree, "root")
    clock.advance(1000.0)
    assert state(tree, "root/stubborn") == "stopping"
    with expect(tree, ChildExited, path="root/stubborn", reason=Shutdown(), expected=True):
        block.go_on.set()
    assert terminated.result() is None


def test_supervisor_is_waited_for_as_long_as_its_children_take(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    tree = start_tree(nest("mid", block.spec(shutdown_s=500.0, handler_deadline_s=math.inf)), clock=clock)
    block.begin(tree, "root/mid/stubborn")
    terminated = tree.address("root").ask(TerminateChild("mid"), timeout_s=1e6)
    obeyed(tree, "root")
    obeyed(tree, "root/mid")
    with (
        expect(tree, ChildAbandoned, path="root/mid/stubborn"),
        expect(tree, ChildExited, path="root/mid", reason=Shutdown()),
    ):
        clock.advance(500.0)
    assert terminated.result() is None


def test_child_without_time_to_end_is_abandoned_at_once(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    tree = start_tree(block.spec(shutdown_s=0.0), clock=clock)
    block.begin(tree)
    terminated = tree.address("root").ask(TerminateChild("stubborn"))
    obeyed(tree, "root")
    with expect(tree, ChildExited, path="root/stubborn", reason=Killed(0.0)):
        clock.advance(0.0)
    assert terminated.result() is None


def test_ten_dynamic_children_without_time_to_end_are_abandoned_together(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    names = [f"s{number}" for number in range(10)]
    tree = dynamic(start_tree, clock, *(block.spec(name, shutdown_s=0.0) for name in names))
    for name in names:
        block.begin(tree, f"root/dyn/{name}")
    begin_to_stop(tree)
    obeyed(tree, "root/dyn")
    with (
        expect(tree, ChildExited, count=10, reason=Killed(0.0)),
        expect(tree, ShutdownEnded, abandoned=tuple(f"root/dyn/{name}" for name in names)),
    ):
        clock.advance(0.0)


def test_slow_dynamic_child_is_abandoned_alone_at_its_own_time(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-02."""
    log: list[str] = []
    a, b = (ChildSpec(name, lambda: Recorder(log)) for name in "ab")
    tree = dynamic(start_tree, clock, a, block.spec(shutdown_s=2.0), b)
    block.begin(tree, "root/dyn/stubborn")
    with expect(tree, ChildExited, count=2):
        begin_to_stop(tree)
    assert sorted(log) == ["root/dyn/a", "root/dyn/b"]
    with expect(tree, ShutdownEnded, abandoned=("root/dyn/stubborn",)):
        clock.advance(2.0)


def test_call_in_an_abandoned_actor_has_an_unknown_outcome_and_its_queue_none(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    tree = start_tree(block.spec(shutdown_s=2.0), clock=clock)
    stubborn = tree.address("root/stubborn")
    begun = stubborn.ask("block")
    block.entered.wait(5.0)
    queued = stubborn.ask("behind it")
    terminated = tree.address("root").ask(TerminateChild("stubborn"), timeout_s=1000.0)
    obeyed(tree, "root")
    clock.advance(2.0)
    assert terminated.result() is None
    block.go_on.set()
    assert isinstance(begun.exception(), OutcomeUnknownError)
    assert isinstance(queued.exception(), NotDeliveredError)


# Supervisors that are stuck.


class Stuck(Supervisor):
    """Its handler blocks until it is let go."""

    entered, go_on = threading.Event(), threading.Event()

    def on_receive(self, _message: Any) -> None:
        self.entered.set()
        self.go_on.wait(20.0)


@pytest.fixture
def stuck() -> Iterator[type[Stuck]]:
    Stuck.entered.clear()
    Stuck.go_on.clear()
    yield Stuck
    Stuck.go_on.set()


def get_stuck(tree: ActorTree, path: str) -> None:
    tree.address(path).tell("block")
    Stuck.entered.wait(5.0)


def test_stuck_supervisor_does_not_hold_up_the_stop(
    start_tree: StartTree, stuck: type[Stuck], block: Block
) -> None:
    """SHU-02."""
    tree = start_tree(ChildSpec("mid", lambda: stuck([block.spec()]), kind=Kind.SUPERVISOR))
    block.begin(tree, "root/mid/stubborn")
    get_stuck(tree, "root/mid")
    with expect(tree, ShutdownEnded, abandoned=("root/mid", "root/mid/stubborn")):
        tree.stop(0.3)


def test_stuck_root_does_not_hold_up_the_stop(stuck: type[Stuck], block: Block) -> None:
    """SHU-02."""
    tree = ActorTree(ChildSpec("root", lambda: stuck([block.spec()]), kind=Kind.SUPERVISOR))
    tree.start()
    block.begin(tree)
    get_stuck(tree, "root")
    with (
        expect(tree, ChildAbandoned, path="root", after_s=0.0),
        expect(tree, ChildExited, path="root", reason=Killed(0.0), expected=True),
        expect(tree, ShutdownEnded, abandoned=("root", "root/stubborn")),
    ):
        tree.stop(0.0)
    with pytest.raises(RuntimeStoppedError):
        tree.address("root/stubborn").call("hello")


def test_termination_of_a_stuck_supervisor_takes_those_below_it_along(
    start_tree: StartTree, clock: VirtualClock, stuck: type[Stuck]
) -> None:
    """SHU-02."""
    low = nest("low", ChildSpec("leaf", lambda: Recorder([])))
    mid = ChildSpec("mid", lambda: stuck([low]), kind=Kind.SUPERVISOR, shutdown_s=2.0)
    tree = start_tree(mid, clock=clock)
    get_stuck(tree, "root/mid")
    terminated = tree.address("root").ask(TerminateChild("mid"), timeout_s=1000.0)
    obeyed(tree, "root")
    with expect(tree, ChildExited, path="root/mid", reason=Killed(2.0)):
        clock.advance(2.0)
    assert terminated.result() is None
    assert state(tree, "root/mid/low/leaf") == "stopped"
    with pytest.raises(NotDeliveredError):
        tree.address("root/mid/low/leaf").call("hello")


# Hooks.


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)], ids=["error", "sys.exit"])
def test_on_stop_that_raises_runs_once_and_spares_the_others(
    start_tree: StartTree, error: BaseException
) -> None:
    """SHU-05."""
    runs: list[str] = []

    class Clumsy(SupervisedActor):
        def on_stop(self) -> None:
            runs.append(self.context.id)
            raise error

    tree = start_tree(ChildSpec("a", Clumsy), ChildSpec("b", Clumsy))
    with expect(tree, ErrorContained, count=2, where="on_stop"), expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert runs == ["b", "a"]


@pytest.mark.parametrize("hook", ["on_stop", "on_exit"])
def test_hook_that_hangs_runs_once_and_is_left_behind_at_the_childs_time(
    start_tree: StartTree, clock: VirtualClock, hook: str
) -> None:
    """SHU-05."""
    runs: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def hang(actor: SupervisedActor, *_: object) -> None:
        runs.append(actor.context.id)
        entered.set()
        go_on.wait(20.0)

    log: list[str] = []
    hanging = ChildSpec("b", type("Hanging", (SupervisedActor,), {hook: hang}), shutdown_s=2.0)
    tree = start_tree(ChildSpec("a", lambda: Recorder(log)), hanging, clock=clock)
    begin_to_stop(tree)
    entered.wait(5.0)
    with expect(tree, ShutdownEnded, abandoned=("root/b",)):
        clock.advance(2.0)
    go_on.set()
    assert runs == ["b"]
    assert log == ["root/a"]


# Messages.


def test_stop_overtakes_the_messages_that_wait(start_tree: StartTree, block: Block) -> None:
    """SHU-08."""
    tree = start_tree(block.spec(max_mailbox=20_000))
    block.begin(tree)
    queued = [tree.address("root/stubborn").ask("waiting") for _ in range(10_000)]
    terminated = tree.address("root").ask(TerminateChild("stubborn"))
    obeyed(tree, "root")
    block.go_on.set()
    terminated.result()
    assert {type(reply.exception()) for reply in queued} == {NotDeliveredError}


ADDITIONS = pytest.mark.parametrize(
    "command", [StartChild(ChildSpec("new", SupervisedActor)), RestartChild("a")], ids=["start", "restart"]
)


@ADDITIONS
def test_root_that_ends_starts_nobody(
    start_tree: StartTree, block: Block, command: StartChild | RestartChild
) -> None:
    """SHU-04."""
    tree = start_tree(ChildSpec("a", SupervisedActor), block.at("on_stop"))
    begin_to_stop(tree)
    with pytest.raises(NotDeliveredError, match="root is shutting down"):
        tree.address("root").call(command)


@ADDITIONS
def test_supervisor_that_is_being_terminated_starts_nobody(
    start_tree: StartTree, block: Block, command: StartChild | RestartChild
) -> None:
    """SHU-04."""
    tree = start_tree(nest("mid", ChildSpec("a", SupervisedActor), block.at("on_stop")))
    terminated = tree.address("root").ask(TerminateChild("mid"))
    block.entered.wait(5.0)
    with pytest.raises(NotDeliveredError, match="root/mid is shutting down"):
        tree.address("root/mid").call(command)
    block.go_on.set()
    assert terminated.result() is None


def test_termination_asked_for_while_the_tree_ends_waits_for_the_end(
    start_tree: StartTree, block: Block
) -> None:
    tree = start_tree(block.at("on_stop"))
    begin_to_stop(tree)
    terminated = tree.address("root").ask(TerminateChild("stubborn"))
    obeyed(tree, "root")
    assert not terminated.done()
    block.go_on.set()
    assert terminated.result() is None


# In the middle of something.


def test_stop_of_a_tree_that_starts_ends_its_start(block: Block) -> None:
    """SHU-04."""
    log: list[str] = []
    children = (
        ChildSpec("a", lambda: Recorder(log)),
        block.at("on_start"),
        ChildSpec("c", lambda: Recorder(log)),
    )
    tree = ActorTree(nest("root", *children))
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(tree.start)
        block.entered.wait(5.0)
        begin_to_stop(tree)
        with expect(tree, ShutdownEnded, abandoned=(), first_cause=None):
            block.go_on.set()
        with pytest.raises(StartFailedError, match="root was stopped before it was up"):
            starting.result(5.0)
    assert log == ["root/a"]
    assert [node.epoch for node in tree.snapshot().children] == [1, 1, 0]


def test_child_that_is_added_while_the_tree_is_stopped_ends_once_it_is_up(
    start_tree: StartTree, block: Block
) -> None:
    """SHU-04."""
    tree = start_tree()
    added = tree.address("root").ask(StartChild(block.at("on_start")))
    block.entered.wait(5.0)
    begin_to_stop(tree)
    with expect(tree, ShutdownEnded, abandoned=()):
        block.go_on.set()
    with pytest.raises(StartFailedError, match="stopped before it was up"):
        added.result()


def test_child_that_is_added_while_the_tree_is_stopped_has_its_start_limit_to_come_up(
    start_tree: StartTree, clock: VirtualClock, block: Block
) -> None:
    """SHU-04."""
    tree = start_tree(clock=clock)
    tree.address("root").ask(StartChild(block.at("on_start", start_timeout_s=4.0)), timeout_s=1000.0)
    block.entered.wait(5.0)
    clock.advance(1.0)
    begin_to_stop(tree)
    clock.advance(2.5)
    assert state(tree, "root/stubborn") == "stopping"
    with expect(tree, ShutdownEnded, abandoned=("root/stubborn",)):
        clock.advance(0.5)


def test_child_terminated_while_it_starts_has_its_time_to_end_from_when_it_is_up(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """SHU-04."""
    starts, ends = Block(), Block()

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            starts.entered.set()
            starts.go_on.wait(20.0)

        def on_stop(self) -> None:
            ends.entered.set()
            ends.go_on.wait(20.0)

    tree = start_tree(clock=clock)
    root = tree.address("root")
    root.ask(StartChild(ChildSpec("s", Slow, start_timeout_s=4.0, shutdown_s=2.0)), timeout_s=1000.0)
    starts.entered.wait(5.0)
    terminated = root.ask(TerminateChild("s"), timeout_s=1000.0)
    obeyed(tree, "root")
    clock.advance(3.5)
    starts.go_on.set()
    ends.entered.wait(5.0)
    obeyed(tree, "root")
    clock.advance(1.5)
    assert state(tree, "root/s") == "stopping"
    with expect(tree, ChildExited, path="root/s", reason=Killed(2.0)):
        clock.advance(0.5)
    assert terminated.result() is None
    ends.go_on.set()


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


def test_late_timer_of_the_start_does_not_cut_the_time_to_end_short(
    start_tree: StartTree, block: Block
) -> None:
    """SHU-04."""
    clock, ends = LateClock(), Block()

    class Slow(SupervisedActor):
        def on_start(self) -> None:
            block.entered.set()
            block.go_on.wait(20.0)

        def on_stop(self) -> None:
            ends.entered.set()
            ends.go_on.wait(20.0)

    tree = start_tree(clock=clock)
    root = tree.address("root")
    root.ask(StartChild(ChildSpec("s", Slow, start_timeout_s=4.0, shutdown_s=2.0)), timeout_s=1000.0)
    block.entered.wait(5.0)
    terminated = root.ask(TerminateChild("s"), timeout_s=1000.0)
    obeyed(tree, "root")
    block.go_on.set()
    ends.entered.wait(5.0)
    clock.callbacks[4.0]()
    obeyed(tree, "root")
    with expect(tree, ChildExited, path="root/s", reason=Shutdown()):
        ends.go_on.set()
    assert terminated.result() is None


def test_late_timer_of_a_termination_leaves_the_next_incarnation_alone(start_tree: StartTree) -> None:
    """SUP-29."""
    clock = LateClock()
    tree = start_tree(ChildSpec("a", lambda: Recorder([]), shutdown_s=3.0), clock=clock)
    tree.address("root").call(TerminateChild("a"))
    tree.address("root").call(RestartChild("a"))
    clock.callbacks[3.0]()
    obeyed(tree, "root")
    assert [(node.state, node.epoch) for node in tree.snapshot().children] == [("running", 2)]


def test_stop_cancels_a_restart_that_waits(start_tree: StartTree, clock: VirtualClock) -> None:
    """SHU-04."""
    tree = start_tree(ChildSpec("a", lambda: Recorder([]), backoff=Backoff(base_s=9.0)), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    waiting = tree.address("root/a").ask("parked")
    tree.stop(5.0)
    assert isinstance(waiting.exception(), NotDeliveredError)
    assert clock.pending() == 0


GROUPS = pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])


@GROUPS
def test_stop_while_a_group_restart_ends_children_starts_none_of_them(
    start_tree: StartTree, block: Block, strategy: Strategy
) -> None:
    """SHU-04."""
    children = ChildSpec("a", lambda: Recorder([])), block.at("on_stop"), ChildSpec("c", lambda: Recorder([]))
    tree = start_tree(*children, strategy=strategy)
    crash(tree.address("root/a"))
    block.entered.wait(5.0)  # c has ended, a is to start again
    begin_to_stop(tree)
    with expect(tree, ShutdownEnded, abandoned=()):
        block.go_on.set()
    assert [(node.state, node.epoch) for node in tree.snapshot().children] == [("stopped", 1)] * 3


@GROUPS
def test_stop_while_a_group_restart_pauses_starts_none_of_them(
    start_tree: StartTree, clock: VirtualClock, strategy: Strategy
) -> None:
    """SHU-04."""
    first = ChildSpec("a", lambda: Recorder([]), backoff=Backoff(base_s=9.0))
    tree = start_tree(first, ChildSpec("b", lambda: Recorder([])), strategy=strategy, clock=clock)
    with expect(tree, ChildExited, path="root/b"):
        crash(tree.address("root/a"))
    tree.stop(5.0)
    clock.advance(10.0)
    assert [(node.state, node.epoch) for node in tree.snapshot().children] == [("stopped", 1)] * 2


@GROUPS
def test_stop_while_a_group_restart_starts_children_starts_no_more_of_them(
    start_tree: StartTree, block: Block, strategy: Strategy
) -> None:
    """SHU-04."""
    children = (
        ChildSpec("a", lambda: Recorder([])),
        block.at("on_start", epoch=2),
        ChildSpec("c", lambda: Recorder([])),
    )
    tree = start_tree(*children, strategy=strategy)
    crash(tree.address("root/a"))
    block.entered.wait(5.0)
    begin_to_stop(tree)
    with expect(tree, ShutdownEnded, abandoned=()):
        block.go_on.set()
    assert [node.epoch for node in tree.snapshot().children] == [2, 2, 1]
    assert {node.state for node in tree.snapshot().children} == {"stopped"}


def test_nobody_waits_for_an_actor_that_will_not_come_back_while_the_tree_ends(
    start_tree: StartTree, block: Block
) -> None:
    """SHU-04."""
    tree = start_tree(
        ChildSpec("a", lambda: Recorder([]), backoff=Backoff(base_s=9.0)), block.at("on_stop", shutdown_s=9.0)
    )
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    waiting = tree.address("root/a").ask("parked")
    begin_to_stop(tree)
    assert isinstance(waiting.exception(), NotDeliveredError)  # while the stubborn one still blocks
    with pytest.raises(NotDeliveredError, match="the tree is ending"):
        tree.address("root/a").tell("late")


def test_crash_after_the_stop_was_asked_for_restarts_nobody(start_tree: StartTree, block: Block) -> None:
    """SHU-03."""
    tree = start_tree(*(ChildSpec(name, lambda: Recorder([])) for name in "abc"), block.at("on_stop"))
    begin_to_stop(tree)
    with expect(tree, ChildExited, count=3, expected=False):
        for name in "abc":
            crash(tree.address(f"root/{name}"))
    block.go_on.set()
    tree.stop(5.0)
    assert [(node.state, node.epoch) for node in tree.snapshot().children] == [("stopped", 1)] * 4


# Ends from inside, and of the process.


def test_dynamic_children_end_side_by_side(start_tree: StartTree) -> None:
    meeting = threading.Barrier(3, timeout=5.0)

    class Sociable(SupervisedActor):
        def on_stop(self) -> None:
            meeting.wait()

    tree = dynamic(start_tree, None, *(ChildSpec(name, Sociable) for name in "abc"))
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.stop(5.0)
    assert not meeting.broken


def test_actor_that_stops_its_own_tree_is_not_blocked_by_it(start_tree: StartTree) -> None:
    trees: list[ActorTree] = []

    class Suicidal(SupervisedActor):
        def on_receive(self, _message: Any) -> str:
            trees[0].stop(5.0)
            return "asked for it"

    tree = start_tree(ChildSpec("a", Suicidal))
    trees.append(tree)
    with expect(tree, ShutdownEnded, abandoned=()):
        assert tree.address("root/a").call("end") == "asked for it"


class Interrupted(SupervisedActor):
    """A second Ctrl-C in its start or in a handler."""

    def on_start(self) -> None:
        if self.context.epoch == 2:
            raise KeyboardInterrupt

    def on_receive(self, _message: Any) -> None:
        raise KeyboardInterrupt


def test_keyboard_interrupt_in_an_actor_stops_the_tree_in_order(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Interrupted))
    with expect(tree, ShutdownEnded, abandoned=()):
        tree.address("root/a").tell("interrupt")


def test_keyboard_interrupt_in_an_ask_settles_the_asker_and_stops_the_tree(start_tree: StartTree) -> None:
    """SUP-32."""
    tree = start_tree(ChildSpec("a", Interrupted))
    with expect(tree, ShutdownEnded, abandoned=()), pytest.raises(OutcomeUnknownError) as caught:
        tree.address("root/a").call("interrupt")
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)


def test_keyboard_interrupt_in_a_start_stops_the_tree_in_order(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Interrupted))
    with expect(tree, ShutdownEnded, abandoned=()):
        crash(tree.address("root/a"))


BUSY = """
class Busy(SupervisedActor):
    def on_receive(self, message):
        entered.set()
        threading.Event().wait()
"""
LOOPING = """
class Busy(SupervisedActor):
    def on_start(self):
        if self.context.epoch > 3:
            entered.set()
        if self.context.epoch > 1:
            raise ValueError("never again")

    def on_receive(self, message):
        raise ValueError("the first")
"""


@pytest.mark.parametrize(
    ("actor", "pause_s"),
    [
        (BUSY, 0.0),
        (LOOPING, 0.0),
        (LOOPING, 0.0001),
    ],
    ids=["blocked", "restarts in a loop", "restarts by a timer"],
)
def test_interpreter_ends_quietly_while_actors_are_busy(actor: str, pause_s: float) -> None:
    """SHU-07."""
    program = f"""
import threading
from tinker_actors.supervision import ActorTree, Backoff, ChildSpec, Kind, SupervisedActor, Supervisor

entered = threading.Event()
{actor}
busy = ChildSpec("a", Busy, backoff=Backoff(base_s={pause_s}, cap_s={pause_s}))
root = ChildSpec("root", lambda: Supervisor([busy], max_restarts=10**9), kind=Kind.SUPERVISOR)
tree = ActorTree(root)
tree.start()
tree.address("root/a").tell("begin")
entered.wait(5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20.0, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
