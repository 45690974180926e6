"""Carrying out what a supervisor is asked: OTP's commands against the table of its children.

Each is answered at once or by the signal it waits for; none waits for another child.
"""

from tinker_actors.errors import CommandRefusedError, ConfigError, NotDeliveredError
from tinker_actors.supervision.children import Children
from tinker_actors.supervision.commands import (
    ChildCounts,
    ChildInfo,
    Command,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
)
from tinker_actors.supervision.flags import check_specs
from tinker_actors.supervision.lifecycle import Child
from tinker_actors.supervision.names import State
from tinker_actors.supervision.replies import Reply
from tinker_actors.supervision.specs import Kind

__all__ = ["execute"]


def execute(children: Children, command: Command, reply: Reply) -> None:
    """Answer `command` in `reply`, now or later."""
    try:
        _execute(children, command, reply)
    except (CommandRefusedError, ConfigError, NotDeliveredError) as error:
        reply.fail(error)


def _execute(children: Children, command: Command, reply: Reply) -> None:
    match command:
        case StartChild():
            _start_child(children, command, reply)
        case TerminateChild(child_id):
            _terminate_child(children, _find(children, child_id), reply)
        case RestartChild(child_id):
            _refuse_while_stopping(children)
            _restart_child(children, _find(children, child_id), reply)
        case DeleteChild(child_id):
            _delete_child(children, _find(children, child_id), reply)
        case WhichChildren():
            reply.set([_info(child) for child in children.table.values()])
        case CountChildren():
            reply.set(_counts(children))
        case GetChildSpec(child_id):
            reply.set(_find(children, child_id).spec)
        case _:
            raise CommandRefusedError(f"{command!r} is no command of a supervisor", answer="unknown")


def _refuse_while_stopping(children: Children) -> None:
    if children.is_stopping:
        raise NotDeliveredError(f"{children.path} is shutting down")


def _find(children: Children, child_id: str) -> Child:
    child = children.table.get(child_id) if isinstance(child_id, str) else None
    if child is None:
        raise CommandRefusedError(f"{children.path} has no child {child_id!r}", answer="not_found")
    return child


def _start_child(children: Children, command: StartChild, reply: Reply) -> None:
    _refuse_while_stopping(children)
    flags = children.flags
    check_specs([command.spec], flags)
    there = children.table.get(command.spec.id)
    if there is not None:
        answer = "already_started" if there.slot.state is State.RUNNING else "already_present"
        raise CommandRefusedError(f"{there.slot.path} is there already, {there.slot.state}", answer=answer)
    if flags.max_children is not None and len(children.table) >= flags.max_children:
        raise CommandRefusedError(
            f"{children.path} has its {flags.max_children} children already", answer="max_children"
        )
    child = children.add(command.spec)
    child.starter = reply
    child.on_start_failure = "decide" if command.retries else "delete"
    if children.plan is not None:
        children.plan.to_start[child.spec.id] = child
    else:
        children.lifecycle.launch(child)


def _terminate_child(children: Children, child: Child, reply: Reply) -> None:
    if children.plan is not None:
        children.plan.to_start.pop(child.spec.id, None)
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
            child.gate = None  # who asks for it now does not want to wait
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
