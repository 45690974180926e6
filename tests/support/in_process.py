"""The embedded server's application in this process, asked without a network."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from tinker_actors.local.app import make_app
from tinker_actors.local.service import Service


class Asked:
    """One request to the application, whose answer's parts are seen as they are sent."""

    def __init__(self, service: Service, path: str, document: Any) -> None:
        self.sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._left = asyncio.Event()
        self._body = json.dumps(document).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": f"/api/v1/{path}",
            "raw_path": b"",
            "query_string": b"",
            "headers": [(b"x-api-key", b"tml-test"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
        }
        self.task = asyncio.ensure_future(make_app(service)(scope, self._receive, self.sent.put))

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def part(self) -> bytes:
        """The next part of the body that is sent."""
        message = await asyncio.wait_for(self.sent.get(), 30)
        while not message.get("body"):
            message = await asyncio.wait_for(self.sent.get(), 30)
        return bytes(message["body"])

    async def document(self) -> Any:
        """The whole answer, in JSON."""
        await asyncio.wait_for(self.task, 30)
        parts = [self.sent.get_nowait() for _ in range(self.sent.qsize())]
        return json.loads(b"".join(part.get("body", b"") for part in parts))


async def a_sampler(service: Service) -> str:
    session = await Asked(service, "create_session", {"tags": [], "sdk_version": "0.38.0"}).document()
    made = {
        "session_id": session["session_id"],
        "sampling_session_seq_id": 0,
        "base_model": "local/tiny",
    }
    return str((await Asked(service, "create_sampling_session", made).document())["sampling_session_id"])
