"""Samples while they are drawn: order, cancelling, breaking off, crashes, and services that cannot."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded import Embedded, WallClock
from gate import Gate
from harness import KEY, WAIT_S, Events, Server, client
from starlette.types import ASGIApp, Receive, Scope, Send

import tinker_actors as ta
from tinker_actors.clients.streams import burst_of
from tinker_actors.errors import (
    CircuitOpenError,
    RequestFailedError,
    StreamBrokenError,
    StreamUnsupportedError,
    ValidationError,
)
from tinker_actors.events import RequestRetried
from tinker_actors.local.engine.batching import Batch
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect
from tinker_actors.tokenization import get_tokenizer
from tinker_actors.types import SampledSequence, SampleResponse

PROMPT = ta.ModelInput.from_ints(list(b"hello"))
PARAMS = ta.SamplingParams(max_tokens=6, seed=4, stop=[])
ENDLESS = ta.SamplingParams(max_tokens=1000, seed=4, stop=[])
SAMPLER = "service/session/sampling/sampling:1"
TRANSPORT = "service/transport"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "s", WallClock()) as server:
        yield server


@pytest.fixture(params=["fast", "httpx"])
def service(embedded: Embedded, request: pytest.FixtureRequest) -> Iterator[ta.ServiceClient]:
    with ta.ServiceClient(base_url=embedded.url, api_key=KEY, transport=request.param) as service:
        yield service


def sampler_of(service: ta.ServiceClient) -> ta.SamplingClient:
    return service.create_sampling_client(base_model="local/tiny").result(WAIT_S)


def ids(chunks: list[ta.SampleStreamChunk], sequence: int = 0) -> list[int]:
    return [one.token_id for one in chunks if one.token_id is not None and one.sequence == sequence]


def test_a_stream_gives_what_a_sample_gives(service: ta.ServiceClient) -> None:
    sampler = sampler_of(service)
    (whole,) = sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences
    *tokens, end = sampler.sample_stream(PROMPT, PARAMS)
    assert ids(tokens) == whole.tokens
    assert [one.index for one in tokens] == list(range(6))
    assert [one.logprob for one in tokens] == pytest.approx(whole.logprobs, rel=1e-5)
    assert [one.is_done for one in tokens] == [False] * 6
    assert (end.is_done, end.finish_reason, end.index, end.token_id) == (True, "length", 6, None)


def test_several_sequences_come_in_one_stream(service: ta.ServiceClient) -> None:
    sampler = sampler_of(service)
    chunks = list(sampler.sample_stream(PROMPT, PARAMS, 3))
    whole = sampler.sample(PROMPT, 3, PARAMS).result(WAIT_S).sequences
    assert [ids(chunks, number) for number in range(3)] == [one.tokens for one in whole]
    assert sorted(one.sequence for one in chunks if one.is_done) == [0, 1, 2]


def test_each_token_is_there_before_the_next_one_is_drawn(service: ta.ServiceClient, gate: Gate) -> None:
    stream, seen = sampler_of(service).sample_stream(PROMPT, PARAMS), []
    for _ in range(6):
        gate.open()
        next(stream)
        seen.append(gate.drawn)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [one.finish_reason for one in stream] == ["length"]


def test_each_token_is_there_before_the_next_one_is_drawn_async(
    service: ta.ServiceClient, gate: Gate
) -> None:
    async def read() -> list[int]:
        seen = []
        gate.open()
        async with sampler_of(service).sample_stream(PROMPT, PARAMS) as stream:
            async for chunk in stream:
                if not chunk.is_done:
                    seen.append(gate.drawn)
                    gate.open()
        return seen

    assert asyncio.run(read()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("how", ["close", "with", "drop", "cancel"])
def test_who_stops_reading_frees_the_slot(how: str, tmp_path: Path) -> None:
    # Both would run for minutes: what comes after them is drawn only if they are gone.
    with Server(tmp_path / "one-row", "--most-rows", "1") as narrow, client(narrow, None) as service:
        sampler = sampler_of(service)
        for _ in range(2):
            stop_reading(sampler, how)
        assert len(sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].tokens) == 6
        assert service.status().clients[0].unanswered == 0


def stop_reading(sampler: ta.SamplingClient, how: str) -> None:
    stream = sampler.sample_stream(PROMPT, ENDLESS, 100)
    next(stream)
    match how:
        case "close":
            stream.close()
            assert list(stream) == []
        case "with":
            with stream:
                next(stream)
        case "drop":
            del stream
            gc.collect()
        case _:
            asyncio.run(cancelled_in_the_middle(stream))


async def cancelled_in_the_middle(stream: ta.SampleStream) -> None:
    async def read() -> None:
        async with stream:
            async for _ in stream:
                begun.set()

    begun = asyncio.Event()
    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("path", [SAMPLER, TRANSPORT])
def test_what_has_no_token_when_an_actor_crashes_comes_all_the_same(
    service: ta.ServiceClient, gate: Gate, path: str
) -> None:
    sampler = sampler_of(service)
    stream = sampler.sample_stream(PROMPT, PARAMS)
    with expect(service._runtime.tree, ChildStarted, path=path, epoch=2, timeout_s=WAIT_S):
        crash(service.address(path))
    gate.open(50)
    assert len(ids(list(stream))) == 6


def test_a_stream_goes_on_while_the_actor_of_its_sampler_is_restarted(
    service: ta.ServiceClient, gate: Gate
) -> None:
    sampler = sampler_of(service)
    stream = sampler.sample_stream(PROMPT, PARAMS)
    gate.open()
    first = next(stream)
    with expect(service._runtime.tree, ChildStarted, path=SAMPLER, epoch=2, timeout_s=WAIT_S):
        crash(service.address(SAMPLER))
    gate.open(50)
    chunks = [first, *stream]
    assert ids(chunks) == sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].tokens
    assert service.status().clients[0].unanswered == 0


def test_a_stream_in_the_middle_of_which_the_transport_crashes_says_how_many_tokens_came(
    service: ta.ServiceClient, gate: Gate
) -> None:
    stream = sampler_of(service).sample_stream(PROMPT, PARAMS)
    gate.open(2)
    got = [next(stream), next(stream)]
    crash(service.address(TRANSPORT))
    with pytest.raises(StreamBrokenError, match="after 2 tokens") as caught:
        got += list(stream)
    gate.open(50)
    assert (len(got), caught.value.tokens) == (2, 2)
    assert len(ids(list(sampler_of(service).sample_stream(PROMPT, PARAMS)))) == 6


def test_what_fails_on_the_service_in_the_middle_is_an_error_behind_what_came(
    service: ta.ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, got = Gate(monkeypatch), []
    stream = sampler_of(service).sample_stream(PROMPT, PARAMS)
    gate.open()
    got.append(next(stream))
    monkeypatch.setattr(Batch, "step", lambda _: 1 / 0)
    gate.open()
    with pytest.raises(RequestFailedError, match=r"after \d tokens?: .*ZeroDivisionError") as caught:
        got += list(stream)
    assert caught.value.category == "server"
    assert 1 <= len(got) <= 2


def test_a_stream_that_breaks_off_says_how_many_tokens_came(server: Server) -> None:
    with client(server, None) as service:
        sampler = sampler_of(service)
        server.control.arm({"effect": "half_body", "operation": "stream_sample"})
        got: list[ta.SampleStreamChunk] = []
        with pytest.raises(StreamBrokenError) as caught:
            got.extend(sampler.sample_stream(PROMPT, PARAMS))
        assert caught.value.tokens == len(got) > 0
        assert len(ids(list(sampler.sample_stream(PROMPT, PARAMS)))) == 6


@pytest.mark.parametrize(
    "fault",
    [{"effect": "reset"}, {"effect": "drop"}, {"effect": "status"}, {"effect": "status", "status": 429}],
)
def test_what_fails_before_the_first_token_is_tried_again(server: Server, fault: dict[str, Any]) -> None:
    with client(server, None) as service:
        sampler, events = sampler_of(service), Events(service)
        server.control.arm({**fault, "operation": "stream_sample"})
        assert len(ids(list(sampler.sample_stream(PROMPT, PARAMS)))) == 6
    assert [event.operation for event in events.of(RequestRetried)] == ["stream_sample"]


def test_an_open_circuit_refuses_a_stream_without_sending(server: Server) -> None:
    breaker = ta.BreakerSettings(consecutive_failures=1)
    with client(server, None, circuit_breaker={"stream_sample": breaker}) as service:
        sampler = sampler_of(service)
        fault = {"effect": "status", "status": 500, "operation": "stream_sample", "count": "always"}
        server.control.arm(fault)
        with pytest.raises(CircuitOpenError, match="stream_sample"):
            list(sampler.sample_stream(PROMPT, PARAMS))
        server.control.clear()


def test_a_session_that_the_service_forgot_is_made_anew_for_a_stream(server: Server) -> None:
    with client(server, None) as service:
        sampler = sampler_of(service)
        with expect(service._runtime.tree, ChildStarted, path=SAMPLER, timeout_s=WAIT_S):
            tell_that_its_session_is(service, "gone:sample:0")
            assert len(ids(list(sampler.sample_stream(PROMPT, PARAMS)))) == 6


def tell_that_its_session_is(service: ta.ServiceClient, name: str) -> None:
    """Have the live incarnation ask for what is not there."""
    slot = service._runtime.tree._runtime.names.get(SAMPLER)
    assert slot is not None
    assert slot.incarnation is not None
    actor: Any = slot.incarnation._actor
    actor._session_id = name


# Services without the endpoint -------------------------------------------------------------------


class Refusing:
    """Stands before an application, and answers for it where a path has one of these words.

    Args:
        app: what answers all else.
        statuses: by the word.
    """

    def __init__(self, app: ASGIApp, statuses: dict[str, int]) -> None:
        self._app = app
        self.statuses = statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = next((status for word, status in self.statuses.items() if word in scope["path"]), None)
        if status is None:
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail":"Not Found"}'})


def without_streams(app: ASGIApp) -> ASGIApp:
    return Refusing(app, {"stream_sample": 404})


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[ta.ServiceClient]:
    with (
        Embedded(tmp_path / "s", WallClock(), without_streams) as server,
        ta.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        yield service


def test_a_service_that_cannot_stream_is_an_error_that_says_so(plain: ta.ServiceClient) -> None:
    sampler = sampler_of(plain)
    for _ in range(2):
        with pytest.raises(StreamUnsupportedError, match="in_one_burst"):
            next(sampler.sample_stream(PROMPT, PARAMS))
    assert plain.tree().find(SAMPLER).restarts == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [404, 405])
def test_a_service_that_knows_neither_streams_nor_samplers_cannot_stream(tmp_path: Path, status: int) -> None:
    with (
        Embedded(
            tmp_path / "s",
            WallClock(),
            lambda app: Refusing(app, {"stream_sample": 404, "samplers/": status}),
        ) as server,
        ta.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        sampler = sampler_of(service)
        for _ in range(2):
            with pytest.raises(StreamUnsupportedError):
                next(sampler.sample_stream(PROMPT, PARAMS))


def test_a_service_that_does_not_say_why_it_streams_nothing_is_asked_the_next_time(tmp_path: Path) -> None:
    statuses = {"stream_sample": 404, "samplers/": 403}
    with (
        Embedded(tmp_path / "s", WallClock(), lambda app: Refusing(app, statuses)) as server,
        ta.ServiceClient(base_url=server.url, api_key=KEY) as service,
    ):
        sampler = sampler_of(service)
        with pytest.raises(ta.PermissionDeniedError):
            next(sampler.sample_stream(PROMPT, PARAMS))
        statuses.clear()
        assert len(ids(list(sampler.sample_stream(PROMPT, PARAMS)))) == 6


@pytest.mark.parametrize("wait", ["sync", "async"])
def test_where_a_service_cannot_stream_whole_samples_come_in_one_burst(
    plain: ta.ServiceClient, wait: str
) -> None:
    sampler = sampler_of(plain)
    whole = sampler.sample(PROMPT, 2, PARAMS).result(WAIT_S).sequences

    async def read() -> list[ta.SampleStreamChunk]:
        return [chunk async for chunk in sampler.sample_stream(PROMPT, PARAMS, 2, in_one_burst=True)]

    if wait == "sync":
        chunks = list(sampler.sample_stream(PROMPT, PARAMS, 2, in_one_burst=True))
    else:
        chunks = asyncio.run(read())
    assert [ids(chunks, number) for number in (0, 1)] == [one.tokens for one in whole]
    text = "".join(one.token for one in chunks if one.sequence == 0)
    assert text == get_tokenizer("local/tiny").decode(whole[0].tokens)[: len(text)]


def test_a_character_of_several_tokens_comes_with_its_last_one() -> None:
    tokens = get_tokenizer("local/tiny").encode("aé!")
    response = SampleResponse(sequences=[SampledSequence(tokens=tokens, stop_reason="stop")])
    *chunks, end = burst_of(response, get_tokenizer("local/tiny"))
    assert [one.token for one in chunks] == ["a", "", "é", "!"]
    assert (end.finish_reason, end.index) == ("stop", 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"timeout": "x"}, "timeout"),
        ({"in_one_burst": "yes"}, "in_one_burst"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    server: Server, arguments: dict[str, Any], message: str
) -> None:
    with client(server, None) as service, pytest.raises(ValidationError, match=message):
        sampler_of(service).sample_stream(PROMPT, PARAMS, **arguments)


def test_a_closed_service_ends_its_streams(service: ta.ServiceClient, gate: Gate) -> None:
    stream = sampler_of(service).sample_stream(PROMPT, PARAMS)  # which keeps its sampler
    gate.open()
    next(stream)
    service.close().result(WAIT_S)
    gate.open(50)
    with pytest.raises((ta.RuntimeStoppedError, StreamBrokenError)):
        next(stream)


def test_a_token_that_does_not_come_in_time_is_a_timeout_and_comes_later(
    service: ta.ServiceClient, gate: Gate
) -> None:
    stream = sampler_of(service).sample_stream(PROMPT, PARAMS, timeout=0.01)
    with pytest.raises(ta.APITimeoutError, match="the stream goes on"):
        next(stream)
    gate.open(50)
    stream._timeout_s = WAIT_S
    assert len(ids(list(stream))) == 6
