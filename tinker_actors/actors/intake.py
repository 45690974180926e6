"""From what callers submit to what is sent: each operation gets its place in the journal, then its turn."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tinker_actors.actors.adoption import adopt, remaining_gradients
from tinker_actors.actors.custom import Awaited, Broken
from tinker_actors.actors.failures import OpenVoid, error_summary, recorded_error, step_void
from tinker_actors.actors.futures import Submission
from tinker_actors.actors.journal import AllocateSampler, Append, LoadCheckpoints
from tinker_actors.actors.opening import load_run
from tinker_actors.actors.outbox import Outbox, Pending
from tinker_actors.actors.published import Published
from tinker_actors.actors.results import recorded_result
from tinker_actors.actors.run import Request, Run, TrainingOperation
from tinker_actors.api.training import SaveContent
from tinker_actors.errors import StepVoidError, TinkerActorsError
from tinker_actors.journal.records import (
    EXECUTED,
    CheckpointRecord,
    Kind,
    OperationRecord,
    PartRecord,
    Record,
    State,
)
from tinker_actors.journal.replay import results_of
from tinker_actors.supervision import Address
from tinker_actors.wire.calls import json_body

__all__ = ["Intake", "Stop"]


@dataclass(frozen=True, slots=True)
class Stop:
    """What must be done before more can be taken, if anything."""

    gradients_to_drop: list[OperationRecord] = field(default_factory=list)
    """Gradients of a dead process that must be undone."""
    broken: tuple[Submission[Request], TinkerActorsError] | None = None
    """A custom loss that will have no second request, and why."""


@dataclass(slots=True)
class _Batch:
    """Operations that go into the journal together."""

    place: int
    """The last one given away."""
    requests: int = 0
    submissions: list[Submission[Request]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)
    """What else is to be written with them."""
    void: list[tuple[OperationRecord, StepVoidError]] = field(default_factory=list)
    """Optimizer steps among these that are not taken, and why."""
    stop: Stop = field(default_factory=Stop)
    """Why the rest was not taken."""


class Intake:
    """Takes submissions of one run, in order; nothing is queued that is not in the journal.

    Args:
        run: whose.
        published: of the service client.
        journal: the journal's address.
        last_place: the last place in the journal.
        now: the time in seconds.
    """

    def __init__(
        self, run: Run, published: Published, journal: Address, last_place: int, now: Callable[[], float]
    ) -> None:
        self._run = run
        self._published = published
        self._journal = journal
        self._last_place = last_place
        self._now = now
        self._journal_bytes = 0
        if run.checkpointed_at is None:
            run.checkpointed_at = now()
        self.open_void: OpenVoid | None = None
        """The optimizer step that callers are in the middle of, where it will not be taken."""

    def take(self, outbox: Outbox, steps: int) -> Stop:
        """Journal what waits, and queue it.

        Args:
            outbox: where it is queued.
            steps: optimizer steps with a result.

        Returns:
            What must be done before the rest can be taken; what stands behind a custom loss waits on its own.

        Raises:
            JournalError: the journal cannot be written; nothing was taken.
        """
        batch = _Batch(self._last_place)
        steps += sum(_is_new_step(outbox[place]) for place in outbox.places())
        for submission in self._run.submissions.untaken():
            operation = submission.request
            if self._adopted(submission) or self._void(batch, submission):
                continue
            if isinstance(operation, Awaited):
                break
            gradients = remaining_gradients(self._run.left_behind, operation)
            if gradients or isinstance(operation, Broken):
                broken = (submission, operation.error) if isinstance(operation, Broken) else None
                batch.stop = Stop(gradients, broken)
                break
            self._put(batch, outbox, operation, submission)
            if operation.kind is Kind.OPTIM_STEP:
                steps += 1
                if self._is_checkpoint_due(steps):
                    self._put(batch, outbox, self.checkpoint(outbox, steps), None)
        self._commit(batch, outbox)
        return batch.stop

    def place_broken(self, submission: Submission[Request]) -> OperationRecord:
        """A place for a custom loss that will have no second request, to be written with how it ended."""
        self._last_place += 1
        return self._record(self._last_place, submission)

    def take_checkpoint(self, outbox: Outbox, steps: int) -> None:
        """Queue a checkpoint of the runtime's own."""
        batch = _Batch(self._last_place)
        self._put(batch, outbox, self.checkpoint(outbox, steps), None)
        self._commit(batch, outbox)

    def _is_checkpoint_due(self, steps: int) -> bool:
        """Whether the optimizer step of this number is to be followed by a checkpoint."""
        policy = self._published.policy
        if policy.checkpoint_every_steps == 0:
            return False
        age_s = self._now() - (self._run.checkpointed_at or 0.0)
        return (
            steps % policy.checkpoint_every_steps == 0
            or age_s >= policy.checkpoint_every_s
            or self._journal_bytes > policy.max_journal_bytes
        )

    def checkpoint(self, outbox: Outbox, steps: int) -> TrainingOperation:
        """A save of training state under a name that no other save has."""
        self._run.checkpointed_at = self._now()
        run = "".join(letter if letter.isalnum() else "-" for letter in self._run.name)
        name = f"auto-{run}-{steps:06d}-g{outbox.model.generation}-p{self._last_place + 1}"
        ttl_s = self._published.policy.checkpoint_ttl_s
        return TrainingOperation.save(Kind.SAVE_WEIGHTS, SaveContent(name=name, ttl_seconds=ttl_s))

    def renumbered(self, part: PartRecord) -> PartRecord:
        """The request for a sampler; an unnamed one gets a number in the session it is made in."""
        return msgspec.structs.replace(part, content=self._numbered(part.content))

    def _put(
        self,
        batch: _Batch,
        outbox: Outbox,
        operation: TrainingOperation,
        submission: Submission[Request] | None,
    ) -> None:
        batch.place += 1
        record = self._record(batch.place, submission, operation)
        contents = list(operation.contents)
        if operation.kind is Kind.SAVE_WEIGHTS:
            batch.others.extend(self._overwritten(operation))
        if operation.kind is Kind.SAVE_FOR_SAMPLER:
            contents = [self._numbered(content) for content in contents]
        sends = outbox.number(batch.place, len(contents), batch.requests)
        batch.pending.append(Pending(record, contents, [], sends))
        batch.requests += len(contents)
        if submission is not None:
            batch.submissions.append(submission)

    def _record(
        self,
        place: int,
        submission: Submission[Request] | None,
        operation: TrainingOperation | None = None,
    ) -> OperationRecord:
        """Of an operation; of a gradient that comes to nothing where there is none."""
        metrics = None if operation is None else operation.metrics
        # Nobody but a later process asks for its digest.
        is_asked_for = operation is not None and self._published.directory is not None
        return OperationRecord(
            run=self._run.key,
            place=place,
            kind=Kind.FORWARD_BACKWARD if operation is None else operation.kind,
            digest=operation.digest if operation is not None and is_asked_for else "",
            ticket=None if submission is None else submission.ticket,
            summary=None if metrics is None else json_body(metrics),
        )

    def _commit(self, batch: _Batch, outbox: Outbox) -> None:
        records = batch.others
        for pending in batch.pending:
            record = pending.record
            records.append(record)
            records.extend(
                PartRecord(run=record.run, place=record.place, part=part, content=content)
                for part, content in enumerate(pending.contents)
            )
            records.extend(pending.sends)
        if records:
            self._journal_bytes = self._journal.call(Append(tuple(records)))
        self._last_place = batch.place
        for submission in batch.submissions:
            self._run.submissions.take(submission.ticket)
        for pending in batch.pending:
            outbox.put(pending)
        for record, error in batch.void:  # not sooner: the step would seem to go on
            if record.state == State.VOID:
                self._run.note_step_void()
            self._run.submissions.fail(record.ticket, error)

    def _overwritten(self, operation: TrainingOperation) -> list[CheckpointRecord]:
        """Checkpoints that hold another state from here on, marked so that no recovery begins in them."""
        if not msgspec.json.decode(operation.contents[0], type=SaveContent).overwrite:
            return []
        known: list[CheckpointRecord] = self._journal.call(LoadCheckpoints(self._run.key))
        return [
            msgspec.structs.replace(one, usable=0)
            for one in known
            if one.usable and one.path.endswith(f"/{operation.name}")
        ]

    def _numbered(self, content: bytes) -> bytes:
        save = msgspec.json.decode(content, type=SaveContent)
        if save.name is not None:
            return content
        assert self._published.session_id is not None  # noqa: S101 - the model lives in it
        number: int = self._journal.call(AllocateSampler(self._published.session_id))
        return json_body(msgspec.structs.replace(save, sampling_session_seq_id=number))

    def _adopted(self, submission: Submission[Request]) -> bool:
        """Whether a dead process had it done: then its recorded result is the result."""
        operation = submission.request
        if not isinstance(operation, TrainingOperation):
            return False
        record = adopt(self._run.left_behind, operation)
        if record is None:
            return False
        image = load_run(self._run.key, self._journal)
        for known in image.operations:
            if known.place == record.place and known.state == State.DONE:
                value = recorded_result(known, results_of(image)[known.place])
                self._run.submissions.settle(submission.ticket, value)
                return True
            if known.place == record.place and known.state == State.EXPIRED:
                self._run.submissions.fail(submission.ticket, recorded_error(known))
                return True
        return False

    def _void(self, batch: _Batch, submission: Submission[Request]) -> bool:
        """Whether it belongs to an optimizer step that failed already; with its optim_step that step is over."""
        operation = submission.request
        if self.open_void is None or not operation.kind.changes_the_model:
            return False
        error, state = self.open_void.error, self.open_void.state
        if isinstance(operation, TrainingOperation) and operation.kind is Kind.OPTIM_STEP:
            self.open_void = None
            batch.place += 1
            record = self._record(batch.place, submission, operation)
            why = step_void(error)
            record = msgspec.structs.replace(record, state=state, summary=error_summary(why))
            batch.others.append(record)
            batch.void.append((record, why))
        else:
            self._run.submissions.fail(submission.ticket, error)
        return True


def _is_new_step(pending: Pending) -> bool:
    """Whether it is an optimizer step that has no result yet, and not one that is repeated."""
    return pending.kind is Kind.OPTIM_STEP and pending.record.state not in EXECUTED
