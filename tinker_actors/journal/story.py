"""What became of a run, for people: its models and why each took the place of the one before, its checkpoints."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

import msgspec

from tinker_actors.journal.lineages import next_lineage
from tinker_actors.journal.reader import Reader
from tinker_actors.journal.records import ModelRecord, OperationRecord, RunRecord, State

__all__ = ["CheckpointHistory", "FailureHistory", "ModelHistory", "RunHistory", "explain", "tell"]


class ModelHistory(msgspec.Struct, frozen=True):
    """One model that a run had on the service."""

    generation: int
    """From 1."""
    model_id: str | None
    """None while the service has not named it."""
    session_id: str
    made_at: int
    """Unix time in seconds."""
    step: int
    """Optimizer steps that it began with."""
    checkpoint: str | None
    """Where it took them from; None for a fresh model."""
    reason: str | None
    """Why it took the place of the model before; None for the first one."""


class CheckpointHistory(msgspec.Struct, frozen=True):
    """Training state that a run saved on the service."""

    path: str
    step: int
    """Optimizer steps that it holds."""
    is_automatic: bool
    """Whether the runtime made it."""
    state: str
    """One of usable, unusable, and deleted."""


class FailureHistory(msgspec.Struct, frozen=True):
    """An operation without a result."""

    place: int
    """In the run's order, from 1."""
    kind: str
    state: str
    """One of failed, void, skipped, dropped and expired."""
    error: str | None


class RunHistory(msgspec.Struct, frozen=True):
    """What became of a run."""

    run: str
    base_model: str
    steps: int
    """Optimizer steps taken."""
    unsettled: int
    """Operations that are committed and have no result."""
    models: list[ModelHistory]
    """Oldest first."""
    checkpoints: list[CheckpointHistory]
    """Oldest first."""
    failures: list[FailureHistory]
    """In order."""
    successor: str | None = None
    """The lineage that took its place, as it was created from another checkpoint; None while there is no model of one."""


def tell(journal: Reader) -> list[RunHistory]:
    """What became of each run, by name.

    Raises:
        JournalError: the journal is damaged.
    """
    begun = journal.begun_runs()
    return [_tell(journal, run, begun) for run in journal.runs()]


def _tell(journal: Reader, run: RunRecord, begun: Collection[str]) -> RunHistory:
    checkpoints = journal.checkpoints(run.run)
    steps = {0: 0, **{one.place: one.step for one in checkpoints}}
    return RunHistory(
        run=run.run,
        base_model=msgspec.json.decode(run.config).get("base_model") or "",
        steps=journal.steps(run.run),
        unsettled=journal.count_unsettled(run.run),
        models=[_model(one, steps) for one in journal.models(run.run)],
        checkpoints=[
            CheckpointHistory(
                path=one.path,
                step=one.step,
                is_automatic=bool(one.automatic),
                state="deleted" if one.retired else "usable" if one.usable else "unusable",
            )
            for one in checkpoints
        ],
        failures=[_failure(one) for one in journal.failures(run.run)],
        successor=after if (after := next_lineage(run.run)) in begun else None,
    )


def _model(model: ModelRecord, steps: dict[int, int]) -> ModelHistory:
    return ModelHistory(
        generation=model.generation,
        model_id=model.model_id,
        session_id=model.session_id,
        made_at=model.made_at,
        step=steps.get(model.base_place, 0),
        checkpoint=model.checkpoint,
        reason=model.reason,
    )


def _failure(operation: OperationRecord) -> FailureHistory:
    error = None
    if operation.summary is not None and operation.state != State.DROPPED:
        error = msgspec.json.decode(operation.summary).get("error")
    return FailureHistory(operation.place, operation.kind, operation.state, error)


def explain(history: RunHistory) -> Iterator[str]:
    """The story of a run in sentences: above all, why it has the model that it has."""
    yield f"Run {history.run!r} trains {history.base_model or 'the model of a checkpoint'} and took {_steps(history.steps)}."
    for model in history.models:
        name = model.model_id or "one that the service has not named yet"
        begin = "fresh" if model.checkpoint is None else f"from {model.checkpoint}"
        held = "" if model.step == 0 else f", with {_steps(model.step)} taken"
        if model.reason is None:
            yield f"{_time(model.made_at)}: model {model.generation} ({name}) was made, {begin}{held}."
        else:
            yield (
                f"{_time(model.made_at)}: model {model.generation} ({name}) took the place of the one before, "
                f"because {model.reason}; it began {begin}{held}."
            )
    if not history.models:
        yield "It has no model yet."
    elif len(history.models) == 1:
        yield "Its model was never replaced."
    for failure in history.failures:
        why = "" if failure.error is None else f": {failure.error}"
        yield f"Operation {failure.place}, a {failure.kind}, is {failure.state}{why}."
    if history.successor is not None:
        yield f"It is closed: run {history.successor!r} took its place, from another checkpoint."
    elif history.unsettled:
        yield f"{history.unsettled} of its operations had no result yet; the next process gets them."


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
