"""The network's actor and its breakers, with a transport that a test answers for."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from harness import WAIT_S

from tinker_actors.actors.circuits import Circuits, SettingsByOperation
from tinker_actors.actors.futures import Settler
from tinker_actors.actors.published import TRANSPORT, Endpoint, Published
from tinker_actors.actors.service import NamedChildren
from tinker_actors.actors.tracing import Tracing
from tinker_actors.actors.transport import Send, TransportActor
from tinker_actors.api.futures import Expectation, json_result
from tinker_actors.config import RecoveryPolicy, SamplingLimits, Settings
from tinker_actors.errors import TinkerActorsError
from tinker_actors.journal.store import Store
from tinker_actors.supervision import ActorTree, ChildSpec, Clock, Kind, SupervisedActor, Supervisor
from tinker_actors.types import SaveWeightsResponse
from tinker_actors.wire.calls import Answer, Call, ReadParts, read_json
from tinker_actors.wire.documents import FutureHandle
from tinker_actors.wire.http import NO_HEADERS, OnSent
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


Flags = Callable[[Call[Any]], Answer]


def no_flags(_call: Call[Any]) -> Answer:
    """A server that has no such endpoint."""
    return Answer(404, JSON, b"{}")


class Scripted:
    """A transport that asks a function for its answers; one that gives none hangs for ever."""

    def __init__(self, script: Script, flags: Flags) -> None:
        self._script, self._flags = script, flags
        self.seen: list[tuple[str, str]] = []
        """Path and key of each request."""
        self.is_hanging = threading.Event()
        self.takes_bodies = True
        """Whether what is sent leaves."""

    async def send(
        self,
        call: Call[Any],
        base_url: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        sent: OnSent | None = None,
    ) -> Answer:
        if sent is not None and self.takes_bodies:
            sent()
        call = msgspec.structs.replace(call, headers={**call.headers, **headers})
        self.seen.append((call.path, headers["x-api-key"]))
        if call.path.startswith(("client/", "auth/")):
            return self._flags(call)
        answer = self._script(call, base_url)
        if answer is not None:
            return answer
        self.is_hanging.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    async def stream(
        self, call: Call[Any], base_url: str, read: ReadParts, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        answer = await self.send(call, base_url, headers)
        if answer.status >= 300:
            return answer
        await read(_in_parts(answer.body))
        return msgspec.structs.replace(answer, body=b"")

    async def close(self) -> None:
        pass


async def _in_parts(body: bytes) -> AsyncIterator[bytes]:
    for line in body.splitlines(keepends=True):
        yield line


class Receiver(SupervisedActor):
    """Puts what it is told where the test finds it."""

    def __init__(self, received: "queue.Queue[object]") -> None:
        super().__init__()
        self._received = received

    def on_receive(self, message: Any) -> None:
        self._received.put(message)


class Bench:
    """A transport actor, and two whom it answers: `service/receiver` and `service/other`."""

    def __init__(
        self,
        script: Script,
        endpoint: Endpoint | None = HERE,
        *,
        flags: Flags = no_flags,
        clock: Clock | None = None,
        breaker: SettingsByOperation | None = None,
        base_url: str = "http://host",
        api_key: str = "tml-x",
        limits: SamplingLimits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        settings = Settings.resolve(base_url=base_url, api_key=api_key, environment={})
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
            circuits=Circuits(breaker),
            limits=limits,
            tracing=tracing,
        )
        self.published.endpoint = endpoint
        self.transport = Scripted(script, flags)
        self.received: queue.Queue[object] = queue.Queue()
        children = [
            ChildSpec("transport", lambda: TransportActor(self.published, lambda: self.transport)),
            ChildSpec(
                "breakers", partial(NamedChildren, self.published, max_restarts=10), kind=Kind.SUPERVISOR
            ),
            ChildSpec("receiver", lambda: Receiver(self.received)),
            ChildSpec("other", lambda: Receiver(self.received)),
        ]
        root = ChildSpec("service", lambda: Supervisor(children), kind=Kind.SUPERVISOR)
        self.tree = ActorTree(root, seed=1, clock=clock)
        self.tree.start()
        self.address = self.tree.address(TRANSPORT)

    def send(
        self,
        tag: str,
        owner: str = "",
        call: Call[Any] = CALL,
        expected: Expectation | None = EXPECTED,
        *,
        sent: OnSent | None = None,
    ) -> None:
        self.address.tell(Send(call, tag, self.tree.address("service/receiver"), owner, expected, sent=sent))

    def next(self) -> object:
        return self.received.get(timeout=WAIT_S)

    def close(self) -> None:
        self.tree.stop(10)
        self.settler.close(10)
        self.store.close()


def answers(*outcomes: Answer | TinkerActorsError | None) -> Script:
    """One outcome after the other, whatever is sent."""
    waiting = iter(outcomes)

    def script(_call: Call[Any], _base_url: str) -> Answer | None:
        outcome = next(waiting)
        if isinstance(outcome, TinkerActorsError):
            raise outcome
        return outcome

    return script
