"""What a complete operation leaves behind: the caller's result, and the journal's records."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tinker_actors.actors.outbox import Pending
from tinker_actors.actors.run import read_result
from tinker_actors.api.training import SaveContent
from tinker_actors.journal.exports import Line, checkpoint_line, metrics_line
from tinker_actors.journal.history import StepRecord, step_metrics
from tinker_actors.journal.records import CheckpointRecord, Kind, OperationRecord, Record, ResultRecord, State
from tinker_actors.journal.replay import steps_done
from tinker_actors.journal.store import RunImage
from tinker_actors.wire.calls import Answer

__all__ = ["Conclusion", "Progress", "conclude", "digest_of", "progress_of", "recorded_result"]


class Progress(msgspec.Struct):
    """Where a run stands; the state that results are numbered by."""

    steps: int
    """Optimizer steps with a result."""
    step_place: int
    """Place of the last of them; 0 before the first."""
    summaries: list[dict[str, float]] = msgspec.field(default_factory=list)
    """Metrics of the forward_backwards since then."""


def progress_of(image: RunImage) -> Progress:
    """Where the journal says that a run stands."""
    covered = max((checkpoint.place for checkpoint in image.checkpoints), default=0)
    progress = Progress(steps_done(image), covered)
    for operation in image.operations:
        if operation.state != State.DONE:
            continue
        if operation.kind == Kind.OPTIM_STEP:
            progress.step_place = operation.place
            progress.summaries.clear()
        elif operation.kind == Kind.FORWARD_BACKWARD and operation.summary:
            progress.summaries.append(msgspec.json.decode(operation.summary))
    return progress


@dataclass(frozen=True, slots=True)
class Conclusion:
    """An operation's end."""

    pending: Pending
    value: Any
    """What its caller gets."""
    records: list[Record]
    lines: list[Line]
    step: int | None = None
    """The number of the optimizer step this was."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of that step."""
    checkpoint: CheckpointRecord | None = None
    """The checkpoint this was."""


def digest_of(body: bytes) -> str:
    """Of an answer's body."""
    return hashlib.sha256(body).hexdigest()


def conclude(pending: Pending, progress: Progress) -> Conclusion:
    """Read the answers to an operation and say what is to be written; `progress` moves on.

    Raises:
        APIResponseValidationError: an answer cannot be understood.
    """
    answers = [answer for answer in pending.answers if answer is not None]
    value = read_result(pending.kind, answers)
    record = pending.record
    ended: list[Record] = [msgspec.structs.replace(send, ended=1) for send in pending.sends]
    if record.state == State.DONE:  # a replay: the recorded result stands
        return Conclusion(pending, value, ended, [])
    summary, conclusion = _summarise(pending, value, progress)
    record = msgspec.structs.replace(record, state=State.DONE, summary=msgspec.json.encode(summary))
    results = [
        ResultRecord(
            run=record.run,
            place=record.place,
            part=number,
            body=answer.body,
            media_type=answer.content_type,
            digest=digest_of(answer.body),
        )
        for number, answer in enumerate(answers)
    ]
    conclusion.records.extend([record, *results, *ended])
    return conclusion


def _summarise(pending: Pending, value: Any, progress: Progress) -> tuple[dict[str, Any], Conclusion]:
    run, place = pending.record.run, pending.record.place
    match pending.kind:
        case Kind.FORWARD_BACKWARD:
            progress.summaries.append(value.metrics)
            return value.metrics, Conclusion(pending, value, [], [])
        case Kind.OPTIM_STEP:
            own = value.metrics or {}
            metrics = step_metrics([*progress.summaries, own])
            progress.steps += 1
            progress.step_place = place
            progress.summaries = []
            line = metrics_line(run, StepRecord(progress.steps - 1, metrics))
            return own, Conclusion(pending, value, [], [line], step=progress.steps, metrics=metrics)
        case Kind.SAVE_WEIGHTS:
            # The checkpoint holds no gradients: it is the state after the last optimizer step.
            content = msgspec.json.decode(pending.contents[0], type=SaveContent)
            checkpoint = CheckpointRecord(
                run=run,
                place=progress.step_place,
                step=progress.steps,
                path=value.path,
                usable=int(content.is_lasting),
                automatic=int(pending.record.ticket is None),
            )
            name = value.path.rpartition("/")[2]
            line = checkpoint_line(run, progress.steps, value.path, name)
            summary = {"path": value.path, "name": name}
            # Recovery may rely on what stays as it is, and must not lose such a checkpoint of the same place.
            records: list[Record] = [checkpoint] if content.is_lasting else []
            return summary, Conclusion(pending, value, records, [line], checkpoint=checkpoint)
        case Kind.SAVE_FOR_SAMPLER | Kind.SAVE_EXTERNAL:
            return {"path": value.path}, Conclusion(pending, value, [], [])
        case Kind.FORWARD:
            return value.metrics, Conclusion(pending, value, [], [])


def recorded_result(record: OperationRecord, results: list[ResultRecord]) -> Any:
    """The result of an operation as the journal has it.

    Raises:
        APIResponseValidationError: it was not kept, or cannot be read.
    """
    answers = [Answer(200, {"content-type": one.media_type}, one.body or b"") for one in results]
    return read_result(Kind(record.kind), answers)
