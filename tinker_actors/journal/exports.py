"""Files for other programs: `metrics.jsonl` and `checkpoints.jsonl`, in the format of the cookbook.

They follow from the journal. A process that died may have left them a line short or torn; `rebuild` writes them anew.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal.history import StepRecord, steps_taken
from tinker_actors.journal.records import EXECUTED, Kind, OperationRecord, State
from tinker_actors.journal.store import Store

__all__ = [
    "CHECKPOINTS",
    "METRICS",
    "Line",
    "append",
    "checkpoint_line",
    "metrics_line",
    "rebuild",
]

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints.jsonl"


class Line(msgspec.Struct, frozen=True):
    """One line of one of the files."""

    file: str
    document: dict[str, Any]

    def encoded(self) -> bytes:
        """The line with its end."""
        return msgspec.json.encode(self.document) + b"\n"


def metrics_line(run: str, step: StepRecord) -> Line:
    """The metrics of one optimizer step."""
    return Line(METRICS, {"step": step.step, "run": run, **step.metrics})


def checkpoint_line(run: str, step: int, path: str, name: str) -> Line:
    """A checkpoint; `batch` is the next batch to train on, so that nothing is trained on twice."""
    return Line(CHECKPOINTS, {"name": name, "run": run, "batch": step, "state_path": path})


def append(directory: Path, lines: Iterable[Line]) -> None:
    """Put `lines` at the ends of their files.

    Raises:
        JournalError: a file cannot be written.
    """
    for line in lines:
        try:
            with (directory / line.file).open("ab") as file:
                file.write(line.encoded())
        except OSError as error:
            raise JournalError(f"{directory / line.file} cannot be written: {error.strerror}") from error


def rebuild(directory: Path, store: Store) -> None:
    """Write both files from the journal, where they differ from it.

    Raises:
        JournalError: a file cannot be written.
    """
    wanted: dict[str, list[bytes]] = {METRICS: [], CHECKPOINTS: []}
    for run in store.runs():
        for line in _lines(run.run, store.history(run.run)):
            wanted[line.file].append(line.encoded())
    for name, lines in wanted.items():
        path = directory / name
        content = b"".join(lines)
        try:
            if (path.read_bytes() if path.exists() else b"") != content:
                fresh = path.with_suffix(".tmp")
                fresh.write_bytes(content)
                os.replace(fresh, path)  # noqa: PTH105 - Path.replace with the same meaning reads worse here
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror}") from error


def _lines(run: str, operations: list[OperationRecord]) -> Iterator[Line]:
    for step in steps_taken(operations):
        yield metrics_line(run, step)
    steps = 0
    for operation in operations:
        if operation.state not in EXECUTED:
            continue
        steps += operation.kind == Kind.OPTIM_STEP
        if operation.kind == Kind.SAVE_WEIGHTS and operation.state == State.DONE and operation.summary:
            summary = msgspec.json.decode(operation.summary)
            yield checkpoint_line(run, steps, summary["path"], summary["name"])
