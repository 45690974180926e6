"""The requests of one model: each is sent in its turn, and what comes back is acted on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tinker_actors.actors.attempts import Attempts
from tinker_actors.actors.failing import Failing, Halt, Next, Restore
from tinker_actors.actors.failures import Reaction, reaction_to
from tinker_actors.actors.journal import Append
from tinker_actors.actors.lookups import LookUp, Lookups
from tinker_actors.actors.outbox import Outbox, Part
from tinker_actors.actors.published import JOURNAL, TRANSPORT
from tinker_actors.actors.run import call_for, expectation_of
from tinker_actors.actors.tracing import Span
from tinker_actors.actors.transport import Accepted, Answered, Failed, Send
from tinker_actors.api.training import get_info
from tinker_actors.errors import (
    FutureExpiredError,
    NotFoundError,
    OutcomeUnknownError,
    RequestFailedError,
    TinkerActorsError,
)
from tinker_actors.supervision import Context
from tinker_actors.wire.calls import Answer

__all__ = ["Exchange", "Message"]

Message: TypeAlias = Accepted | Answered | Failed
"""What the network's actor tells of a request."""


@dataclass(frozen=True, slots=True)
class _Request:
    """Tag of a training request."""

    generation: int
    part: Part


@dataclass(frozen=True, slots=True)
class _Probe:
    """Tag of the question whether the model is there, after a request came to no result."""

    generation: int
    part: Part
    error: TinkerActorsError


class Exchange:
    """Sends what an outbox has, and notes there what comes of it, in its actor's thread.

    Args:
        run: its name in the journal.
        context: of the actor this works for.
        outbox: of the model.
        attempts: notes whose bytes are being handled.
        failing: ends operations that will have no result.
        span_of: gives what a request for the operation behind a ticket belongs to.
    """

    def __init__(
        self,
        run: str,
        context: Context,
        outbox: Outbox,
        attempts: Attempts,
        failing: Failing,
        span_of: Callable[[str | None], Span | None],
    ) -> None:
        self._context = context
        self._journal = context.address(JOURNAL)
        self._transport = context.address(TRANSPORT)
        self._outbox = outbox
        self._attempts = attempts
        self._failing = failing
        self._span_of = span_of
        self._lookups = Lookups(run, context)

    def post(self) -> None:
        """Send what may be sent before the service has accepted more.

        Raises:
            JournalError: the journal cannot be written; nothing was sent.
        """
        outbox = self._outbox
        parts: list[Part] = []
        while (part := outbox.post()) is not None:
            parts.append(part)
            self._attempts.open(outbox, part)
        for part in parts:
            place, number = part
            pending = outbox[place]
            content, seq_id = pending.contents[number], pending.sends[number].seq_id
            send = Send(
                call_for(pending.kind, outbox.model_id, seq_id, content),
                _Request(outbox.model.generation, part),
                self._context.me,
                owner=self._context.path,
                expected=expectation_of(pending.kind),
                sent=partial(self._attempts.close, part) if pending.kind.has_data else None,
                span=self._span_of(pending.record.ticket),
            )
            self._transport.tell(send)

    def concerns(self, message: Message) -> bool:
        """Whether a message is about a request of this model."""
        tag = message.tag
        is_ours = isinstance(tag, _Request | _Probe | LookUp)
        return is_ours and tag.generation == self._outbox.model.generation

    def receive(self, message: Message) -> Next:
        """Act on a message that concerns this; what follows for the run.

        Raises:
            JournalError: the journal cannot be written.
        """
        match message:
            case Accepted(_Request(_, part), _):
                return self._accept(part)
            case Answered(_Request(_, part), answer):
                self._note_answer(part, answer)
            case Failed(_Request(_, part), error, accepted) if part[0] in self._outbox:
                return self._react(part, error, accepted=accepted)
            case Answered(_Probe(_, part, error), _) if part[0] in self._outbox:
                return self._note_no_result(part, error)
            case Failed(_Probe() as probe, error):
                return self._note_no_model(probe, error)
            case Answered(LookUp() as asked, _) if asked.part[0] in self._outbox:
                self._adopt_save(asked)
            case Failed(LookUp() as asked, error) if asked.part[0] in self._outbox:
                return self._note_no_save(asked, error)
        return None

    def _accept(self, part: Part) -> Next:
        self._outbox.accepted(part)
        self._attempts.close(part)
        return self._fail_in_the_end(part[0])

    def _note_answer(self, part: Part, answer: Answer) -> None:
        place, number = part
        if place in self._outbox:
            self._outbox[place].answers[number] = answer

    # What is done about a failure -----------------------------------------------------------------

    def _react(self, part: Part, error: TinkerActorsError, *, accepted: bool) -> Next:
        outbox = self._outbox
        reaction = reaction_to(error, outbox, part, accepted=accepted)
        if reaction is Reaction.SEND_AGAIN:
            return self._send_again(part, accepted=accepted)
        self._attempts.close(part)  # of one that is sent again, whoever had it in hand crashed, which counts
        match reaction:
            case Reaction.SKIP_ID:
                self._journal.call(Append(tuple(outbox.skip_id(part))))
            case Reaction.PROBE:
                self._probe(_Probe(outbox.model.generation, part, error))
            case Reaction.RESTORE:
                return Restore(f"the service does not go on with it ({error})", counts=True)
            case Reaction.LOOK_UP if self._lookups.ask(outbox, part, error, is_refused=True):
                return None
            case Reaction.FAIL | Reaction.LOOK_UP:
                return self._refuse(part, error, accepted=accepted)
            case Reaction.CONTRADICTED:
                kind = outbox[part[0]].kind
                return Halt(f"the service has another request under the id of {kind}: {error}")
            case Reaction.HALT:
                return Halt(error)
        return None

    def _send_again(self, part: Part, *, accepted: bool) -> Next:
        """Whoever had the request in hand is gone."""
        if not accepted:
            self._attempts.note_crash(self._outbox, part)
        self._outbox.post_again(part)
        return self._failing.leave_out(self._outbox)

    def _refuse(self, part: Part, error: TinkerActorsError, *, accepted: bool) -> Next:
        if not accepted:
            self._outbox.refused(part)
        return self._note_failing(part, error)

    def _note_failing(self, part: Part, error: TinkerActorsError) -> Next:
        self._outbox.failing.setdefault(part[0], error)
        return self._fail_in_the_end(part[0])

    def _fail_in_the_end(self, place: int) -> Next:
        """Let an operation fail, if it does, once it is known which of its requests the service has."""
        outbox = self._outbox
        if place in outbox.failing and not outbox.is_posting(place):
            return self._failing.fail(outbox, outbox[place], outbox.failing.pop(place))
        return None

    def _probe(self, probe: _Probe) -> None:
        """No result of a request is a lost result, or a failure, only where the model is there."""
        call, place = get_info(self._outbox.model_id), probe.part[0]
        ticket = self._outbox[place].record.ticket if place in self._outbox else None
        me, path = self._context.me, self._context.path
        self._transport.tell(Send(call, probe, me, owner=path, span=self._span_of(ticket)))

    def _note_no_result(self, part: Part, error: TinkerActorsError) -> Next:
        """The model is there: a request that failed has failed, and of another the result is lost."""
        if isinstance(error, RequestFailedError):
            return self._note_failing(part, error)
        if not self._lookups.ask(self._outbox, part, error, is_refused=False):
            self._outbox.lose(part, error)
        return None

    def _note_no_model(self, probe: _Probe, error: TinkerActorsError) -> Next:
        match error:
            case OutcomeUnknownError():
                self._probe(probe)
                return None
            case NotFoundError() | FutureExpiredError():
                return Restore(f"the service lost the model ({error})", counts=True)
        return Halt(error)

    def _adopt_save(self, asked: LookUp) -> None:
        """It is there: whatever the service said, this operation saved it."""
        self._outbox.accepted(asked.part)
        self._note_answer(asked.part, asked.answer(self._outbox[asked.part[0]].kind))

    def _note_no_save(self, asked: LookUp, error: TinkerActorsError) -> Next:
        """It is not there, or nobody can say: what the service said stands."""
        if isinstance(error, OutcomeUnknownError):
            self._lookups.repeat(asked)
        elif asked.is_refused:
            return self._refuse(asked.part, asked.error, accepted=False)
        else:
            self._outbox.lose(asked.part, asked.error)
        return None
