"""Results of one run as they come: written down in order, then handed to whoever waits for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tinker_actors.actors.attempts import Attempts
from tinker_actors.actors.journal import Append, Compact
from tinker_actors.actors.outbox import Outbox, Pending
from tinker_actors.actors.published import JOURNAL, Published
from tinker_actors.actors.results import Conclusion, Progress, conclude, progress_of
from tinker_actors.actors.run import Run
from tinker_actors.actors.verification import Verification
from tinker_actors.errors import APIResponseValidationError
from tinker_actors.events import CheckpointSaved, ReplayDiverged, ResultLost, StepDone
from tinker_actors.journal.records import EXECUTED, Kind, ModelRecord, OperationRecord
from tinker_actors.journal.replay import has_stepped
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import Context

__all__ = ["Setback", "Settlement"]


@dataclass(frozen=True, slots=True)
class Setback:
    """A result that cannot be handed out."""

    pending: Pending
    error: APIResponseValidationError | None
    """Why it cannot be read; None: a restored model gave another one than before."""


class Settlement:
    """Settles the futures of one run, in its actor's thread.

    Args:
        run: whose.
        published: of the service client.
        context: of the actor this works for.
        image: the run as the journal has it.
        model: whose results these are.
        attempts: notes what is being read.
        progressed: called when a caller gets a result.
        saved: called when there is another checkpoint that recovery may begin in.
        saved_again: called when a save was repeated, with its record and its result, None where that was lost.
    """

    def __init__(
        self,
        run: Run,
        published: Published,
        context: Context,
        image: RunImage,
        model: ModelRecord,
        attempts: Attempts,
        *,
        progressed: Callable[[], object],
        saved: Callable[[], object],
        saved_again: Callable[[OperationRecord, Any], object],
    ) -> None:
        self._run = run
        self._published = published
        self._context = context
        self._journal = context.address(JOURNAL)
        self._progressed = progressed
        self._saved = saved
        self._saved_again = saved_again
        self._model = model
        self._attempts = attempts
        self._verification = Verification(
            published.policy,
            is_exact=published.settings.is_local,
            has_stepped=has_stepped(image, model),
        )
        self._progress = progress_of(image)
        self._saved_steps = max(
            (checkpoint.step for checkpoint in image.checkpoints if checkpoint.usable), default=0
        )

    @property
    def steps(self) -> int:
        """Optimizer steps that were taken."""
        return self._progress.steps

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint covers every step."""
        return self._progress.steps == self._saved_steps

    def settle(self, outbox: Outbox) -> Setback | None:
        """Record results and settle futures, in order, up to one that cannot be handed out.

        Raises:
            JournalError: the journal cannot be written.
        """
        while batch := _readable_together(outbox):
            parts = [(one.record.place, part) for one in batch for part in range(len(one.sends))]
            for part in parts:
                self._attempts.open(outbox, part)
            setback = self._settle(outbox, batch)
            for part in parts:
                self._attempts.close(part)
            if setback is not None:
                return setback
        return None

    def _settle(self, outbox: Outbox, batch: list[Pending]) -> Setback | None:
        progress = msgspec.structs.replace(self._progress, summaries=list(self._progress.summaries))
        conclusions: list[Conclusion] = []
        for pending in batch:
            try:
                if not self._is_verified(pending):
                    return Setback(pending, None)
                conclusions.append(conclude(pending, progress))
            except APIResponseValidationError as error:
                if conclusions:
                    break
                return Setback(pending, error)
        self._record(outbox, conclusions, progress)
        return None

    def _record(self, outbox: Outbox, conclusions: list[Conclusion], progress: Progress) -> None:
        records = [record for one in conclusions for record in one.records]
        lines = [line for one in conclusions for line in one.lines]
        records += outbox.forgive({one.pending.record.place for one in conclusions})
        self._journal.call(Append(tuple(records), durable=False, lines=tuple(lines)))
        self._progress = progress
        outbox.remove(one.pending.record.place for one in conclusions)
        for conclusion in conclusions:
            self._tell_concluded(conclusion)

    def _is_verified(self, pending: Pending) -> bool:
        """Whether a repeated operation gave the result it gave before, or policy takes another one, too."""
        difference = self._verification.difference(pending)
        if difference is None:
            return True
        is_accepted = self._published.policy.on_divergence == "accept"
        self._context.emit(
            ReplayDiverged(
                run=self._run.name,
                operation=pending.record.kind,
                place=pending.record.place,
                checkpoint=self._model.checkpoint,
                difference_nats=difference,
                limit_nats=self._verification.limit_nats,
                is_accepted=is_accepted,
            )
        )
        return is_accepted

    def _tell_concluded(self, conclusion: Conclusion) -> None:
        record = conclusion.pending.record
        if conclusion.step is not None:
            self._run.note_steps_done(conclusion.step)
            self._context.emit(StepDone(run=self._run.name, step=conclusion.step, metrics=conclusion.metrics))
        if conclusion.error is not None:
            self._context.emit(
                ResultLost(run=self._run.name, operation=record.kind, reason=str(conclusion.error))
            )
        if record.state not in EXECUTED:
            self._progressed()
            if conclusion.error is None:
                self._run.submissions.settle(record.ticket, conclusion.value)
            else:
                self._run.submissions.fail(record.ticket, conclusion.error)
        elif conclusion.pending.kind is Kind.SAVE_FOR_SAMPLER:
            self._saved_again(record, conclusion.value)
        saved = conclusion.checkpoint
        if saved is not None:
            if saved.usable:
                self._saved_steps = saved.step
                self._journal.tell(Compact(self._run.key))
                self._saved()
            self._context.emit(
                CheckpointSaved(
                    run=self._run.name, step=saved.step, path=saved.path, automatic=bool(saved.automatic)
                )
            )


def _readable_together(outbox: Outbox) -> list[Pending]:
    """Operations whose results are read and written down at once; one that brought us down before is read alone."""
    batch: list[Pending] = []
    for pending in outbox.finished():
        if batch and pending.record.crashes:
            break
        batch.append(pending)
        # A crash behind a checkpoint could leave futures open that the next image does not reach back to.
        if pending.record.crashes or pending.kind is Kind.SAVE_WEIGHTS:
            break
    return batch
