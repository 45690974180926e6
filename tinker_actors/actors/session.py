"""The session: opened when it is first needed, attached again when it lives, kept alive by beats."""

from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from tinker_actors.actors.journal import LatestSession, NoteSession
from tinker_actors.actors.published import JOURNAL, TRANSPORT, Published
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.api.sessions import create_session, finish_session, session_heartbeat
from tinker_actors.errors import (
    APIResponseValidationError,
    FutureExpiredError,
    NotDeliveredError,
    NotFoundError,
    OutcomeUnknownError,
    TinkerActorsError,
)
from tinker_actors.events import HeartbeatMissed, SessionOpened, SessionReattached
from tinker_actors.journal.records import SessionRecord
from tinker_actors.supervision import Address, Reply, SupervisedActor
from tinker_actors.wire.calls import Call
from tinker_actors.wire.retry import PATIENT

__all__ = [
    "AwaitSession",
    "FinishSession",
    "SessionActor",
    "SessionFailed",
    "SessionLostError",
    "SessionReady",
]

BEAT_S = 10.0
"""Seconds from one beat to the next, as the official SDK keeps it."""


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
    pass


class SessionActor(SupervisedActor):
    """Owns the session.

    A session that the service lost ends this actor; its supervisor then restarts training and sampling, too, and
    they find another session.
    """

    def __init__(self, published: Published) -> None:
        super().__init__()
        self._published = published
        self._session_id: str | None = None
        self._is_opening = False
        self._waiting: list[Address] = []
        self._finished: Reply | None = None
        self._last_beat = 0.0
        self._calls: dict[str, Call[Any]] = {}

    def on_start(self) -> None:
        self._journal = self.context.address(JOURNAL)
        self._transport = self.context.address(TRANSPORT)
        self._published.session_id = None

    def on_receive(self, message: Any) -> Any:
        match message:
            case AwaitSession(reply_to, is_doubted):
                self._await(reply_to, is_doubted=is_doubted)
            case _Beat():
                self._beat()
            case FinishSession(status, detail):
                return self._finish(status, detail)
            case Answered(tag, answer):
                try:
                    self._note_answer(tag, answer)
                except APIResponseValidationError as error:
                    self._note_failure(tag, error)
            case Failed(tag, error):
                self._note_failure(tag, error)
        return None

    def _send(self, call: Call[Any], tag: str) -> None:
        self._calls[tag] = call
        self._transport.tell(Send(call, tag, self.context.me))

    # Opening -------------------------------------------------------------------------------------

    def _await(self, reply_to: Address, *, is_doubted: bool) -> None:
        if self._session_id is not None and not is_doubted:
            _tell(reply_to, SessionReady(self._session_id))
            return
        self._waiting.append(reply_to)
        if self._is_opening:
            return
        self._is_opening = True
        if self._session_id is not None:
            self._send(_patient(session_heartbeat(self._session_id)), "check")
            return
        latest: SessionRecord | None = self._journal.call(LatestSession())
        if latest is not None and latest.state == "open":
            self._candidate = latest.session_id
            beat = session_heartbeat(latest.session_id)
            self._send(_patient(beat), "attach")
        else:
            self._open()

    def _open(self) -> None:
        published = self._published
        call = create_session(
            user_metadata=published.user_metadata,
            project_id=published.settings.project_id,
            display_name=published.display_name,
            tags=published.settings.tags,
        )
        self._send(call, "open")

    def _note_answer(self, tag: str, answer: Any) -> None:
        match tag:
            case "open":
                session_id = self._calls["open"].read(answer).session_id
                self._journal.call(NoteSession(session_id))
                self.context.emit(SessionOpened(session_id=session_id))
                self._hold(session_id)
            case "attach":
                self.context.emit(SessionReattached(session_id=self._candidate))
                self._hold(self._candidate)
            case "check" if self._session_id is not None:
                self._announce(self._session_id)
            case "beat":
                self._last_beat = self.context.clock.now()
            case "finish":
                self._note_finished()

    def _hold(self, session_id: str) -> None:
        self._session_id = self._published.session_id = session_id
        self.context.send_after(BEAT_S, _Beat())
        self._announce(session_id)

    def _announce(self, session_id: str) -> None:
        self._is_opening = False
        self._last_beat = self.context.clock.now()
        waiting, self._waiting = self._waiting, []
        for address in waiting:
            _tell(address, SessionReady(session_id))

    # Beating -------------------------------------------------------------------------------------

    def _beat(self) -> None:
        if self._session_id is not None and self._finished is None:
            self._send(session_heartbeat(self._session_id), "beat")
            self.context.send_after(BEAT_S, _Beat())

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
                    _tell(address, SessionFailed(error))
            case "beat" if self._session_id is not None and self._finished is None:
                self._note_missed_beat(self._session_id, error, is_gone=is_gone)
            case "finish":  # older servers have no such endpoint; the session then ends for want of beats
                self._note_finished()

    def _note_missed_beat(self, session_id: str, error: TinkerActorsError, *, is_gone: bool) -> None:
        if is_gone:
            self._lose(session_id, error)
        since_s = self.context.clock.now() - self._last_beat
        self.context.emit(HeartbeatMissed(session_id=session_id, reason=str(error), since_s=since_s))

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


def _tell(address: Address, message: Any) -> None:
    try:
        address.tell(message)
    except NotDeliveredError:
        return  # whoever asked is gone
