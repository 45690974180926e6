"""The journal as it is read: what recovery needs of a run, its history, its models."""

import sqlite3
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tinker_actors.errors import JournalError
from tinker_actors.journal import database as db
from tinker_actors.journal.history import StepRecord, folded_steps, steps_taken
from tinker_actors.journal.layout import layout_of
from tinker_actors.journal.records import (
    EXECUTED,
    CheckpointRecord,
    HistoryRecord,
    Kind,
    ModelRecord,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    RunRecord,
    SendRecord,
    SessionRecord,
    State,
)
from tinker_actors.journal.segments import read_body, segments_of

__all__ = ["Reader", "RunImage"]

R = TypeVar("R", bound=Record)

SERVING_CHECKPOINTS = 2
"""The newest usable checkpoints that must be able to serve: what follows the oldest of them is kept."""


_FAILURES = (State.FAILED, State.VOID, State.SKIPPED, State.DROPPED, State.EXPIRED)


class RunImage(msgspec.Struct, kw_only=True):
    """All that a run's recovery needs."""

    run: RunRecord
    """What it was created with."""
    models: list[ModelRecord]
    """Its generations in order."""
    operations: list[OperationRecord]
    """Those that recovery may still need, in order."""
    parts: list[PartRecord]
    """Their requests, in order."""
    results: list[ResultRecord] = []
    """The answers to these, in order."""
    sends: list[SendRecord]
    """What was sent to the latest generation: of these operations, and the last whatever it was."""
    checkpoints: list[CheckpointRecord]
    """Those that a model could begin in, and those that are still to be deleted; oldest first."""
    earlier_steps: int
    """Optimizer steps taken before the first of `operations`."""
    earlier_skipped: int = 0
    """Optimizer steps skipped before the first of `operations`."""
    last_place: int
    """The last place given away."""
    base_place: int = 0
    """Operations up to there are not here, whether or not they are in the journal."""


class Reader:
    """Reads records; rows are compared with their checksums on the way.

    Args:
        database: with the tables of a journal.
        path: of its file; None for one in memory, which is not sealed.
    """

    def __init__(self, database: sqlite3.Connection, path: Path | None) -> None:
        self._database = database
        self._path = path

    @classmethod
    def of_file(cls, path: Path) -> "Reader":
        """A look at the journal at `path`, also while a process writes to it: one state of it, and nothing is touched.

        Raises:
            JournalError: it is no journal of this version, or cannot be read.
        """
        db.check_header(path)
        try:
            database = db.connect_to_read(path)
            database.execute("BEGIN")
        except db.DAMAGED as error:
            raise JournalError(f"journal {path} cannot be opened: {error}") from error
        return cls(database, path)

    def _body(self, segment: int, position: int, length: int) -> bytes:
        assert self._path is not None  # noqa: S101 - a store in memory reads them otherwise
        return read_body(segments_of(self._path), segment, position, length)

    def _base(self, run: str) -> CheckpointRecord | None:
        """The oldest of the checkpoints that must be able to serve; None while there are too few."""
        newest = f"run = ? AND usable = 1 ORDER BY place DESC, path DESC LIMIT {SERVING_CHECKPOINTS}"
        usable = self._select(CheckpointRecord, newest, run)
        return usable[-1] if len(usable) == SERVING_CHECKPOINTS else None

    def _folded(self, run: str) -> HistoryRecord:
        """The newest of what was folded."""
        found = self._select(HistoryRecord, "run = ? ORDER BY place DESC LIMIT 1", run)
        return found[0] if found else HistoryRecord(run=run, place=0, end_step=0, steps=b"")

    def sessions(self, server: str) -> list[SessionRecord]:
        """Sessions on `server`, oldest first."""
        return self._select(SessionRecord, "server = ? ORDER BY ordinal", server)

    def session(self, session_id: str) -> SessionRecord:
        """One session.

        Raises:
            JournalError: it is not in the journal.
        """
        found = self._select(SessionRecord, "session_id = ?", session_id)
        if not found:
            raise JournalError(f"session {session_id} is not in the journal {self._path}")
        return found[0]

    def count_sessions(self) -> int:
        """How many sessions there ever were."""
        newest = self._select(SessionRecord, "1 ORDER BY ordinal DESC LIMIT 1")
        return newest[0].ordinal + 1 if newest else 0

    def current_models(self, session_id: str) -> list[ModelRecord]:
        """The newest model of each run, of those that live in a session; oldest first."""
        newest = "generation = (SELECT max(generation) FROM models AS other WHERE other.run = models.run)"
        return self._select(ModelRecord, f"session_id = ? AND {newest} ORDER BY model_seq_id", session_id)

    def history(self, run: str, since: int = 0) -> list[StepRecord]:
        """The optimizer steps of a run with a result, in order.

        Args:
            run: its name.
            since: the first one wanted.
        """
        steps: list[StepRecord] = []
        folded = self._select(HistoryRecord, "run = ? AND end_step > ? ORDER BY place", run, since)
        for record in folded:
            steps.extend(folded_steps(record))
        rest = self._select(
            OperationRecord, "run = ? AND place > ? ORDER BY place", run, self._folded(run).place
        )
        steps.extend(steps_taken(rest, self._folded(run).end_step))
        return [step for step in steps if step.step >= since]

    def checkpoints(self, run: str) -> list[CheckpointRecord]:
        """All checkpoints of a run that recovery could ever begin in, oldest first."""
        return self._select(CheckpointRecord, "run = ? ORDER BY place, path", run)

    def candidates(self, run: str) -> list[CheckpointRecord]:
        """Those that a model could begin in, and those that are still to be deleted; oldest first."""
        could_serve = "run = ? AND (place >= ? OR automatic = 1 AND retired < 2) ORDER BY place, path"
        return self._select(CheckpointRecord, could_serve, run, self._folded(run).place)

    def models(self, run: str) -> list[ModelRecord]:
        """All models that a run had, oldest first."""
        return self._select(ModelRecord, "run = ? ORDER BY generation", run)

    def saves(self, run: str) -> list[OperationRecord]:
        """All saves of training state of a run that were carried out, in order."""
        done = f"run = ? AND kind = '{Kind.SAVE_WEIGHTS}' AND state = '{State.DONE}' ORDER BY place"
        return self._select(OperationRecord, done, run)

    def runs(self) -> list[RunRecord]:
        """All runs by name."""
        return self._select(RunRecord, "1 ORDER BY run")

    def begun_runs(self) -> set[str]:
        """Names of the runs that the service ever made a model of."""
        return {model.run for model in self._select(ModelRecord, "model_id IS NOT NULL")}

    def load(self, run: str) -> RunImage | None:
        """What recovery of `run` needs, or None for a run that is not in the journal."""
        found = self._select(RunRecord, "run = ?", run)
        if not found:
            return None
        folded, base = self._folded(run), self._base(run)
        since, steps = folded.place, folded.end_step
        if base is not None and base.place > since:
            since, steps = base.place, base.step
        models = self.models(run)
        generation = models[-1].generation if models else 0
        behind = "run = ? AND place > ? ORDER BY place"
        last = self._select(OperationRecord, "run = ? ORDER BY place DESC LIMIT 1", run)
        left_out = f"run = ? AND place <= ? AND kind = '{Kind.OPTIM_STEP}' AND state = '{State.SKIPPED}'"
        return RunImage(
            run=found[0],
            models=models,
            operations=self._select(OperationRecord, behind, run, since),
            parts=self._select(PartRecord, f"{behind}, part", run, since),
            results=self._select(ResultRecord, f"{behind}, part", run, since),
            sends=self._sends(run, generation, since),
            checkpoints=self.candidates(run),
            earlier_steps=steps,
            earlier_skipped=len(self._select(OperationRecord, left_out, run, since)),
            last_place=max(last[0].place if last else 0, folded.place),
            base_place=since,
        )

    def _sends(self, run: str, generation: int, since: int) -> list[SendRecord]:
        """Those behind `since`, and the last one whatever its place: a long run has too many to read them all."""
        of_model = "run = ? AND generation = ?"
        last = f"SELECT max(seq_id) FROM sends WHERE {of_model}"  # noqa: S608 - our own names
        where = f"{of_model} AND (place > ? OR seq_id = ({last})) ORDER BY seq_id"
        return self._select(SendRecord, where, run, generation, since, run, generation)

    def _select(self, kind: type[R], where: str, *values: Any) -> list[R]:
        layout = layout_of(kind)
        try:
            rows = self._database.execute(layout.select + where, values)
            if self._path is None:
                return [layout.read_unsealed(row, self._body) for row in rows]
            return [layout.read(row, self._body) for row in rows]
        except JournalError as error:
            raise JournalError(f"journal {self._path} is damaged: {error}") from error
        except db.DAMAGED as error:
            raise JournalError(f"journal {self._path} cannot be read: {error}") from error

    def failures(self, run: str) -> list[OperationRecord]:
        """Operations of a run that were not to be, in order."""
        states = ", ".join(f"'{state}'" for state in _FAILURES)
        return self._select(OperationRecord, f"run = ? AND state IN ({states}) ORDER BY place", run)

    def steps(self, run: str) -> int:
        """Optimizer steps of a run that were taken."""
        folded = self._folded(run)
        rest = self._select(OperationRecord, "run = ? AND place > ? ORDER BY place", run, folded.place)
        taken = [one for one in rest if one.kind == Kind.OPTIM_STEP and one.state in EXECUTED]
        return folded.end_step + len(taken)

    def count_unsettled(self, run: str) -> int:
        """Operations of a run that are committed and have no result."""
        return len(self._select(OperationRecord, f"run = ? AND state = '{State.PLACED}'", run))

    def all_sessions(self) -> list[SessionRecord]:
        """Sessions on any server, oldest first."""
        return self._select(SessionRecord, "1 ORDER BY ordinal")

    def close(self) -> None:
        """Close the file."""
        self._database.close()
