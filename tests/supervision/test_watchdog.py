import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, cast

import pytest

from tinker_actors.errors import (
    FencedError,
    NotDeliveredError,
    OutcomeUnknownError,
    RuntimeStoppedError,
    StartFailedError,
)
from tinker_actors.supervision import (
    ActorTree,
    Address,
    ChildAbandoned,
    ChildExited,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DeadLetter,
    DynamicSupervisor,
    Error,
    Escalated,
    ExitReason,
    Kind,
    OnPending,
    Reply,
    Shutdown,
    Stalled,
    StallWarning,
    StartChild,
    Strategy,
    SupervisedActor,
    Supervisor,
    TerminateChild,
    ZombieEnded,
)
from tinker_actors.supervision.current import enter
from tinker_actors.supervision.incarnation import Handling, Incarnation
from tinker_actors.supervision.testing import VirtualClock, crash, expect
from tinker_actors.supervision.watchdog import Finding, Watchdog, judge, stack_of

StartTree = Callable[..., ActorTree]

DEADLINE_S = 8.0
TICK_S = 1.0  # an eighth of it
LATE_S = DEADLINE_S + TICK_S
STALLED_S = 2 * DEADLINE_S + TICK_S


class Doer(SupervisedActor):
    """Does what it is told: messages are functions of the actor."""

    exposed = ("fail",)

    def on_receive(self, message: Callable[["Doer"], Any]) -> Any:
        return message(self)

    def fail(self) -> None:
        raise ValueError("it got here")


def fail(actor: Doer) -> None:
    actor.fail()


def epoch(actor: Doer) -> int:
    return actor.context.epoch


def spec(name: str = "a", **fields: Any) -> ChildSpec:
    return ChildSpec(name, Doer, **{"handler_deadline_s": DEADLINE_S, **fields})


class Hold:
    """Where a handler gets stuck, and the way out."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._taken = threading.Lock()
        self._taken.acquire()
        self._nothing: SimpleQueue[None] = SimpleQueue()

    def here(self, _actor: SupervisedActor) -> str:
        self.entered.set()
        self.go_on.wait(20.0)
        return "late"

    def turns(self) -> Iterator[float]:
        """Short naps, for as long as nobody lets go."""
        self.entered.set()
        while not self.go_on.is_set():
            yield 0.001

    def lock(self) -> threading.Lock:
        """A lock that somebody has."""
        self.entered.set()
        return self._taken

    def queue(self) -> "SimpleQueue[None]":
        """A queue, written in C, in which there is nothing."""
        self.entered.set()
        return self._nothing

    def wait(self) -> None:
        """Wait until a handler is stuck here."""
        assert self.entered.wait(5.0)
        self.entered.clear()

    def let_go(self) -> None:
        self.go_on.set()
        if self._taken.locked():
            self._taken.release()
        self._nothing.put(None)


@pytest.fixture
def hold(start_tree: StartTree) -> Iterator[Hold]:  # noqa: ARG001 - the tree stops once its actors are free
    hold = Hold()
    yield hold
    hold.let_go()


def listen(tree: ActorTree, kind: type[object]) -> list[Any]:
    """What is published of that class from here on; complete when the tree is down."""
    heard: list[Any] = []
    tree.events.subscribe(lambda event: heard.append(event) if isinstance(event, kind) else None)
    return heard


def stall(tree: ActorTree, clock: VirtualClock, hold: Hold) -> Reply:
    """The ask that root/a got stuck with, once it was given up for it."""
    reply = tree.address("root/a").ask(hold.here, timeout_s=1000.0)
    hold.wait()
    with expect(tree, ChildAbandoned, path="root/a"):
        clock.advance(STALLED_S)
    return reply


# What is found.


def nap(hold: Hold) -> None:
    deque(map(time.sleep, hold.turns()), 0)


def wait_for_a_lock(hold: Hold) -> None:
    with hold.lock():
        pass


def call_into_c(hold: Hold) -> None:
    hold.queue().get()


def loop(hold: Hold) -> None:
    all(hold.turns())


@pytest.mark.parametrize(
    ("stick", "line"),
    [
        (nap, "deque(map(time.sleep, hold.turns()), 0)"),
        (wait_for_a_lock, "with hold.lock():"),
        (call_into_c, "hold.queue().get()"),
        (loop, "all(hold.turns())"),
    ],
)
def test_stuck_handler_is_warned_of_with_its_line_and_then_given_up_and_replaced(
    start_tree: StartTree, clock: VirtualClock, hold: Hold, stick: Callable[[Hold], None], line: str
) -> None:
    """STL-01."""
    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").tell(lambda _actor: stick(hold))
    hold.wait()
    with expect(tree, StallWarning, path="root/a", epoch=1, after_s=DEADLINE_S) as warned:
        clock.advance(LATE_S)
    with (
        expect(tree, ChildAbandoned, path="root/a", epoch=1, after_s=2 * DEADLINE_S),
        expect(tree, ChildExited, path="root/a", epoch=1, expected=False) as exited,
        expect(tree, ChildStarted, path="root/a", epoch=2),
    ):
        clock.advance(DEADLINE_S)
    assert line in warned.event.stack
    assert isinstance(exited.event.reason, Stalled)
    assert line in exited.event.reason.stack
    assert line in tree.zombies[0].stack


def test_reason_of_a_stall_names_who_handled_what_for_how_long(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-01."""
    tree = start_tree(spec(), clock=clock)
    with expect(tree, ChildExited, path="root/a") as exited:
        stall(tree, clock, hold)
    assert isinstance(exited.event.reason, Stalled)
    assert str(exited.event.reason.error) == "root/a handled method for 16 s"


def test_stall_is_warned_of_once_and_not_before_the_deadline(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(), clock=clock)
    warnings = listen(tree, StallWarning)
    tree.address("root/a").tell(hold.here)
    hold.wait()
    clock.advance(DEADLINE_S)
    clock.advance(DEADLINE_S)
    hold.let_go()
    tree.stop(5.0)
    assert [warning.at for warning in warnings] == [LATE_S]


def test_handler_that_returns_a_moment_before_twice_its_deadline_keeps_its_incarnation(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(), clock=clock)
    reply = tree.address("root/a").ask(hold.here)
    hold.wait()
    clock.advance(2 * DEADLINE_S)
    hold.let_go()
    assert reply.result() == "late"
    clock.advance(10 * DEADLINE_S)
    assert tree.address("root/a").call(epoch) == 1


def test_actor_without_a_message_is_never_stalled(start_tree: StartTree, clock: VirtualClock) -> None:
    tree = start_tree(spec(), clock=clock)
    clock.advance(100 * DEADLINE_S)
    assert tree.address("root/a").call(epoch) == 1


def test_many_short_handlers_in_a_row_are_no_stall(start_tree: StartTree, clock: VirtualClock) -> None:
    a = start_tree(spec(), clock=clock).address("root/a")
    for _ in range(50):
        clock.advance(TICK_S)
        assert a.call(epoch) == 1


def test_handler_without_a_deadline_is_never_given_up(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(handler_deadline_s=float("inf")), spec("b"), clock=clock)
    reply = tree.address("root/a").ask(hold.here, timeout_s=1e9)
    hold.wait()
    clock.advance(10_000.0)
    hold.let_go()
    assert reply.result() == "late"


def test_each_actor_is_measured_by_its_own_deadline(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec("slow", handler_deadline_s=100.0), spec(), clock=clock)
    tree.address("root/slow").tell(hold.here)
    hold.wait()
    stall(tree, clock, hold)
    hold.let_go()
    assert tree.address("root/slow").call(epoch) == 1
    assert tree.address("root/a").call(epoch) == 2


def test_handler_that_beats_may_work_for_as_long_as_it_likes(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    step, beaten = threading.Semaphore(0), threading.Semaphore(0)

    def work(actor: Doer) -> str:
        for _ in range(20):
            step.acquire(timeout=5.0)
            actor.context.beat()
            beaten.release()
        return "done"

    tree = start_tree(spec(), clock=clock)
    warnings = listen(tree, StallWarning)
    reply = tree.address("root/a").ask(work, timeout_s=1000.0)
    for _ in range(20):
        clock.advance(DEADLINE_S - TICK_S)
        step.release()
        beaten.acquire(timeout=5.0)
    assert reply.result() == "done"
    tree.stop(5.0)
    assert warnings == []


def test_beat_is_the_last_sign_of_progress_that_counts(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    def beat_and_stick(actor: Doer) -> None:
        actor.context.beat()
        hold.here(actor)

    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").tell(beat_and_stick)
    hold.wait()
    with expect(tree, StallWarning, path="root/a", message="function"):
        clock.advance(LATE_S)


def test_time_stands_still_while_a_handler_waits_on_purpose(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    def wait(actor: Doer) -> str:
        with actor.context.waiting():
            return hold.here(actor)

    tree = start_tree(spec(), clock=clock)
    reply = tree.address("root/a").ask(wait, timeout_s=1e6)
    hold.wait()
    clock.advance(1000 * DEADLINE_S)
    hold.let_go()
    assert reply.result() == "late"
    assert tree.address("root/a").call(epoch) == 1


def test_handler_that_waited_on_purpose_is_watched_again_afterwards(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    def wait_and_stick(actor: Doer) -> None:
        with actor.context.waiting(), actor.context.waiting():
            actor.context.beat()
        hold.here(actor)

    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").tell(wait_and_stick)
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)


class HesitantClock(VirtualClock):
    """Makes threads of one name wait before they are told the time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def now(self) -> float:
        if threading.current_thread().name == "helper":
            self.asked.set()
            self.go_on.wait(5.0)
        return super().now()


def test_beat_of_a_helping_thread_that_comes_too_late_makes_no_idle_actor_look_busy(
    start_tree: StartTree,
) -> None:
    clock = HesitantClock()
    helpers: list[threading.Thread] = []

    def be_helped(actor: Doer) -> None:
        helpers.append(threading.Thread(target=actor.context.beat, name="helper"))
        helpers[0].start()
        assert clock.asked.wait(5.0)

    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").call(be_helped)
    clock.go_on.set()
    helpers[0].join(5.0)
    clock.advance(10 * DEADLINE_S)
    tree.address("root").call(CountChildren())  # answered after a stall would have been acted upon
    assert tree.address("root/a").call(epoch) == 1


# What becomes of messages.


def test_message_that_stalled_has_an_unknown_outcome_and_those_behind_it_were_not_delivered(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(), clock=clock)
    a = tree.address("root/a")
    begun = a.ask(hold.here, timeout_s=1000.0)
    hold.wait()
    queued = a.ask(epoch, timeout_s=1000.0)
    with expect(tree, DeadLetter, path="root/a", epoch=1):
        a.tell(epoch)
        clock.advance(STALLED_S)
    assert isinstance(begun.exception(), OutcomeUnknownError)
    assert isinstance(queued.exception(), NotDeliveredError)


def test_messages_behind_a_stall_are_carried_in_order_if_the_spec_says_so(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(on_pending=OnPending.CARRY), clock=clock)
    a = tree.address("root/a")
    heard: list[tuple[int, int]] = []
    a.tell(hold.here)
    hold.wait()
    for number in range(5):
        a.tell(lambda actor, number=number: heard.append((actor.context.epoch, number)))
    clock.advance(STALLED_S)
    assert a.call(epoch) == 2
    assert heard == [(2, number) for number in range(5)]


def test_answer_promised_for_later_is_lost_with_the_incarnation_that_promised_it(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    promises: list[Reply] = []

    def promise(_actor: Doer) -> Reply:
        promises.append(Reply())
        return promises[0]

    tree = start_tree(spec(), clock=clock)
    asked = tree.address("root/a").ask(promise, timeout_s=1000.0)
    stall(tree, clock, hold)
    promises[0].set("too late")
    assert isinstance(asked.exception(), OutcomeUnknownError)


# Waiting in a way that ends with the incarnation.


def sleep(actor: Doer) -> None:
    actor.context.sleep(1000.0)


def wait_for_an_answer(actor: Doer) -> None:
    actor.context.address("root/b").ask(Reply, timeout_s=1000.0).result()


def wait_for_a_call(actor: Doer) -> None:
    actor.context.address("root/b").call(Reply, timeout_s=1000.0)


def wait_for_room(actor: Doer) -> None:
    full = actor.context.address("root/full", block_s=1000.0)
    for _ in range(3):
        full.tell(fail)


@pytest.mark.parametrize("wait", [sleep, wait_for_an_answer, wait_for_a_call, wait_for_room])
def test_wait_of_the_kit_ends_at_once_when_its_actor_is_given_up(
    start_tree: StartTree, clock: VirtualClock, hold: Hold, wait: Callable[[Doer], None]
) -> None:
    """STL-01."""
    caught: list[BaseException] = []
    about_to_wait = threading.Event()

    def try_to(actor: Doer) -> None:
        about_to_wait.set()
        try:
            wait(actor)
        except FencedError as error:
            caught.append(error)
            raise

    tree = start_tree(
        spec(), ChildSpec("b", Promising), spec("full", max_mailbox=1, handler_deadline_s=1e9), clock=clock
    )
    tree.address("root/full").tell(hold.here)
    hold.wait()
    tree.address("root/a").tell(try_to)
    assert about_to_wait.wait(5.0)
    with expect(tree, ZombieEnded, path="root/a", epoch=1), expect(tree, ChildStarted, epoch=2):
        clock.advance(STALLED_S)
    assert len(caught) == 1


class Promising(SupervisedActor):
    """Answers nobody, but promises to."""

    def on_receive(self, _message: Any) -> Reply:
        return Reply()


def would_sleep(actor: Doer) -> Callable[[], object]:
    return lambda: actor.context.sleep(1000.0)


def would_wait_for_an_answer(actor: Doer) -> Callable[[], object]:
    return actor.context.address("root/b").ask(Reply, timeout_s=1000.0).result


@pytest.mark.parametrize("prepare", [would_sleep, would_wait_for_an_answer])
def test_wait_of_the_kit_does_not_begin_in_an_actor_that_was_given_up(
    start_tree: StartTree,
    clock: VirtualClock,
    hold: Hold,
    prepare: Callable[[Doer], Callable[[], object]],
) -> None:
    """STL-01."""
    caught: list[BaseException] = []

    def linger(actor: Doer) -> None:
        wait = prepare(actor)
        hold.here(actor)
        try:
            wait()
        except FencedError as error:
            caught.append(error)

    tree = start_tree(spec(), ChildSpec("b", Promising), clock=clock)
    tree.address("root/a").tell(linger)
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        hold.let_go()
    assert len(caught) == 1


# What a zombie cannot do.


def by_name(actor: Doer) -> Address:
    return actor.context.address("root/b")


def by_incarnation(actor: Doer) -> Address:
    me: Address = by_name(actor).call(lambda other: other.context.me)
    return me


def itself(actor: Doer) -> Address:
    return actor.context.me


@pytest.mark.parametrize("find", [by_name, by_incarnation, itself])
@pytest.mark.parametrize(
    "send",
    [
        lambda address: address.tell(fail),
        lambda address: address.tell(fail, mode="fast"),
        lambda address: address.ask(fail),
        lambda address: address.proxy().fail(),
        lambda address: address.proxy().fail.defer(),
        crash,
    ],
    ids=["tell", "fast", "ask", "proxy", "defer", "crash"],
)
def test_nothing_that_a_zombie_sends_arrives(
    start_tree: StartTree,
    clock: VirtualClock,
    hold: Hold,
    find: Callable[[Doer], Address],
    send: Callable[[Address], object],
) -> None:
    """STL-02."""
    caught: list[BaseException] = []

    def linger(actor: Doer) -> None:
        address = find(actor)
        hold.here(actor)
        try:
            send(address)
        except FencedError as error:
            caught.append(error)

    tree = start_tree(spec(), spec("b"), clock=clock)
    tree.address("root/a").tell(linger)
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        hold.let_go()
    assert len(caught) == 1
    assert tree.address("root/b").call(epoch) == 1
    assert tree.address("root/a").call(epoch) == 2


def test_address_from_outside_is_no_way_around_the_fence(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-02."""
    caught: list[BaseException] = []
    tree = start_tree(spec(), clock=clock)

    def linger(actor: Doer) -> None:
        hold.here(actor)
        try:
            tree.address("root").call(TerminateChild("a"))
        except FencedError as error:
            caught.append(error)

    tree.address("root/a").tell(linger)
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ZombieEnded):
        hold.let_go()
    assert len(caught) == 1
    assert tree.address("root/a").call(epoch) == 2


def test_zombie_sees_the_fence_and_its_events_are_dropped(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-02."""
    fenced: list[bool] = []

    def linger(actor: Doer) -> None:
        actor.context.check_fence()
        actor.context.emit("while it lived")
        hold.here(actor)
        fenced.append(actor.context.is_fenced)
        actor.context.emit("from the dead")
        actor.context.check_fence()

    tree = start_tree(spec(), clock=clock)
    words = listen(tree, str)
    tree.address("root/a").tell(linger)
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(STALLED_S)
    with expect(tree, ZombieEnded):
        hold.let_go()
    tree.stop(5.0)
    assert fenced == [True]
    assert words == ["while it lived"]


def test_answer_of_a_zombie_is_a_dead_letter(start_tree: StartTree, clock: VirtualClock, hold: Hold) -> None:
    """STL-02."""
    tree = start_tree(spec(), clock=clock)
    reply = stall(tree, clock, hold)
    assert isinstance(reply.exception(), OutcomeUnknownError)
    with expect(tree, DeadLetter, path="root/a", epoch=1, why="the answer came too late"):
        hold.let_go()
    assert isinstance(reply.exception(), OutcomeUnknownError)


def test_timer_of_a_zombie_rings_for_nobody(start_tree: StartTree, clock: VirtualClock, hold: Hold) -> None:
    """STL-02."""
    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").call(lambda actor: actor.context.send_after(100.0, fail))
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        stall(tree, clock, hold)
    with expect(tree, DeadLetter, path="root/a", epoch=1, message="function"):
        clock.advance(100.0)
    assert tree.address("root/a").call(epoch) == 2


def test_what_a_zombie_sent_before_is_ahead_of_what_its_successor_sends(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-02."""
    heard: list[int] = []

    class Sender(Doer):
        def on_start(self) -> None:
            mine = self.context.epoch
            for _ in range(10):
                self.context.address("root/b").tell(lambda _b: heard.append(mine))

    tree = start_tree(
        spec("b"),
        ChildSpec("a", Sender, handler_deadline_s=DEADLINE_S),
        clock=clock,
    )
    stall(tree, clock, hold)
    tree.address("root/a").call(epoch)
    tree.address("root/b").call(epoch)
    assert heard == [1] * 10 + [2] * 10


def test_hook_of_a_zombie_runs_when_it_ends_and_is_fenced_too(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-02."""
    fenced: list[tuple[int, bool]] = []

    class Holder(Doer):
        def on_exit(self, _reason: ExitReason) -> None:
            fenced.append((self.context.epoch, self.context.is_fenced))

    tree = start_tree(ChildSpec("a", Holder, handler_deadline_s=DEADLINE_S), clock=clock)
    stall(tree, clock, hold)
    with expect(tree, ZombieEnded):
        hold.let_go()
    assert fenced == [(1, True)]


# Zombies are counted.


def test_zombie_is_listed_until_its_thread_ends(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec(), clock=clock)
    stall(tree, clock, hold)
    zombie = tree.zombies[0]
    assert (zombie.path, zombie.epoch, zombie.since) == ("root/a", 1, STALLED_S)
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        hold.let_go()
    assert tree.zombies == ()


def test_one_zombie_more_than_allowed_and_the_supervisor_gives_up_with_the_stall_as_first_cause(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-03."""
    tree = start_tree(spec(), clock=clock, max_zombies=2)
    for number in (2, 3):
        with expect(tree, ChildStarted, path="root/a", epoch=number):
            stall(tree, clock, hold)
    with expect(tree, Escalated, path="root") as gave_up:
        stall(tree, clock, hold)
    assert tree.stopped.wait(5.0)
    assert isinstance(gave_up.event.reason, Shutdown)
    assert gave_up.event.reason.detail == "more than 2 threads left behind"
    assert isinstance(tree.first_cause, TimeoutError)
    assert str(tree.first_cause) == "root/a handled method for 16 s"


def test_zombie_that_ended_makes_room_for_another(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-03."""
    tree = start_tree(spec(), clock=clock, max_zombies=1)
    for number in (2, 3, 4):
        with expect(tree, ChildStarted, path="root/a", epoch=number):
            stall(tree, clock, hold)
        with expect(tree, ZombieEnded):
            hold.let_go()
        hold.go_on.clear()
    assert tree.address("root/a").call(epoch) == 4


def test_zombies_count_for_their_own_supervisor_only(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-03."""
    inner = [spec("inner")]
    mid = ChildSpec("mid", lambda: Supervisor(inner, max_zombies=0), kind=Kind.SUPERVISOR)
    tree = start_tree(spec(), mid, clock=clock)
    stall(tree, clock, hold)
    with expect(tree, ChildStarted, path="root/mid/inner", epoch=2):
        crash(tree.address("root/mid/inner"))


# Supervisors stall, too.


class Busy(Supervisor):
    """A supervisor with messages of its own."""

    def on_receive(self, message: Callable[[SupervisedActor], Any]) -> Any:
        return message(self)


def test_stalled_supervisor_is_given_up_with_its_children_and_replaced(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    inner = [spec("inner")]
    mid = ChildSpec("mid", lambda: Busy(inner), kind=Kind.SUPERVISOR, handler_deadline_s=DEADLINE_S)
    tree = start_tree(mid, clock=clock)
    tree.address("root/mid").tell(hold.here)
    hold.wait()
    with (
        expect(tree, ChildStarted, path="root/mid/inner", epoch=2),
        expect(tree, ZombieEnded, path="root/mid/inner"),
    ):
        clock.advance(STALLED_S)
    assert tree.address("root/mid/inner").call(epoch) == 2


def test_stalled_root_takes_the_tree_down_and_is_its_first_cause(clock: VirtualClock, hold: Hold) -> None:
    root = ChildSpec("root", lambda: Busy([spec()]), kind=Kind.SUPERVISOR, handler_deadline_s=DEADLINE_S)
    tree = ActorTree(root, clock=clock)
    tree.start()
    asked = tree.address("root").ask(hold.here, timeout_s=1000.0)
    hold.wait()
    clock.advance(STALLED_S)
    assert tree.stopped.wait(5.0)
    assert str(tree.first_cause) == "root handled method for 16 s"
    assert isinstance(asked.exception(), OutcomeUnknownError)
    with pytest.raises(RuntimeStoppedError) as caught:
        tree.address("root/a").tell(epoch)
    assert caught.value.first_cause is tree.first_cause


def test_supervisor_that_is_stuck_when_asked_to_end_holds_up_nobody_for_ever(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    mid = ChildSpec("mid", lambda: Busy([]), kind=Kind.SUPERVISOR, handler_deadline_s=DEADLINE_S)
    tree = start_tree(spec(), mid, strategy=Strategy.ONE_FOR_ALL, clock=clock)
    tree.address("root/mid").tell(hold.here)
    hold.wait()
    with expect(tree, ChildExited, path="root/a"):
        crash(tree.address("root/a"))
    with expect(tree, ChildStarted, path="root/mid", epoch=2):
        clock.advance(STALLED_S)


def test_stalled_child_takes_its_siblings_along_if_the_strategy_says_so(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    tree = start_tree(spec("b"), spec(), strategy=Strategy.ONE_FOR_ALL, clock=clock)
    with (
        expect(tree, ChildStarted, path="root/a", epoch=2),
        expect(tree, ChildStarted, path="root/b", epoch=2),
    ):
        stall(tree, clock, hold)


# The hooks of the end.


def test_hook_that_hangs_is_given_up_like_a_handler(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    """STL-02."""
    fenced: list[bool] = []

    class Clinging(Doer):
        def on_exit(self, _reason: ExitReason) -> None:
            if self.context.epoch == 1:
                hold.here(self)
                fenced.append(self.context.is_fenced)

    tree = start_tree(ChildSpec("a", Clinging), clock=clock)
    crash(tree.address("root/a"))
    hold.wait()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(5.0)
    assert [(zombie.path, zombie.epoch) for zombie in tree.zombies] == [("root/a", 1)]
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        hold.let_go()
    assert fenced == [True]


def test_hook_that_hangs_is_given_up_once_even_if_the_child_is_terminated_meanwhile(
    start_tree: StartTree, clock: VirtualClock, hold: Hold
) -> None:
    class Clinging(Doer):
        def on_exit(self, _reason: ExitReason) -> None:
            hold.here(self)

    tree = start_tree(ChildSpec("a", Clinging, shutdown_s=2.0), clock=clock)
    given_up = listen(tree, ChildAbandoned)
    crash(tree.address("root/a"))
    hold.wait()
    terminated = tree.address("root").ask(TerminateChild("a"), timeout_s=1000.0)
    clock.wait_for_timers(2)
    clock.advance(2.0)
    assert terminated.result() is None
    clock.advance(100.0)
    hold.let_go()
    tree.stop(5.0)
    assert [event.after_s for event in given_up] == [2.0]


# Threads that vanish.


def first_life(
    monkeypatch: pytest.MonkeyPatch, path: str, live: Callable[[Incarnation], None]
) -> Callable[[], None]:
    """Let the first incarnation at `path` do this instead, and its thread be gone without a word.

    The answer waits until it is gone. (`threading.enumerate` may leave a thread out while it is still alive.)
    """
    run = Incarnation._run
    threads: SimpleQueue[threading.Thread] = SimpleQueue()

    def run_or_vanish(incarnation: Incarnation) -> None:
        if (incarnation.path, incarnation.epoch) == (path, 1):
            threads.put(threading.current_thread())
            live(incarnation)
        else:
            run(incarnation)

    monkeypatch.setattr(Incarnation, "_run", run_or_vanish)
    return lambda: threads.get(timeout=5.0).join(5.0)


def only_acknowledge(incarnation: Incarnation) -> None:
    incarnation.acknowledge()


def raise_past_the_frame(incarnation: Incarnation) -> None:
    incarnation.acknowledge()
    raise SystemExit


@pytest.mark.parametrize("live", [only_acknowledge, raise_past_the_frame])
def test_thread_that_vanishes_is_found_and_its_child_restarted(
    start_tree: StartTree,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    live: Callable[[Incarnation], None],
) -> None:
    join = first_life(monkeypatch, "root/a", live)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    tree = start_tree(spec(), clock=clock)
    join()
    waiting = tree.address("root/a").ask(epoch, timeout_s=1000.0)
    with expect(tree, ChildExited, path="root/a", epoch=1) as exited, expect(tree, ChildStarted, epoch=2):
        clock.advance(TICK_S)
    assert isinstance(exited.event.reason, Error)
    assert str(exited.event.reason.error) == "the thread of root/a vanished without an exit"
    assert isinstance(waiting.exception(), NotDeliveredError)
    assert tree.address("root/a").call(epoch) == 2
    assert tree.zombies == ()


def test_ask_that_a_vanished_thread_had_begun_has_an_unknown_outcome(
    start_tree: StartTree, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish_in_a_handler(incarnation: Incarnation) -> None:
        enter(incarnation)
        incarnation._build()
        incarnation._own_loop.begin()
        envelope = incarnation.mailbox.take()
        assert envelope is not None
        assert envelope.reply is not None
        envelope.reply.begin()
        incarnation.current = envelope.reply

    join = first_life(monkeypatch, "root/a", vanish_in_a_handler)
    tree = start_tree(spec(), clock=clock)
    begun = tree.address("root/a").ask(epoch, timeout_s=1000.0)
    join()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        clock.advance(TICK_S)
    assert isinstance(begun.exception(), OutcomeUnknownError)


def test_messages_of_a_vanished_thread_are_carried_if_the_spec_says_so(
    start_tree: StartTree, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = first_life(monkeypatch, "root/a", only_acknowledge)
    tree = start_tree(spec(on_pending=OnPending.CARRY), clock=clock)
    waiting = tree.address("root/a").ask(epoch, timeout_s=1000.0)
    join()
    clock.advance(TICK_S)
    assert waiting.result() == 2


def test_thread_that_vanishes_before_it_is_up_is_a_failed_start(
    start_tree: StartTree, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = first_life(monkeypatch, "root/dyn/a", lambda _incarnation: None)
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR), clock=clock)
    started = tree.address("root/dyn").ask(StartChild(spec()), timeout_s=1000.0)
    tree.address("root/dyn").call(CountChildren())
    join()
    clock.advance(TICK_S)
    assert isinstance(started.exception(), StartFailedError)
    assert tree.address("root/dyn").call(CountChildren()).specs == 0


def test_children_of_a_supervisor_whose_thread_vanished_are_given_up_and_started_anew(
    start_tree: StartTree, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()

    def start_children_and_vanish(incarnation: Incarnation) -> None:
        enter(incarnation)
        incarnation._build()
        loop = incarnation._own_loop
        loop.begin()
        envelope = incarnation.mailbox.take()
        assert envelope is not None
        loop.on_control(envelope)  # the child is up, and so is its supervisor
        gone.set()

    join = first_life(monkeypatch, "root/mid", start_children_and_vanish)
    mid = ChildSpec("mid", lambda: Supervisor([spec("inner")]), kind=Kind.SUPERVISOR)
    tree = start_tree(mid, spec(), clock=clock)
    assert gone.wait(5.0)
    join()
    with (
        expect(tree, ZombieEnded, path="root/mid/inner", epoch=1),
        expect(tree, ChildStarted, path="root/mid/inner", epoch=2),
    ):
        clock.advance(TICK_S)


def test_root_whose_thread_vanished_takes_the_tree_down(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = first_life(monkeypatch, "root", only_acknowledge)
    tree = ActorTree(ChildSpec("root", DynamicSupervisor, kind=Kind.SUPERVISOR), clock=clock)
    tree.start()
    join()
    waiting = tree.address("root").ask(CountChildren(), timeout_s=1000.0)
    clock.advance(5.0)
    assert tree.stopped.is_set()
    assert str(tree.first_cause) == "the thread of root vanished without an exit"
    assert isinstance(waiting.exception(), NotDeliveredError)


def test_zombie_whose_thread_vanishes_is_forgotten(
    start_tree: StartTree, clock: VirtualClock, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stick_and_vanish(incarnation: Incarnation) -> None:
        incarnation.acknowledge()
        incarnation.mailbox.take()
        incarnation.beat("method")
        hold.entered.set()
        hold.go_on.wait(20.0)

    join = first_life(monkeypatch, "root/a", stick_and_vanish)
    tree = start_tree(spec(), clock=clock)
    stall(tree, clock, hold)
    hold.let_go()
    join()
    with expect(tree, ZombieEnded, path="root/a", epoch=1):
        clock.advance(TICK_S)
    assert tree.zombies == ()


def test_incarnation_that_ends_before_its_launch_returns_is_not_watched_for_ever(
    start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start

    def begin_and_end(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name.startswith("actor:root/dyn/a#"):
            thread.join(5.0)

    monkeypatch.setattr(threading.Thread, "start", begin_and_end)
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    with pytest.raises(StartFailedError):
        tree.address("root/dyn").call(StartChild(ChildSpec("a", list)))  # type: ignore[arg-type]  # no actor
    watched = tree._runtime.watchdog._watched
    assert {incarnation.path for incarnation in watched} == {"root", "root/dyn"}


# The watchdog by itself.


@pytest.mark.parametrize(
    ("age_s", "deadline_s", "finding"),
    [
        (0.0, 8.0, Finding.FINE),
        (7.99, 8.0, Finding.FINE),
        (8.0, 8.0, Finding.LATE),
        (15.99, 8.0, Finding.LATE),
        (16.0, 8.0, Finding.STALLED),
        (1e9, 8.0, Finding.STALLED),
        (1e9, float("inf"), Finding.FINE),
    ],
)
def test_handler_is_late_at_its_deadline_and_stalled_at_twice_that(
    age_s: float, deadline_s: float, finding: Finding
) -> None:
    assert judge(age_s, deadline_s) is finding


def test_thread_that_ended_has_no_stack_even_if_another_has_its_number() -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    ended._ident = threading.get_ident()  # type: ignore[attr-defined]  # the system gives numbers again
    assert stack_of(ended) == ""
    assert stack_of(None) == ""
    assert "in test_thread_that_ended" in stack_of(threading.current_thread())


class Suspect:
    """Stands in for an incarnation, and notes what the watchdog says of it."""

    def __init__(self) -> None:
        self.spec = spec()
        self.has_vanished = self.is_fenced = False
        self.handling: Handling | None = Handling("str", 0.0)
        self.said: list[tuple[str, float]] = []

    def warn(self, _handling: Handling, after_s: float) -> None:
        self.said.append(("late", after_s))

    def stalled(self, _handling: Handling, after_s: float) -> None:
        self.said.append(("stalled", after_s))

    def vanish(self) -> None:
        self.said.append(("vanished", 0.0))


@pytest.fixture
def suspect() -> Suspect:
    return Suspect()


@pytest.fixture
def watchdog(clock: VirtualClock, suspect: Suspect) -> Watchdog:
    watchdog = Watchdog(clock)
    watchdog.watch(cast("Incarnation", suspect))
    return watchdog


def starve(clock: VirtualClock, seconds: float) -> None:
    """Let time pass in which nobody gets a turn: the timers that were due ring late, all at once."""
    clock._now += seconds
    clock.advance(0.0)


@pytest.mark.usefixtures("watchdog")
def test_watchdog_says_each_thing_once(clock: VirtualClock, suspect: Suspect) -> None:
    clock.advance(1000.0)
    assert suspect.said == [("late", DEADLINE_S), ("stalled", 2 * DEADLINE_S)]


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("seconds", [5.0, 60.0, 1e6])
def test_machine_that_was_suspended_makes_nobody_look_stalled(
    clock: VirtualClock, suspect: Suspect, seconds: float
) -> None:
    """STL-04."""
    clock.advance(4 * TICK_S)
    starve(clock, seconds)
    assert suspect.said == []


@pytest.mark.usefixtures("watchdog")
def test_handler_that_is_stuck_is_found_in_spite_of_suspensions(
    clock: VirtualClock, suspect: Suspect
) -> None:
    """STL-04."""
    for _ in range(3):
        starve(clock, 1e6)
        clock.advance(6 * TICK_S)
    assert [word for word, _ in suspect.said] == ["late", "stalled"]


@pytest.mark.usefixtures("watchdog")
def test_handler_that_returned_during_a_suspension_is_not_held_against_the_next(
    clock: VirtualClock, suspect: Suspect
) -> None:
    """STL-04."""
    for _ in range(100):
        starve(clock, 1e6)
        clock.advance(4 * TICK_S)
        suspect.handling = Handling("str", clock.now())
    assert suspect.said == []


def test_suspended_machine_restarts_nobody(start_tree: StartTree, clock: VirtualClock, hold: Hold) -> None:
    """STL-04."""
    tree = start_tree(spec(), clock=clock)
    tree.address("root/a").tell(hold.here)
    hold.wait()
    clock.advance(4 * TICK_S)
    starve(clock, 1e6)
    hold.let_go()
    assert tree.address("root/a").call(epoch) == 1


def test_watchdog_looks_at_nobody_it_was_told_to_forget(
    clock: VirtualClock, suspect: Suspect, watchdog: Watchdog
) -> None:
    clock.advance(DEADLINE_S)
    watchdog.forget(cast("Incarnation", suspect))
    clock.advance(1000.0)
    assert suspect.said == []


def test_watchdog_without_anybody_to_watch_needs_no_timer_and_begins_again_with_the_next(
    clock: VirtualClock, suspect: Suspect, watchdog: Watchdog
) -> None:
    watchdog.forget(cast("Incarnation", suspect))
    clock.advance(1000.0)
    assert clock._heap.next_due() == float("inf")
    watchdog.watch(cast("Incarnation", suspect))
    clock.advance(LATE_S)
    assert suspect.said == [("late", DEADLINE_S)]


def test_newcomer_with_a_short_deadline_makes_the_watchdog_look_more_often(
    clock: VirtualClock, watchdog: Watchdog
) -> None:
    hasty = Suspect()
    hasty.spec = spec(handler_deadline_s=0.8)
    watchdog.watch(cast("Incarnation", hasty))
    clock.advance(1.0)
    assert [word for word, _ in hasty.said] == ["late"]


@pytest.mark.usefixtures("watchdog")
def test_housekeeping_is_no_timer_that_a_test_waits_for(clock: VirtualClock) -> None:
    assert clock.pending() == 0
