import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import (
    ConfigError,
    MailboxFullError,
    NotDeliveredError,
    OutcomeUnknownError,
    TinkerActorsError,
    WouldDeadlockError,
)
from tinker_actors.supervision import (
    ActorTree,
    Address,
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    CountChildren,
    DeadLetter,
    Kind,
    OnPending,
    Reply,
    Strategy,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Gate(SupervisedActor):
    """Collects what it is told; "block" waits for the gate, "crash" crashes."""

    def __init__(self, gate: "Control") -> None:
        super().__init__()
        self.gate = gate

    def on_receive(self, message: Any) -> Any:
        if message == "block":
            self.gate.entered.set()
            self.gate.go_on.wait(20.0)
        elif message == "crash":
            self.gate.entered.set()
            self.gate.go_on.wait(20.0)
            raise ValueError("crash")
        else:
            self.gate.heard.append((self.context.epoch, message))
        return message


class Control:
    """The test's end of a gate."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.heard: list[tuple[int, Any]] = []

    def spec(self, **fields: Any) -> ChildSpec:
        return ChildSpec("a", lambda: Gate(self), **fields)


@pytest.fixture
def gate() -> Iterator[Control]:
    control = Control()
    yield control
    control.go_on.set()


def test_tells_sent_during_the_backoff_arrive_in_order_before_newer_ones(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    tree = start_tree(gate.spec(backoff=Backoff(base_s=1.0, jitter=0.0)), clock=clock)
    a = tree.address("root/a")
    with expect(tree, ChildRestarting):
        crash(a)
    for number in range(10):
        a.tell(number)
    with expect(tree, ChildStarted, path="root/a"):
        clock.advance(1.0)
    a.call("newer")
    assert gate.heard == [(2, message) for message in [*range(10), "newer"]]


def test_ask_sent_during_the_backoff_is_answered_by_the_next_incarnation(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    tree = start_tree(gate.spec(backoff=Backoff(base_s=1.0, jitter=0.0)), clock=clock)
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    reply = tree.address("root/a").ask("hello")
    clock.advance(1.0)
    assert reply.result() == "hello"


def test_parked_messages_are_bounded(start_tree: StartTree, clock: VirtualClock, gate: Control) -> None:
    tree = start_tree(gate.spec(backoff=Backoff(base_s=1.0), max_mailbox=2), clock=clock)
    a = tree.address("root/a")
    with expect(tree, ChildRestarting):
        crash(a)
    a.tell(1)
    a.tell(2)
    with pytest.raises(MailboxFullError):
        a.tell(3)


def test_messages_of_a_static_child_wait_while_its_supervisor_restarts(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    mid = ChildSpec(
        "mid",
        lambda: Supervisor([gate.spec()], max_restarts=0),
        kind=Kind.SUPERVISOR,
        backoff=Backoff(base_s=1.0, jitter=0.0),
    )
    tree = start_tree(mid, clock=clock)
    a = tree.address("root/mid/a")
    with expect(tree, ChildRestarting, path="root/mid"):
        crash(a)
    a.tell("patience")
    with expect(tree, ChildStarted, path="root/mid"):
        clock.advance(1.0)
    a.call("newer")
    assert gate.heard == [(2, "patience"), (2, "newer")]


def test_messages_wait_for_a_child_that_a_sibling_takes_along(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    tree = start_tree(
        ChildSpec("first", lambda: Gate(gate), backoff=Backoff(base_s=1.0, jitter=0.0)),
        gate.spec(),
        strategy=Strategy.REST_FOR_ONE,
        clock=clock,
    )
    with expect(tree, ChildExited, path="root/a"):
        crash(tree.address("root/first"))
    tree.address("root/a").tell("patience")
    tree.address("root").call(CountChildren())
    with expect(tree, ChildStarted, path="root/a"):
        clock.advance(1.0)
    tree.address("root/a").call("newer")
    assert gate.heard == [(2, "patience"), (2, "newer")]


def test_full_mailbox_refuses_at_once(start_tree: StartTree, gate: Control) -> None:
    a = start_tree(gate.spec(max_mailbox=2)).address("root/a")
    a.tell("block")
    gate.entered.wait(5.0)
    a.tell(1)
    a.tell(2)
    with pytest.raises(MailboxFullError):
        a.tell(3)
    assert isinstance(a.ask(4).exception(), MailboxFullError)


def test_messages_queued_at_a_crash_fail_by_default(start_tree: StartTree, gate: Control) -> None:
    tree = start_tree(gate.spec())
    a = tree.address("root/a")
    a.tell("crash")
    gate.entered.wait(5.0)
    queued = a.ask("queued")
    with expect(tree, DeadLetter, path="root/a", epoch=1, message="str"), expect(tree, ChildStarted):
        a.tell("lost")
        gate.go_on.set()
    assert isinstance(queued.exception(), NotDeliveredError)
    assert a.call("hello") == "hello"
    assert gate.heard == [(2, "hello")]


def test_messages_queued_at_a_crash_are_carried_in_order_if_the_spec_says_so(
    start_tree: StartTree, gate: Control
) -> None:
    a = start_tree(gate.spec(on_pending=OnPending.CARRY)).address("root/a")
    a.tell("crash")
    gate.entered.wait(5.0)
    a.tell(1)
    asked = a.ask(2)
    gate.go_on.set()
    assert asked.result() == 2
    a.call(3)
    assert gate.heard == [(2, 1), (2, 2), (2, 3)]


def test_message_being_handled_at_the_crash_is_never_carried(start_tree: StartTree, gate: Control) -> None:
    a = start_tree(gate.spec(on_pending=OnPending.CARRY)).address("root/a")
    gate.go_on.set()
    with pytest.raises(ValueError, match="crash"):
        a.call("crash")
    a.call("after")
    assert gate.heard == [(2, "after")]


def test_unknown_name_is_not_delivered_to(start_tree: StartTree) -> None:
    tree = start_tree()
    with pytest.raises(NotDeliveredError):
        tree.address("root/nobody").tell("hello")
    assert isinstance(tree.address("root/nobody").ask("hello").exception(), NotDeliveredError)


def test_deadline_of_an_ask_that_has_begun_leaves_its_outcome_unknown_and_the_actor_alive(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    tree = start_tree(gate.spec(), clock=clock)
    a = tree.address("root/a")
    reply = a.ask("block", timeout_s=3.0)
    gate.entered.wait(5.0)
    clock.advance(3.0)
    assert isinstance(reply.exception(), OutcomeUnknownError)
    with expect(tree, DeadLetter, path="root/a", why="the answer came too late"):
        gate.go_on.set()
    assert a.call("hello") == "hello"
    assert gate.heard == [(1, "hello")]


def test_ask_whose_deadline_passes_in_the_queue_is_never_handled(
    start_tree: StartTree, clock: VirtualClock, gate: Control
) -> None:
    a = start_tree(gate.spec(), clock=clock).address("root/a")
    a.tell("block")
    gate.entered.wait(5.0)
    reply = a.ask("too late", timeout_s=3.0)
    clock.advance(3.0)
    gate.go_on.set()
    a.call("in time")
    assert isinstance(reply.exception(), NotDeliveredError)
    assert gate.heard == [(1, "in time")]


def test_deadline_holds_on_the_real_clock_too(start_tree: StartTree, gate: Control) -> None:
    a = start_tree(gate.spec()).address("root/a")
    with pytest.raises(OutcomeUnknownError):
        a.call("block", timeout_s=0.05)


def test_done_callback_sees_the_deadline_without_anybody_waiting(
    start_tree: StartTree, gate: Control
) -> None:
    settled: list[BaseException | None] = []
    done = threading.Event()

    def note(reply: Reply) -> None:
        settled.append(reply.exception())
        done.set()

    reply = start_tree(gate.spec()).address("root/a").ask("block", timeout_s=0.05)
    reply.add_done_callback(note)
    assert done.wait(5.0)
    assert isinstance(settled[0], OutcomeUnknownError)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_ask_needs_a_finite_time_limit(start_tree: StartTree, timeout_s: float) -> None:
    with pytest.raises(ConfigError):
        start_tree().address("root").ask("hello", timeout_s=timeout_s)


class Asker(SupervisedActor):
    """Calls whom it is told to call."""

    reply_errors = (TinkerActorsError,)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, str):
            return message
        path, inner = message
        if path == "me":
            return self.context.me.call(inner)
        if path == "ask":
            return self.context.me.ask(inner).result()
        return self.context.address(path).call(inner)


@pytest.mark.parametrize("path", ["root/a", "me", "ask"])
def test_actor_that_waits_for_itself_is_told_so(start_tree: StartTree, path: str) -> None:
    a = start_tree(ChildSpec("a", Asker)).address("root/a")
    with pytest.raises(WouldDeadlockError):
        a.call((path, "never"))
    with pytest.raises(WouldDeadlockError):
        a.call((path, "still alive"))


def test_reply_may_be_given_later(start_tree: StartTree) -> None:
    class Postponing(SupervisedActor):
        waiting: Reply

        def on_receive(self, message: Any) -> Any:
            if message == "later":
                self.waiting = Reply()
                return self.waiting
            self.waiting.set(message)
            return None

    a = start_tree(ChildSpec("a", Postponing)).address("root/a")
    reply = a.ask("later")
    a.call("the answer")
    assert reply.result() == "the answer"


def test_reply_that_was_to_come_later_is_lost_with_the_incarnation(start_tree: StartTree) -> None:
    class Postponing(SupervisedActor):
        def on_receive(self, _message: Any) -> Reply:
            return Reply()

    tree = start_tree(ChildSpec("a", Postponing))
    reply = tree.address("root/a").ask("later")
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    assert isinstance(reply.exception(), (OutcomeUnknownError, NotDeliveredError))


def test_tell_to_an_incarnation_that_ended_is_a_dead_letter_and_reaches_no_other(
    start_tree: StartTree, gate: Control
) -> None:
    first: list[Address] = []

    class Sharing(Gate):
        def on_start(self) -> None:
            first.append(self.context.me)

    tree = start_tree(ChildSpec("a", lambda: Sharing(gate)))
    with expect(tree, ChildStarted, epoch=2):
        crash(tree.address("root/a"))
    with expect(tree, DeadLetter, path="root/a", epoch=1):
        first[0].tell("too late")
    assert isinstance(first[0].ask("too late").exception(), NotDeliveredError)
    tree.address("root/a").call("hello")
    assert gate.heard == [(2, "hello")]


def test_send_after_tells_this_incarnation_when_its_time_has_come(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    heard: list[str] = []

    class Alarmed(SupervisedActor):
        def on_start(self) -> None:
            self.context.send_after(5.0, "ring")
            self.context.send_after(5.0, "never").cancel()

        def on_receive(self, message: str) -> None:
            heard.append(message)

    tree = start_tree(ChildSpec("a", Alarmed), clock=clock)
    clock.advance(4.9)
    tree.address("root/a").call("early")
    clock.advance(0.1)
    tree.address("root/a").call("late")
    assert heard == ["early", "ring", "late"]


def test_addresses_of_one_path_are_equal(start_tree: StartTree) -> None:
    tree = start_tree()
    assert tree.address("root/a") == tree.address("root/a")
    assert len({tree.address("root/a"), tree.address("root/a"), tree.address("root/b")}) == 2


@pytest.fixture
def frantic_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frantic_switching")
@pytest.mark.parametrize("on_pending", list(OnPending))
def test_asks_racing_crashes_and_the_stop_all_settle(start_tree: StartTree, on_pending: OnPending) -> None:
    class Fragile(SupervisedActor):
        def on_receive(self, message: int) -> int:
            if message % 50 == 0:
                raise ValueError(message)
            return message

    # The clock stands still: no deadline helps an ask that was forgotten.
    spec = ChildSpec("a", Fragile, on_pending=on_pending, max_mailbox=100_000)
    tree = start_tree(spec, clock=VirtualClock(), max_restarts=1_000_000)
    a, replies = tree.address("root/a"), list[Reply]()

    def ask_many() -> None:
        replies.extend([a.ask(number) for number in range(500)])

    threads = [threading.Thread(target=ask_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    threads[0].join()
    tree.stop(30.0)
    for thread in threads:
        thread.join()
    assert len(replies) == 4000
    assert count_settled(replies) == 4000


def count_settled(replies: list[Reply]) -> int:
    """How many are settled once the last of them is, or after some seconds."""
    settled, all_settled, lock = [], threading.Event(), threading.Lock()

    def note(reply: Reply) -> None:
        with lock:
            settled.append(reply)
            if len(settled) == len(replies):
                all_settled.set()

    for reply in replies:
        reply.add_done_callback(note)
    all_settled.wait(5.0)
    return len(settled)
