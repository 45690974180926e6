"""What the journal holds. Each record type is a table; its `keys` name the row, its `bulk`, if any, may be large.

A *place* is a training operation's position in its run's order. A *generation* is one model on the service:
a run gets another one when its model is lost. Fields are what SQLite stores as they are.
"""

import time
from enum import StrEnum
from typing import ClassVar, TypeAlias

import msgspec

__all__ = [
    "COMMITTED",
    "EXECUTED",
    "CheckpointRecord",
    "HistoryRecord",
    "Kind",
    "ModelRecord",
    "OperationRecord",
    "PartRecord",
    "Record",
    "ResultRecord",
    "RunRecord",
    "SendRecord",
    "SessionRecord",
    "State",
]


class Kind(StrEnum):
    """What a training operation does."""

    FORWARD_BACKWARD = "forward_backward"
    FORWARD = "forward"
    OPTIM_STEP = "optim_step"
    SAVE_WEIGHTS = "save_weights"
    SAVE_FOR_SAMPLER = "save_weights_for_sampler"
    SAVE_EXTERNAL = "save_weights_external"

    @property
    def changes_the_model(self) -> bool:
        """Whether it must be repeated to bring a model to the same state."""
        return self in (Kind.FORWARD_BACKWARD, Kind.OPTIM_STEP)

    @property
    def has_data(self) -> bool:
        """Whether it brings a batch."""
        return self in (Kind.FORWARD_BACKWARD, Kind.FORWARD)


class State(StrEnum):
    """How far an operation came."""

    PLACED = "placed"
    """Committed: it will be carried out, whoever dies."""
    DONE = "done"
    """It has a result."""
    EXPIRED = "expired"
    """It was executed, and the service no longer had its result."""
    FAILED = "failed"
    """The service refused it or failed on it."""
    VOID = "void"
    """Its optimizer step was not taken, because a part of it failed."""
    SKIPPED = "skipped"
    """As void, and by policy the program goes on behind it: its data brought us down."""
    DROPPED = "dropped"
    """A gradient that no optimizer step consumed and that the program did not ask for again."""


EXECUTED = frozenset({State.DONE, State.EXPIRED})
"""States of operations that took effect."""
COMMITTED = EXECUTED | {State.PLACED}
"""States of operations that belong to the run, and are repeated where it is replayed."""


def _now() -> int:
    """Unix time in seconds: for people, nothing follows from it."""
    return int(time.time())


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session on a service."""

    table: ClassVar[str] = "sessions"
    keys: ClassVar[tuple[str, ...]] = ("session_id",)

    session_id: str
    server: str
    """Whose session: base URL, or "local"."""
    ordinal: int
    """Sessions of this journal in the order they were opened, from 0."""
    next_model_seq: int = 0
    """Models created in it so far."""
    next_sampling_seq: int = 0
    """Sampling sessions created in it so far."""
    state: str = "open"
    """One of open, lost and finished."""
    opened_at: int = msgspec.field(default_factory=_now)
    """Unix time in seconds."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A training run."""

    table: ClassVar[str] = "runs"
    keys: ClassVar[tuple[str, ...]] = ("run",)

    run: str
    config: bytes
    """JSON of what it was created with."""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a run on the service."""

    table: ClassVar[str] = "models"
    keys: ClassVar[tuple[str, ...]] = ("run", "generation")

    run: str
    generation: int
    """From 1."""
    session_id: str
    model_seq_id: int
    """With the session it names the model before the service does."""
    base_place: int
    """The model begins in the state after this place; 0 is a fresh model."""
    checkpoint: str | None = None
    """Where that state comes from; None for a fresh model."""
    model_id: str | None = None
    """The service's id, once it is known."""
    reason: str | None = None
    """Why it took the place of the model before; None for the first one."""
    made_at: int = msgspec.field(default_factory=_now)
    """Unix time in seconds."""


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A training operation."""

    table: ClassVar[str] = "operations"
    keys: ClassVar[tuple[str, ...]] = ("run", "place")

    run: str
    place: int
    """From 1, without gaps."""
    kind: str
    """A `Kind`."""
    digest: str
    """Of its content, ids left out: equal for equal requests; empty in a journal that dies with its process."""
    ticket: str | None = None
    """The submission behind it; None for the runtime's own checkpoints."""
    state: str = State.PLACED
    """A `State`."""
    crashes: int = 0
    """How often handling its bytes ended in a crash, with nothing else acknowledged in between."""
    summary: bytes | None = None
    """JSON: metrics of training operations, the path of saves, the text of errors."""


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request of an operation: a forward_backward has one per chunk of data, others have one."""

    table: ClassVar[str] = "parts"
    keys: ClassVar[tuple[str, ...]] = ("run", "place", "part")
    bulk: ClassVar[str] = "content"

    run: str
    place: int
    part: int
    """From 0."""
    content: bytes
    """The body without ids."""


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one request; apart from the request, whose body would be written again with it."""

    table: ClassVar[str] = "results"
    keys: ClassVar[tuple[str, ...]] = ("run", "place", "part")
    bulk: ClassVar[str] = "body"

    run: str
    place: int
    part: int
    """From 0."""
    body: bytes | None
    """Of the answer; None once no recovery can need it."""
    media_type: str
    """Of the answer."""
    digest: str
    """Of the answer's body."""
    summary: bytes | None = None
    """JSON: figures by which a forward_backward's result is recognised when it is repeated."""


class SendRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An intent: these bytes may have left the process, under this `seq_id`."""

    table: ClassVar[str] = "sends"
    keys: ClassVar[tuple[str, ...]] = ("run", "generation", "place", "part")

    run: str
    generation: int
    place: int
    part: int
    seq_id: int
    """The request's place in the model's order on the service, from 1; 0 once it is known not to be there."""
    ended: int = 0
    """1 once its result or failure from this model is known."""


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Training state saved on the service."""

    table: ClassVar[str] = "checkpoints"
    keys: ClassVar[tuple[str, ...]] = ("run", "path")

    run: str
    place: int
    """Holds the state after this place."""
    step: int
    """Optimizer steps taken by then."""
    path: str
    """`tinker://` path."""
    usable: int = 1
    """0 once it was found missing or wrong."""
    automatic: int = 0
    """1 for the runtime's own."""
    retired: int = 0
    """1 once it is to be deleted on the service, 2 once it is."""


class HistoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Optimizer steps that no recovery can need: what is left of their operations, requests and answers."""

    table: ClassVar[str] = "history"
    keys: ClassVar[tuple[str, ...]] = ("run", "place")

    run: str
    place: int
    """Of the last of them; nothing that changed the model up to there is kept elsewhere."""
    end_step: int
    """The number of the step after them."""
    steps: bytes
    """MessagePack of their metrics, in order."""


Record: TypeAlias = (
    SessionRecord
    | RunRecord
    | ModelRecord
    | OperationRecord
    | PartRecord
    | ResultRecord
    | SendRecord
    | CheckpointRecord
    | HistoryRecord
)
