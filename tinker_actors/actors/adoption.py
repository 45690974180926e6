"""What a new process asks for that a dead one had already done: results are taken over, not made again.

A loop that was killed inside an optimizer step submits that step again. Its gradients may already stand on the
service; they are adopted, in order, where the content is the same.
"""

from tinker_actors.actors.run import Request, TrainingOperation
from tinker_actors.journal.records import Kind, OperationRecord

__all__ = ["adopt", "remaining_gradients"]


def adopt(left_behind: list[OperationRecord], operation: TrainingOperation) -> OperationRecord | None:
    """The recorded operation that `operation` is, taken off the list; None if it is another one.

    Args:
        left_behind: operations behind the last optimizer step, in order.
        operation: what a caller submits.
    """
    for record in left_behind:
        is_save = not Kind(record.kind).changes_the_model
        if is_save and operation.name is None and operation.kind is not Kind.FORWARD:
            continue  # unnamed samplers ended with their session
        if record.kind == operation.kind and record.digest == operation.digest:
            left_behind.remove(record)
            return record
        if not is_save and operation.kind is Kind.FORWARD_BACKWARD:
            return None  # gradients are adopted as a prefix: the first one differs
    return None


def remaining_gradients(left_behind: list[OperationRecord], operation: Request) -> list[OperationRecord]:
    """Gradients that must be undone before `operation`, which goes on without them."""
    if not operation.kind.changes_the_model:
        return []
    return [record for record in left_behind if Kind(record.kind).changes_the_model]
