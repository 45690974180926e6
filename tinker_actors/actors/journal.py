"""The one writer of the run directory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from tinker_actors.actors.published import Published
from tinker_actors.errors import FencedError, JournalError
from tinker_actors.journal import exports
from tinker_actors.journal.lineages import latest_lineage
from tinker_actors.journal.records import Record, SessionRecord
from tinker_actors.journal.story import tell
from tinker_actors.supervision import ErrorContained, SupervisedActor
from tinker_actors.supervision.current import current_incarnation

__all__ = [
    "AllocateModel",
    "AllocateSampler",
    "Append",
    "Compact",
    "JournalActor",
    "LatestLineage",
    "LatestSession",
    "LoadCheckpoints",
    "LoadHistory",
    "LoadRun",
    "LoadSaves",
    "ModelsOf",
    "NoteSession",
    "TellHistory",
    "Writer",
]


class Writer(NamedTuple):
    """An incarnation that has something to write."""

    path: str
    epoch: int


def _writer() -> Writer | None:
    here = current_incarnation()
    return None if here is None else Writer(here.path, here.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fenced:
    """A request that counts no more once a later incarnation of the same actor was heard of."""

    writer: Writer | None = field(default_factory=_writer)
    """Whose thread made it; None outside of actors."""


@dataclass(frozen=True, slots=True)
class Append(_Fenced):
    """Write records, all or none; answered once that is done.

    The answer is the journal's size in bytes, or None where it need not be durable: what is to last is what it grows by.
    """

    records: tuple[Record, ...]
    durable: bool = True
    """Whether the answer waits for the disk."""
    lines: tuple[exports.Line, ...] = ()
    """For the files that other programs read."""


@dataclass(frozen=True, slots=True)
class LoadRun(_Fenced):
    """Answered with the `RunImage`, or None."""

    run: str


@dataclass(frozen=True, slots=True)
class LoadCheckpoints(_Fenced):
    """Answered with the `CheckpointRecord`s that a run could begin in, and those still to be deleted; oldest first."""

    run: str


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """Answered with the `StepRecord`s of a run."""

    run: str


@dataclass(frozen=True, slots=True)
class LoadSaves:
    """Answered with all `OperationRecord`s of saves of training state that a run carried out."""

    run: str


@dataclass(frozen=True, slots=True)
class TellHistory:
    """Answered with the `RunHistory` of each run."""


@dataclass(frozen=True, slots=True)
class Compact(_Fenced):
    """Fold what the checkpoint before the newest one makes needless."""

    run: str


@dataclass(frozen=True, slots=True)
class LatestLineage(_Fenced):
    """Answered with the name in the journal of the newest lineage of a run that ever had a model; its own without one."""

    run: str


@dataclass(frozen=True, slots=True)
class LatestSession:
    """Answered with the newest `SessionRecord` on this server, or None."""


@dataclass(frozen=True, slots=True)
class NoteSession(_Fenced):
    """Write a session that was opened, or another state of one."""

    session_id: str
    state: str = "open"


@dataclass(frozen=True, slots=True)
class ModelsOf:
    """Answered with the service's ids of the models that runs have in a session, latest last."""

    session_id: str


@dataclass(frozen=True, slots=True)
class AllocateModel(_Fenced):
    """Answered with a number for a model that was never used in the session."""

    counter: ClassVar[str] = "next_model_seq"
    session_id: str


@dataclass(frozen=True, slots=True)
class AllocateSampler(_Fenced):
    """Answered with a number for a sampling session that was never used in the session."""

    counter: ClassVar[str] = "next_sampling_seq"
    session_id: str


class JournalActor(SupervisedActor):
    """Reads and writes the store for everybody else.

    A failing disk is an answer, not a crash: whoever asked keeps what it has and tries again.
    """

    reply_errors: ClassVar[tuple[type[Exception], ...]] = (JournalError, FencedError)

    def __init__(self, published: Published) -> None:
        super().__init__()
        self._published = published
        self._store = published.store
        self._are_files_behind = False
        """Whether lines of `exports` may be missing or torn."""

    def on_start(self) -> None:
        self._are_files_behind = self.context.epoch > 1

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, _Fenced) and message.writer is not None:
            self._check_fence(message.writer)
        return self._act_on(message)

    def _act_on(self, message: Any) -> Any:
        match message:
            case Append(records, durable, lines):
                self._store.write(records, durable=durable)
                if lines and self._published.directory is not None:
                    self._export(self._published.directory, lines)
                return self._store.size() if durable else None
            case Compact(run):
                return self._store.compact(run)
            case NoteSession(session_id, state):
                return self._note(session_id, state)
            case AllocateModel(session_id) | AllocateSampler(session_id):
                return self._allocate(session_id, message.counter)
            case _:
                return self._answer(message)

    def _answer(self, question: Any) -> Any:
        match question:
            case LoadRun(run):
                return self._store.load(run)
            case LatestLineage(run):
                return latest_lineage(run, self._store.begun_runs())
            case LoadCheckpoints(run):
                return self._store.candidates(run)
            case LoadHistory(run):
                return self._store.history(run)
            case LoadSaves(run):
                return self._store.saves(run)
            case TellHistory():
                return tell(self._store)
            case LatestSession():
                sessions = self._store.sessions(self._published.settings.base_url)
                return sessions[-1] if sessions else None
            case ModelsOf(session_id):
                return [one.model_id for one in self._store.current_models(session_id) if one.model_id]
            case _:
                raise TypeError(f"the journal does not understand {type(question).__name__}")

    def _check_fence(self, writer: Writer) -> None:
        """Nobody writes, or counts on what it read, once its successor has read."""
        newest = self._published.epochs
        if writer.epoch < newest.get(writer.path, 0):
            raise FencedError(f"{writer.path} of epoch {writer.epoch} was given up; nothing was written")
        newest[writer.path] = writer.epoch

    def _export(self, directory: Path, lines: tuple[exports.Line, ...]) -> None:
        """Bring the files up to date; they follow from the records, so that a failure must not fail those."""
        try:
            if self._are_files_behind:
                exports.catch_up(directory, self._store)
            else:
                exports.append(directory, lines)
            self._are_files_behind = False
        except JournalError as error:
            self._are_files_behind = True
            self.context.emit(
                ErrorContained(path=self.context.path, epoch=self.context.epoch, where="exports", error=error)
            )

    def _note(self, session_id: str, state: str) -> None:
        known = [
            one
            for one in self._store.sessions(self._published.settings.base_url)
            if one.session_id == session_id
        ]
        if known:
            self._store.write([msgspec.structs.replace(known[0], state=state)])
            return
        self._store.write(
            [
                SessionRecord(
                    session_id=session_id,
                    server=self._published.settings.base_url,
                    ordinal=self._store.count_sessions(),
                    state=state,
                )
            ]
        )

    def _allocate(self, session_id: str, counter: str) -> int:
        session = self._store.session(session_id)
        number: int = getattr(session, counter)
        self._store.write([msgspec.structs.replace(session, **{counter: number + 1})])
        return number
