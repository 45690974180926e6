"""What follows from a journal: pure decisions over a run's image."""

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

import msgspec

from tinker_actors.journal.records import (
    COMMITTED,
    EXECUTED,
    CheckpointRecord,
    Kind,
    ModelRecord,
    OperationRecord,
    PartRecord,
    ResultRecord,
    SendRecord,
    State,
)
from tinker_actors.journal.store import RunImage

__all__ = [
    "RestorePoint",
    "dangling",
    "has_stepped",
    "is_tainted",
    "next_seq_id",
    "outstanding",
    "parts_of",
    "restore_points",
    "results_of",
    "step_of",
    "steps_done",
    "steps_skipped",
    "steps_submitted",
    "superfluous",
]

_Part = TypeVar("_Part", PartRecord, ResultRecord)


class RestorePoint(msgspec.Struct, frozen=True):
    """A state of the run that a new model can begin in."""

    place: int
    """The state after this place; 0 is a fresh model."""
    checkpoint: str | None
    """Where it comes from; None for a fresh model."""


def steps_done(image: RunImage) -> int:
    """Optimizer steps that were taken."""
    return image.earlier_steps + _count_steps(image.operations, EXECUTED)


def steps_submitted(image: RunImage) -> int:
    """Optimizer steps that were taken or are committed to, or that the program goes on behind without them."""
    behind = COMMITTED | {State.SKIPPED}
    return image.earlier_steps + image.earlier_skipped + _count_steps(image.operations, behind)


def steps_skipped(image: RunImage) -> int:
    """Optimizer steps that were left out by policy."""
    return image.earlier_skipped + _count_steps(image.operations, frozenset({State.SKIPPED}))


def _count_steps(operations: Iterable[OperationRecord], states: frozenset[State]) -> int:
    return sum(operation.kind == Kind.OPTIM_STEP and operation.state in states for operation in operations)


def outstanding(
    image: RunImage, model: ModelRecord, again: Collection[int] = frozenset()
) -> list[OperationRecord]:
    """What `model` has still to be sent, or sent again, in order.

    That is what changes the model and is not known to have ended on it, whether or not its result was recorded
    from an earlier model; and everything else that has no result yet.

    Args:
        image: with the sends of `model`.
        model: the run's latest.
        again: places of saves that were carried out, and are to be all the same.
    """
    ended = _ended(image.sends)
    begun = {send.place for send in image.sends if send.seq_id}
    parts = parts_of(image)
    wanted = []
    for operation in image.operations:
        if operation.place <= model.base_place or operation.state not in COMMITTED:
            continue
        is_repeated = Kind(operation.kind).changes_the_model or operation.place in again
        # What has an id on this model must be sent: the service waits for it.
        if operation.state in EXECUTED and not is_repeated and operation.place not in begun:
            continue
        if any((operation.place, one.part) not in ended for one in parts.get(operation.place, ())):
            wanted.append(operation)
    return wanted


def has_stepped(image: RunImage, model: ModelRecord) -> bool:
    """Whether `model`, the run's latest, has taken an optimizer step since it began."""
    ended = {place for place, _ in _ended(image.sends)}
    return any(
        operation.kind == Kind.OPTIM_STEP and operation.place in ended
        for operation in image.operations
        if operation.place > model.base_place
    )


def _ended(sends: Iterable[SendRecord]) -> set[tuple[int, int]]:
    return {(send.place, send.part) for send in sends if send.ended}


def parts_of(image: RunImage) -> dict[int, list[PartRecord]]:
    """The requests of each operation, by place."""
    return _by_place(image.parts)


def results_of(image: RunImage) -> dict[int, list[ResultRecord]]:
    """The answers to the requests of each operation that has its result, by place."""
    return _by_place(image.results)


def _by_place(records: Iterable[_Part]) -> dict[int, list[_Part]]:
    grouped: dict[int, list[_Part]] = {}
    for record in records:
        grouped.setdefault(record.place, []).append(record)
    return grouped


def is_tainted(image: RunImage) -> bool:
    """Whether the latest model may hold gradients that do not count: void or dropped ones that it was sent."""
    discarded = {
        operation.place
        for operation in image.operations
        if operation.state in (State.VOID, State.SKIPPED, State.DROPPED)
        and operation.kind == Kind.FORWARD_BACKWARD
    }
    return any(send.place in discarded and send.seq_id for send in image.sends)


def next_seq_id(sends: Iterable[SendRecord]) -> int:
    """The first `seq_id` that was never used on the model."""
    return max((send.seq_id for send in sends), default=0) + 1


def restore_points(image: RunImage, only: str | None = None) -> Iterator[RestorePoint]:
    """States a new model can begin in, newest first: those behind which all that must be repeated is still there.

    A fresh model is among them only while every operation since the beginning is kept.

    Args:
        image: of the run.
        only: path of the one checkpoint that may serve; None lets all.
    """
    for checkpoint in reversed(image.checkpoints):
        may_serve = checkpoint.usable and only in (None, checkpoint.path)
        if may_serve and checkpoint.place >= image.base_place:
            yield RestorePoint(checkpoint.place, checkpoint.path)
    if only is None and image.base_place == 0:
        yield RestorePoint(0, None)


def superfluous(checkpoints: Iterable[CheckpointRecord], keep: int) -> list[CheckpointRecord]:
    """Checkpoints of the runtime's own that newer ones make needless, oldest first.

    Args:
        checkpoints: of the run, oldest first.
        keep: how many of those that can serve are kept.
    """
    ours = [one for one in checkpoints if one.automatic and one.usable and not one.retired]
    return ours[:-keep]


def dangling(image: RunImage) -> list[OperationRecord]:
    """Operations behind the last optimizer step, in order: what a loop that died will ask for again."""
    behind: list[OperationRecord] = []
    for operation in image.operations:
        if operation.state not in COMMITTED:
            continue
        if operation.kind == Kind.OPTIM_STEP:
            behind.clear()
        elif operation.ticket is not None:
            behind.append(operation)
    return behind


def step_of(operations: Iterable[OperationRecord], place: int) -> list[OperationRecord]:
    """The optimizer step that `place` belongs to: its forward_backwards, and its optim_step where it has one.

    Args:
        operations: of the run, in order.
        place: of a forward_backward or an optim_step.
    """
    step: list[OperationRecord] = []
    for operation in operations:
        if operation.state not in COMMITTED or not Kind(operation.kind).changes_the_model:
            continue
        step.append(operation)
        if operation.kind == Kind.OPTIM_STEP:
            if operation.place >= place:
                return step
            step = []
    return step
