"""A loopback service that has sessions, training runs and checkpoints, and answers as the hosted one does."""

import json
import re
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RUN = "session-1:train:0"
TRAINING = f"tinker://{RUN}/weights/step-1"
SAMPLER = f"tinker://{RUN}/sampler_weights/step-1"
EXTERNAL = f"tinker://{RUN}/external_weights/step-1"


class Seen(NamedTuple):
    """A request that came."""

    method: str
    target: str
    """Path and query below `/api/v1/`, as they were on the wire."""
    body: Any
    headers: dict[str, str]


def checkpoint(number: int) -> dict[str, Any]:
    """A checkpoint as the hosted service lists it."""
    return {
        "checkpoint_id": f"weights/step-{number}",
        "checkpoint_type": "training",
        "time": f"2026-08-01T00:00:{number:02}Z",
        "tinker_path": f"tinker://{RUN}/weights/step-{number}",
        "size_bytes": 1000 + number,
        "a field of next year": True,
    }


def training_run(number: int) -> dict[str, Any]:
    """A training run as the hosted service lists it."""
    return {
        "training_run_id": f"session-1:train:{number}",
        "base_model": "local/tiny",
        "model_owner": "urn:me",
        "is_lora": True,
        "lora_rank": 16,
        "last_request_time": "2026-08-01T12:00:00+00:00",
        "last_checkpoint": checkpoint(1),
        "user_metadata": {"recipe_name": "pig-latin"},
    }


_LISTED: dict[str, tuple[str, Callable[[int], Any]]] = {
    "sessions": ("sessions", "session-{}".format),
    "training_runs": ("training_runs", training_run),
    "checkpoints": ("checkpoints", checkpoint),
}

_FOUND = {
    "session_id": "session-1",
    "created_at": "2026-08-01T00:00:00Z",
    "owner": "urn:me",
    "project_id": "proj",
    "checkpoints_count": 2,
    "status": {"type": "active"},
}
_CURSOR = {"last_created_at": "2026-08-01T00:00:00.123456789Z", "last_session_id": "session-1"}
_URLS = {"adapter_config.json": "https://store.example/a?signature=1"}
_EXPIRES = "2026-08-01T01:00:00Z"

_ANSWERS: list[tuple[str, str, Any]] = [
    ("GET", "get_server_capabilities", {"supported_models": [{"model_name": "local/tiny"}]}),
    ("POST", "sessions/search", {"sessions": [_FOUND], "next_cursor": _CURSOR}),
    ("GET", "sessions/[^/]+", {"training_run_ids": [RUN], "sampler_ids": ["session-1:sample:0"]}),
    (
        "GET",
        "sessions/[^/]+/trace_export",
        {"status": "ready", "url": "https://store.example/trace?signature=1"},
    ),
    ("PUT", "sessions/[^/]+/project", None),
    ("GET", "training_runs/[^/]+", training_run(0)),
    ("GET", "training_runs/[^/]+/checkpoints", {"checkpoints": [checkpoint(1)]}),
    ("GET", "training_runs/.+/external_weights_urls", {"urls": _URLS, "expires": _EXPIRES}),
    ("GET", "training_runs/.+/archive", {"url": "https://store.example/x.tar", "expires": _EXPIRES}),
    ("DELETE", "training_runs/.+", None),
    ("POST", "training_runs/.+/publish", None),
    ("PUT", "training_runs/.+/ttl", None),
    (
        "GET",
        "samplers/[^/]+",
        {"sampler_id": "session-1:sample:0", "base_model": "local/tiny", "model_path": SAMPLER},
    ),
    ("POST", "weights_info", {"base_model": "local/tiny", "is_lora": True, "lora_rank": 16}),
    ("POST", "copy_weights", {"tinker_path": "tinker://copy:train:0/weights/step-1"}),
]


class RestService:
    """The service on a port of its own, for a `with` block."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        """What came, the client's first questions about flags aside."""
        self.came = threading.Semaphore(0)
        """Released by each of them."""
        self.scripted: deque[Response] = deque()
        """Answers to what comes next, whatever it is, in place of the usual ones."""
        self.page_entries = 5
        """How many sessions, runs and checkpoints there are."""
        routes = [
            Route("/api/v1/client/{which}", _no_flags, methods=["POST"]),
            Route("/api/v1/{target:path}", self._answer, methods=["GET", "POST", "PUT", "DELETE"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, log_level="error", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="rest-service")

    @property
    def targets(self) -> list[str]:
        """Method and target of each request."""
        return [f"{seen.method} {seen.target}" for seen in self.seen]

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        target = request.scope["raw_path"].decode().partition("/api/v1/")[2]
        query = request.url.query
        self.seen.append(
            Seen(
                request.method,
                f"{target}?{query}" if query else target,
                json.loads(body) if body else None,
                dict(request.headers),
            )
        )
        self.came.release()
        if self.scripted:
            return self.scripted.popleft()
        return self._usual(request, request.path_params["target"])

    def _usual(self, request: Request, target: str) -> Response:
        if request.method == "GET" and target in _LISTED:
            name, entry = _LISTED[target]
            return JSONResponse(self._page(request, name, entry))
        for method, pattern, document in _ANSWERS:
            if request.method == method and re.fullmatch(pattern, target):
                return Response(status_code=204) if document is None else JSONResponse(document)
        return JSONResponse({"detail": f"nothing at {target}"}, 404)

    def _page(self, request: Request, name: str, entry: Callable[[int], Any]) -> dict[str, Any]:
        limit, offset = (int(request.query_params[name]) for name in ("limit", "offset"))
        numbers = range(offset, min(offset + limit, self.page_entries))
        page = {name: [entry(number) for number in numbers]}
        if name == "sessions":
            return page
        # Some services write these numbers as text.
        return {**page, "cursor": {"offset": str(offset), "limit": limit, "total_count": self.page_entries}}

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.005)
            assert self._thread.is_alive()
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10.0)


async def _no_flags(_request: Request) -> Response:
    return JSONResponse({"detail": "no flags here"}, 404)
