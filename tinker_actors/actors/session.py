"""The session: opened when it is first needed, attached again when it lives, kept alive by beats."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from tinker_actors.actors.journal import LatestSession, ModelsOf, NoteSession
from tinker_actors.actors.liveness import AT_RISK_S, BEAT_S, Health, Pulse, boot_time, health_at, next_due
from tinker_actors.actors.published import JOURNAL, TRANSPORT, Published
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.api.sessions import create_session, finish_session, session_heartbeat
from tinker_actors.api.training import get_info
from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    AuthenticationError,
    FutureExpiredError,
    InternalServerError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitError,
    TinkerActorsError,
)
from tinker_actors.events import (
    HeartbeatMissed,
    ServiceNotified,
    SessionHealthChanged,
    SessionOpened,
    SessionReattached,
    SessionUnauthorized,
)
from tinker_actors.journal.records import SessionRecord
from tinker_actors.supervision import Address, Reply, SupervisedActor
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.documents import SessionCreated
from tinker_actors.wire.retry import NEVER, PATIENT

__all__ = [
    "AwaitSession",
    "FinishSession",
    "SessionActor",
    "SessionFailed",
    "SessionLostError",
    "SessionReady",
]

AGAIN_S = 2.5
"""Pause before a beat that failed is repeated within its period."""


@dataclass(frozen=True, slots=True)
class AwaitSession:
    """Open the session if there is none, then tell `reply_to` `SessionReady` or `SessionFailed`."""

    reply_to: Address
    is_doubted: bool = False
    """Ask the service first whether the session is still there."""


@dataclass(frozen=True, slots=True)
class SessionReady:
    """There is a session."""

    session_id: str


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """No session can be opened."""

    error: TinkerActorsError


@dataclass(frozen=True, slots=True)
class FinishSession:
    """End the session, if there is one; answered once the service knows, or did not answer."""

    status: str
    detail: str | None = None
    """Why, for people."""


class SessionLostError(TinkerActorsError):
    """The service ended the session: everything that lives in it must be brought back in another one."""


class _Beat:
    """A beat is due."""


class _Again:
    """A beat that failed is due again, before the next one."""


class _Resume:
    """Take up the session that an earlier incarnation had."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """Tag of a beat, or of the question whether its good answer can be trusted."""

    at: float
    """On the clock that ages sessions."""
    is_probe: bool = False


class SessionActor(SupervisedActor):
    """Owns the session.

    A session that the service lost ends this actor; its supervisor then restarts training and sampling, too, and
    they find another session. A session that only lacks good beats is kept, however long: nothing but the
    service's own word, or a model of it that is gone, says that it is lost.

    Args:
        published: of the service client.
        elapsed: the clock that ages sessions; by default the tree's, or where that is real, one that also counts
            while the machine sleeps.
    """

    def __init__(self, published: Published, *, elapsed: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._published = published
        self._elapsed = elapsed
        self._session_id: str | None = None
        self._is_opening = False
        self._waiting: list[Address] = []
        self._finished: Reply | None = None
        self._calls: dict[str, Call[Any]] = {}
        self._due = 0.0
        self._good_at = 0.0
        self._health = Health.OK
        self._silent_until = 0.0
        """The service asked for no beat before that."""
        self._has_second_try = False
        self._is_unauthorized = False

    def on_start(self) -> None:
        self._journal = self.context.address(JOURNAL)
        self._transport = self.context.address(TRANSPORT)
        if self._published.pulse is not None:
            self._published.pulse = None
            self.context.me.tell(_Resume())

    def on_receive(self, message: Any) -> Any:
        match message:
            case AwaitSession(reply_to, is_doubted):
                self._await(reply_to, is_doubted=is_doubted)
            case _Beat():
                self._beat()
            case _Again():
                self._beat_again()
            case _Resume():
                self._resume()
            case FinishSession(status, detail):
                return self._finish(status, detail)
            case Answered(_Sent(at, is_probe), _):
                self._note_good_beat(at, is_proof=is_probe)
            case Failed(_Sent(at, is_probe), error):
                self._note_bad_beat(error, is_probe=is_probe)
            case Answered(tag, answer):
                self._note_answer(tag, answer)
            case Failed(tag, error):
                self._note_failure(tag, error)
        return None

    def _send(self, call: Call[Any], tag: str) -> None:
        self._calls[tag] = call
        self._transport.tell(Send(call, tag, self.context.me))

    # Opening -------------------------------------------------------------------------------------

    def _await(self, reply_to: Address, *, is_doubted: bool) -> None:
        if self._session_id is not None and not is_doubted:
            reply_to.tell_if_there(SessionReady(self._session_id))
            return
        self._waiting.append(reply_to)
        if self._is_opening:
            return
        self._is_opening = True
        if self._session_id is not None:
            self._send(_patient(session_heartbeat(self._session_id)), "check")
        elif not self._attach():
            self._open()

    def _resume(self) -> None:
        """An actor that crashed had a session, which needs its beats also when nobody asks for it just now."""
        if self._session_id is None and not self._is_opening:
            self._is_opening = self._attach()

    def _attach(self) -> bool:
        """Ask whether the latest session lives; False when the journal has none that may."""
        latest: SessionRecord | None = self._journal.call(LatestSession())
        if latest is None or latest.state != "open":
            return False
        self._candidate = latest.session_id
        self._send(_patient(session_heartbeat(latest.session_id)), "attach")
        return True

    def _open(self) -> None:
        published = self._published
        call = create_session(
            user_metadata=published.user_metadata,
            project_id=published.settings.project_id,
            display_name=published.display_name,
            tags=published.settings.tags,
        )
        self._send(call, "open")

    def _note_answer(self, tag: str, answer: Answer) -> None:
        match tag:
            case "open":
                self._note_opened(answer)
            case "attach":
                self.context.emit(SessionReattached(session_id=self._candidate))
                self._hold(self._candidate)
            case "check" if self._session_id is not None:
                self._announce(self._session_id)
            case "finish":
                self._note_finished()

    def _note_opened(self, answer: Answer) -> None:
        try:
            created: SessionCreated = self._calls["open"].read(answer)
        except APIResponseValidationError as error:
            self._note_failure("open", error)
            return
        session_id = created.session_id
        self._journal.call(NoteSession(session_id))
        self.context.emit(SessionOpened(session_id=session_id))
        for level, message in created.messages():
            self.context.emit(ServiceNotified(session_id=session_id, level=level, message=message))
        self._hold(session_id)

    def _hold(self, session_id: str) -> None:
        self._session_id = session_id
        self._due = self.context.clock.now() + BEAT_S
        self.context.send_after(BEAT_S, _Beat())
        self._announce(session_id)

    def _announce(self, session_id: str) -> None:
        """The service just said that it has the session."""
        self._is_opening = False
        self._trust(self._now())
        waiting, self._waiting = self._waiting, []
        for address in waiting:
            address.tell_if_there(SessionReady(session_id))

    # Beating -------------------------------------------------------------------------------------

    def _now(self) -> float:
        """On the clock that ages sessions."""
        if self._elapsed is not None:
            return self._elapsed()
        return boot_time() if self.context.clock.is_real else self.context.clock.now()

    def _beat(self) -> None:
        if self._session_id is None or self._finished is not None:
            return
        now = self.context.clock.now()
        self._look("no good beat")
        if now >= self._silent_until:
            self._send_beat(self._session_id)
        self._due = next_due(self._due, now)
        self.context.send_after(self._due - now, _Beat())

    def _beat_again(self) -> None:
        self._has_second_try = False
        if self._session_id is not None and self._finished is None:
            self._send_beat(self._session_id)

    def _send_beat(self, session_id: str) -> None:
        """Each beat is a request of its own: one that hangs holds up none of the later ones."""
        self._transport.tell(Send(session_heartbeat(session_id), _Sent(self._now()), self.context.me))

    def _note_good_beat(self, at: float, *, is_proof: bool) -> None:
        """A service may answer for a session whose models it dropped long ago: after a gap, ask for one of them."""
        if self._session_id is None or self._finished is not None:
            return
        if not is_proof and at - self._good_at > AT_RISK_S:
            models: list[str] = self._journal.call(ModelsOf(self._session_id))
            if models:
                probe = msgspec.structs.replace(get_info(models[-1]), retry=NEVER)
                self._transport.tell(Send(probe, _Sent(at, is_probe=True), self.context.me))
                return
        self._trust(at)

    def _trust(self, at: float) -> None:
        self._good_at = max(self._good_at, at)
        self._is_unauthorized = False
        self._look("")

    def _note_bad_beat(self, error: TinkerActorsError, *, is_probe: bool) -> None:
        session_id = self._session_id
        if session_id is None or self._finished is not None:
            return
        if isinstance(error, NotFoundError | FutureExpiredError):
            self._look(str(error), is_lost=True)
            self._lose(session_id, error)
        since_s = self._now() - self._good_at
        if not is_probe:
            self.context.emit(HeartbeatMissed(session_id=session_id, reason=str(error), since_s=since_s))
        match error:
            case AuthenticationError() | PermissionDeniedError():
                self._note_unauthorized(session_id, error)
            case APIConnectionError() | RateLimitError() | InternalServerError():
                self._try_again(error)
        self._look(str(error))

    def _note_unauthorized(self, session_id: str, error: APIStatusError) -> None:
        """The key is refused: another session would be, too. Tell it once; it may be accepted again."""
        if not self._is_unauthorized:
            self._is_unauthorized = True
            self.context.emit(SessionUnauthorized(session_id=session_id, reason=str(error)))

    def _try_again(self, error: APIConnectionError | APIStatusError) -> None:
        """Beat once more within the period, but not sooner than the service asks."""
        now = self.context.clock.now()
        wish_s = (error.retry_after_s or 0.0) if isinstance(error, APIStatusError) else 0.0
        delay_s = max(wish_s, AGAIN_S)
        self._silent_until = max(self._silent_until, now + wish_s)
        if not self._has_second_try and now + delay_s < self._due:
            self._has_second_try = True
            self.context.send_after(delay_s, _Again())

    def _look(self, reason: str, *, is_lost: bool = False) -> None:
        """Say how alive the session is, where that changed."""
        assert self._session_id is not None  # noqa: S101 - its beats are looked at
        now = self._now()
        before, self._health = self._health, Health.LOST if is_lost else health_at(now - self._good_at)
        good_at = self.context.clock.now() - (now - self._good_at)
        self._published.pulse = Pulse(self._session_id, self._health, good_at)
        if self._health is not before:
            self.context.emit(
                SessionHealthChanged(
                    session_id=self._session_id,
                    health=self._health,
                    was=before,
                    since_s=now - self._good_at,
                    reason=reason,
                )
            )

    def _note_failure(self, tag: str, error: TinkerActorsError) -> None:
        is_gone = isinstance(error, NotFoundError | FutureExpiredError)
        match tag:
            case "open" | "attach" | "check" | "finish" if isinstance(error, OutcomeUnknownError):
                self._send(self._calls[tag], tag)
            case "attach" if is_gone:
                self._journal.call(NoteSession(self._candidate, "lost"))
                self._open()
            case "check" if is_gone and self._session_id is not None:
                self._lose(self._session_id, error)
            case "open" | "attach" | "check":
                self._is_opening = False
                waiting, self._waiting = self._waiting, []
                for address in waiting:
                    address.tell_if_there(SessionFailed(error))
            case "finish":  # older servers have no such endpoint; the session then ends for want of beats
                self._note_finished()

    def _lose(self, session_id: str, error: TinkerActorsError) -> NoReturn:
        self._journal.call(NoteSession(session_id, "lost"))
        raise SessionLostError(f"the service ended session {session_id}: {error}")

    # Ending --------------------------------------------------------------------------------------

    def _finish(self, status: str, detail: str | None) -> Reply | None:
        if self._session_id is None or self._finished is not None:
            return self._finished
        self._finished = Reply()
        self._send(finish_session(self._session_id, status, detail), "finish")
        return self._finished

    def _note_finished(self) -> None:
        if self._session_id is not None and self._finished is not None:
            self._journal.call(NoteSession(self._session_id, "finished"))
            self._finished.set(None)


def _patient(call: Call[None]) -> Call[None]:
    """The same call, repeated like any other: used where no next beat would be the repetition."""
    return msgspec.structs.replace(call, retry=PATIENT)
