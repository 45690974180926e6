"""What is done about a failure, what it leaves in the journal, and the errors that callers get of it, also later."""

from dataclasses import dataclass
from enum import Enum, auto
from types import NoneType
from typing import Any

import msgspec

from tinker_actors import errors
from tinker_actors.actors.futures import Submissions
from tinker_actors.actors.outbox import Outbox, Part
from tinker_actors.actors.run import Request
from tinker_actors.errors import (
    APIConnectionError,
    AuthenticationError,
    BillingError,
    CircuitOpenError,
    ConflictError,
    FutureExpiredError,
    InternalServerError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitError,
    RequestFailedError,
    StepVoidError,
    TinkerActorsError,
)
from tinker_actors.journal.records import Kind, OperationRecord, State
from tinker_actors.journal.store import RunImage
from tinker_actors.wire.calls import json_body

__all__ = [
    "NOT_TAKEN",
    "RESUME",
    "OpenVoid",
    "Reaction",
    "error_summary",
    "open_void",
    "reaction_to",
    "recorded_error",
    "resume_after",
    "step_void",
]

NOT_TAKEN = frozenset({State.VOID, State.SKIPPED})
"""States of the operations of an optimizer step that is not taken."""
RESUME = "start the program again on the same run directory"
"""How a halted run goes on."""
_OUTAGES = (APIConnectionError, CircuitOpenError, InternalServerError, RateLimitError)
"""The request was repeated for as long as its rule allows."""
_UNPAID_OR_UNKNOWN = (AuthenticationError, BillingError, PermissionDeniedError)
"""They are about who asks, and say nothing about the operation."""

_FACTS = (str, int, float, NoneType)
"""What a fact of an error must be to be kept."""


class Reaction(Enum):
    """What is done about the failure of one request."""

    SEND_AGAIN = auto()
    """Whether the service has it is not known."""
    SKIP_ID = auto()
    """The service counts its id as used."""
    PROBE = auto()
    """Its result is gone or it failed, or the model is gone."""
    RESTORE = auto()
    """This model takes no more."""
    LOOK_UP = auto()
    """What it saves may be there already, saved by it."""
    CONTRADICTED = auto()
    """The service has another request under its id: it is ahead of the journal."""
    HALT = auto()
    """Somebody has to act before the run can go on."""
    FAIL = auto()
    """The operation fails."""


def reaction_to(error: TinkerActorsError, outbox: Outbox, part: Part, *, accepted: bool) -> Reaction:
    """What is done about the failure of a request; `accepted` says whether the service had taken it."""
    match error:
        case OutcomeUnknownError():
            return Reaction.SEND_AGAIN
        case NotFoundError() | FutureExpiredError():
            return Reaction.PROBE if accepted else Reaction.RESTORE
        case RequestFailedError() if accepted:
            return Reaction.PROBE  # what waits for a model when it is lost fails, too
        case ConflictError() if not accepted:
            return _reaction_to_conflict(outbox, part)
        case _ if isinstance(error, (*_OUTAGES, *_UNPAID_OR_UNKNOWN)):
            return Reaction.HALT
    return Reaction.FAIL


def _reaction_to_conflict(outbox: Outbox, part: Part) -> Reaction:
    if outbox.has_the_id_of_a_refused_one(part):
        return Reaction.SKIP_ID
    if outbox.is_doubted:
        return Reaction.RESTORE
    return Reaction.LOOK_UP if outbox[part[0]].is_named else Reaction.CONTRADICTED


def resume_after(cause: TinkerActorsError | str) -> str:
    """What to do to go on with a run that `cause` halted."""
    match cause:
        case AuthenticationError() | PermissionDeniedError():
            return f"set a key that the service accepts, and {RESUME}"
        case BillingError():
            return f"settle the account, and {RESUME}"
    return RESUME


def step_void(cause: TinkerActorsError) -> StepVoidError:
    """The error of an optim_step whose gradients failed."""
    error = StepVoidError(f"the optimizer step was not taken, because a part of it failed: {cause}")
    error.__cause__ = cause
    return error


def error_summary(error: TinkerActorsError) -> bytes:
    """What the journal keeps of `error`: its class, its text and its facts, but no answer's body."""
    facts = {name: fact for name, fact in vars(error).items() if isinstance(fact, _FACTS) and name != "body"}
    kept = {"error": str(error), "class": type(error).__name__, "facts": facts}
    return json_body({**kept, "category": getattr(error, "category", "unknown")})


def recorded_error(operation: OperationRecord) -> TinkerActorsError:
    """The error of an operation that failed, as the journal has it."""
    error = _read(msgspec.json.decode(operation.summary or b"{}"))
    if operation.kind == Kind.OPTIM_STEP and operation.state in NOT_TAKEN:
        return error if isinstance(error, StepVoidError) else step_void(error)
    return error


def _read(summary: dict[str, Any]) -> TinkerActorsError:
    """The error whose summary it is; of a class that this release does not have, what comes nearest."""
    text, kind = summary.get("error", "failed"), summary.get("class")
    if kind not in errors.__all__:
        return RequestFailedError(text, category=summary.get("category", "unknown"))
    found: type[TinkerActorsError] = getattr(errors, kind)
    return found.recalled(text, {"body": None} | summary.get("facts", {}))


@dataclass(frozen=True, slots=True)
class OpenVoid:
    """An optimizer step that callers are in the middle of, and that will not be taken."""

    error: TinkerActorsError
    """Why."""
    state: State = State.VOID
    """What becomes of its operations."""


def open_void(image: RunImage, submissions: Submissions[Request]) -> OpenVoid | None:
    """The failed step whose optim_step the caller has not submitted yet."""
    last: OperationRecord | None = None
    for operation in image.operations:
        if Kind(operation.kind).changes_the_model and submissions.is_own(operation.ticket):
            last = operation
    if last is not None and last.state in NOT_TAKEN and last.kind == Kind.FORWARD_BACKWARD:
        return OpenVoid(recorded_error(last), State(last.state))
    return None
