"""The supervisor actor: static children, commands, and the way it ends."""

import math
from collections.abc import Sequence

from tinker_actors.errors import CommandRefusedError, NotDeliveredError
from tinker_actors.supervision.actor import SupervisedActor
from tinker_actors.supervision.backoff import RestartBudget
from tinker_actors.supervision.children import Children, unique
from tinker_actors.supervision.commands import (
    ChildCounts,
    ChildInfo,
    Command,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.exits import ExitReason
from tinker_actors.supervision.lifecycle import Child, Lifecycle
from tinker_actors.supervision.mailbox import Envelope
from tinker_actors.supervision.names import State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.signals import (
    Exited,
    RetryDue,
    Started,
    StartTimedOut,
    StopRequest,
    StopTimedOut,
)
from tinker_actors.supervision.specs import ChildSpec, Kind, Strategy

__all__ = ["Supervisor"]


class Supervisor(SupervisedActor):
    """An actor with children.

    It starts them in order, each after the one before has come up, and is up itself when the last one is. A
    subclass handles messages of its own in `on_receive`; `on_start` runs before the first child starts. When it
    ends, however it ends, its children end before it, in reverse order.

    Raises:
        ConfigError: a limit is wrong, or an id stands there twice.
    """

    _is_dynamic = False

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within_s: float = 60.0,
    ) -> None:
        super().__init__()
        self._specs = unique(children)
        self._strategy = Strategy(strategy)
        self._budget = RestartBudget(max_restarts, within_s)
        self._max_children: int | None = None
        self._children: Children | None = None
        self._has_acknowledged = False

    def _begin(self) -> None:
        here = self._incarnation
        self._children = Children(
            Lifecycle(here.runtime, here.mailbox),
            here.slot,
            strategy=self._strategy,
            budget=self._budget,
            is_dynamic=self._is_dynamic,
        )
        self._children.begin(self._specs)
        self._acknowledge_once()

    def _acknowledge_once(self) -> None:
        if not self._has_acknowledged and self._children is not None and self._children.is_up:
            self._has_acknowledged = True
            self._incarnation.acknowledge()

    def _wind_down(self, reason: ExitReason) -> ExitReason:
        children, here = self._children, self._incarnation
        if children is None or here.is_fenced:
            return reason
        here.retire(f"{here.path} is ending", close=False)
        children.shut_down(self._deadline)
        while not children.is_empty:
            envelope = here.mailbox.take()
            if envelope is None:
                break
            if envelope.is_control:
                self._obey(children, envelope)
        return reason

    _deadline = math.inf

    def _on_control(self, envelope: Envelope) -> ExitReason | None:
        children = self._children
        if children is None or isinstance(envelope.message, StopRequest):
            if isinstance(envelope.message, StopRequest):
                self._deadline = envelope.message.deadline
            return super()._on_control(envelope)
        if not self._obey(children, envelope):
            return super()._on_control(envelope)
        self._acknowledge_once()
        return children.verdict

    def _obey(self, children: Children, envelope: Envelope) -> bool:
        match envelope.message:
            case Started() as signal:
                children.on_started(signal)
            case Exited() as signal:
                children.on_exited(signal)
            case StartTimedOut() as signal:
                children.on_start_timed_out(signal)
            case StopTimedOut() as signal:
                children.on_stop_timed_out(signal)
            case RetryDue() as signal:
                children.on_retry_due(signal)
            case StopRequest(deadline):
                children.shut_down(deadline)
            case Command() as command:
                self._on_command(children, command, envelope.reply or Reply())
            case _:
                return False
        return True

    # Commands.

    def _on_command(self, children: Children, command: Command, reply: Reply) -> None:
        if not reply.begin():
            return
        deferred = self._incarnation.deferred
        deferred.add(reply)
        reply.add_done_callback(deferred.discard)
        try:
            self._execute(children, command, reply)
        except (CommandRefusedError, NotDeliveredError) as error:
            reply.fail(error)

    def _execute(self, children: Children, command: Command, reply: Reply) -> None:
        match command:
            case StartChild(spec):
                self._start_child(children, spec, reply)
            case TerminateChild(child_id):
                _terminate_child(children, self._find(children, child_id), reply)
            case RestartChild(child_id):
                self._refuse_while_stopping(children)
                _restart_child(children, self._find(children, child_id), reply)
            case DeleteChild(child_id):
                _delete_child(children, self._find(children, child_id), reply)
            case WhichChildren():
                reply.set([_info(child) for child in children.table.values()])
            case CountChildren():
                reply.set(_counts(children))
            case _:
                raise CommandRefusedError(f"{command!r} is no command of a supervisor", answer="unknown")

    def _refuse_while_stopping(self, children: Children) -> None:
        if children.is_stopping:
            raise NotDeliveredError(f"{self.context.path} is shutting down")

    def _find(self, children: Children, child_id: str) -> Child:
        child = children.table.get(child_id)
        if child is None:
            raise CommandRefusedError(f"{self.context.path} has no child {child_id!r}", answer="not_found")
        return child

    def _start_child(self, children: Children, spec: ChildSpec, reply: Reply) -> None:
        self._refuse_while_stopping(children)
        there = children.table.get(spec.id)
        if there is not None:
            answer = "already_started" if there.slot.state is State.RUNNING else "already_present"
            raise CommandRefusedError(
                f"{there.slot.path} is there already, {there.slot.state}", answer=answer
            )
        if self._max_children is not None and len(children.table) >= self._max_children:
            raise CommandRefusedError(
                f"{self.context.path} has its {self._max_children} children already", answer="max_children"
            )
        child = children.add(spec)
        child.starter, child.on_start_failure = reply, "delete"
        if children.plan is not None:
            children.plan.to_start.append(child)
        else:
            children.lifecycle.launch(child)


def _terminate_child(children: Children, child: Child, reply: Reply) -> None:
    if children.plan is not None:
        if child in children.plan.to_start:
            children.plan.to_start.remove(child)
        if children.plan.paused is child:
            children.plan.paused = None
    child.stoppers.append(reply)
    if child.incarnation is not None:
        children.stop(child)
        return
    children.rest(child)
    children.advance()


def _restart_child(children: Children, child: Child, reply: Reply) -> None:
    match child.slot.state:
        case State.DOWN | State.STOPPED:
            child.starter, child.on_start_failure = reply, "down"
            children.lifecycle.launch(child)
        case State.BACKING_OFF:
            child.starter = reply
            children.resume(child)
        case State.PENDING:
            raise CommandRefusedError(f"{child.slot.path} waits for its turn to start", answer="restarting")
        case state:
            raise CommandRefusedError(f"{child.slot.path} is {state}", answer=str(state))


def _delete_child(children: Children, child: Child, reply: Reply) -> None:
    match child.slot.state:
        case State.DOWN | State.STOPPED:
            children.delete(child)
            reply.set(None)
        case State.BACKING_OFF | State.PENDING:
            raise CommandRefusedError(f"{child.slot.path} is restarting", answer="restarting")
        case state:
            raise CommandRefusedError(f"{child.slot.path} is {state}; terminate it first", answer=str(state))


def _info(child: Child) -> ChildInfo:
    slot = child.slot
    return ChildInfo(
        id=child.spec.id,
        path=slot.path,
        kind=child.spec.kind,
        restart=child.spec.restart,
        state=str(slot.state),
        epoch=slot.epoch,
        restarts=slot.restarts,
        last_exit=slot.last_exit,
    )


def _counts(children: Children) -> ChildCounts:
    specs = [child.spec for child in children.table.values()]
    supervisors = sum(spec.kind is Kind.SUPERVISOR for spec in specs)
    return ChildCounts(
        specs=len(specs),
        active=sum(child.is_up for child in children.table.values()),
        supervisors=supervisors,
        workers=len(specs) - supervisors,
    )
