"""The optimizer steps of a run, as its journal has them."""

from collections.abc import Iterable

import msgspec

from tinker_actors.journal.records import Kind, OperationRecord, State

__all__ = ["StepRecord", "step_metrics", "steps_taken"]


class StepRecord(msgspec.Struct, frozen=True):
    """One optimizer step with a result."""

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


def steps_taken(operations: Iterable[OperationRecord]) -> list[StepRecord]:
    """The steps with a result, in order.

    Args:
        operations: all of the run, in order.
    """
    steps: list[StepRecord] = []
    pending: list[dict[str, float]] = []
    for operation in operations:
        if operation.state != State.DONE or operation.summary is None:
            continue
        if operation.kind == Kind.FORWARD_BACKWARD:
            pending.append(msgspec.json.decode(operation.summary))
        elif operation.kind == Kind.OPTIM_STEP:
            metrics = step_metrics([*pending, msgspec.json.decode(operation.summary)])
            steps.append(StepRecord(len(steps), metrics))
            pending = []
    return steps
