"""What the runtime tells about itself, beside the kit's own events (`supervision.events`).

Frozen facts in the past tense; they travel on the tree's event stream. None holds tokens, prompts or keys.
"""

from typing import Literal

import msgspec

from tinker_actors.supervision.events import Detail

__all__ = [
    "BatchPoisoned",
    "CheckpointPassedOver",
    "CheckpointSaved",
    "CircuitClosed",
    "CircuitForced",
    "CircuitHalfOpened",
    "CircuitOpened",
    "CustomLossComputed",
    "CustomLossDropped",
    "CustomLossFailed",
    "GradientDropped",
    "HeartbeatMissed",
    "JournalParked",
    "LineageStarted",
    "LocalServerEnded",
    "LocalServerStarted",
    "ModelAttached",
    "ModelCreated",
    "ModelRestored",
    "OperationDeprecated",
    "OptimizerUnverified",
    "QueueStateChanged",
    "ReplayDiverged",
    "RequestBegan",
    "RequestEnded",
    "RequestRetried",
    "ResultLost",
    "RunHalted",
    "RuntimeEvent",
    "SamplingPaused",
    "ServiceNotified",
    "SessionHealthChanged",
    "SessionLeftOpen",
    "SessionOpened",
    "SessionReattached",
    "SessionUnauthorized",
    "StepDone",
    "StepVoided",
]


class RuntimeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the events below."""


class LocalServerStarted(RuntimeEvent, frozen=True, kw_only=True):
    """The embedded server listens."""

    pid: int
    port: int


class LocalServerEnded(RuntimeEvent, frozen=True, kw_only=True):
    """The embedded server's process is gone; another one is started on its data."""

    pid: int
    exit_code: int
    """Negative: the signal that ended it."""
    restart_in_s: float


class SessionOpened(RuntimeEvent, frozen=True, kw_only=True):
    """The service gave a new session."""

    session_id: str


class ServiceNotified(RuntimeEvent, frozen=True, kw_only=True):
    """The service has something to say to who opened a session."""

    session_id: str
    level: Literal["info", "warning", "error"]
    message: str
    """The service's words."""


class SessionReattached(RuntimeEvent, frozen=True, kw_only=True):
    """A session of an earlier process or actor is alive and goes on."""

    session_id: str


class HeartbeatMissed(RuntimeEvent, frozen=True, kw_only=True):
    """A beat got no good answer; the next one is due at its usual time."""

    session_id: str
    reason: str
    since_s: float
    """Age of the last good beat."""


class SessionHealthChanged(RuntimeEvent, frozen=True, kw_only=True):
    """The session is more or less surely alive than before."""

    session_id: str
    health: str
    """ok, late, at_risk or lost."""
    was: str
    since_s: float
    """Age of the last good beat."""
    reason: str
    """Why beats were not good; empty when they are again."""


class SessionLeftOpen(RuntimeEvent, frozen=True, kw_only=True):
    """The client was closed before everything was saved: the next start on its run directory goes on in the session."""

    session_id: str | None
    """None: there was none yet."""
    uncovered: dict[str, str]
    """The runs with steps or operations that no checkpoint covers, and what each waited for at the end."""


class SessionUnauthorized(RuntimeEvent, frozen=True, kw_only=True):
    """The service refuses the key for beats; told once, until it accepts one again."""

    session_id: str
    reason: str


class RequestBegan(RuntimeEvent, Detail, frozen=True, kw_only=True):
    """An HTTP request is about to be sent; told to those who subscribe to this kind alone."""

    operation: str
    method: str
    path: str
    """Below `/api/v1/`, without its query."""


class RequestEnded(RuntimeEvent, Detail, frozen=True, kw_only=True):
    """An HTTP request was answered, or was not; told to those who subscribe to this kind alone."""

    operation: str
    method: str
    path: str
    """Below `/api/v1/`, without its query."""
    took_s: float
    status: int | None
    """None where no answer came."""
    error: str
    """Class of what came in place of an answer; empty where one came."""
    is_success: bool
    """Whether it was answered as was hoped; "not yet" is such an answer to a poll."""


class RequestRetried(RuntimeEvent, frozen=True, kw_only=True):
    """A request failed and is sent again."""

    operation: str
    reason: str
    delay_s: float


class SamplingPaused(RuntimeEvent, frozen=True, kw_only=True):
    """The service has too many samples: all clients of this process with its key keep a pause."""

    pause_s: float
    reason: str


class OperationDeprecated(RuntimeEvent, frozen=True, kw_only=True):
    """The service will do without something that was used just now."""

    operation: str
    note: str
    """The service's words."""
    is_urgent: bool
    """Whether the service calls it an error."""


class CircuitOpened(RuntimeEvent, frozen=True, kw_only=True):
    """Too many calls of an operation failed, or took too long: it is not called for a while."""

    operation: str
    open_s: float
    """How long."""
    trips: int
    """How often that happened since its calls last succeeded, this time included."""


class CircuitHalfOpened(RuntimeEvent, frozen=True, kw_only=True):
    """An operation is tried again, with few calls."""

    operation: str


class CircuitClosed(RuntimeEvent, frozen=True, kw_only=True):
    """An operation is called as usual again."""

    operation: str
    refused: int
    """Calls that were ever refused."""


class CircuitForced(RuntimeEvent, frozen=True, kw_only=True):
    """Somebody said how an operation is called, whatever becomes of its calls; `CircuitClosed` ends that."""

    operation: str
    mode: str
    """forced_open, forced_closed or disabled."""


class QueueStateChanged(RuntimeEvent, frozen=True, kw_only=True):
    """The service says where a request waits, or that it goes on."""

    operation: str
    client: str
    """Path of the actor whose request it is."""
    request_id: str
    state: str
    """active, paused_capacity, paused_rate_limit or unknown."""
    reason: str
    """The service's words for it; may be empty."""


class LineageStarted(RuntimeEvent, frozen=True, kw_only=True):
    """A run that was there is created from another checkpoint: it begins anew, and what it was is kept and closed."""

    run: str
    lineage: str
    """Its name in the journal from now on."""
    from_state: str
    """Path of the checkpoint."""


class ModelCreated(RuntimeEvent, frozen=True, kw_only=True):
    """A run has a fresh model."""

    run: str
    model_id: str


class ModelAttached(RuntimeEvent, frozen=True, kw_only=True):
    """A run's model is alive and goes on; what had no result is sent again under its old ids."""

    run: str
    model_id: str
    sent_again: int
    """Operations."""


class ModelRestored(RuntimeEvent, frozen=True, kw_only=True):
    """A run's model was lost and is brought back: from a checkpoint, and what followed is replayed."""

    run: str
    model_id: str
    checkpoint: str | None
    """None: from the beginning."""
    replayed: int
    """Operations."""
    reason: str


class CheckpointSaved(RuntimeEvent, frozen=True, kw_only=True):
    """Training state was saved."""

    run: str
    step: int
    path: str
    automatic: bool


class CheckpointPassedOver(RuntimeEvent, frozen=True, kw_only=True):
    """A checkpoint cannot serve, and will not be tried again; an older one may."""

    run: str
    path: str
    reason: str


class ReplayDiverged(RuntimeEvent, frozen=True, kw_only=True):
    """A restored model repeated an operation and gave another result than it gave before it was lost."""

    run: str
    operation: str
    place: int
    """In the order of the run's operations."""
    checkpoint: str | None
    """Where the model began; None: from the beginning."""
    difference_nats: float
    """Mean |Δlogprob|; infinity where results cannot be compared by that."""
    limit_nats: float
    is_accepted: bool
    """Whether the run goes on with it."""


class OptimizerUnverified(RuntimeEvent, frozen=True, kw_only=True):
    """A model was restored, and nothing that is replayed would show whether its optimizer's state came along."""

    run: str
    checkpoint: str
    are_weights_verified: bool
    """Whether a forward_backward is replayed, whose result depends on the weights."""


class StepDone(RuntimeEvent, frozen=True, kw_only=True):
    """An optimizer step has its result."""

    run: str
    step: int
    """Steps taken, this one included."""
    metrics: dict[str, float]


class ResultLost(RuntimeEvent, frozen=True, kw_only=True):
    """The service executed an operation and no longer had its result; the run goes on without it."""

    run: str
    operation: str
    reason: str


class BatchPoisoned(RuntimeEvent, frozen=True, kw_only=True):
    """An operation brought the program down too often; its optimizer step is left out."""

    run: str
    operation: str
    place: int
    """In the order of the run's operations."""
    attempts: int
    is_skipped: bool
    """Whether the run goes on behind it; else it halts."""


class StepVoided(RuntimeEvent, frozen=True, kw_only=True):
    """A part of an optimizer step failed; the step was not taken."""

    run: str
    reason: str


class GradientDropped(RuntimeEvent, frozen=True, kw_only=True):
    """Gradients that a dead process had asked for and the program did not ask for again are undone."""

    run: str
    operations: int


class CustomLossComputed(RuntimeEvent, frozen=True, kw_only=True):
    """A loss of the caller's own was computed; its second request goes out."""

    run: str
    loss: float
    """With its regularizers."""
    metrics: dict[str, float]
    """Its own, and what its regularizers added."""


class CustomLossFailed(RuntimeEvent, frozen=True, kw_only=True):
    """A loss of the caller's own, or a regularizer, failed or took too long."""

    run: str
    reason: str


class CustomLossDropped(RuntimeEvent, frozen=True, kw_only=True):
    """A process died before it had computed custom losses: they and what was submitted behind them were not sent."""

    run: str
    losses: int


class RunHalted(RuntimeEvent, frozen=True, kw_only=True):
    """A run stands still until somebody acts."""

    run: str
    reason: str


class JournalParked(RuntimeEvent, frozen=True, kw_only=True):
    """The journal cannot be written; nothing is sent until it can."""

    run: str
    reason: str
    retry_in_s: float
