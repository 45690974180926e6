"""Files for other programs: `metrics.jsonl` and `checkpoints.jsonl`, in the format of the cookbook.

They follow from the journal. A process that died may have left them a line short or torn; `catch_up` mends that.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal.history import StepRecord
from tinker_actors.journal.records import OperationRecord
from tinker_actors.journal.store import Store

__all__ = [
    "CHECKPOINTS",
    "METRICS",
    "Line",
    "append",
    "catch_up",
    "checkpoint_line",
    "metrics_line",
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
        _write(directory / line.file, line.encoded(), os.O_APPEND)


def catch_up(directory: Path, store: Store) -> None:
    """Bring both files to where the journal is: lines that are missing at the end are added.

    A file with anything else wrong in it is written anew.

    Raises:
        JournalError: a file cannot be read or written.
    """
    metrics, checkpoints = directory / METRICS, directory / CHECKPOINTS
    runs = [run.run for run in store.runs()]
    content = _read(metrics)
    present = _steps_present(content)
    if present is None:
        _replace(metrics, _metrics_lines(store, runs, {}))
    elif missing := _metrics_lines(store, runs, present):
        _write(metrics, missing, os.O_APPEND)
    saved = [line.encoded() for run in runs for line in _checkpoint_lines(run, store.saves(run))]
    if sorted(saved) != sorted(_read(checkpoints).splitlines(keepends=True)):
        _replace(checkpoints, b"".join(saved))


class _Present(msgspec.Struct):
    """What matters of a line of metrics."""

    run: str
    step: int


def _steps_present(content: bytes) -> dict[str, int] | None:
    """How many steps of each run a file of metrics has; None where it is not the beginning of the right one."""
    if content and not content.endswith(b"\n"):
        return None
    present: dict[str, int] = {}
    decode = msgspec.json.Decoder(_Present).decode
    for line in content.splitlines():
        try:
            one = decode(line)
        except msgspec.DecodeError:
            return None
        if one.step != present.get(one.run, 0):
            return None
        present[one.run] = one.step + 1
    return present


def _metrics_lines(store: Store, runs: list[str], present: dict[str, int]) -> bytes:
    return b"".join(
        metrics_line(run, step).encoded() for run in runs for step in store.history(run, present.get(run, 0))
    )


def _checkpoint_lines(run: str, saves: list[OperationRecord]) -> Iterator[Line]:
    for save in saves:
        if save.summary is not None:
            summary = msgspec.json.decode(save.summary)
            yield checkpoint_line(run, summary["step"], summary["path"], summary["name"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".tmp")
    _write(fresh, content, os.O_TRUNC)
    try:
        fresh.replace(path)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}") from error


def _write(path: Path, content: bytes, how: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}") from error
