"""The embedded server with records in it, behind a recorder: what came is kept, and a script can answer in its place."""

import json
import threading
from collections import deque
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
from embedded import NOON, Embedded, WallClock
from harness import KEY
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinker_actors.local.store import Connection

ENTRIES = 5
"""How many sessions, training runs and checkpoints there are."""
DAY_S = 86_400
SAVES = (
    ("save_weights", "older"),
    ("save_weights_for_sampler", "older"),
    ("save_weights_external", "step-1"),
    ("save_weights_for_sampler", "step-1"),
    ("save_weights", "step-1"),
)
SAVED = datetime.fromtimestamp(NOON + (ENTRIES + 1) * DAY_S + len(SAVES), UTC)
"""When the newest checkpoint was, a day after the last session began."""


class Seen(NamedTuple):
    """A request that came."""

    method: str
    target: str
    """Path and query below `/api/v1/`, as they were on the wire."""
    body: Any
    headers: dict[str, str]


class Kept(NamedTuple):
    """What the server has; ids and paths as it gave them."""

    sessions: tuple[str, ...]
    """The newest first; each has one model."""
    run: str
    """The model of the oldest session, and the only one with checkpoints."""
    training: str
    sampler: str
    external: str
    sampling_session: str
    """Over `sampler`."""
    spare: str = ""
    """Training state in a run of its own, which a test may delete."""

    @property
    def spare_run(self) -> str:
        """Whose state it is."""
        return self.spare.split("/")[2]

    @property
    def session(self) -> str:
        """The oldest."""
        return self.sessions[-1]


class RestService:
    """The server on a port of its own, for a `with` block.

    Args:
        data: its directory.
        entries: sessions, runs and checkpoints to make, none or `ENTRIES`.
    """

    def __init__(self, data: Path, entries: int = ENTRIES) -> None:
        self.clock = WallClock()
        self.seen: list[Seen] = []
        """What came, the client's first questions about flags aside."""
        self.came = threading.Semaphore(0)
        """Released by each of them."""
        self.scripted: deque[Response] = deque()
        """Answers to what comes next, whatever it is, in place of the server's."""
        self._embedded = Embedded(data, self.clock, wrap=self._recorded)
        self._entries = entries
        self.url = self._embedded.url

    @property
    def targets(self) -> list[str]:
        """Method and target of each request."""
        return [f"{seen.method} {seen.target}" for seen in self.seen]

    def reset(self) -> None:
        """Be as at first: nothing seen, nothing scripted, no copy, all for ever, exports alone public."""
        self._embedded.service.store.ask(_as_at_first)
        self.seen.clear()
        self.scripted.clear()

    def spared(self) -> Kept:
        """What the server has, with a spare checkpoint."""
        headers = {"x-api-key": KEY, "x-idempotency-key": "spare"}
        copy = {"source_path": self.kept.training, "destination_project_id": "spare"}
        with httpx.Client(verify=False) as http:  # noqa: S501 - loopback
            answer = http.post(f"{self.url}/api/v1/copy_weights", json=copy, headers=headers)
        self.seen.clear()
        return self.kept._replace(spare=answer.json()["tinker_path"])

    def _recorded(self, app: ASGIApp) -> ASGIApp:
        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            target = scope.get("raw_path", b"").decode().partition("/api/v1/")[2]
            if not target or target.startswith("client/"):
                await app(scope, receive, send)
                return
            request = Request(scope, receive)
            body, query = await request.body(), request.url.query
            target = f"{target}?{query}" if query else target
            document = json.loads(body) if body else None
            self.seen.append(Seen(request.method, target, document, dict(request.headers)))
            self.came.release()
            answer: ASGIApp = self.scripted.popleft() if self.scripted else app
            await answer(scope, _again(body, receive), send)

        return recorded

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self._embedded)
            if self._entries:
                self.kept = self._made()
            self.reset()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._embedded.__exit__(kind, error, trace)

    def _made(self) -> Kept:
        with httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"x-api-key": KEY},
            verify=False,  # noqa: S501 - loopback, and reading the certificates takes long
            timeout=60,
        ) as http:
            maker = _Maker(http)
            sessions = []
            for _ in range(ENTRIES):
                self.clock.now += DAY_S
                sessions.append(maker.session())
                maker.model(sessions[-1])
            run = f"{sessions[0]}:train:0"
            self.clock.now += DAY_S
            saved = []
            for seq_id, (kind, name) in enumerate(SAVES, 1):
                self.clock.now += 1
                saved.append(maker.do(kind, model_id=run, seq_id=seq_id, path=name)["path"])
            *_, external, sampler, training = saved
            sampling = maker.ask(
                "create_sampling_session",
                session_id=sessions[0],
                sampling_session_seq_id=0,
                model_path=sampler,
            )["sampling_session_id"]
        return Kept(tuple(reversed(sessions)), run, training, sampler, external, sampling)


class _Maker:
    """Makes what the server has."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, path: str, /, **document: Any) -> Any:
        response = self._http.post(path, json=document)
        response.raise_for_status()
        return response.json()

    def do(self, path: str, /, **document: Any) -> Any:
        request_id = self.ask(path, **document)["request_id"]
        response = httpx.Response(408)
        while response.status_code == 408:
            response = self._http.post("retrieve_future", json={"request_id": request_id})
        return response.json()

    def session(self) -> str:
        session: str = self.ask("create_session", sdk_version="0.38.0", display_name="The nightly run")[
            "session_id"
        ]
        return session

    def model(self, session_id: str) -> None:
        self.do(
            "create_model",
            session_id=session_id,
            model_seq_id=0,
            base_model="local/tiny",
            lora_config={"rank": 16},
            user_metadata={"recipe_name": "pig-latin"},
        )


def _as_at_first(db: Connection) -> None:
    db.execute(
        "DELETE FROM checkpoints WHERE model_id IN (SELECT model_id FROM models WHERE session_id = '')"
    )
    db.execute("DELETE FROM models WHERE session_id = ''")
    db.execute("DELETE FROM copies")
    db.execute("UPDATE checkpoints SET public = (kind = 'external_weights'), expires_at = NULL")
    db.execute("UPDATE sessions SET project_id = 'default'")


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give
