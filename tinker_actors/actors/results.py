"""What a complete operation leaves behind: the caller's result or error, and the journal's records."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from tinker_actors.actors.custom import custom_metrics, recalled_metrics
from tinker_actors.actors.failures import error_summary
from tinker_actors.actors.fingerprints import fingerprint_of
from tinker_actors.actors.outbox import Pending
from tinker_actors.actors.run import combine_parts, read_parts, read_result
from tinker_actors.api.training import SaveContent
from tinker_actors.errors import ResultExpiredError
from tinker_actors.journal.exports import Line, checkpoint_line, metrics_line
from tinker_actors.journal.history import StepRecord, step_metrics
from tinker_actors.journal.records import (
    EXECUTED,
    CheckpointRecord,
    Kind,
    OperationRecord,
    Record,
    ResultRecord,
    State,
)
from tinker_actors.journal.replay import steps_done
from tinker_actors.journal.store import RunImage
from tinker_actors.wire.calls import Answer

__all__ = ["Conclusion", "Progress", "conclude", "digest_of", "progress_of", "recorded_result"]


class Progress(msgspec.Struct):
    """Where a run stands; the state that results are numbered by."""

    steps: int
    """Optimizer steps that were taken."""
    step_place: int
    """Place of the last of them; 0 before the first."""
    summaries: list[dict[str, float]] = msgspec.field(default_factory=list)
    """Metrics of the forward_backwards since then."""


def progress_of(image: RunImage) -> Progress:
    """Where the journal says that a run stands."""
    covered = max((checkpoint.place for checkpoint in image.checkpoints), default=0)
    progress = Progress(steps_done(image), covered)
    for operation in image.operations:
        if operation.state not in EXECUTED:
            continue
        if operation.kind == Kind.OPTIM_STEP:
            progress.step_place = operation.place
            progress.summaries.clear()
        elif operation.state == State.DONE and operation.kind == Kind.FORWARD_BACKWARD and operation.summary:
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
    error: ResultExpiredError | None = None
    """What its caller gets in place of the result."""


def digest_of(body: bytes) -> str:
    """Of an answer's body."""
    return hashlib.sha256(body).hexdigest()


def conclude(pending: Pending, progress: Progress) -> Conclusion:
    """Read the answers to an operation and say what is to be written; `progress` moves on.

    Raises:
        APIResponseValidationError: an answer cannot be understood.
    """
    record = pending.record
    ended: list[Record] = [msgspec.structs.replace(send, ended=1) for send in pending.sends]
    if pending.lost:
        return _conclude_lost(pending, ended, progress)
    answers = [answer for answer in pending.answers if answer is not None]
    parts = read_parts(pending.kind, answers)
    value = combine_parts(pending.kind, parts, answers)
    results = _results(pending, answers, parts)
    if record.state in EXECUTED:  # a replay: the recorded result stands, but for a sampler that has moved
        moved = results if pending.kind is Kind.SAVE_FOR_SAMPLER else []
        return Conclusion(pending, value, [*ended, *_forgiven(record), *moved], [])
    summary, conclusion = _summarise(pending, value, progress)
    record = msgspec.structs.replace(
        record, state=State.DONE, summary=msgspec.json.encode(summary), crashes=0
    )
    conclusion.records.extend([record, *results, *ended])
    return conclusion


def _results(pending: Pending, answers: list[Answer], parts: list[Any]) -> list[ResultRecord]:
    return [
        ResultRecord(
            run=pending.record.run,
            place=pending.record.place,
            part=number,
            body=answer.body,
            media_type=answer.content_type,
            digest=digest_of(answer.body),
            summary=_fingerprint(pending.kind, part),
        )
        for number, (answer, part) in enumerate(zip(answers, parts, strict=True))
    ]


def _fingerprint(kind: Kind, part: Any) -> bytes | None:
    return msgspec.json.encode(fingerprint_of(part)) if kind is Kind.FORWARD_BACKWARD else None


def _conclude_lost(pending: Pending, ended: list[Record], progress: Progress) -> Conclusion:
    """It was executed, and its result is gone."""
    record = pending.record
    if record.state in EXECUTED:
        return Conclusion(pending, None, [*ended, *_forgiven(record)], [])
    cause = next(iter(pending.lost.values()))
    error = ResultExpiredError(
        f"the service executed {record.kind} and no longer has its result; do not repeat it, the run goes on ({cause})",
        executed=True,
    )
    error.__cause__ = cause
    expired = msgspec.structs.replace(record, state=State.EXPIRED, summary=error_summary(error), crashes=0)
    conclusion = Conclusion(pending, None, [expired, *ended], [], error=error)
    if pending.kind is not Kind.OPTIM_STEP:
        return conclusion
    step, metrics, line = _take_step(record, {}, progress)
    return replace(conclusion, step=step, metrics=metrics, lines=[line])


def _forgiven(record: OperationRecord) -> list[OperationRecord]:
    """What is to be written of an operation that was repeated, and brought nobody down this time."""
    return [msgspec.structs.replace(record, crashes=0)] if record.crashes else []


def _take_step(
    record: OperationRecord, own: dict[str, float], progress: Progress
) -> tuple[int, dict[str, float], Line]:
    """Count an optimizer step: its number, its metrics, and the line that tells of it."""
    metrics = step_metrics([*progress.summaries, own])
    progress.steps += 1
    progress.step_place = record.place
    progress.summaries = []
    return progress.steps, metrics, metrics_line(record.run, StepRecord(progress.steps - 1, metrics))


def _summarise(pending: Pending, value: Any, progress: Progress) -> tuple[dict[str, Any], Conclusion]:
    run = pending.record.run
    match pending.kind:
        case Kind.FORWARD_BACKWARD:
            if pending.record.summary is not None:
                own = recalled_metrics(pending.record.summary)
                value = msgspec.structs.replace(value, metrics=custom_metrics(value.metrics, own))
            progress.summaries.append(value.metrics)
            return value.metrics, Conclusion(pending, value, [], [])
        case Kind.OPTIM_STEP:
            own = value.metrics or {}
            step, metrics, line = _take_step(pending.record, own, progress)
            return own, Conclusion(pending, value, [], [line], step=step, metrics=metrics)
        case Kind.SAVE_WEIGHTS:
            # The checkpoint holds no gradients: it is the state after the last optimizer step.
            content = msgspec.json.decode(pending.contents[0], type=SaveContent)
            is_ours = pending.record.ticket is None  # then its lifetime is renewed
            checkpoint = CheckpointRecord(
                run=run,
                place=progress.step_place,
                step=progress.steps,
                path=value.path,
                usable=int(content.is_lasting or is_ours),
                automatic=int(is_ours),
            )
            name = value.path.rpartition("/")[2]
            line = checkpoint_line(run, progress.steps, value.path, name)
            summary = {"path": value.path, "name": name, "step": progress.steps}
            # Recovery may rely on what stays as it is, and must not lose such a checkpoint of the same place.
            records: list[Record] = [checkpoint] if checkpoint.usable else []
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
    value = read_result(Kind(record.kind), answers)
    if (
        record.kind == Kind.FORWARD_BACKWARD and record.summary is not None
    ):  # a custom loss has metrics of its own
        return msgspec.structs.replace(value, metrics=recalled_metrics(record.summary))
    return value
