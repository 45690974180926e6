"""A supervisor without threads: real tables, decisions and commands over children that do what a test says."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from tinker_actors.errors import CommandRefusedError
from tinker_actors.supervision import (
    IGNORED,
    NORMAL,
    Address,
    ChildSpec,
    Error,
    ExitReason,
    Kind,
    Reply,
    Shutdown,
    StartFailed,
    SupervisorFlags,
)
from tinker_actors.supervision.children import Children
from tinker_actors.supervision.commands import Command
from tinker_actors.supervision.incarnation import Incarnation
from tinker_actors.supervision.lifecycle import Child, Lifecycle
from tinker_actors.supervision.mailbox import Envelope, Lane, Mailbox
from tinker_actors.supervision.names import Slot
from tinker_actors.supervision.runtime import Runtime
from tinker_actors.supervision.signals import Parent, RetryDue, StopRequest
from tinker_actors.supervision.supervisor import obey
from tinker_actors.supervision.testing import VirtualClock

__all__ = ["Desk", "PromptStage", "Puppet", "Stage", "word_of"]


class Puppet(Incarnation):
    """An incarnation without a thread; whoever holds the stage acts for its actor."""

    def __init__(self, runtime: Runtime, slot: Slot, parent: Parent) -> None:
        super().__init__(runtime, slot, parent)
        self.mailbox = _Ear(self)
        self.desk = cast(Desk, parent)
        self.stage = self.desk.stage
        self.id = slot.spec.id
        self.is_acknowledged = self.is_asked_to_stop = self.is_over = False

    def launch(self) -> None:
        self.stage.on_launch(self)

    @property
    def is_live(self) -> bool:
        """Whether it runs and was not given up."""
        return not self.is_over and not self.is_fenced

    def acknowledge(self) -> None:
        self.is_acknowledged = True
        super().acknowledge()

    def abandon(self, why: str) -> None:
        self.stage.on_abandon(self)
        super().abandon(why)

    def end(self, reason: ExitReason) -> None:
        """Do what its thread would do last."""
        self.is_over = True
        self._end(reason)


class _Ear(Mailbox):
    """Tells the stage when a puppet is asked to stop for the first time."""

    def __init__(self, puppet: Puppet) -> None:
        super().__init__(puppet.spec.max_mailbox)
        self._puppet = puppet

    def post(self, message: Any, reply: Reply | None = None, *, lane: Lane = Lane.CONTROL) -> bool:
        puppet = self._puppet
        taken = super().post(message, reply, lane=lane)
        if taken and isinstance(message, StopRequest) and not puppet.is_asked_to_stop:
            puppet.is_asked_to_stop = True
            puppet.stage.on_stop_request(puppet)
        return taken


class Desk:
    """The supervisor's own mailbox, for one of its lives."""

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage
        self.is_open = True

    def post(self, message: Any, reply: Reply | None = None) -> bool:
        if self.is_open:
            self.stage.on_post(Envelope(message, reply, lane=Lane.CONTROL))
        elif reply is not None:
            reply.lose("the supervisor ended")
        return self.is_open


class Stage:
    """One supervisor and its puppets; nothing happens but what `handle` is given.

    It may begin again when it is over, as a supervisor that its own supervisor restarts.
    """

    def __init__(self, flags: SupervisorFlags) -> None:
        self.flags = flags
        self.clock = VirtualClock()
        self.runtime = Runtime(self.clock, seed=1)
        supervisor = ChildSpec("sup", lambda: IGNORED, kind=Kind.SUPERVISOR)
        root = self.runtime.names.declare("root", supervisor, None)
        self.home = self.runtime.names.declare("root/sup", supervisor, root)
        self.log: list[str] = []
        """What was started and asked to stop, in order."""
        self.puppets: list[Puppet] = []
        """All that were launched and whose threads would still run."""
        self.signals: deque[Envelope] = deque()
        self.deferred: set[Reply] = set()
        self.is_over = False

    def begin(self, specs: Sequence[ChildSpec]) -> None:
        """Start the supervisor with these static children."""
        self.desk = Desk(self)
        self.is_over = False
        self.children = Children(
            Lifecycle(self.runtime, self.desk, incarnation=Puppet), self.home, self.flags, lambda _spec: None
        )
        self.children.begin(specs)

    def handle(self, envelope: Envelope) -> None:
        """Do with one message what the loop of a supervisor does."""
        children = self.children
        if not obey(children, envelope, self.deferred):
            raise AssertionError(f"{envelope.message!r} was not obeyed")
        if children.verdict is not None and not children.is_stopping:
            children.shut_down(math.inf)
        if children.is_stopping and children.is_empty:
            self.is_over, self.desk.is_open = True, False
            while self.signals:
                reply = self.signals.popleft().reply
                if reply is not None:
                    reply.lose("the supervisor ended")

    def ask(self, command: Command) -> Reply:
        """Put a command on the supervisor's desk."""
        reply = Reply()
        self.desk.post(command, reply)
        return reply

    @property
    def zombies(self) -> list[Puppet]:
        """Those that were given up and have not ended since."""
        return [puppet for puppet in self.puppets if puppet.is_fenced]

    def end(self, puppet: Puppet, reason: ExitReason) -> None:
        """Let the thread of a puppet end."""
        self.puppets.remove(puppet)
        puppet.end(reason)

    # What a test may answer in its own way.

    def on_post(self, envelope: Envelope) -> None:
        """A message came for the supervisor."""
        self.signals.append(envelope)

    def on_launch(self, puppet: Puppet) -> None:
        """A child is started."""
        self.log.append(f"start {puppet.id}")
        self.puppets.append(puppet)

    def on_stop_request(self, puppet: Puppet) -> None:
        """A child is asked to stop."""
        self.log.append(f"stop {puppet.id}")

    def on_abandon(self, puppet: Puppet) -> None:
        """A child is given up."""


class PromptStage(Stage):
    """Its puppets answer at once, as they were told before, and it rests between what a test does.

    While one of them hangs, time passes until the supervisor gives it up; pauses that end meanwhile are handled
    afterwards.
    """

    def __init__(self, flags: SupervisorFlags) -> None:
        super().__init__(flags)
        self.starts: dict[str, list[str]] = {}
        """How the next starts go, by id: up, fail, fail free, no thread, die, ignore or hang. Else it is up."""
        self.stops: dict[str, list[str]] = {}
        """How the next requests to stop go, by id: obey, crash or hang. Else it obeys."""
        self.pauses: deque[Envelope] = deque()
        self.hanging: list[Puppet] = []

    def on_post(self, envelope: Envelope) -> None:
        is_pause = isinstance(envelope.message, RetryDue)
        (self.pauses if is_pause else self.signals).append(envelope)

    def on_launch(self, puppet: Puppet) -> None:
        super().on_launch(puppet)
        told = self.starts.get(puppet.id)
        match told.pop(0) if told else "up":
            case "up":
                puppet.acknowledge()
            case "fail":
                self.end(puppet, StartFailed(ValueError("fails to start")))
            case "fail free":
                self.end(puppet, StartFailed(ConnectionError("nobody there")))
            case "no thread":
                self.puppets.remove(puppet)
                raise RuntimeError("can't start new thread")
            case "die":
                self.end(puppet, NORMAL)
            case "ignore":
                self.end(puppet, IGNORED)
            case _:
                self.hanging.append(puppet)

    def on_stop_request(self, puppet: Puppet) -> None:
        super().on_stop_request(puppet)
        told = self.stops.get(puppet.id)
        match told.pop(0) if told else "obey":
            case "obey":
                self.end(puppet, Shutdown())
            case "crash":
                self.end(puppet, Error(ValueError("crashes while it stops")))
            case _:
                self.hanging.append(puppet)

    def rest(self) -> None:
        """Handle all there is, until only time or the test can bring more."""
        while True:
            if self.signals:
                self.handle(self.signals.popleft())
            elif self.hanging:
                self._wait_for_limit()
            elif self.pauses:
                pause = self.pauses.popleft()
                if not self.is_over:
                    self.handle(pause)
            else:
                return

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and rest at each instant at which a timer is due."""
        goal = self.clock.now() + seconds
        while (due := self.clock._heap.next_due()) <= goal:
            self.clock.advance(max(0.0, due - self.clock.now()))
            self.rest()
        self.clock.advance(max(0.0, goal - self.clock.now()))
        self.rest()

    def _wait_for_limit(self) -> None:
        self.hanging = [puppet for puppet in self.hanging if puppet.is_live]
        if self.hanging:
            due = min(self._child(puppet).due for puppet in self.hanging)
            self.clock.advance(due - self.clock.now())

    def _child(self, puppet: Puppet) -> Child:
        return self.children.table[puppet.id]


def word_of(reply: Reply) -> str:
    """What was answered, in a word."""
    if not reply.done():
        return "open"
    error = reply.exception()
    if isinstance(error, CommandRefusedError):
        return error.answer
    if error is not None:
        return type(error).__name__
    value = reply.result()
    return "address" if isinstance(value, Address) else "none" if value is None else "value"
