"""The seam to the network: both transports against a server on loopback, in the same tests."""

import asyncio
import gzip
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
import zstandard
from loopback import Behaviour, Seen, answer, in_turn, serving

from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ConfigError,
    ConflictError,
    InternalServerError,
    TinkerActorsError,
    TLSError,
)
from tinker_actors.wire.calls import Answer, Call, Parts, Pool, ReadParts, read_json
from tinker_actors.wire.compression import compressed, unpacked
from tinker_actors.wire.http import (
    MAX_EDGE_REFUSALS,
    MAX_IN_FLIGHT,
    HttpOptions,
    HttpTransport,
    Request,
    Transport,
    TransportChoice,
    make_transport,
    new_event_loop,
)
from tinker_actors.wire.httpcore_transport import HttpcoreTransport
from tinker_actors.wire.lanes import Lanes
from tinker_actors.wire.pyqwest_transport import PyqwestTransport

WAIT_S = 10.0
FLOOD = bytes(10**6)

Make = Callable[[HttpOptions], Transport]
Outcome = Answer | TinkerActorsError


@pytest.fixture(params=[HttpcoreTransport, PyqwestTransport])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes transports of one of the two kinds, in an environment without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    kind: Make = request.param
    return kind


CALL: Call[object] = Call(
    operation="op",
    path="a/b",
    body=b'{"x": 1}',
    read=lambda answer: answer.body,
    headers={"x-one": "1"},
    timeout_s=WAIT_S,
)
GET = msgspec.structs.replace(CALL, method="GET", body=b"")


@dataclass(frozen=True)
class Talk:
    """What came of some calls, one after the other."""

    outcomes: list[Outcome]
    seen: list[Seen]

    @property
    def answers(self) -> list[Answer]:
        assert all(isinstance(one, Answer) for one in self.outcomes), self.outcomes
        return [one for one in self.outcomes if isinstance(one, Answer)]

    @property
    def kinds(self) -> list[type[Outcome]]:
        return [type(one) for one in self.outcomes]


async def outcome_of(transport: Transport, call: Call[object], url: str) -> Outcome:
    try:
        return await asyncio.wait_for(transport.send(call, url), 2 * WAIT_S)
    except TinkerActorsError as error:
        return error


def talk(
    make: Make, behave: Behaviour, *calls: Call[object], options: HttpOptions | None = None, prefix: str = ""
) -> Talk:
    async def main() -> Talk:
        async with serving(behave) as server:
            transport = make(options or HttpOptions())
            try:
                outcomes = [
                    await outcome_of(transport, call, server.url + prefix) for call in calls or [CALL]
                ]
            finally:
                await transport.close()
            return Talk(outcomes, server.seen)

    return asyncio.run(main())


# Requests and answers ----------------------------------------------------------------------------


def test_a_call_becomes_one_request_below_the_prefix_of_the_base_url(make: Make) -> None:
    done = talk(make, answer(200, b'{"ok": 1}', content_type="application/json"), prefix="/prefix")
    (one,), (seen,) = done.answers, done.seen
    assert (one.status, one.document(), one.content_type) == (200, {"ok": 1}, "application/json")
    assert (seen.method, seen.target, seen.body) == ("POST", "/prefix/api/v1/a/b", b'{"x": 1}')
    assert (seen.headers["x-one"], seen.headers["content-type"]) == ("1", "application/json")
    assert (seen.headers["accept"], seen.headers["content-length"]) == ("application/json", "8")


def test_a_get_has_no_body(make: Make) -> None:
    (seen,) = talk(make, answer(), GET).seen
    assert (seen.method, seen.body, "content-type" in seen.headers) == ("GET", b"", False)


def test_a_delete_and_an_empty_post_say_how_long_they_are(make: Make) -> None:
    calls = [msgspec.structs.replace(CALL, method=method, body=b"") for method in ("POST", "DELETE")]
    lengths = [seen.headers.get("content-length") for seen in talk(make, answer(), *calls).seen]
    assert lengths[0] == "0"
    assert lengths[1] in ("0", None)


def test_the_callers_query_and_headers_go_with_each_request(make: Make) -> None:
    options = HttpOptions(headers={"x-a": "1", "x-one": "other"}, query=(("q", "ü"),))
    calls = CALL, msgspec.structs.replace(CALL, path="a?b=c")
    first, second = talk(make, answer(), *calls, options=options).seen
    assert (first.target, second.target) == ("/api/v1/a/b?q=%C3%BC", "/api/v1/a?b=c&q=%C3%BC")
    assert (first.headers["x-a"], first.headers["x-one"]) == ("1", "1")


@pytest.mark.parametrize("status", [200, 204, 400, 404, 409, 429, 503])
def test_every_status_is_an_answer(make: Make, status: int) -> None:
    body = b"" if status == 204 else b'{"detail": "because"}'
    (one,) = talk(make, answer(status, body, Retry_After="7")).answers
    assert (one.status, one.body, one.headers["retry-after"]) == (status, body, "7")


def test_large_bodies_travel_whole_both_ways(make: Make) -> None:
    body = bytes(range(256)) * 2**14
    done = talk(make, answer(200, body[::-1]), msgspec.structs.replace(CALL, body=body))
    assert (done.seen[0].body == body, done.answers[0].body == body[::-1]) == (True, True)


def test_an_answer_in_chunks_is_put_together(make: Make) -> None:
    behave = answer(200, b"2\r\n{}\r\n1\r\n \r\n0\r\n\r\n", content_length="", transfer_encoding="chunked")
    assert talk(make, behave).answers[0].body == b"{} "


# Connections -------------------------------------------------------------------------------------


def test_a_connection_is_used_again_by_the_same_kind_of_traffic_and_by_no_other(make: Make) -> None:
    poll = msgspec.structs.replace(CALL, pool=Pool.FUTURE)
    train, again, future = talk(make, answer(), CALL, CALL, poll).seen
    assert train.connection == again.connection != future.connection


def test_a_cancelled_request_closes_its_connection(make: Make) -> None:
    async def hang(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
        pass

    async def main() -> None:
        async with serving(hang) as server:
            transport = make(HttpOptions())
            task = asyncio.create_task(transport.send(CALL, server.url))
            await asyncio.wait_for(server.arrived.wait(), WAIT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.gone.wait(), WAIT_S)
            await transport.close()

    asyncio.run(main())


def test_closing_closes_idle_connections(make: Make) -> None:
    async def main() -> None:
        async with serving(answer()) as server:
            transport = make(HttpOptions())
            await transport.send(CALL, server.url)
            await transport.close()
            await asyncio.wait_for(server.gone.wait(), WAIT_S)

    asyncio.run(main())


def test_many_requests_are_under_way_at_a_time(make: Make) -> None:
    everybody = 100

    async def main() -> int:
        waiting, all_there = 0, asyncio.Event()

        async def meet(seen: Seen, writer: asyncio.StreamWriter) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == everybody:
                all_there.set()
            await all_there.wait()
            await answer()(seen, writer)

        async with serving(meet) as server:
            transport = make(HttpOptions())
            sent = (outcome_of(transport, CALL, server.url) for _ in range(everybody))
            outcomes = await asyncio.gather(*sent)
            await transport.close()
            return sum(isinstance(one, Answer) for one in outcomes)

    assert asyncio.run(main()) == everybody


def test_more_than_the_limit_of_one_kind_of_traffic_wait_their_turn(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_IN_FLIGHT, Pool.TRAIN, 1)

    async def main() -> tuple[list[str], list[str]]:
        go_on, seen = asyncio.Event(), list[str]()

        async def hold(request: Seen, writer: asyncio.StreamWriter) -> None:
            seen.append(request.headers["x-one"])
            if request.headers["x-one"] == "first":
                await go_on.wait()
            await answer()(request, writer)

        async with serving(hold) as server:
            transport = make(HttpOptions())
            named = [
                msgspec.structs.replace(CALL, headers={"x-one": name}, pool=pool)
                for name, pool in (
                    ("first", Pool.TRAIN),
                    ("second", Pool.TRAIN),
                    ("third", Pool.TRAIN),
                    ("other", Pool.SESSION),
                )
            ]
            tasks = [asyncio.create_task(outcome_of(transport, one, server.url)) for one in named]
            await tasks[3]
            before = [name for name in seen if name != "first"]
            go_on.set()
            await asyncio.gather(*tasks)
            await transport.close()
            return before, [name for name in seen if name != "other"]

    assert asyncio.run(main()) == (["other"], ["first", "second", "third"])


# No answer ---------------------------------------------------------------------------------------


async def half_a_body(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()


async def half_a_head(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-")
    await writer.drain()
    writer.close()


async def no_http(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example.org at your service\r\n\r\n")
    await writer.drain()
    writer.close()


async def reset(_seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("behave", [half_a_body, half_a_head, no_http, reset])
def test_what_breaks_off_is_no_answer(make: Make, behave: Behaviour) -> None:
    (error,) = talk(make, behave).outcomes
    assert type(error) is APIConnectionError
    assert str(error).startswith("no answer to op: ")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"])
def test_an_answer_that_does_not_come_in_time_is_a_timeout(make: Make, begun: bytes) -> None:
    async def stall(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)

    (error,) = talk(make, stall, msgspec.structs.replace(CALL, timeout_s=0.05)).outcomes
    assert type(error) is APITimeoutError
    assert str(error) == "no answer to op within 0.05 s"


def test_a_refused_connection_is_no_answer_and_no_timeout(make: Make) -> None:
    async def main() -> Outcome:
        with socket.socket() as nobody:  # bound, so that nobody else listens there
            nobody.bind(("127.0.0.1", 0))
            transport = make(HttpOptions(query=(("token", "secret-query"),)))
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            error = await outcome_of(transport, CALL, url)
            await transport.close()
        return error

    error = asyncio.run(main())
    assert type(error) is APIConnectionError
    assert "secret" not in str(error)


def test_a_server_that_speaks_no_tls_is_told_from_one_that_is_away(make: Make) -> None:
    async def main() -> Outcome:
        async def talk_plainly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(talk_plainly, "127.0.0.1", 0) as server:
            transport = make(HttpOptions())
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            error = await outcome_of(transport, CALL, url)
            await transport.close()
        return error

    error = asyncio.run(main())
    assert type(error) is TLSError
    assert "check base_url" in str(error)


def test_a_connection_that_nobody_accepts_is_a_timeout(make: Make) -> None:
    async def main() -> Outcome:
        with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for one in (first, second):  # they fill the queue of those to be accepted
                one.setblocking(False)
                one.connect_ex(deaf.getsockname())
            transport = make(HttpOptions(connect_timeout_s=0.05))
            error = await outcome_of(transport, CALL, f"http://127.0.0.1:{deaf.getsockname()[1]}")
            await transport.close()
        return error

    assert type(asyncio.run(main())) is APITimeoutError


def test_an_empty_400_is_no_answer_and_costs_the_connection(make: Make) -> None:
    done = talk(make, in_turn(answer(), answer(400, b""), answer()), CALL, CALL, CALL)
    assert done.kinds == [Answer, APIConnectionError, Answer]
    assert [seen.connection for seen in done.seen] == [0, 0, 1]


def test_a_400_with_a_body_in_chunks_is_an_answer(make: Make) -> None:
    behave = answer(400, b"2\r\n{}\r\n0\r\n\r\n", content_length="", transfer_encoding="chunked")
    (one,) = talk(make, behave).answers
    with pytest.raises(BadRequestError):
        one.success()


def test_a_server_that_keeps_saying_400_is_believed_in_the_end(make: Make) -> None:
    done = talk(make, answer(400, b""), *[CALL] * (MAX_EDGE_REFUSALS + 1))
    assert done.kinds == [APIConnectionError] * MAX_EDGE_REFUSALS + [Answer]


class SlowToClose(HttpTransport[int]):
    """Whose clients close when they may; the timeout of a request decides which it goes to."""

    def __init__(self) -> None:
        super().__init__(HttpOptions())
        self.closes, self.may_close = asyncio.Event(), asyncio.Event()

    def _kind(self, request: Request) -> float:
        return request.timeout_s

    def _new_lanes(self, request: Request) -> Lanes[int]:  # noqa: ARG002 - one for all
        async def end(_: int) -> None:
            self.closes.set()
            await self.may_close.wait()

        return Lanes(lambda: 1, end, width=1)

    async def _exchange(self, request: Request, read: ReadParts | None = None) -> Answer:  # noqa: ARG002 - none is read
        lanes = self._lanes_for(request)
        await lanes.leave(lanes.enter())
        return Answer(400 if request.body == b"refused" else 200, {}, b"")


def test_requests_of_a_new_kind_begin_while_others_get_new_connections() -> None:
    async def main() -> Outcome:
        transport = SlowToClose()
        await transport.send(CALL, "http://host")
        refused = asyncio.create_task(
            outcome_of(transport, msgspec.structs.replace(CALL, body=b"refused"), "http://host")
        )
        await transport.closes.wait()
        await transport.send(msgspec.structs.replace(CALL, timeout_s=1.0), "http://host")
        transport.may_close.set()
        return await refused

    assert type(asyncio.run(main())) is APIConnectionError


# Redirects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "status"), [(CALL, 307), (CALL, 308), (GET, 301), (GET, 302), (GET, 307)])
def test_a_redirect_within_the_server_is_followed_with_all_there_is(
    make: Make, call: Call[object], status: int
) -> None:
    done = talk(make, in_turn(answer(status, location="/elsewhere?x=1"), answer(200)), call)
    assert done.answers[0].status == 200
    first, second = done.seen
    assert (second.method, second.target, second.body) == (first.method, "/elsewhere?x=1", first.body)
    assert second.headers["x-one"] == "1"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_make_a_get_of_a_post_is_an_answer(make: Make, status: int) -> None:
    done = talk(make, answer(status, location="/elsewhere"))
    assert len(done.seen) == 1
    with pytest.raises(APIStatusError):
        done.answers[0].success()


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:9/x", "https://127.0.0.1/x", "http://[", "ftp://127.0.0.1/", ""]
)
def test_a_redirect_to_anybody_else_is_an_answer(make: Make, location: str) -> None:
    done = talk(make, answer(307, location=location))
    assert (len(done.seen), done.answers[0].status) == (1, 307)


def test_a_redirect_that_is_the_result_is_not_followed(make: Make) -> None:
    call = msgspec.structs.replace(GET, answers=frozenset({302}))
    (one,) = talk(make, answer(302, location="/archive"), call).answers
    assert (one.status, one.headers["location"]) == (302, "/archive")


def test_a_circle_of_redirects_ends(make: Make) -> None:
    done = talk(make, answer(307, location="/api/v1/a/b"))
    assert done.kinds == [APIConnectionError]
    assert len(done.seen) == 6


# Packed answers ----------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


PACKERS = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstandard.compress),
]


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_packed_answers_are_unpacked(make: Make, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    done = talk(make, answer(200, pack(b'{"a": 1}'), content_encoding=encoding))
    assert done.answers[0].document() == {"a": 1}
    assert done.seen[0].headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_a_small_answer_that_unpacks_into_a_flood_is_refused(
    make: Make, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    behave = answer(200, pack(FLOOD), content_encoding=encoding)
    (error,) = talk(make, behave, options=HttpOptions(max_answer_bytes=10**5)).outcomes
    assert isinstance(error, APIResponseValidationError)
    assert "may have 100000 bytes" in str(error)


def test_a_flood_that_is_not_packed_is_refused(make: Make) -> None:
    done = talk(make, answer(200, FLOOD), options=HttpOptions(max_answer_bytes=10**5))
    assert done.kinds == [APIResponseValidationError]


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
@pytest.mark.parametrize("damage", ["broken off", "noise", "unknown"])
def test_an_answer_that_cannot_be_unpacked_counts_as_none(
    make: Make, encoding: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    packed = pack(b"text " * 99)
    body = {"broken off": packed[:-5], "noise": b"\x00\xffnoise", "unknown": packed}[damage]
    behave = answer(200, body, content_encoding="br" if damage == "unknown" else encoding)
    assert talk(make, behave).kinds == [APIConnectionError]


def test_an_empty_answer_needs_no_unpacking(make: Make) -> None:
    assert talk(make, answer(200, b"", content_encoding="gzip")).answers[0].body == b""


def test_encodings_upon_one_another_are_taken_off_from_the_outside() -> None:
    packed = zstandard.compress(gzip.compress(b"a") + gzip.compress(b"b"))
    assert unpacked(packed, "gzip, zstd", 100) == b"ab"


# Proxies -----------------------------------------------------------------------------------------


def through_proxy(make: Make, **options: object) -> list[Seen]:
    """What a proxy sees of one call to a host that does not exist."""

    async def main() -> list[Seen]:
        async with serving(answer()) as proxy:
            where = {name: str(value).replace("PROXY", proxy.url[7:]) for name, value in options.items()}
            with pytest.MonkeyPatch.context() as patch:
                for name in {"all_proxy", "http_proxy", "https_proxy", "no_proxy"} & where.keys():
                    patch.setenv(name, where[name])
                explicit = where.get("proxy")
                transport = make(HttpOptions(proxy=explicit, direct=bool(options.get("direct"))))
                target = proxy.url if options.get("direct") else "http://service.invalid"
                await outcome_of(transport, CALL, target)
                await transport.close()
            return proxy.seen

    return asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"proxy": "http://u:p@PROXY"},
        {"http_proxy": "http://u:p@PROXY"},
        {"http_proxy": "u:p@PROXY"},
        {"all_proxy": "http://u:p@PROXY"},
        {"all_proxy": "http://u:p@PROXY", "https_proxy": "http://127.0.0.1:9"},
    ],
)
def test_a_proxy_is_used_that_was_given_or_is_in_the_environment(
    make: Make, options: dict[str, object]
) -> None:
    (seen,) = through_proxy(make, **options)
    assert seen.target == "http://service.invalid/api/v1/a/b"
    assert seen.headers["proxy-authorization"] == "Basic dTpw"


def test_the_environment_may_except_hosts_from_its_proxy(make: Make) -> None:
    assert through_proxy(make, http_proxy="http://PROXY", no_proxy="elsewhere, service.invalid") == []


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_spoken_to_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setattr("tinker_actors.wire.httpcore_transport.find_spec", lambda _name: None)
    monkeypatch.setenv("all_proxy", proxy)

    async def main() -> Outcome:
        transport = HttpcoreTransport(HttpOptions())
        error = await outcome_of(transport, CALL, "http://service.invalid")
        await transport.close()
        return error

    assert type(asyncio.run(main())) is ConfigError


def test_what_goes_to_loopback_goes_round_the_environments_proxy(make: Make) -> None:
    (seen,) = through_proxy(make, http_proxy="http://127.0.0.1:9", direct=True)
    assert seen.target == "/api/v1/a/b"


def test_a_proxy_that_is_down_does_not_give_its_password_away(make: Make) -> None:
    async def main() -> Outcome:
        transport = make(HttpOptions(proxy="http://user:secret@127.0.0.1:9"))
        error = await outcome_of(transport, CALL, "http://service.invalid")
        await transport.close()
        return error

    error = asyncio.run(main())
    assert type(error) is APIConnectionError
    assert "secret" not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


# Which transport ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "is_installed", "kind"),
    [
        (None, True, PyqwestTransport),
        (None, False, HttpcoreTransport),
        ("fast", True, PyqwestTransport),
        ("httpx", True, HttpcoreTransport),
    ],
)
def test_the_fast_transport_is_taken_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, choice: None, is_installed: bool, kind: type[Transport]
) -> None:
    spec = object() if is_installed else None
    monkeypatch.setattr("tinker_actors.wire.http.find_spec", lambda _name: spec)
    assert type(make_transport(HttpOptions(), choice)) is kind


@pytest.mark.parametrize(
    ("choice", "is_installed", "module"),
    [(None, True, "uvloop"), (None, False, "asyncio"), ("fast", True, "uvloop"), ("httpx", True, "asyncio")],
)
def test_the_fast_transport_has_a_compiled_loop_where_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, choice: TransportChoice | None, is_installed: bool, module: str
) -> None:
    spec = object() if is_installed else None
    monkeypatch.setattr("tinker_actors.wire.http.find_spec", lambda _name: spec)
    loop = new_event_loop(choice)
    loop.close()
    assert type(loop).__module__.partition(".")[0] == module


@pytest.mark.parametrize(
    ("choice", "other"), [("fast", "httpcore"), ("httpx", "pyqwest"), ("httpx", "uvloop")]
)
def test_the_other_library_is_not_even_loaded(choice: str, other: str) -> None:
    program = f"""
import sys
import tinker_actors as ta
service = ta.ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-x", transport={choice!r})
service.close()
assert {other!r} not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"), [(409, ConflictError), (503, InternalServerError), (418, APIStatusError)]
)
def test_a_status_becomes_the_most_specific_error(status: int, kind: type[Exception]) -> None:
    one = Answer(status=status, headers={}, body=b'{"detail": "because"}')
    with pytest.raises(kind, match=f"{status}: because"):
        one.success()


def test_what_is_packed_unpacks_to_the_same() -> None:
    packed = compressed(b"a" * 1000)
    assert packed is not None
    assert (len(packed) < 100, unpacked(packed, "zstd", 1000)) == (True, b"a" * 1000)


def test_an_answer_nested_beyond_measure_is_text_and_fits_no_type() -> None:
    one = Answer(200, {}, b"[" * 10**5)
    assert one.document() == "[" * 10**5
    with pytest.raises(APIResponseValidationError):
        read_json(dict)(one)


# When a body has left ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 3 * 2**20])
def test_a_body_that_left_is_told_while_there_is_no_answer(make: Make, size: int) -> None:
    async def main() -> None:
        answers, sent = asyncio.Event(), asyncio.Event()

        async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
            await asyncio.wait_for(answers.wait(), WAIT_S)
            await answer(200, b"%d" % len(seen.body))(seen, writer)

        async with serving(behave) as server:
            transport, call = make(HttpOptions()), msgspec.structs.replace(CALL, body=bytes(size))
            task = asyncio.create_task(transport.send(call, server.url, sent=sent.set))
            await asyncio.wait_for(sent.wait(), WAIT_S)
            answers.set()
            assert (await asyncio.wait_for(task, WAIT_S)).body == b"%d" % size
            await transport.close()
            assert server.seen[0].headers["content-length"] == str(size)

    asyncio.run(main())


def test_a_body_that_nobody_takes_has_not_left(make: Make) -> None:
    async def main() -> list[str]:
        told: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            transport = make(HttpOptions())
            call = msgspec.structs.replace(CALL, body=bytes(2**26), timeout_s=0.2)
            with pytest.raises(APITimeoutError):
                await transport.send(
                    call, f"http://127.0.0.1:{deaf.getsockname()[1]}", sent=lambda: told.append("sent")
                )
            await transport.close()
        return told

    assert asyncio.run(main()) == []


def test_what_is_said_to_a_proxy_first_is_not_the_body(make: Make) -> None:
    async def main() -> list[str]:
        told: list[str] = []
        async with serving(answer(502)) as proxy:
            transport = make(HttpOptions(proxy=proxy.url))
            call = msgspec.structs.replace(CALL, body=bytes(2**20))
            with pytest.raises(APIConnectionError):
                await transport.send(call, "https://service.invalid", sent=lambda: told.append("sent"))
            await transport.close()
            assert [seen.method for seen in proxy.seen] == ["CONNECT"]
        return told

    assert asyncio.run(main()) == []


# Answers that are read as they arrive ---------------------------------------------------------------


def test_a_streamed_answer_is_read_as_it_arrives_by_whoever_may_end_it(make: Make) -> None:
    async def main() -> tuple[list[bytes], str]:
        read_on = asyncio.Event()

        async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            await asyncio.wait_for(read_on.wait(), WAIT_S)
            writer.write(b"3\r\ntwo\r\n")
            await asyncio.sleep(WAIT_S)

        parts: list[bytes] = []

        async def read(body: Parts) -> None:
            async for part in body:
                parts.append(part)
                read_on.set()
                if len(parts) == 2:
                    raise BadRequestError("enough", status=400)

        async with serving(behave) as server:
            transport = make(HttpOptions())
            with pytest.raises(BadRequestError, match="enough"):
                await transport.stream(CALL, server.url, read)
            await transport.close()
            return parts, server.seen[0].headers["accept-encoding"]

    assert asyncio.run(main()) == ([b"one", b"two"], "identity")


def test_a_reader_that_is_cancelled_closes_the_connection(make: Make) -> None:
    async def main() -> None:
        async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")

        begun = asyncio.Event()

        async def read(body: Parts) -> None:
            async for _ in body:
                begun.set()

        async with serving(behave) as server:
            transport = make(HttpOptions())
            task = asyncio.create_task(transport.stream(CALL, server.url, read))
            await asyncio.wait_for(begun.wait(), WAIT_S)
            task.cancel()
            await asyncio.wait_for(server.gone.wait(), WAIT_S)
            await transport.close()

    asyncio.run(main())


def test_a_streamed_answer_that_breaks_off_is_a_connection_error(make: Make) -> None:
    async def main() -> list[bytes]:
        async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            await writer.drain()
            writer.close()

        parts: list[bytes] = []

        async def read(body: Parts) -> None:
            async for part in body:
                parts.append(part)  # noqa: PERF401 - what came before the error counts

        async with serving(behave) as server:
            transport = make(HttpOptions())
            with pytest.raises(APIConnectionError, match="no answer to op"):
                await transport.stream(CALL, server.url, read)
            await transport.close()
        return parts

    assert asyncio.run(main()) == [b"one"]


def test_an_answer_that_is_no_success_is_not_streamed(make: Make) -> None:
    async def main() -> Answer:
        async def read(_body: Parts) -> None:
            raise AssertionError

        async with serving(answer(404, b'{"detail": "Not Found"}')) as server:
            transport = make(HttpOptions())
            try:
                return await transport.stream(CALL, server.url, read)
            finally:
                await transport.close()

    assert (asyncio.run(main()).status, asyncio.run(main()).body) == (404, b'{"detail": "Not Found"}')
