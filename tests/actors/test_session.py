"""The session and its beats, on a virtual clock, with a network that answers what a test says."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from tinker_actors.actors.futures import Settler
from tinker_actors.actors.journal import AllocateModel, Append, JournalActor, LatestSession
from tinker_actors.actors.liveness import Health
from tinker_actors.actors.published import HEARTBEAT, JOURNAL, TRANSPORT, Published
from tinker_actors.actors.session import AwaitSession, FinishSession, SessionActor, SessionReady
from tinker_actors.actors.transport import Answered, Failed, Send
from tinker_actors.config import RecoveryPolicy, Settings
from tinker_actors.errors import APIConnectionError, APIStatusError, APITimeoutError, TinkerActorsError
from tinker_actors.events import HeartbeatMissed, ServiceNotified, SessionHealthChanged, SessionUnauthorized
from tinker_actors.journal.records import ModelRecord
from tinker_actors.journal.store import Store
from tinker_actors.supervision import (
    ActorTree,
    ChildSpec,
    ChildStarted,
    Kind,
    Strategy,
    SupervisedActor,
    Supervisor,
)
from tinker_actors.supervision.testing import VirtualClock, crash, expect
from tinker_actors.wire.calls import Answer

PERIOD_S = 10.0
WAIT_S = 10.0
OK = Answer(200, {"content-type": "application/json"}, b"{}")
INFO = Answer(200, {}, b'{"model_id": "m", "model_data": {}}')


class Network(SupervisedActor):
    """Stands in for the transport: passes on what it is to send."""

    def __init__(self, sent: "SimpleQueue[Send]") -> None:
        super().__init__()
        self._sent = sent

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Send):
            self._sent.put(message)


class Guest(SupervisedActor):
    """Lives in the session, as training does: asks for it at its start."""

    def __init__(self, told: "SimpleQueue[Any]") -> None:
        super().__init__()
        self._told = told

    def on_start(self) -> None:
        self.context.address(HEARTBEAT).tell(AwaitSession(self.context.me))

    def on_receive(self, message: Any) -> None:
        self._told.put(message)


class Stage:
    """A heart with what it needs: a journal in memory, a network in the test's hands, somebody who needs a session."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.slept_s = 0.0
        self.sent: SimpleQueue[Send] = SimpleQueue()
        self.told: SimpleQueue[Any] = SimpleQueue()
        self.settler = Settler()
        self.published = Published(
            settings=Settings.resolve(base_url="http://service", environment={"TINKER_API_KEY": "tml-key"}),
            policy=RecoveryPolicy(),
            store=Store(None),
            settler=self.settler,
            directory=None,
            server_directory=None,
            user_metadata={},
            display_name=None,
        )
        self.tree = ActorTree(ChildSpec("service", self._service, kind=Kind.SUPERVISOR), clock=self.clock)
        self._health: list[str] = []
        self.tree.events.subscribe(self._note)
        self.tree.start()

    def _note(self, event: object) -> None:
        if isinstance(event, SessionHealthChanged):
            self._health.append(event.health)
        elif isinstance(event, threading.Event):
            event.set()

    @property
    def health(self) -> list[str]:
        """What was told of it until now."""
        told = threading.Event()
        self.tree.events.publish(told)
        assert told.wait(WAIT_S)
        return list(self._health)

    def _service(self) -> Supervisor:
        heart = partial(SessionActor, self.published, elapsed=self.elapsed)
        guest = ChildSpec("guest", partial(Guest, self.told))
        session = partial(Supervisor, [ChildSpec("heartbeat", heart), guest], strategy=Strategy.REST_FOR_ONE)
        return Supervisor(
            [
                ChildSpec("journal", partial(JournalActor, self.published)),
                ChildSpec("transport", partial(Network, self.sent)),
                ChildSpec("session", session, kind=Kind.SUPERVISOR),
            ]
        )

    def elapsed(self) -> float:
        return self.clock.now() + self.slept_s

    def take(self, operation: str = "session_heartbeat") -> Send:
        """The next request, which must be this one."""
        send = self.sent.get(timeout=WAIT_S)
        assert send.call.operation == operation
        return send

    def answer(self, send: Send, answer: Answer = OK) -> None:
        send.reply_to.tell(Answered(send.tag, answer))
        self.settle()

    def fail(self, send: Send, error: TinkerActorsError) -> None:
        send.reply_to.tell(Failed(send.tag, error, accepted=False))
        self.settle()

    def settle(self) -> None:
        """Wait until the heart has handled what it was told, and the network what the heart told it."""
        for path in (HEARTBEAT, TRANSPORT):
            self.tree.address(path).call(object())

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def open(self) -> str:
        """Let the service give a session to whoever asked for one."""
        self.answer(self.take("create_session"), Answer(200, {}, b'{"session_id": "s1"}'))
        return self.ready()

    def ready(self) -> str:
        """What the guest is told."""
        told = self.told.get(timeout=WAIT_S)
        assert isinstance(told, SessionReady)
        return told.session_id

    def put_model(self) -> None:
        number = self.tree.address(JOURNAL).call(AllocateModel("s1"))
        model = ModelRecord(
            run="1", generation=1, session_id="s1", model_seq_id=number, base_place=0, model_id="m"
        )
        self.tree.address(JOURNAL).call(Append((model,)))

    def state(self) -> str:
        """Of the latest session in the journal."""
        return str(self.tree.address(JOURNAL).call(LatestSession()).state)

    def let_beats_fail(self, seconds: float, error: TinkerActorsError) -> None:
        """Let time go by in which no beat gets a good answer."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.advance(min(2.5, end - self.clock.now()))
            while not self.sent.empty():
                self.fail(self.take(), error)

    def next_beat(self) -> Send:
        """Let time go by until there is one."""
        while self.sent.empty():
            self.advance(2.5)
        return self.take()

    def is_quiet(self) -> bool:
        """Whether there is nothing to send."""
        self.settle()
        return self.sent.empty()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.tree.stop(5.0)
    stage.settler.close(timeout_s=5.0)
    stage.published.store.close()


def status(code: int, retry_after_s: float | None = None) -> APIStatusError:
    return APIStatusError.of(code, "no", retry_after_s)


def test_session_is_opened_when_it_is_first_needed_and_beats_once_a_period(stage: Stage) -> None:
    """HB-01."""
    assert stage.open() == "s1"
    due = []
    while stage.clock.now() < 3600.0:
        stage.advance(3.7)  # the heart is always a little late
        if not stage.sent.empty():
            due.append(stage.clock.now())
            stage.answer(stage.take())
    assert len(due) == 360
    assert all(PERIOD_S * n <= at < PERIOD_S * n + 3.7 for n, at in enumerate(due, start=1))
    assert stage.health == []


def test_what_the_service_says_to_who_opens_a_session_is_told(stage: Stage) -> None:
    body = b'{"session_id": "s1", "info_message": "", "warning_message": "old", "error_message": "Friday"}'
    with expect(stage.tree, ServiceNotified, count=2) as told:
        stage.answer(stage.take("create_session"), Answer(200, {}, body))
    assert [(one.level, one.message) for one in told.events] == [("warning", "old"), ("error", "Friday")]
    assert stage.ready() == "s1"


def test_beats_that_fell_out_are_not_made_up_for(stage: Stage) -> None:
    stage.open()
    stage.advance(95.0)
    stage.answer(stage.take())
    assert stage.is_quiet()
    stage.advance(5.0)
    stage.take()


def test_session_without_good_beats_is_late_then_at_risk_then_lost_and_none_of_it_ends_it(
    stage: Stage,
) -> None:
    """HB-02."""
    stage.open()
    stage.let_beats_fail(20.0, APIConnectionError("no answer"))
    assert stage.health == []
    stage.let_beats_fail(100.0, status(503))
    assert stage.health == ["late"]
    stage.let_beats_fail(100.0, APITimeoutError("no answer"))
    assert stage.health == ["late", "at_risk"]
    stage.let_beats_fail(3600.0, status(500))
    assert stage.health == ["late", "at_risk", "lost"]
    assert stage.state() == "open"
    stage.advance(PERIOD_S)
    stage.answer(stage.take())
    assert stage.health == ["late", "at_risk", "lost", "ok"]


def test_pulse_tells_the_age_of_the_last_good_beat(stage: Stage) -> None:
    stage.open()
    stage.advance(PERIOD_S)
    stage.answer(stage.take())
    stage.advance(PERIOD_S)
    pulse = stage.published.pulse
    assert pulse is not None
    assert (pulse.session_id, pulse.health, pulse.good_at) == ("s1", Health.OK, 10.0)


def test_good_answer_after_a_gap_is_believed_once_a_model_answers_too(stage: Stage) -> None:
    """HB-03."""
    stage.open()
    stage.put_model()
    stage.let_beats_fail(160.0, APIConnectionError("no answer"))
    stage.answer(stage.next_beat())
    assert stage.health == ["late", "at_risk"]
    stage.answer(stage.take("get_info"), INFO)
    assert stage.health == ["late", "at_risk", "ok"]


def test_good_answer_for_a_session_whose_model_is_gone_is_unmasked(stage: Stage) -> None:
    """HB-03, HB-10."""
    stage.open()
    stage.put_model()
    stage.let_beats_fail(160.0, APIConnectionError("no answer"))
    stage.answer(stage.next_beat())
    probe = stage.take("get_info")
    with expect(stage.tree, ChildStarted, path="service/session/guest", epoch=2):
        probe.reply_to.tell(Failed(probe.tag, status(404), accepted=False))
    assert stage.state() == "lost"
    stage.answer(stage.take("create_session"), Answer(200, {}, b'{"session_id": "s2"}'))
    assert stage.ready() == "s2"
    stage.advance(PERIOD_S)
    assert b"s2" in stage.take().call.body
    assert stage.is_quiet()


def test_question_to_a_model_that_gets_no_answer_is_asked_again_after_the_next_good_beat(
    stage: Stage,
) -> None:
    stage.open()
    stage.put_model()
    stage.let_beats_fail(160.0, APIConnectionError("no answer"))
    stage.answer(stage.next_beat())
    stage.fail(stage.take("get_info"), status(503))
    assert stage.health[-1] == "at_risk"
    stage.answer(stage.next_beat())
    stage.answer(stage.take("get_info"), INFO)
    assert stage.health[-1] == "ok"


def test_machine_that_slept_asks_a_model_before_it_trusts_the_session(stage: Stage) -> None:
    """HB-09."""
    stage.open()
    stage.put_model()
    stage.slept_s = 600.0
    stage.advance(PERIOD_S)
    assert stage.health == ["lost"]
    stage.answer(stage.take())
    stage.answer(stage.take("get_info"), INFO)
    assert stage.health == ["lost", "ok"]


@pytest.mark.parametrize("code", [404, 410])
def test_session_that_the_service_ended_is_replaced_with_all_that_lives_in_it(
    stage: Stage, code: int
) -> None:
    """HB-04, HB-10."""
    stage.open()
    stage.advance(PERIOD_S)
    beat = stage.take()
    with expect(stage.tree, ChildStarted, path="service/session/guest", epoch=2):
        beat.reply_to.tell(Failed(beat.tag, status(code), accepted=False))
    assert (stage.health, stage.state()) == (["lost"], "lost")
    stage.take("create_session")


@pytest.mark.parametrize("code", [401, 403])
def test_refused_key_is_told_once_and_restarts_nobody(stage: Stage, code: int) -> None:
    """HB-04."""
    stage.open()
    with (
        expect(stage.tree, SessionUnauthorized, session_id="s1") as told,
        expect(stage.tree, HeartbeatMissed, count=3),
    ):
        stage.let_beats_fail(30.0, status(code))
    assert len(told.events) == 1
    assert stage.state() == "open"
    stage.advance(PERIOD_S)
    stage.answer(stage.take())
    with expect(stage.tree, SessionUnauthorized):
        stage.let_beats_fail(PERIOD_S, status(code))


@pytest.mark.parametrize(
    "error", [status(429), status(500), status(503), APIConnectionError("no"), APITimeoutError("no")]
)
def test_beat_that_failed_is_repeated_once_within_its_period(stage: Stage, error: TinkerActorsError) -> None:
    """HB-04."""
    stage.open()
    stage.advance(PERIOD_S)
    stage.fail(stage.take(), error)
    stage.advance(2.5)
    stage.answer(stage.take())
    stage.advance(7.4)
    assert stage.is_quiet()
    stage.advance(0.1)
    stage.take()


def test_beat_is_repeated_when_the_service_says_and_not_sooner(stage: Stage) -> None:
    stage.open()
    stage.advance(PERIOD_S)
    stage.fail(stage.take(), status(429, retry_after_s=25.0))
    stage.advance(24.0)
    assert stage.is_quiet()
    stage.advance(6.0)
    stage.take()


def test_beat_that_hangs_delays_none_of_the_next(stage: Stage) -> None:
    """HB-05."""
    stage.open()
    hanging = []
    for _ in range(3):
        stage.advance(PERIOD_S)
        hanging.append(stage.take())
    stage.answer(hanging[2])
    stage.fail(hanging[0], APITimeoutError("no answer within 10 s"))
    assert stage.health == ["late", "ok"]


def test_answer_to_an_old_beat_makes_the_session_no_younger(stage: Stage) -> None:
    stage.open()
    stage.advance(PERIOD_S)
    old = stage.take()
    for _ in range(3):
        stage.advance(PERIOD_S)
        new = stage.take()
    stage.answer(new)
    stage.answer(old)
    assert stage.published.pulse is not None
    assert stage.published.pulse.good_at == 40.0


def test_heart_that_crashed_takes_its_session_up_although_nobody_asks(stage: Stage) -> None:
    stage.open()
    with expect(stage.tree, ChildStarted, path="service/session/guest", epoch=2):
        crash(stage.tree.address(HEARTBEAT))
    stage.answer(stage.take())
    assert stage.ready() == "s1"
    stage.advance(PERIOD_S)
    stage.answer(stage.take())
    assert stage.is_quiet()


def test_session_that_died_while_the_heart_was_down_is_replaced(stage: Stage) -> None:
    stage.open()
    with expect(stage.tree, ChildStarted, path="service/session/guest", epoch=2):
        crash(stage.tree.address(HEARTBEAT))
    stage.fail(stage.take(), status(404))
    stage.answer(stage.take("create_session"), Answer(200, {}, b'{"session_id": "s2"}'))
    assert stage.ready() == "s2"


@pytest.mark.parametrize("say", [Stage.answer, partial(Stage.fail, error=status(404))])
def test_session_ends_with_its_status_and_beats_no_more(
    stage: Stage, say: Callable[[Stage, Send], None]
) -> None:
    stage.open()
    stage.advance(PERIOD_S)
    beat = stage.take()
    finished = stage.tree.address(HEARTBEAT).ask(FinishSession("errored"))
    finish = stage.take("finish_session")
    assert b'"errored"' in finish.call.body
    stage.fail(beat, status(410))  # the end was sooner than the beat
    say(stage, finish)
    finished.result()
    assert stage.state() == "finished"
    stage.advance(PERIOD_S)
    assert stage.is_quiet()
