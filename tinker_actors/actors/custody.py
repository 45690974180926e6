"""What is looked after beside the work itself: whether the service still trusts the run, and its checkpoints there."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tinker_actors.actors.journal import Append, LoadCheckpoints
from tinker_actors.actors.published import JOURNAL, TRANSPORT
from tinker_actors.actors.run import Run
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.api.checkpoints import delete_checkpoint, set_checkpoint_ttl
from tinker_actors.api.rest import get_training_run
from tinker_actors.config import RecoveryPolicy
from tinker_actors.errors import APIResponseValidationError, NotFoundError
from tinker_actors.journal.records import CheckpointRecord
from tinker_actors.journal.replay import superfluous
from tinker_actors.supervision import Context, Timer
from tinker_actors.wire.calls import Answer
from tinker_actors.wire.retry import BRIEF, NEVER

__all__ = ["Custody", "PollDue", "RenewDue"]


@dataclass(frozen=True, slots=True)
class PollDue:
    """It is time to ask the service for the run; also the tag of that request."""

    model_id: str


@dataclass(frozen=True, slots=True)
class RenewDue:
    """It is time to let our own checkpoints live longer."""


@dataclass(frozen=True, slots=True)
class _Renew:
    """Tag of a request to let a checkpoint live longer."""

    path: str


@dataclass(frozen=True, slots=True)
class _Retire:
    """Tag of a request to delete a checkpoint."""

    checkpoint: CheckpointRecord


class Custody:
    """Looks after one run on the service, in its actor's thread.

    Args:
        run: whose.
        policy: of recovery.
        context: of the actor this works for.
        corrupted: called when the service says that it lost the run's state.
    """

    def __init__(
        self, run: Run, policy: RecoveryPolicy, context: Context, corrupted: Callable[[], None]
    ) -> None:
        self._run = run
        self._policy = policy
        self._context = context
        self._corrupted = corrupted
        self._journal = context.address(JOURNAL)
        self._transport = context.address(TRANSPORT)
        self._model_id: str | None = None
        self._next_poll: Timer | None = None
        self._next_renewal: Timer | None = None
        self._known: list[CheckpointRecord] = []

    def open(self, checkpoints: list[CheckpointRecord]) -> None:
        """Let those of ours live on, whether or not there is a model: a run may wait for one for long."""
        self._known = checkpoints
        self._renew()

    def begin(self, model_id: str) -> None:
        """Look after this model from now on, and finish what a predecessor did not get to."""
        self._model_id = model_id
        self._poll_later(model_id)
        for checkpoint in self._known:
            if checkpoint.retired == 1:
                self._delete(checkpoint)

    def end(self) -> None:
        """There is no model for now, or for good."""
        self._model_id = None
        if self._next_poll is not None:
            self._next_poll.cancel()

    def retire(self) -> None:
        """Delete checkpoints of ours that newer ones make needless; nothing begins in them any more."""
        self._known = self._journal.call(LoadCheckpoints(self._run.key))
        leaving = [
            msgspec.structs.replace(one, usable=0, retired=1)
            for one in superfluous(self._known, self._policy.keep_checkpoints)
        ]
        if leaving:
            self._journal.call(Append(tuple(leaving)))
        gone = {one.path for one in leaving}
        self._known = [one for one in self._known if one.path not in gone]
        for checkpoint in leaving:
            self._delete(checkpoint)

    def receive(self, message: Any) -> bool:
        """Act on a message of this; False when it is none."""
        match message:
            case PollDue(model_id):
                if model_id == self._model_id:
                    self._poll(model_id)
            case Answered(PollDue(model_id), answer):
                self._note_health(model_id, answer)
            case Failed(PollDue(model_id), error):
                if not isinstance(error, NotFoundError):  # a service that keeps no such records
                    self._poll_later(model_id)
            case Answered(_Retire(checkpoint), _) | Failed(_Retire(checkpoint), NotFoundError()):
                self._journal.call(Append((msgspec.structs.replace(checkpoint, retired=2),), durable=False))
            case Failed(_Retire()):
                pass  # the next incarnation tries again
            case RenewDue():
                self._renew()
            case Answered(_Renew(), _) | Failed(_Renew(), _):
                pass  # there is another time before it ends
            case _:
                return False
        return True

    def _delete(self, checkpoint: CheckpointRecord) -> None:
        call = msgspec.structs.replace(delete_checkpoint(checkpoint.path), retry=BRIEF)
        self._send(call, _Retire(checkpoint))

    def _renew(self) -> None:
        """Let each checkpoint of ours live for another lifetime from now on; twice in each."""
        ttl_s = self._policy.checkpoint_ttl_s
        if ttl_s is None:
            return
        for one in self._known:
            if one.automatic and one.usable and not one.retired:
                call = msgspec.structs.replace(set_checkpoint_ttl(one.path, ttl_s), retry=BRIEF)
                self._send(call, _Renew(one.path))
        if self._next_renewal is not None:
            self._next_renewal.cancel()
        self._next_renewal = self._context.send_after(ttl_s / 2, RenewDue())

    def _poll_later(self, model_id: str) -> None:
        if model_id != self._model_id or self._policy.poll_interval_s == math.inf:
            return
        if self._next_poll is not None:
            self._next_poll.cancel()  # there is one, whoever asked for it
        self._next_poll = self._context.send_after(self._policy.poll_interval_s, PollDue(model_id))

    def _poll(self, model_id: str) -> None:
        self._send(msgspec.structs.replace(get_training_run(model_id, None), retry=NEVER), PollDue(model_id))

    def _send(self, call: Any, tag: Any) -> None:
        self._transport.tell(Send(call, tag, self._context.me, owner=f"{self._context.path}/custody"))

    def _note_health(self, model_id: str, answer: Answer) -> None:
        if model_id != self._model_id:
            return
        try:
            is_corrupted = get_training_run(model_id, None).read(answer).corrupted
        except APIResponseValidationError:
            is_corrupted = False
        if is_corrupted:
            self._corrupted()
        else:
            self._poll_later(model_id)
