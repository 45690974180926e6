"""The network's actor, with a transport that a test answers for."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import WAIT_S

from tinker_actors.actors.futures import Settler
from tinker_actors.actors.published import Endpoint, Published
from tinker_actors.actors.transport import (
    Accepted,
    Answered,
    Cancel,
    EndpointChanged,
    Failed,
    Fetch,
    Send,
    TransportActor,
)
from tinker_actors.api.futures import json_result
from tinker_actors.config import RecoveryPolicy, Settings
from tinker_actors.errors import APIConnectionError, ConflictError, OutcomeUnknownError, TinkerActorsError
from tinker_actors.events import RequestRetried
from tinker_actors.journal.store import Store
from tinker_actors.supervision import ActorTree, ChildSpec, ChildStarted, Kind, SupervisedActor, Supervisor
from tinker_actors.supervision.testing import crash, expect
from tinker_actors.types import SaveWeightsResponse
from tinker_actors.wire.calls import Answer, Call, read_json
from tinker_actors.wire.documents import FutureHandle
from tinker_actors.wire.retry import PATIENT

JSON = {"content-type": "application/json"}
HANDLE = Answer(200, JSON, b'{"request_id": "7"}')
SAVED = Answer(200, JSON, b'{"path": "tinker://m/weights/n"}')
EXPECTED = json_result("SaveWeights", SaveWeightsResponse)
CALL: Call[FutureHandle] = Call(
    operation="save_weights", path="save_weights", retry=PATIENT, read=read_json(FutureHandle)
)

HERE = Endpoint("http://host")

Script = Callable[[Call[Any], str], Answer | None]


class Scripted:
    """A transport that asks a function for its answers; one that gives none hangs for ever."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.is_hanging = threading.Event()

    async def send(self, call: Call[Any], base_url: str) -> Answer:
        answer = self._script(call, base_url)
        if answer is not None:
            return answer
        self.is_hanging.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    async def close(self) -> None:
        pass


class Receiver(SupervisedActor):
    """Puts what it is told where the test finds it."""

    def __init__(self, received: "queue.Queue[object]") -> None:
        super().__init__()
        self._received = received

    def on_receive(self, message: Any) -> None:
        self._received.put(message)


class Bench:
    """A transport actor and somebody to answer to."""

    def __init__(self, script: Script, endpoint: Endpoint | None = HERE) -> None:
        settings = Settings.resolve(base_url="http://host", api_key="tml-x", environment={})
        self.store, self.settler = Store(None), Settler()
        self.published = Published(
            settings=settings,
            policy=RecoveryPolicy(),
            store=self.store,
            settler=self.settler,
            directory=None,
            server_directory=None,
            user_metadata={},
            display_name=None,
        )
        self.published.endpoint = endpoint
        self.transport = Scripted(script)
        self.received: queue.Queue[object] = queue.Queue()
        children = [
            ChildSpec("transport", lambda: TransportActor(self.published, lambda: self.transport)),
            ChildSpec("receiver", lambda: Receiver(self.received)),
        ]
        self.tree = ActorTree(ChildSpec("root", lambda: Supervisor(children), kind=Kind.SUPERVISOR), seed=1)
        self.tree.start()
        self.address = self.tree.address("root/transport")

    def send(self, tag: str, owner: str = "") -> None:
        self.address.tell(Send(CALL, tag, self.tree.address("root/receiver"), owner, EXPECTED))

    def next(self) -> object:
        return self.received.get(timeout=WAIT_S)

    def close(self) -> None:
        self.tree.stop(10)
        self.settler.close(10)
        self.store.close()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches, and ends them."""
    made: list[Bench] = []

    def make(*arguments: Any, **options: Any) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answers(*outcomes: Answer | TinkerActorsError | None) -> Script:
    """One outcome after the other, whatever is sent."""
    waiting = iter(outcomes)

    def script(_call: Call[Any], _base_url: str) -> Answer | None:
        outcome = next(waiting)
        if isinstance(outcome, TinkerActorsError):
            raise outcome
        return outcome

    return script


def test_a_request_is_told_when_it_is_accepted_and_when_its_result_is_there(
    bench: Callable[..., Bench],
) -> None:
    one = bench(answers(HANDLE, SAVED))
    one.send("a")
    assert one.next() == Accepted("a", FutureHandle(request_id="7"))
    assert one.next() == Answered("a", SAVED)


def test_what_passes_by_itself_is_tried_again_and_told(bench: Callable[..., Bench]) -> None:
    one = bench(answers(APIConnectionError("gone"), Answer(503, {}, b""), HANDLE, SAVED))
    with expect(one.tree, RequestRetried, count=2, operation="save_weights", timeout_s=WAIT_S):
        one.send("a")
    assert isinstance(one.next(), Accepted)


def test_a_refusal_says_that_nothing_was_accepted(bench: Callable[..., Bench]) -> None:
    one = bench(answers(Answer(409, JSON, b'{"detail": "no"}')))
    one.send("a")
    failed = one.next()
    assert isinstance(failed, Failed)
    assert (isinstance(failed.error, ConflictError), failed.accepted) == (True, False)


def test_requests_wait_until_there_is_a_server(bench: Callable[..., Bench]) -> None:
    seen: list[str] = []

    def script(_call: Call[Any], base_url: str) -> Answer:
        seen.append(base_url)
        return HANDLE if len(seen) == 1 else SAVED

    one = bench(script, endpoint=None)
    one.send("a")
    one.published.endpoint = Endpoint("http://later")
    one.address.tell(EndpointChanged())
    assert isinstance(one.next(), Accepted)
    assert seen[0] == "http://later"


def test_the_outcome_of_what_was_under_way_at_a_crash_is_unknown(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE, None))
    one.send("a")
    assert isinstance(one.next(), Accepted)
    assert one.transport.is_hanging.wait(WAIT_S)
    with expect(one.tree, ChildStarted, path="root/transport", timeout_s=WAIT_S):
        crash(one.address)
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutcomeUnknownError)


def test_what_is_cancelled_is_not_answered(bench: Callable[..., Bench]) -> None:
    one = bench(answers(None, HANDLE, SAVED))
    one.send("mine", owner="me")
    assert one.transport.is_hanging.wait(WAIT_S)
    one.address.tell(Cancel("me"))
    one.send("later")
    assert one.next() == Accepted("later", FutureHandle(request_id="7"))
    assert one.next() == Answered("later", SAVED)
    assert one.received.empty()


def test_a_fetch_answers_its_asker(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE))
    assert one.address.call(Fetch(CALL), timeout_s=WAIT_S) == FutureHandle(request_id="7")


def test_a_fetch_that_fails_fails_its_asker_and_nobody_else(bench: Callable[..., Bench]) -> None:
    one = bench(answers(Answer(409, JSON, b"{}"), HANDLE))
    with pytest.raises(ConflictError):
        one.address.call(Fetch(CALL), timeout_s=WAIT_S)
    assert one.address.call(Fetch(CALL), timeout_s=WAIT_S) == FutureHandle(request_id="7")
