"""The seam to the network, on httpx's own in-memory transport."""

import asyncio

import httpx
import pytest

from tinker_actors.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConflictError,
    InternalServerError,
)
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.http import HttpxTransport


def send(handler: httpx.MockTransport, call: Call[object]) -> Answer:
    async def once() -> Answer:
        transport = HttpxTransport({"x-api-key": "tml-k"}, handler=handler)
        try:
            return await transport.send(call, "http://host/prefix")
        finally:
            await transport.close()

    return asyncio.run(once())


CALL: Call[object] = Call(
    operation="op", path="a/b", body=b"{}", read=lambda answer: answer.body, headers={"x-one": "1"}
)


def test_a_call_becomes_one_request_below_the_prefix_of_the_base_url() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": 1})

    answer = send(httpx.MockTransport(handle), CALL)
    assert answer.document() == {"ok": 1}
    (request,) = seen
    assert (request.method, request.url.path, request.content) == ("POST", "/prefix/api/v1/a/b", b"{}")
    assert (request.headers["x-api-key"], request.headers["x-one"]) == ("tml-k", "1")


@pytest.mark.parametrize(
    ("raised", "mapped"),
    [
        (httpx.ConnectError("refused"), APIConnectionError),
        (httpx.ReadTimeout("slow"), APITimeoutError),
        (httpx.RemoteProtocolError("half a body"), APIConnectionError),
    ],
)
def test_failures_of_the_library_become_ours(raised: Exception, mapped: type[Exception]) -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        raise raised

    with pytest.raises(mapped):
        send(httpx.MockTransport(handle), CALL)


@pytest.mark.parametrize(
    ("status", "kind"), [(409, ConflictError), (503, InternalServerError), (418, APIStatusError)]
)
def test_a_status_becomes_the_most_specific_error(status: int, kind: type[Exception]) -> None:
    answer = Answer(status=status, headers={}, body=b'{"detail": "because"}')
    with pytest.raises(kind, match=f"{status}: because"):
        answer.success()


def test_redirects_are_answers_not_errors_of_the_library() -> None:
    with pytest.raises(APIStatusError):
        send(httpx.MockTransport(lambda _: httpx.Response(302)), CALL).success()
