"""A training run's actor: it sends what callers submit, in their order, and settles their futures.

Starting is always the same, after a crash of the actor, of the process or of the service: open the journal, get the
model (`recovery`), send what has no result, go on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tinker_actors.actors.attempts import Attempts, crashed
from tinker_actors.actors.custody import Custody, PollDue, RenewDue
from tinker_actors.actors.custom import dropped_losses
from tinker_actors.actors.exchange import Exchange, Message
from tinker_actors.actors.failing import Failing, Halt, Next, Restore
from tinker_actors.actors.failures import open_void, resume_after
from tinker_actors.actors.intake import Intake
from tinker_actors.actors.journal import Append
from tinker_actors.actors.opening import load_run, open_run, settle_recorded
from tinker_actors.actors.outbox import Outbox, Pending
from tinker_actors.actors.published import HEARTBEAT, JOURNAL, TRANSPORT, Published
from tinker_actors.actors.recovery import Attached, Recovery, RestoreDue, TurnCame
from tinker_actors.actors.resaving import Resaving
from tinker_actors.actors.run import Run
from tinker_actors.actors.session import AwaitSession, SessionFailed, SessionReady
from tinker_actors.actors.settlement import Settlement
from tinker_actors.actors.status import Hold
from tinker_actors.actors.transport import Accepted, Answered, Cancel, Failed
from tinker_actors.actors.verification import shows_optimizer
from tinker_actors.errors import (
    ConfigError,
    JournalError,
    RunHaltedError,
    TinkerActorsError,
)
from tinker_actors.events import (
    CustomLossDropped,
    GradientDropped,
    JournalParked,
    LineageStarted,
    OptimizerUnverified,
    RunHalted,
)
from tinker_actors.journal import replay
from tinker_actors.journal.records import EXECUTED, Kind, ModelRecord, OperationRecord, Record, State
from tinker_actors.journal.store import RunImage
from tinker_actors.supervision import ExitReason, Reply, Shutdown, SupervisedActor
from tinker_actors.supervision.callbacks import run_callback
from tinker_actors.types import GetInfoResponse

__all__ = ["Drain", "TrainingActor", "Woken"]

JOURNAL_RETRY_S = 1.0
"""Pause before a journal that cannot be written is tried again."""


class Woken:
    """There is something to take."""


class _Begin:
    """Open the journal, and go on from there."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what was submitted, save what no checkpoint covers; answered with whether all is safe."""


class TrainingActor(SupervisedActor):
    """Serves one run; what it must not lose is in the journal or in the run's submissions."""

    _intake: Intake
    _exchange: Exchange
    _recovery: Recovery
    _failing: Failing
    _settlement: Settlement
    _info: GetInfoResponse

    def __init__(self, run: Run, published: Published) -> None:
        super().__init__()
        self._run = run
        self._published = published
        self._outbox: Outbox | None = None
        """None while there is no model to send to."""
        self._drained: Reply | None = None
        self._has_tried_to_save = False
        self._is_parked = False
        """Whether the journal is to be opened again after a pause."""

    def on_start(self) -> None:
        self._journal = self.context.address(JOURNAL)
        self._transport = self.context.address(TRANSPORT)
        self._attempts = Attempts(self._run.name, self._published.store.marks, self.context)
        self._custody = Custody(
            self._run,
            self._published.policy,
            self.context,
            corrupted=lambda: self._restore("the service says that the run is corrupted"),
        )
        self.context.me.tell(_Begin())  # a start that fails would not be repeated

    def _hold(self, reason: str, behind: str = "") -> None:
        self._run.hold = Hold(reason, self.context.clock.now(), behind)

    def _start_over(self) -> None:
        is_crash, self._is_parked = not self._is_parked, False
        if self._run.ended is not None:
            return
        if self._run.ready.done():
            why = "its actor was restarted" if is_crash else "its journal could not be written"
            self._run.recovering.begin(why, self._run.submissions.spans)
        self._hold("its journal")
        self._recovery = Recovery(
            self._run,
            self._published,
            self.context,
            attached=self._serve_model,
            stuck=self._halt,
            refused=self._close,
        )
        try:
            image = open_run(self._run, self._journal)
        except ConfigError as error:
            self._close(error)
            return
        self._intake = Intake(
            self._run, self._published, self._journal, image.last_place, self.context.clock.now
        )
        self._resaving = Resaving(self._run)
        self._failing = Failing(self._run, self._published, self.context, self._intake, self._resaving)
        self._intake.open_void = open_void(image, self._run.submissions)
        self._custody.open(image.checkpoints)
        self._tell_lineage(image)
        self._tell_dropped(image)
        left_open = self._attempts.close_all()
        if is_crash and (blamed := crashed(image, left_open)):
            self._journal.call(Append(tuple(blamed), durable=False))
        settle_recorded(self._run, image)
        address = self.context.address(self.context.path)
        self._run.submissions.bind(lambda: address.tell_if_there(Woken()))
        self._run.submissions.restart(
            known={one.ticket for one in image.operations if one.ticket is not None}
        )
        self._hold("the session", HEARTBEAT)
        self.context.address(HEARTBEAT).tell(AwaitSession(self.context.me))

    def _tell_lineage(self, image: RunImage) -> None:
        run = self._run
        if run.key != run.name and not image.models and run.config.from_state is not None:
            self.context.emit(LineageStarted(run=run.name, lineage=run.key, from_state=run.config.from_state))

    def _tell_dropped(self, image: RunImage) -> None:
        """Say which custom losses of a dead process it had not computed; nothing behind them was sent."""
        dropped = dropped_losses(image.operations, self._run.submissions.is_own)
        if dropped:
            self._journal.call(Append(tuple(dropped)))
            self.context.emit(CustomLossDropped(run=self._run.name, losses=len(dropped)))

    def on_exit(self, reason: ExitReason) -> None:
        if isinstance(reason, Shutdown) and hasattr(self, "_attempts"):
            self._attempts.close_all()  # what is given up in order is no crash
        if hasattr(self, "_recovery"):
            self._recovery.end_turn()

    def on_receive(self, message: Any) -> Any:
        try:
            return self._act_on(message)
        except JournalError as error:
            self._park(error)
            return None

    def _act_on(self, message: Any) -> Any:
        match message:
            case _Begin():
                self._start_over()
            case Drain():
                self._drained = self._drained or Reply()
                self._go_on()
                return self._drained
            case PollDue() | RenewDue():
                self._custody.receive(message)
            case _ if self._is_parked:
                return None
            case Woken():
                self._go_on()
            case SessionReady(session_id):
                self._hold("its model")
                self._recovery.begin(session_id)
            case SessionFailed(error):
                self._close(error)
            case RestoreDue() | TurnCame():
                self._recovery.receive(message)
            case Accepted() | Answered() | Failed():
                self._receive(message)
        return None

    def _receive(self, message: Message) -> None:
        if self._outbox is not None and self._exchange.concerns(message):
            self._follow(self._exchange.receive(message))
        elif isinstance(message, Answered | Failed):
            _ = self._recovery.receive(message) or self._custody.receive(message)

    # Starting ------------------------------------------------------------------------------------

    def _note(self, image: RunImage, model: ModelRecord) -> None:
        self._settlement = Settlement(
            self._run,
            self._published,
            self.context,
            image,
            model,
            self._attempts,
            progressed=self._recovery.note_progress,
            saved=self._custody.retire,
            saved_again=lambda save, value: self._resaving.note_saved(save, value, model),
        )

    def _serve_model(self, attached: Attached) -> None:
        """The run has a model: send it what it lacks, then what is new."""
        image = load_run(self._run.key, self._journal)
        self._note(image, attached.model)
        parallel = self._published.config.parallel_fwdbwd_chunks and self._published.capabilities.has_flags
        outbox = Outbox(attached.model, replay.next_seq_id(image.sends), parallel=parallel)
        parts, results = replay.parts_of(image), replay.results_of(image)
        sent = {(send.place, send.part): send for send in image.sends}
        fresh: list[Record] = []
        self._run.session_id = attached.model.session_id
        again = self._resaving.places(image, attached.model)
        lacking = replay.outstanding(image, attached.model, again)
        for operation in lacking:
            requests = parts[operation.place]
            sends = [sent[one.place, one.part] for one in requests if (one.place, one.part) in sent]
            if len(sends) < len(requests):
                sends = outbox.number(operation.place, len(requests))
                if operation.kind == Kind.SAVE_FOR_SAMPLER:
                    requests = [self._intake.renumbered(one) for one in requests]
                    fresh.extend(requests)
                fresh.extend(sends)
            contents = [one.content for one in requests]
            recorded = [msgspec.structs.replace(one, body=None) for one in results.get(operation.place, [])]
            outbox.put(Pending(operation, contents, recorded, sends))
        if fresh:
            self._journal.call(Append(tuple(fresh)))
        self._outbox, self._info, self._run.hold = outbox, attached.info, None
        self._exchange = Exchange(
            self._run.key, self.context, outbox, self._attempts, self._failing, self._run.span_of
        )
        self.context.emit(attached.event(self._run.name, len(lacking)))
        self._run.recovering.note_model(
            attached.facts(), replayed=sum(one.state in EXECUTED for one in lacking)
        )
        self._tell_attached(attached, lacking)
        self._custody.begin(outbox.model_id)
        if self._turn(self._failing.leave_out(outbox)):
            return
        if not image.operations and not image.checkpoints:
            self._save_the_beginning(outbox)
        self._go_on()

    def _save_the_beginning(self, outbox: Outbox) -> None:
        """A service that loses a fresh model makes no equal one: begin with a checkpoint. The embedded one does."""
        is_made_again = self._published.settings.is_local or self._run.config.from_state is not None
        if not is_made_again and self._published.policy.checkpoint_every_steps:
            self._intake.take_checkpoint(outbox, 0)

    def _tell_attached(self, attached: Attached, sent: list[OperationRecord]) -> None:
        checkpoint = attached.model.checkpoint
        if attached.restored_because is not None and checkpoint is not None and not shows_optimizer(sent):
            self.context.emit(
                OptimizerUnverified(
                    run=self._run.name,
                    checkpoint=checkpoint,
                    are_weights_verified=any(one.state == State.DONE for one in sent),
                )
            )
        callback = self._published.policy.on_recovery
        if callback is not None and attached.restored_because is not None:
            old, new = attached.before or "", attached.model.model_id or ""
            self._call_back(lambda: callback(old, new, attached.model.checkpoint))

    def _call_back(self, callback: Callable[[], object]) -> None:
        """The caller's own code runs in no actor."""
        self._published.settler.run(lambda: run_callback(callback, "recovery.callback_failed"))

    # Sending -------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Do whatever can be done now: settle, take, post, finish starting, finish draining."""
        if self._run.ended is not None and self._drained is not None:
            self._drained.set(False)
        if self._outbox is None:
            return
        if self._settle(self._outbox):
            self._take(self._outbox)
        if self._outbox is not None:
            self._exchange.post()
            self._note_ready(self._outbox)

    def _park(self, error: JournalError) -> None:
        """The journal fails: forget what is not in it, and open it again after a pause."""
        if not self._run.ready.done():
            self._close(error)
            return
        self._outbox, self._is_parked = None, True
        self._custody.end()
        self._hold(f"a journal that can be written ({error})")
        self._transport.tell(Cancel(self.context.path))
        self.context.emit(JournalParked(run=self._run.name, reason=str(error), retry_in_s=JOURNAL_RETRY_S))
        self.context.send_after(JOURNAL_RETRY_S, _Begin())

    def _take(self, outbox: Outbox) -> None:
        stop = self._intake.take(outbox, self._settlement.steps)
        if stop.gradients_to_drop:
            self._drop(stop.gradients_to_drop)
        elif stop.broken is not None:
            submission, error = stop.broken
            self._follow(self._failing.void(outbox, self._intake.place_broken(submission), error))
        elif self._drained is not None:
            self._finish_draining(outbox)

    def _drop(self, gradients: list[OperationRecord]) -> None:
        """A dead process left gradients that the program does not ask for again: go back to before them."""
        dropped = [msgspec.structs.replace(one, state=State.DROPPED) for one in gradients]
        self._journal.call(Append(tuple(dropped)))
        self._run.left_behind.clear()
        self.context.emit(GradientDropped(run=self._run.name, operations=len(dropped)))
        self._restore("gradients of a dead process had to be undone", counts=False)

    def _note_ready(self, outbox: Outbox) -> None:
        """The client may be used once all that earlier processes committed to has ended."""
        if self._run.ready.done():
            return
        if all(self._run.submissions.is_own(outbox[place].record.ticket) for place in outbox.places()):
            self._run.note_ready(self._info)

    def _finish_draining(self, outbox: Outbox) -> None:
        if outbox or not self._run.submissions.is_idle() or self._drained is None:
            return
        if self._published.directory is None or self._settlement.is_saved:
            self._drained.set(True)
        elif self._has_tried_to_save:
            self._drained.set(False)
        else:
            self._has_tried_to_save = True
            self._intake.take_checkpoint(outbox, self._settlement.steps)

    # Settling ------------------------------------------------------------------------------------

    def _settle(self, outbox: Outbox) -> bool:
        """Hand out the results that are there; False when the run takes another turn."""
        setback = self._settlement.settle(outbox)
        if setback is None:
            if self._run.recovering.is_replaying and not outbox.is_replaying:
                self._run.recovering.end()
            return True
        if setback.error is None:
            self._distrust(outbox, setback.pending)
        else:
            self._follow(self._failing.fail(outbox, setback.pending, setback.error))
        return False

    def _distrust(self, outbox: Outbox, pending: Pending) -> None:
        """A restored model is not the one that was lost: what it began in is wrong, or the service is another."""
        reason = f"operation {pending.record.place} was repeated and gave another result"
        if outbox.model.checkpoint is None:
            self._halt(reason)
        else:
            self._recovery.mark(outbox.model.checkpoint, reason)
            self._restore(f"{reason} from checkpoint {outbox.model.checkpoint}", counts=False)

    # Failing -------------------------------------------------------------------------------------

    def _follow(self, verdict: Next) -> None:
        """Do what follows from a message or a failure; where nothing does, go on."""
        if not self._turn(verdict):
            self._go_on()

    def _turn(self, verdict: Next) -> bool:
        """Do what follows from a failure; whether that ends the present model's work."""
        match verdict:
            case Restore(reason, counts):
                self._restore(reason, counts=counts)
            case Halt(cause):
                self._halt(cause)
        return verdict is not None

    def _restore(self, reason: str, *, counts: bool = True) -> None:
        self._attempts.close_all()
        self._outbox = None
        self._run.recovering.begin(reason, self._run.submissions.spans)
        self._custody.end()
        self._hold(f"its model, brought back because {reason}", HEARTBEAT)
        self._recovery.restore(reason, counts=counts)

    def _halt(self, cause: TinkerActorsError | str) -> None:
        """Stand still, visibly; nothing is sent and nothing is rewound."""
        resume = resume_after(cause)
        error = RunHaltedError(
            f"run {self._run.name} is halted: {cause}; to resume, {resume}", run=self._run.name, resume=resume
        )
        error.__cause__ = cause if isinstance(cause, BaseException) else None
        self._close(error)
        self.context.emit(RunHalted(run=self._run.name, reason=str(cause)))
        callback = self._published.policy.on_failure
        if callback is not None:
            self._call_back(lambda: callback(self._run.name, error))

    def _close(self, error: TinkerActorsError) -> None:
        """Give the run up, for as long as this process lives."""
        self._run.recovering.end(error)
        if hasattr(self, "_recovery"):
            self._recovery.end_turn()
        self._custody.end()
        self._attempts.close_all()
        self._outbox = None
        self._transport.tell(Cancel(self.context.path))
        self._run.close(error)
        if self._drained is not None:
            self._drained.set(False)
