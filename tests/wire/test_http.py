"""The seam to the network, on httpx's own in-memory transport."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import httpx
import msgspec
import pytest
import zstandard

from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ConflictError,
    InternalServerError,
)
from tinker_actors.wire.calls import Answer, Call, read_json
from tinker_actors.wire.compression import compressed
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


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_small_answer_that_unpacks_into_a_flood_is_refused(encoding: str) -> None:
    flood = bytes(10**6)
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
    }
    packed = pack[encoding](flood)
    handler = httpx.MockTransport(
        lambda _: httpx.Response(200, content=packed, headers={"content-encoding": encoding})
    )

    async def once() -> Answer:
        transport = HttpxTransport({}, handler=handler, max_answer_bytes=10**5)
        return await transport.send(CALL, "http://host")

    with pytest.raises(APIResponseValidationError, match="may have 100000 bytes"):
        asyncio.run(once())


def test_an_answer_that_cannot_be_unpacked_counts_as_none() -> None:
    handler = httpx.MockTransport(
        lambda _: httpx.Response(200, content=b"not gzip", headers={"content-encoding": "gzip"})
    )
    with pytest.raises(APIConnectionError):
        send(handler, CALL)


def test_the_callers_query_and_headers_go_with_each_request() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async def once() -> None:
        transport = HttpxTransport({"x-a": "1"}, query=[("q", "ü")], handler=httpx.MockTransport(handle))
        await transport.send(CALL, "http://host")
        await transport.send(msgspec.structs.replace(CALL, path="a?b=c"), "http://host")

    asyncio.run(once())
    assert dict(seen[0].url.params) == {"q": "ü"}
    assert dict(seen[1].url.params) == {"b": "c", "q": "ü"}
    assert (seen[0].headers["x-a"], seen[0].headers["x-one"]) == ("1", "1")


def test_what_is_packed_unpacks_to_the_same() -> None:
    packed = compressed(b"a" * 1000)
    assert packed is not None
    assert (len(packed) < 100, zstandard.decompress(packed)) == (True, b"a" * 1000)


def test_an_answer_nested_beyond_measure_is_text_and_fits_no_type() -> None:
    answer = Answer(200, {}, b"[" * 10**5)
    assert answer.document() == "[" * 10**5
    with pytest.raises(APIResponseValidationError):
        read_json(dict)(answer)
