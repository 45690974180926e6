"""MBX-04: what becomes of a send to a mailbox at its bound. That of a public handle: `test_messages.py`, too."""

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tinker_actors.errors import (
    ConfigError,
    FencedError,
    HandleClosedError,
    MailboxFullError,
    NotDeliveredError,
    RuntimeStoppedError,
)
from tinker_actors.supervision import (
    ActorTree,
    Address,
    Backoff,
    ChildAbandoned,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    Context,
    DeadLetter,
    DeleteChild,
    OnPending,
    Reply,
    SupervisedActor,
    TerminateChild,
    ZombieEnded,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]
Job = Callable[[Context], Any]

LONG_S = 1e6


class Sender(SupervisedActor):
    """Does in its own thread what it is told to do."""

    def on_receive(self, job: Job) -> Any:
        return job(self.context)


class Receiver(SupervisedActor):
    """Blocks on "block"; then collects what it is told, or crashes on "crash"."""

    def __init__(self, street: "Street") -> None:
        super().__init__()
        self.street = street

    def on_receive(self, message: Any) -> Any:
        if message in ("block", "crash"):
            self.street.entered.set()
            self.street.go_on.wait(20.0)
        if message == "crash":
            raise ValueError("crash")
        if message != "block":
            self.street.heard.append((self.context.epoch, message))
        return message


class Street:
    """A sender, a receiver whose mailbox takes one message, and the test's hold on both."""

    def __init__(self, start_tree: StartTree, clock: VirtualClock) -> None:
        self.start_tree, self.clock = start_tree, clock
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.heard: list[tuple[int, Any]] = []

    def start(self, *, sender: dict[str, Any] | None = None, **receiver: Any) -> None:
        self.tree = self.start_tree(
            ChildSpec("s", Sender, **sender or {}),
            ChildSpec("r", lambda: Receiver(self), **{"max_mailbox": 1, **receiver}),
            clock=self.clock,
        )
        self.sender, self.receiver = self.tree.address("root/s"), self.tree.address("root/r")

    def fill(self, blocker: str = "block") -> None:
        self.receiver.tell(blocker)
        assert self.entered.wait(5.0)
        self.first = self.receiver.ask("first", timeout_s=LONG_S)

    def let_send(self, job: Job) -> Reply:
        """The outcome of `job`, which blocks in a send by now."""
        timers = self.clock.pending()
        outcome = self.sender.ask(job, timeout_s=LONG_S)
        self.clock.wait_for_timers(timers + 1)
        return outcome


@pytest.fixture
def street(start_tree: StartTree, clock: VirtualClock) -> Iterator[Street]:
    street = Street(start_tree, clock)
    yield street
    street.go_on.set()


def tell(context: Context) -> int:
    context.address("root/r", block_s=5.0).tell("blocked")
    return context.epoch


def ask(context: Context) -> BaseException | None:
    return context.address("root/r", block_s=5.0).ask("blocked").exception()


def call_last(context: Context) -> Any:
    """Waits for room, unlike a call from outside."""
    return context.address("root/r", block_s=5.0).call("last")


def error_of_tell(context: Context) -> BaseException | None:
    try:
        tell(context)
    except (NotDeliveredError, FencedError) as error:
        return error
    return None


def test_blocked_sender_goes_on_in_order_once_there_is_room(street: Street) -> None:
    def send(context: Context) -> Any:
        receiver = context.address("root/r", block_s=5.0)
        for number in range(5):
            receiver.tell(number)
        return receiver.call("last")

    street.start()
    street.fill()
    outcome = street.let_send(send)
    street.go_on.set()
    assert outcome.result() == "last"
    assert street.heard == [(1, message) for message in ["first", *range(5), "last"]]


def test_tell_that_was_blocked_for_its_time_is_a_dead_letter_and_the_sender_lives_on(
    street: Street, clock: VirtualClock
) -> None:
    street.start()
    street.fill()
    outcome = street.let_send(tell)
    clock.advance(4.9)
    assert not outcome.done()
    with expect(street.tree, DeadLetter, path="root/r", message="str", age_s=5.0):
        clock.advance(0.1)
    assert outcome.result() == 1
    assert street.sender.call(lambda context: context.epoch) == 1


def test_ask_that_was_blocked_for_its_time_fails_and_the_sender_lives_on(
    street: Street, clock: VirtualClock
) -> None:
    street.start()
    street.fill()
    outcome = street.let_send(ask)
    clock.advance(5.0)
    assert isinstance(outcome.result(), MailboxFullError)
    assert street.sender.call(lambda context: context.epoch) == 1
    assert street.tree.dead_letter_count == 0


def test_blocked_sender_reaches_the_next_incarnation_when_the_receiver_crashes(street: Street) -> None:
    street.start()
    street.fill("crash")
    outcome = street.let_send(tell)
    street.go_on.set()
    assert outcome.result() == 1
    assert street.sender.call(lambda context: context.address("root/r").call("after")) == "after"
    assert street.heard == [(2, "blocked"), (2, "after")]


def test_blocked_sender_reaches_the_next_incarnation_when_the_receiver_is_given_up(
    street: Street, clock: VirtualClock
) -> None:
    street.start(handler_deadline_s=1.0)
    street.fill()
    outcome = street.let_send(tell)
    with expect(street.tree, ChildStarted, path="root/r", epoch=2):
        clock.advance(4.0)
    assert outcome.result() == 1
    assert street.sender.call(lambda context: context.address("root/r").call("after")) == "after"
    assert street.heard == [(2, "blocked"), (2, "after")]
    with expect(street.tree, ZombieEnded):
        street.go_on.set()


def test_blocked_sender_is_refused_as_soon_as_the_receiver_is_asked_to_stop(street: Street) -> None:
    street.start(shutdown_s=math.inf)
    street.fill()
    outcome = street.let_send(error_of_tell)
    terminated = street.tree.address("root").ask(TerminateChild("r"), timeout_s=LONG_S)
    assert type(outcome.result()) is NotDeliveredError  # while the receiver still blocks
    street.go_on.set()
    assert terminated.result() is None


def test_sender_that_waits_for_a_receiver_in_its_backoff_goes_on_once_that_is_up(
    street: Street, clock: VirtualClock
) -> None:
    street.start(backoff=Backoff(base_s=2.0, jitter=0.0))
    with expect(street.tree, ChildRestarting):
        crash(street.receiver)
    street.receiver.tell("first")
    outcome = street.let_send(lambda context: context.address("root/r").call("blocked", timeout_s=LONG_S))
    clock.advance(2.0)
    assert outcome.result() == "blocked"
    assert street.heard == [(2, "first"), (2, "blocked")]


def test_sender_goes_on_when_messages_that_were_carried_have_had_their_time(
    street: Street, clock: VirtualClock
) -> None:
    street.start(
        backoff=Backoff(base_s=100.0, cap_s=100.0, jitter=0.0),
        on_pending=OnPending.CARRY,
        carry_timeout_s=3.0,
    )
    street.fill("crash")
    with expect(street.tree, ChildRestarting):
        street.go_on.set()
    outcome = street.let_send(tell)
    clock.advance(3.0)
    assert isinstance(street.first.exception(), NotDeliveredError)
    assert outcome.result() == 1
    assert street.tree.dead_letter_count == 0


@pytest.mark.parametrize("send", [tell, ask])
def test_blocked_sender_that_is_given_up_is_fenced(street: Street, clock: VirtualClock, send: Job) -> None:
    errors: list[FencedError] = []

    def send_and_note(context: Context) -> None:
        try:
            send(context)
        except FencedError as error:
            errors.append(error)

    street.start(sender={"shutdown_s": 2.0})
    street.fill()
    outcome = street.let_send(send_and_note)
    street.tree.address("root").ask(TerminateChild("s"), timeout_s=LONG_S)
    clock.wait_for_timers(2)
    with expect(street.tree, ChildAbandoned, path="root/s"), expect(street.tree, ZombieEnded):
        clock.advance(2.0)
    assert len(errors) == 1
    assert outcome.exception() is not None
    street.go_on.set()
    street.first.result()
    street.receiver.call("after")
    assert street.heard == [(1, "first"), (1, "after")]


def test_sender_outside_of_actors_is_refused_at_once_whatever_its_address_says(
    street: Street, clock: VirtualClock
) -> None:
    street.start()
    address: Address = street.sender.call(lambda context: context.address("root/r", block_s=5.0))
    street.fill()
    pending = clock.pending()
    with pytest.raises(MailboxFullError):
        address.tell("no room")
    assert isinstance(address.ask("no room").exception(), MailboxFullError)
    assert clock.pending() == pending


def test_actor_is_refused_at_once_by_an_address_that_does_not_block(street: Street) -> None:
    def send(context: Context) -> BaseException | None:
        with pytest.raises(MailboxFullError):
            context.address("root/r", block_s=0.0).tell("no room")
        with pytest.raises(MailboxFullError):
            street.receiver.tell("no room")
        return street.receiver.ask("no room").exception()

    street.start()
    street.fill()
    assert isinstance(street.sender.call(send), MailboxFullError)


def test_actor_whose_own_mailbox_is_full_is_refused_at_once_by_its_own_name(street: Street) -> None:
    def send(context: Context) -> BaseException | None:
        myself = context.address(context.path, block_s=5.0)
        myself.tell(lambda _context: None)
        with pytest.raises(MailboxFullError):
            myself.tell(lambda _context: None)
        return myself.ask(lambda _context: None).exception()

    street.start(sender={"max_mailbox": 1})
    assert isinstance(street.sender.call(send), MailboxFullError)
    assert street.tree.dead_letter_count == 0


def test_actor_may_tell_its_own_incarnation_more_than_its_mailbox_takes(street: Street) -> None:
    done = threading.Event()

    def send(context: Context) -> None:
        for _ in range(10):
            context.me.tell(lambda _context: None)
        context.me.tell(lambda _context: done.set())

    street.start(sender={"max_mailbox": 1})
    street.sender.call(send)
    assert done.wait(5.0)


def test_actors_that_block_each_other_go_on_after_their_time(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    both_busy, are_full = threading.Barrier(3, timeout=5.0), threading.Event()

    def send_to(path: str) -> Job:
        def send(context: Context) -> int:
            both_busy.wait()
            are_full.wait(5.0)
            context.address(path, block_s=5.0).tell(lambda _context: None)
            return context.epoch

        return send

    tree = start_tree(*(ChildSpec(name, Sender, max_mailbox=1) for name in "ab"), clock=clock)
    a, b = tree.address("root/a"), tree.address("root/b")
    outcomes = [a.ask(send_to("root/b"), timeout_s=LONG_S), b.ask(send_to("root/a"), timeout_s=LONG_S)]
    both_busy.wait()
    for address in (a, b):
        address.tell(lambda _context: None)
    are_full.set()
    clock.wait_for_timers(2)
    clock.advance(5.0)
    assert [outcome.result() for outcome in outcomes] == [1, 1]


@pytest.mark.parametrize("block_s", [-1.0, math.inf, math.nan])
def test_time_to_block_must_be_finite(street: Street, block_s: float) -> None:
    street.start()
    with pytest.raises(ConfigError, match="block_s"):
        street.sender.call(lambda context: context.address("root/r", block_s=block_s))


def test_what_an_actor_asked_to_be_told_needs_no_room(street: Street) -> None:
    street.start()
    street.fill()
    street.receiver.tell_if_there("asked for")
    street.go_on.set()
    assert street.first.result() == "first"
    assert street.sender.call(call_last) == "last"
    assert street.heard == [(1, "first"), (1, "asked for"), (1, "last")]


def test_what_an_actor_asked_to_be_told_needs_no_room_while_it_waits_for_its_restart(street: Street) -> None:
    street.start(backoff=Backoff(base_s=1.0, jitter=0.0))
    with expect(street.tree, ChildRestarting):
        crash(street.receiver)
    for message in ("parked", "asked for"):
        street.receiver.tell_if_there(message)
    with expect(street.tree, ChildStarted, epoch=2):
        street.clock.advance(1.0)
    assert street.sender.call(call_last) == "last"
    assert street.heard == [(2, "parked"), (2, "asked for"), (2, "last")]


def test_what_an_actor_asked_to_be_told_is_nothing_where_it_is_not(street: Street) -> None:
    street.start()
    root, receiver = street.tree.address("root"), street.receiver
    root.call(TerminateChild("r"))
    receiver.tell_if_there("hello")
    with pytest.raises(NotDeliveredError):
        receiver.tell("hello")
    root.call(DeleteChild("r"))
    receiver.tell_if_there("hello")
    with pytest.raises(HandleClosedError):
        receiver.tell("hello")
    street.tree.stop(5.0)
    receiver.tell_if_there("hello")
    with pytest.raises(RuntimeStoppedError):
        receiver.tell("hello")
