"""The table of names of one tree: for each path, who lives there now and where its messages go.

A slot is changed by its supervisor only; anybody may read it or send through it.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import NoReturn

from tinker_actors.errors import (
    HandleClosedError,
    MailboxFullError,
    NotDeliveredError,
    RuntimeStoppedError,
    TinkerActorsError,
)
from tinker_actors.supervision.exits import ExitReason
from tinker_actors.supervision.mailbox import Envelope, Mailbox, Offer
from tinker_actors.supervision.specs import ChildSpec, OnPending

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
        self.children: tuple[Slot, ...] = ()
        self.state = State.PENDING
        self.epoch = 0
        self.restarts = 0
        self.last_exit: ExitReason | None = None
        self.mailbox: Mailbox | None = None
        """Where user messages go; None unless running."""
        self.control: Mailbox | None = None
        """Where commands go; there as soon as an incarnation exists."""
        self.fence: Callable[[str], None] | None = None
        """Abandons that incarnation; takes the reason."""
        self._parks = True
        self._parked: deque[Envelope] = deque()
        self._lock = threading.Lock()

    # The supervisor's side.

    def begin(self, mailbox: Mailbox, fence: Callable[[str], None]) -> None:
        """An incarnation is on its way; `epoch` was raised for it by `reserve`."""
        with self._lock:
            self.state, self.control, self.fence, self._parks = State.STARTING, mailbox, fence, True

    def reserve(self) -> int:
        """The epoch of the next incarnation: higher than any before it."""
        with self._lock:
            self.epoch += 1
            return self.epoch

    def open(self, mailbox: Mailbox) -> None:
        """The incarnation is up: hand it what was parked, then let senders through."""
        with self._lock:
            self.state = State.RUNNING
            refused = [one for one in self._parked if mailbox.offer(one, bounded=False) is Offer.CLOSED]
            # It may have ended already; then what it did not take waits for the supervisor's decision.
            self._parked = deque(refused)
            self.mailbox = mailbox

    def shut(self, state: State, *, parks: bool) -> None:
        """Let no more through; from here on messages wait (`parks`) or are refused."""
        with self._lock:
            self.state, self.mailbox, self._parks = state, None, parks
            if state is not State.STOPPING:
                self.control = self.fence = None
        if not parks or self.table.is_ending:
            self.drop_parked()

    def retire(self, mailbox: Mailbox, *, close: bool) -> list[Envelope]:
        """End an incarnation's user lane (and all of it if `close`); returns what nobody will handle.

        Runs in the incarnation's thread. Messages to be carried go ahead of what was parked meanwhile.
        """
        with self._lock:
            left = mailbox.close() if close else mailbox.seal()
            if self.spec.on_pending is OnPending.FAIL or self.control is not mailbox:
                return left
            carried = [one for one in left if one.carries]
            self._parked.extendleft(reversed(carried))
            return [one for one in left if not one.carries]

    def drop_parked(self) -> None:
        """Refuse what waits here and below: it has become certain that nobody will come for it."""
        with self._lock:
            dropped, self._parked = self._parked, deque()
            error = self.refusal()
        for envelope in dropped:
            self.table.on_drop(self, envelope, error or NotDeliveredError(f"{self.path} is {self.state}"))
        for child in self.children:
            if child.state in (State.STOPPED, State.DELETED, State.DOWN):
                child.drop_parked()

    # Any thread's side.

    def send(self, envelope: Envelope) -> None:
        """Deliver or park.

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
            if len(self._parked) >= self.spec.max_mailbox:
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

    def __init__(self, on_drop: DropHook) -> None:
        self.on_drop = on_drop
        """Told about each parked message that will not be delivered."""
        self.stopped: RuntimeStoppedError | None = None
        """Set once the tree is down; everything is refused from then on."""
        self.is_ending = False
        """Set once the root ends: what does not run now will not run again."""
        self._slots: dict[str, Slot] = {}
        self._tombs: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str) -> Slot | None:
        """The slot of `path`, if there is or was one."""
        return self._slots.get(path)

    def declare(self, path: str, spec: ChildSpec, parent: Slot | None) -> Slot:
        """The slot of a child that is to start; one that existed keeps its epochs and what waits for it."""
        with self._lock:
            slot = self._slots.get(path)
            if slot is None:
                slot = self._slots[path] = Slot(self, path, spec, parent)
            self._tombs.pop(path, None)
            was_deleted = slot.state is State.DELETED
            slot.spec, slot.parent = spec, parent
            if was_deleted:
                slot.restarts, slot.last_exit = 0, None
            slot.shut(State.PENDING, parks=True)
            if parent is not None and slot not in parent.children:
                parent.children = (*parent.children, slot)
            return slot

    def delete(self, slot: Slot, state: State = State.DELETED) -> None:
        """Close a name and those below it, which then say `state`; the epochs are remembered for a while."""
        with self._lock:
            if slot.parent is not None:
                slot.parent.children = tuple(one for one in slot.parent.children if one is not slot)
            dropped = self._bury(slot, state)
            while len(self._tombs) > _MAX_TOMBSTONES:
                self._slots.pop(self._tombs.popitem(last=False)[0], None)
        for one in dropped:
            one.drop_parked()

    def _bury(self, slot: Slot, state: State) -> list[Slot]:
        buried = [slot]
        for child in slot.children:
            buried += self._bury(child, state)
        slot.children = ()
        slot.shut(state, parks=True)
        slot._parks = False  # noqa: SLF001 - dropping happens outside of the table's lock
        # A name that is only remembered keeps nothing of the application alive.
        slot.spec, slot.last_exit = replace(slot.spec, start=_gone), None
        self._tombs[slot.path] = None
        return buried

    def abandon_below(self, slot: Slot, why: str) -> None:
        """Fence off whatever runs under a supervisor that is not there any more."""
        for child in slot.children:
            fence = child.fence
            if fence is not None:
                fence(why)
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

    def stopped_error(self) -> RuntimeStoppedError:
        """A fresh error for one refused call, with the tree's first cause."""
        cause = None if self.stopped is None else self.stopped.first_cause
        error = RuntimeStoppedError("the actor tree is down", first_cause=cause)
        error.__cause__ = cause
        return error


def _gone() -> NoReturn:
    raise HandleClosedError("the child was deleted")
