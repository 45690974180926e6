"""Servers that are no Tinker servers: a typed error that names the fix, and no endless waiting."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from harness import KEY, WAIT_S

import tinker_actors as ta

PAGE = b"<!DOCTYPE html><html><body>Welcome</body></html>"
Reply = tuple[int, str, bytes]

# What the server says to each request.
REPLIES: dict[str, Callable[[str], Reply]] = {
    "pages": lambda _: (200, "text/html", PAGE),
    "no pages": lambda _: (404, "text/html", PAGE),
    "other JSON": lambda _: (200, "application/json", b'{"hello": "world"}'),
    "a list": lambda _: (200, "application/json", b"[1, 2]"),
    "a wrong path": lambda _: (404, "application/json", b'{"detail": "Not Found"}'),
    "no POST": lambda _: (405, "application/json", b'{"detail": "Method Not Allowed"}'),
    "moved": lambda _: (301, "text/plain", b""),
}


def make_server(reply: Callable[[str], Reply]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, kind, body = reply(self.path)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            if status == 301:
                self.send_header("location", "https://elsewhere.example/api?signature=x")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond  # noqa: N815 - the names are http.server's

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], Reply]], str]]:
    """Starts servers; gives the host and port of each."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Callable[[str], Reply]) -> str:
        server = make_server(reply)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), name="wrong server", daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(base_url: str) -> None:
    with ta.ServiceClient(base_url=base_url, api_key=KEY) as service:
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)


@pytest.mark.parametrize("reply", [*REPLIES])
def test_a_server_of_another_kind_is_told_from_ours(
    serve: Callable[[Callable[[str], Reply]], str], reply: str
) -> None:
    with pytest.raises((ta.APIStatusError, ta.APIResponseValidationError), match="base_url") as caught:
        ask(f"http://{serve(REPLIES[reply])}/elsewhere")
    assert "<" not in str(caught.value)
    assert "signature" not in str(caught.value)


def test_tls_where_none_is_spoken_is_an_error_at_once(
    serve: Callable[[Callable[[str], Reply]], str],
) -> None:
    with pytest.raises(ta.APIConnectionError, match="base_url"):
        ask(f"https://{serve(REPLIES['pages'])}")
