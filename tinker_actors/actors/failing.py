"""Operations that will have no result: what of them is written down, who is told, and what becomes of the model."""

from dataclasses import dataclass

import msgspec

from tinker_actors.actors.attempts import MOST, poisoned_error
from tinker_actors.actors.failures import OpenVoid, error_summary, step_void
from tinker_actors.actors.intake import Intake
from tinker_actors.actors.journal import Append
from tinker_actors.actors.opening import load_run
from tinker_actors.actors.outbox import Outbox, Pending
from tinker_actors.actors.published import JOURNAL, Published
from tinker_actors.actors.resaving import Resaving
from tinker_actors.actors.run import Run
from tinker_actors.errors import TinkerActorsError
from tinker_actors.events import BatchPoisoned, StepVoided
from tinker_actors.journal.records import EXECUTED, Kind, OperationRecord, SendRecord, State
from tinker_actors.journal.replay import step_of, steps_skipped
from tinker_actors.supervision import Context

__all__ = ["Failing", "Halt", "Next", "Restore"]


@dataclass(frozen=True, slots=True)
class Restore:
    """The model holds what does not count: another one is wanted."""

    reason: str
    counts: bool = False
    """Whether it is one of the restores without progress that the policy limits."""


@dataclass(frozen=True, slots=True)
class Halt:
    """The run cannot go on by itself."""

    cause: TinkerActorsError | str


Next = Restore | Halt | None
"""What follows from a failure; None: the run goes on."""


class Failing:
    """Ends operations of one run without a result, in its actor's thread.

    Args:
        run: whose.
        published: of the service client.
        context: of the actor this works for.
        intake: is told of a step that callers are in the middle of.
        resaving: is told of a save that was repeated for a sampler, and failed.
    """

    def __init__(
        self, run: Run, published: Published, context: Context, intake: Intake, resaving: Resaving
    ) -> None:
        self._run = run
        self._policy = published.policy
        self._context = context
        self._journal = context.address(JOURNAL)
        self._intake = intake
        self._resaving = resaving

    def fail(self, outbox: Outbox, pending: Pending, error: TinkerActorsError) -> Next:
        """An operation will have no result: its step is void, or it alone is."""
        record = pending.record
        if record.state in EXECUTED and not pending.kind.changes_the_model:
            self._end_repeated(outbox, pending)
            return None
        if record.state in EXECUTED:  # its result was given out: the step cannot be taken back
            return Halt(f"operation {record.place} was repeated, and failed this time: {error}")
        if pending.kind.changes_the_model:
            return self.void(outbox, record, error)
        self._end(record, error, outbox.remove([record.place]))
        return None

    def void(self, outbox: Outbox, failed: OperationRecord, error: TinkerActorsError) -> Next:
        """A part of an optimizer step failed: none of the step counts, and what ran of it is undone.

        Args:
            outbox: of the model.
            failed: the part; it need not be in the journal.
            error: why.
        """
        known = load_run(self._run.key, self._journal).operations
        is_placed = any(one.place == failed.place for one in known)
        step = step_of(known if is_placed else [*known, failed], failed.place)
        sent = [one for one in step if is_placed or one.place != failed.place]
        ran = [one for one in sent if one.place not in outbox or not outbox.is_untouched(one.place)]
        self._end_step(step, OpenVoid(error), outbox.remove(one.place for one in step))
        return Restore("a part of an optimizer step failed") if ran else None

    def leave_out(self, outbox: Outbox) -> Next:
        """Try an operation no more that brought us down too often, if there is one; None if there is none."""
        records = (outbox[place].record for place in outbox.places())
        record = next((one for one in records if one.crashes >= MOST), None)
        if record is None:
            return None
        error = poisoned_error(record)
        if record.state in EXECUTED:
            # It cannot be left out; the next start tries it again, in a program that may have been mended.
            self._journal.call(Append((msgspec.structs.replace(record, crashes=0),)))
            return Halt(error)
        image = load_run(self._run.key, self._journal)
        is_skipped = self._policy.on_poison == "skip" and steps_skipped(image) < self._policy.max_skipped
        if Kind(record.kind).changes_the_model:
            step = step_of(image.operations, record.place)
            self._end_step(step, OpenVoid(error, State.SKIPPED if is_skipped else State.VOID), [])
        else:
            self._end(record, error, [])
        self._context.emit(
            BatchPoisoned(
                run=self._run.name,
                operation=record.kind,
                place=record.place,
                attempts=record.crashes,
                is_skipped=is_skipped,
            )
        )
        # The service may have it, under an id that nobody else can have.
        return Restore("a batch that brought the program down is left out") if is_skipped else Halt(error)

    def _end_repeated(self, outbox: Outbox, pending: Pending) -> None:
        """A save that was repeated for a sampler failed: its result was given out, and stands."""
        freed = outbox.remove([pending.record.place])
        parts = {send.part for send in freed}
        ended = [msgspec.structs.replace(send, ended=1) for send in pending.sends if send.part not in parts]
        self._journal.call(Append((*ended, *freed)))
        self._resaving.note_failed(pending.record)

    def _end(self, record: OperationRecord, error: TinkerActorsError, freed: list[SendRecord]) -> None:
        failed = msgspec.structs.replace(record, state=State.FAILED, summary=error_summary(error))
        self._journal.call(Append((failed, *freed)))
        self._run.submissions.fail(record.ticket, error)

    def _end_step(self, step: list[OperationRecord], void: OpenVoid, freed: list[SendRecord]) -> None:
        """Write down that a step is not taken, and tell those who wait for it."""
        error, state = void.error, void.state
        ended = [msgspec.structs.replace(one, state=state, summary=error_summary(error)) for one in step]
        self._journal.call(Append((*ended, *freed)))
        if not any(one.kind == Kind.OPTIM_STEP for one in step):
            self._intake.open_void = void
        elif state is State.VOID:
            self._run.note_step_void()
        for one in step:
            self._run.submissions.fail(one.ticket, step_void(error) if one.kind == Kind.OPTIM_STEP else error)
        self._context.emit(StepVoided(run=self._run.name, reason=str(error)))
