"""What a failed operation leaves in the journal, and the errors that callers get of it, also later."""

import msgspec

from tinker_actors.actors.futures import Submissions
from tinker_actors.actors.run import TrainingOperation
from tinker_actors.errors import RequestFailedError, StepVoidError, TinkerActorsError
from tinker_actors.journal.records import Kind, OperationRecord, State
from tinker_actors.journal.store import RunImage
from tinker_actors.wire.calls import json_body

__all__ = ["error_summary", "open_void", "recorded_error", "step_void"]


def step_void(cause: TinkerActorsError) -> StepVoidError:
    """The error of an optim_step whose gradients failed."""
    error = StepVoidError(f"the optimizer step was not taken, because a part of it failed: {cause}")
    error.__cause__ = cause
    return error


def error_summary(error: TinkerActorsError) -> bytes:
    """What the journal keeps of `error`."""
    return json_body({"error": str(error), "category": getattr(error, "category", "unknown")})


def recorded_error(operation: OperationRecord) -> TinkerActorsError:
    """The error of an operation that failed, as the journal has it."""
    summary = msgspec.json.decode(operation.summary or b"{}")
    error = RequestFailedError(summary.get("error", "failed"), category=summary.get("category", "unknown"))
    return step_void(error) if operation.kind == Kind.OPTIM_STEP else error


def open_void(image: RunImage, submissions: Submissions[TrainingOperation]) -> TinkerActorsError | None:
    """The failure of a step whose optim_step the caller has not submitted yet."""
    last: OperationRecord | None = None
    for operation in image.operations:
        if Kind(operation.kind).changes_the_model and submissions.is_own(operation.ticket):
            last = operation
    if last is not None and last.state == State.VOID and last.kind == Kind.FORWARD_BACKWARD:
        return recorded_error(last)
    return None
