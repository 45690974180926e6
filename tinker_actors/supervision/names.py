"""The table of names of one tree: for each path, who lives there now and where its messages go.

A slot is changed by its supervisor only; anybody may read it or send through it.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn

from tinker_actors.errors import (
    HandleClosedError,
    MailboxFullError,
    NotDeliveredError,
    RuntimeStoppedError,
    TinkerActorsError,
)
from tinker_actors.supervision.clock import Clock, Timer
from tinker_actors.supervision.exits import ExitReason, Killed
from tinker_actors.supervision.mailbox import Depths, Envelope, Mailbox, Offer, Waiters
from tinker_actors.supervision.monitors import Monitor, Monitors, Scope
from tinker_actors.supervision.poison import Quarantine
from tinker_actors.supervision.specs import ChildSpec, OnPending

if TYPE_CHECKING:
    from tinker_actors.supervision.actor import SupervisedActor
    from tinker_actors.supervision.incarnation import Incarnation

__all__ = ["NameTable", "Slot", "State"]

_MAX_TOMBSTONES = 10_000

DropHook = Callable[["Slot", Envelope, TinkerActorsError], None]


class State(StrEnum):
    """Where a child stands."""

    PENDING = "pending"
    """It is to start; others go first."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    """It waits for its restart."""
    DOWN = "down"
    """It ended and stays so until somebody starts it."""
    STOPPED = "stopped"
    """Its supervisor is not there."""
    DELETED = "deleted"
    """Its spec is gone."""


class Slot:
    """One name: its state, its mailbox while it runs, and what was sent to it meanwhile."""

    def __init__(self, table: "NameTable", path: str, spec: ChildSpec, parent: "Slot | None") -> None:
        self.table = table
        self.path = path
        self.spec = spec
        self.parent = parent
        self.children: dict[str, Slot] = {}
        """Of a supervisor, by id, in start order. Copy it to walk over it."""
        self.state = State.PENDING
        self.epoch = table.epoch_floor
        self.restarts = 0
        self.restarts_in_window = 0
        """Of a supervisor: the restarts that count against its limit."""
        self.due = math.inf
        """When its restart is due, in clock seconds; infinite when no time is set."""
        self.last_exit: ExitReason | None = None
        self.mailbox: Mailbox | None = None
        """Where user messages go; None unless running."""
        self.incarnation: Incarnation | None = None
        """The one that starts, runs or stops; its mailbox takes commands as soon as it is there."""
        self.interface: type[SupervisedActor] | None = None
        """The class of the latest actor, once there was one."""
        self.quarantine = Quarantine()
        self._parks = True
        self._parked: deque[Envelope] = deque()
        self._room = Waiters()
        self._carry_limit: Timer | None = None
        self._monitors = Monitors()
        self._lock = threading.RLock()

    # The supervisor's side.

    def begin(self, incarnation: "Incarnation") -> None:
        """An incarnation is on its way; `epoch` was raised for it by `reserve`."""
        with self._lock:
            self.state, self.incarnation, self._parks = State.STARTING, incarnation, True
            self.due = math.inf

    def reserve(self) -> int:
        """The epoch of the next incarnation: higher than any before it."""
        with self._lock:
            self.epoch += 1
            return self.epoch

    def open(self, mailbox: Mailbox) -> None:
        """The incarnation is up: hand it what was parked, then let senders through."""
        with self._lock:
            self.state = State.RUNNING
            # It may have ended already; then what it did not take waits for the supervisor's decision.
            refused: deque[Envelope] = deque()
            while self._parked:
                one = self._parked.popleft()
                if mailbox.offer(one, bounded=False) is Offer.CLOSED:
                    refused.append(one)
            self._parked = refused
            self.mailbox = mailbox
            self._room.wake_all()
            if self._carry_limit is not None and not refused:
                self._carry_limit.cancel()

    def shut(self, state: State, *, parks: bool) -> None:
        """Let no more through; from here on messages wait (`parks`) or are refused."""
        with self._lock:
            if self.mailbox is not None:
                self.mailbox.wake_senders()  # what they wait for will not come from there
            self.state, self.mailbox, self._parks = state, None, parks
            if state is not State.STOPPING:
                self.incarnation = None
            if state is not State.BACKING_OFF:
                self.due = math.inf
            self._room.wake_all()
        if self.is_over:
            self.finished()
        if not parks or self.table.is_ending:
            self.drop_parked()

    def retire(self, mailbox: Mailbox, *, close: bool) -> list[Envelope]:
        """End an incarnation's user lane (and all of it if `close`); returns what nobody will handle.

        Runs in the incarnation's thread. Messages to be carried go ahead of what was parked meanwhile.
        """
        with self._lock:
            left = mailbox.close() if close else mailbox.seal()
            current = None if self.incarnation is None else self.incarnation.mailbox
            if self.spec.on_pending is OnPending.FAIL or current is not mailbox:
                return left
            carried = [one for one in left if one.carries]
            self._parked.extendleft(reversed(carried))
        if carried:
            self._limit_carrying(carried)
        return [one for one in left if not one.carries]

    def _limit_carrying(self, carried: list[Envelope]) -> None:
        limit_s = self.spec.carry_timeout_s
        batch = {id(one) for one in carried}  # the timer keeps no message

        def expire() -> None:
            with self._lock:
                late = [one for one in self._parked if id(one) in batch]
                self._parked = deque(one for one in self._parked if id(one) not in batch)
                self._room.wake_all()
            for one in late:
                error = NotDeliveredError(
                    f"{self.path} was not back within {limit_s:g} s to take the message"
                )
                self.table.on_drop(self, one, error)

        if limit_s < math.inf:
            self._carry_limit = self.table.clock.schedule(limit_s, expire)

    def drop_parked(self) -> None:
        """Refuse what waits here and below: it has become certain that nobody will come for it."""
        with self._lock:
            dropped, self._parked = self._parked, deque()
            self._room.wake_all()
            if self._carry_limit is not None:
                self._carry_limit.cancel()
            error = self.refusal()
        for envelope in dropped:
            self.table.on_drop(self, envelope, error or NotDeliveredError(f"{self.path} is {self.state}"))
        for child in list(self.children.values()):
            if child.state in (State.STOPPED, State.DELETED, State.DOWN):
                child.drop_parked()

    def ended(self, epoch: int, reason: ExitReason) -> None:
        """Tell those who watch this incarnation that it ended."""
        with self._lock:
            self.last_exit = reason
            watching = self._monitors.take(Scope.INCARNATION)
        for monitor in watching:
            monitor.fire(epoch, reason)

    @property
    def is_over(self) -> bool:
        """Whether it is down for good, or below one that is."""
        if self.state is State.STOPPED and self.parent is not None:
            return self.parent.is_over
        return self.state in (State.DOWN, State.DELETED)

    def finished(self) -> None:
        """Tell all who watch, here and below, that nothing will come any more."""
        with self._lock:
            watching = self._monitors.take(*Scope)
        for monitor in watching:
            monitor.fire(self.epoch, self.last_exit)
        for child in list(self.children.values()):
            if child.state is State.STOPPED:
                child.finished()

    # Any thread's side.

    def monitor(self, monitor: Monitor) -> None:
        """Enter a watch, or fire it now if what it waits for is over."""
        with self._lock:
            is_over = self.incarnation is None if monitor.scope is Scope.INCARNATION else self.is_over
            if not is_over and self.table.stopped is None:
                self._monitors.add(monitor)
                return
        monitor.fire(self.epoch, self.last_exit)

    def unmonitor(self, monitor: Monitor) -> None:
        """Take a watch out."""
        with self._lock:
            self._monitors.discard(monitor)

    def depths(self) -> Depths:
        """How many messages wait for it."""
        incarnation = self.incarnation
        control, system, user = (0, 0, 0) if incarnation is None else incarnation.mailbox.depths()
        return Depths(control, system, user + len(self._parked))

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call `callback`, which must only set an event, once another `send` is worth a try."""
        with self._lock:
            mailbox = self.mailbox
            if mailbox is not None and mailbox.is_sealed:
                mailbox = None  # its incarnation ends, and the supervisor has not said so yet
            if mailbox is None and self.refusal() is None and len(self._parked) >= self.spec.max_mailbox:
                self._room.add(callback)
            elif mailbox is None:
                callback()
            else:
                mailbox.when_room(callback)

    def send(self, envelope: Envelope, *, waits: bool = True) -> None:
        """Deliver; or, if it `waits`, park.

        Raises:
            NotDeliveredError, MailboxFullError, HandleClosedError, RuntimeStoppedError: nothing was taken.
        """
        if self._deliver(envelope):
            return
        with self._lock:
            if self._deliver(envelope):  # it came up between the two looks
                return
            error = self.refusal()
            if error is not None:
                raise error
            if not waits:
                raise NotDeliveredError(f"{self.path} is {self.state}; the message would not wait")
            if envelope.is_bounded and len(self._parked) >= self.spec.max_mailbox:
                raise MailboxFullError(f"{self.spec.max_mailbox} messages wait for {self.path} to start")
            self._parked.append(envelope)

    def _deliver(self, envelope: Envelope) -> bool:
        mailbox = self.mailbox
        if mailbox is None:
            return False
        outcome = mailbox.offer(envelope)
        if outcome is Offer.FULL:
            raise MailboxFullError(f"the mailbox of {self.path} is at its bound of {self.spec.max_mailbox}")
        return outcome is Offer.ACCEPTED

    def refusal(self) -> TinkerActorsError | None:
        """Why a message cannot wait here for the next incarnation; None if it can."""
        if self.table.stopped is not None:
            return self.table.stopped_error()
        if self.state is State.DELETED:
            return HandleClosedError(f"{self.path} was deleted")
        if self.table.is_ending:
            return NotDeliveredError(
                f"{self.path} is {self.state} and will not come back: the tree is ending"
            )
        if self.state is State.STOPPED and self.parent is not None:
            return self.parent.refusal()
        return (
            None if self._parks else NotDeliveredError(f"{self.path} is {self.state}; start it again first")
        )


class NameTable:
    """All names of one tree, also of children deleted not long ago."""

    def __init__(self, on_drop: DropHook, clock: Clock) -> None:
        self.on_drop = on_drop
        """Told about each parked message that will not be delivered."""
        self.clock = clock
        self.epoch_floor = 0
        """No name begins below: the highest epoch of all that were forgotten, so that none is given twice."""
        self.stopped: RuntimeStoppedError | None = None
        """Set once the tree is down; everything is refused from then on."""
        self.is_ending = False
        """Set once the root ends: what does not run now will not run again."""
        self._slots: dict[str, Slot] = {}
        self._tombs: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, path: str) -> Slot | None:
        """The slot of `path`, if there is or was one."""
        return self._slots.get(path)

    def declare(self, path: str, spec: ChildSpec, parent: Slot | None) -> Slot:
        """The slot of a child that is to start; one that existed keeps its epochs and what waits for it."""
        with self._lock:
            slot = self._slots.get(path)
            if slot is None:
                slot = self._slots[path] = Slot(self, path, spec, parent)
            was_buried = path in self._tombs
            self._tombs.pop(path, None)
            slot.spec, slot.parent = spec, parent
            if was_buried:
                slot.restarts, slot.last_exit = 0, None
            slot.shut(State.PENDING, parks=True)
            if parent is not None:
                parent.children[spec.id] = slot
            return slot

    def delete(self, slot: Slot, state: State = State.DELETED) -> None:
        """Close a name and those below it, which then say `state`; the epochs are remembered for a while."""
        with self._lock:
            if slot.parent is not None:
                slot.parent.children.pop(slot.spec.id, None)
            dropped = self._bury(slot, state)
            while len(self._tombs) > _MAX_TOMBSTONES:
                forgotten = self._slots.pop(self._tombs.popitem(last=False)[0])
                self.epoch_floor = max(self.epoch_floor, forgotten.epoch)
        for one in dropped:
            one.drop_parked()

    def _bury(self, slot: Slot, state: State) -> list[Slot]:
        buried = [slot]
        for child in slot.children.values():
            buried += self._bury(child, state)
        slot.children = {}
        slot.shut(state, parks=True)
        slot._parks = False  # noqa: SLF001 - dropping happens outside of the table's lock
        # A name that is only remembered keeps nothing of the application alive.
        slot.spec, slot.last_exit, slot.interface = replace(slot.spec, start=_gone), None, None
        slot.quarantine = Quarantine()
        self._tombs[slot.path] = None
        return buried

    def abandon_below(self, slot: Slot, why: str) -> None:
        """Fence off whatever runs under a supervisor that is not there any more."""
        for child in list(slot.children.values()):
            incarnation = child.incarnation
            if incarnation is not None:
                incarnation.abandon(why)
                child.ended(incarnation.epoch, Killed(0.0))
            child.shut(State.STOPPED, parks=True)
            self.abandon_below(child, why)

    def end(self) -> None:
        """The root ends: nobody shall wait any more for what does not run."""
        self.is_ending = True
        for slot in list(self._slots.values()):
            if slot.mailbox is None:
                slot.drop_parked()

    def refuse_all(self) -> None:
        """Settle everything that still waits, once `stopped` is set."""
        for slot in list(self._slots.values()):
            slot.drop_parked()
            slot.finished()

    def stopped_error(self) -> RuntimeStoppedError:
        """A fresh error for one refused call, with the tree's first cause."""
        cause = None if self.stopped is None else self.stopped.first_cause
        error = RuntimeStoppedError("the actor tree is down", first_cause=cause)
        error.__cause__ = cause
        return error


def _gone() -> NoReturn:
    raise HandleClosedError("the child was deleted")
