"""The optimizer steps of a run, as its journal has them."""

from collections.abc import Iterable

import msgspec

from tinker_actors.journal.records import EXECUTED, HistoryRecord, Kind, OperationRecord, State

__all__ = ["StepRecord", "folded_steps", "step_metrics", "steps_taken"]


class StepRecord(msgspec.Struct, frozen=True):
    """One optimizer step that was taken."""

    step: int
    """From 0."""
    metrics: dict[str, float]
    """Those of its forward_backwards and of its update; sums are added, of others the last counts."""


def step_metrics(summaries: Iterable[dict[str, float]]) -> dict[str, float]:
    """The metrics of one optimizer step: those of its requests, sums added, of others the last."""
    merged: dict[str, float] = {}
    for summary in summaries:
        for name, value in summary.items():
            merged[name] = merged.get(name, 0.0) + value if name.endswith(":sum") else value
    return merged


def folded_steps(record: HistoryRecord) -> list[StepRecord]:
    """The steps that were folded into a record."""
    metrics: list[dict[str, float]] = msgspec.msgpack.decode(record.steps)
    first = record.end_step - len(metrics)
    return [StepRecord(first + number, one) for number, one in enumerate(metrics)]


def steps_taken(operations: Iterable[OperationRecord], first_step: int = 0) -> list[StepRecord]:
    """The steps that were taken, in order.

    Args:
        operations: of the run, in order; from the beginning of a step.
        first_step: the number of that step.
    """
    steps: list[StepRecord] = []
    pending: list[dict[str, float]] = []
    for operation in operations:
        if operation.state not in EXECUTED or operation.summary is None:
            continue
        own = msgspec.json.decode(operation.summary) if operation.state == State.DONE else {}
        if operation.kind == Kind.FORWARD_BACKWARD:
            pending.append(own)
        elif operation.kind == Kind.OPTIM_STEP:
            metrics = step_metrics([*pending, own])
            steps.append(StepRecord(first_step + len(steps), metrics))
            pending = []
    return steps
