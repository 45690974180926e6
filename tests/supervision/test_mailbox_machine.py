"""The mailbox, and a name's parking in front of it, each beside a naive model made of plain lists."""

import math
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinker_actors.errors import MailboxFullError, NotDeliveredError, TinkerActorsError
from tinker_actors.supervision import IGNORED, ChildSpec, Depths, OnPending
from tinker_actors.supervision.incarnation import Incarnation
from tinker_actors.supervision.mailbox import Envelope, Lane, Mailbox, Offer
from tinker_actors.supervision.names import NameTable, Slot, State
from tinker_actors.supervision.testing import VirtualClock

CARRY_TIMEOUT_S = 10.0


class MailboxMachine(RuleBasedStateMachine):
    """One mailbox; messages are numbers that count up."""

    @initialize(limit=st.integers(1, 3))
    def make(self, limit: int) -> None:
        self.mailbox = Mailbox(limit)
        self.limit = limit
        self.sent = 0
        self.waiting: dict[Lane, list[int]] = {lane: [] for lane in Lane}
        self.accepted: list[int] = []
        self.handed_out: list[int] = []
        self.news: list[Lane] = []  # lanes of what was taken, control aside
        self.sleepers: list[int] = []
        self.to_wake: list[int] = []
        self.woken: list[int] = []
        self.is_sealed = self.is_closed = False

    def number(self) -> int:
        self.sent += 1
        return self.sent

    @property
    def is_full(self) -> bool:
        return len(self.waiting[Lane.USER]) >= self.limit

    @rule(bounded=st.booleans())
    def offer(self, bounded: bool) -> None:
        number = self.number()
        outcome = self.mailbox.offer(Envelope(number), bounded=bounded)
        if self.is_sealed:
            assert outcome is Offer.CLOSED
        elif bounded and self.is_full:
            assert outcome is Offer.FULL
        else:
            assert outcome is Offer.ACCEPTED
            self.waiting[Lane.USER].append(number)
            self.accepted.append(number)

    @rule(lane=st.sampled_from([Lane.CONTROL, Lane.SYSTEM]), count=st.sampled_from([1, 2, 20]))
    def post(self, lane: Lane, count: int) -> None:
        for _ in range(count):
            number = self.number()
            assert self.mailbox.post(number, lane=lane) is not self.is_closed
            if not self.is_closed:
                self.waiting[lane].append(number)
                self.accepted.append(number)

    def lane_due(self) -> Lane | None:
        """Whose turn it is."""
        if self.waiting[Lane.CONTROL]:
            return Lane.CONTROL
        if self.waiting[Lane.USER] and self.news[-16:] == [Lane.SYSTEM] * 16:
            return Lane.USER
        return next((lane for lane in (Lane.SYSTEM, Lane.USER) if self.waiting[lane]), None)

    @precondition(lambda self: self.is_closed or self.lane_due() is not None)  # else it would block
    @rule(count=st.sampled_from([1, 3, 20]))
    def take(self, count: int) -> None:
        for _ in range(count):
            lane = self.lane_due()
            if lane is None:
                break
            envelope = self.mailbox.take()
            assert envelope is not None
            assert envelope.lane is lane
            assert envelope.message == self.waiting[lane].pop(0)
            self.handed_out.append(envelope.message)
            if lane is not Lane.CONTROL:
                self.news.append(lane)
            if lane is Lane.USER and not self.is_full:
                self.wake_sleepers()
        if self.is_closed:
            assert self.mailbox.take() is None

    @rule()
    def when_room(self) -> None:
        number = self.number()
        self.mailbox.when_room(partial(self.woken.append, number))
        self.sleepers.append(number)
        if self.is_sealed or not self.is_full:
            self.wake_sleepers()

    def wake_sleepers(self) -> None:
        self.to_wake += self.sleepers
        self.sleepers = []

    @rule()
    def seal(self) -> None:
        self.hand_out(self.mailbox.seal(), Lane.USER)
        self.is_sealed = True

    @rule()
    def close(self) -> None:
        self.hand_out(self.mailbox.close(), *Lane)
        self.is_sealed = self.is_closed = True

    def hand_out(self, left: list[Envelope], *lanes: Lane) -> None:
        messages = [one.message for one in left]
        assert messages == [number for lane in lanes for number in self.waiting[lane]]
        self.handed_out += messages
        for lane in lanes:
            self.waiting[lane] = []
        self.wake_sleepers()

    @invariant()
    def what_waits_and_who_was_woken_is_as_in_the_model(self) -> None:
        waiting = self.waiting
        assert self.mailbox.depths() == Depths(*(len(waiting[lane]) for lane in Lane))
        assert self.woken == self.to_wake

    def teardown(self) -> None:
        if not hasattr(self, "mailbox"):
            return
        self.close()
        assert sorted(self.handed_out) == self.accepted
        assert self.mailbox.offer(Envelope("late"), bounded=False) is Offer.CLOSED
        assert not self.mailbox.post("late")
        assert self.mailbox.take() is None


class SlotMachine(RuleBasedStateMachine):
    """One name, through incarnations that come up, crash and are stopped while messages are sent to it."""

    @initialize(limit=st.integers(1, 3), on_pending=st.sampled_from(OnPending))
    def make(self, limit: int, on_pending: OnPending) -> None:
        self.clock = VirtualClock()
        spec = ChildSpec(
            "a", lambda: IGNORED, max_mailbox=limit, on_pending=on_pending, carry_timeout_s=CARRY_TIMEOUT_S
        )
        self.slot = NameTable(self.on_drop, self.clock).declare("a", spec, None)
        self.mailbox = Mailbox(limit)
        self.mailbox.close()  # nobody has been started yet
        self.limit, self.carries = limit, on_pending is OnPending.CARRY
        self.state, self.parks = State.PENDING, True
        self.is_over = True  # whether the present incarnation's mailbox is closed
        self.sent = 0
        self.parked: list[tuple[int, float]] = []  # with the time at which each expires
        self.queue: list[tuple[int, bool]] = []  # with whether each was sent to the name
        self.settled: list[int] = []
        self.dropped: list[int] = []
        self.to_drop: list[int] = []
        self.asleep: dict[int, bool] = {}

    def on_drop(self, _slot: Slot, envelope: Envelope, error: TinkerActorsError) -> None:
        assert type(error) is NotDeliveredError
        self.dropped.append(envelope.message)

    def number(self) -> int:
        self.sent += 1
        return self.sent

    # Senders.

    def refusal(self, *, waits: bool = True) -> type[TinkerActorsError] | None:
        """What a send would meet now."""
        if self.state is State.RUNNING and not self.is_over:
            return MailboxFullError if len(self.queue) >= self.limit else None
        if not self.parks or not waits:
            return NotDeliveredError
        return MailboxFullError if len(self.parked) >= self.limit else None

    @rule(waits=st.booleans(), count=st.integers(1, 4))
    def send(self, waits: bool, count: int) -> None:
        for _ in range(count):
            self.send_one(waits=waits)

    def send_one(self, *, waits: bool) -> None:
        number, expected = self.number(), self.refusal(waits=waits)
        try:
            self.slot.send(Envelope(number, carries=True), waits=waits)
        except TinkerActorsError as error:
            assert type(error) is expected  # noqa: PT017 - which error it is depends on the state
            self.settled.append(number)
            return
        assert expected is None
        if self.state is State.RUNNING and not self.is_over:
            self.queue.append((number, True))
        else:
            self.parked.append((number, math.inf))

    @rule()
    def send_to_this_incarnation(self) -> None:
        number = self.number()
        outcome = self.mailbox.offer(Envelope(number), bounded=False)
        if self.is_over:
            assert outcome is Offer.CLOSED
            self.settled.append(number)
        else:
            assert outcome is Offer.ACCEPTED
            self.queue.append((number, False))

    @rule()
    def wait_for_room(self) -> None:
        number = self.number()
        self.asleep[number] = True
        self.settled.append(number)
        self.slot.when_room(partial(self.asleep.pop, number))
        assert (number in self.asleep) == (self.refusal() is MailboxFullError)

    # The actor.

    @precondition(lambda self: not self.is_over and self.state is not State.STARTING and self.queue)
    @rule()
    def handle(self) -> None:
        envelope = self.mailbox.take()
        assert envelope is not None
        assert envelope.message == self.queue.pop(0)[0]
        self.settled.append(envelope.message)

    @precondition(lambda self: not self.is_over)
    @rule()
    def end(self) -> None:
        left = [one.message for one in self.slot.retire(self.mailbox, close=True)]
        carried = [number for number, to_name in self.queue if to_name and self.carries]
        assert left == [number for number, _ in self.queue if number not in carried]
        self.settled += left
        self.parked = [(number, self.clock.now() + CARRY_TIMEOUT_S) for number in carried] + self.parked
        self.queue = []
        self.is_over = True

    # Its supervisor.

    @precondition(lambda self: self.state in (State.PENDING, State.BACKING_OFF, State.DOWN))
    @rule()
    def start(self) -> None:
        self.mailbox, self.queue = Mailbox(self.limit), []
        self.slot.begin(cast("Incarnation", SimpleNamespace(mailbox=self.mailbox)))
        self.state, self.parks, self.is_over = State.STARTING, True, False

    @precondition(lambda self: self.state in (State.PENDING, State.BACKING_OFF, State.DOWN))
    @rule(ends_early=st.booleans())
    def start_and_see_it_up(self, ends_early: bool) -> None:
        self.start()
        if ends_early:
            self.end()
        self.see_it_up()

    @precondition(lambda self: self.state is State.STARTING)
    @rule()
    def see_it_up(self) -> None:
        self.slot.open(self.mailbox)  # it may have ended meanwhile
        self.state = State.RUNNING
        if not self.is_over:
            self.queue += [(number, True) for number, _ in self.parked]
            self.parked = []

    @precondition(lambda self: self.state in (State.STARTING, State.RUNNING))
    @rule(parks=st.booleans())
    def ask_it_to_stop(self, parks: bool) -> None:
        self.shut(State.STOPPING, parks=parks)

    @precondition(lambda self: self.is_over and self.state in (State.STARTING, State.RUNNING, State.STOPPING))
    @rule(state=st.sampled_from([State.BACKING_OFF, State.DOWN, State.PENDING]))
    def see_it_over(self, state: State) -> None:
        self.shut(state, parks=state is not State.DOWN)

    @precondition(lambda self: self.state in (State.STARTING, State.RUNNING) and not self.is_over)
    @rule()
    def end_and_back_off(self) -> None:
        self.end()
        self.see_it_over(State.BACKING_OFF)

    @precondition(lambda self: self.state in (State.PENDING, State.BACKING_OFF))
    @rule()
    def give_it_up(self) -> None:
        self.shut(State.DOWN, parks=False)

    def shut(self, state: State, *, parks: bool) -> None:
        self.slot.shut(state, parks=parks)
        self.state, self.parks = state, parks
        if not parks:
            self.to_drop += [number for number, _ in self.parked]
            self.parked = []

    @rule(seconds=st.sampled_from([6.0, CARRY_TIMEOUT_S]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.now()
        self.to_drop += [number for number, expires_at in self.parked if expires_at <= now]
        self.parked = [(number, expires_at) for number, expires_at in self.parked if expires_at > now]

    # What always holds.

    @invariant()
    def what_waits_and_what_was_dropped_is_as_in_the_model(self) -> None:
        queued = 0 if self.slot.incarnation is None else len(self.queue)
        assert self.slot.depths() == Depths(0, 0, queued + len(self.parked))
        assert self.dropped == self.to_drop
        assert self.slot.state is self.state

    @invariant()
    def nobody_sleeps_while_a_send_is_worth_a_try(self) -> None:
        assert not self.asleep or self.refusal() is MailboxFullError

    def teardown(self) -> None:
        if not hasattr(self, "slot"):
            return
        if not self.is_over:
            self.end()
        self.shut(State.DOWN, parks=False)
        assert sorted(self.settled + self.dropped) == list(range(1, self.sent + 1))
        assert not self.asleep


MACHINES = pytest.mark.parametrize("machine", [MailboxMachine, SlotMachine])


def check(machine: type[RuleBasedStateMachine], sequences: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@MACHINES
def test_any_sequence_of_calls_does_what_a_plain_list_would(machine: type[RuleBasedStateMachine]) -> None:
    """MBX-02, MBX-04, MBX-05, MBX-07: nothing is lost or doubled, lanes keep order, closed is closed."""
    check(machine, 2_000)


@pytest.mark.slow
@MACHINES
def test_any_of_very_many_sequences_of_calls_does_what_a_plain_list_would(
    machine: type[RuleBasedStateMachine],
) -> None:
    """MBX-02, MBX-04, MBX-05, MBX-07."""
    check(machine, 50_000)
