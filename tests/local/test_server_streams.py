"""Samples as server-sent events: told as they are made, ended with their reader."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from in_process import Asked, a_sampler

from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.engine.batching import Batch
from tinker_actors.local.options import Options
from tinker_actors.local.service import Service

Events = list[tuple[str, dict[str, Any]]]


def parsed(body: bytes) -> Events:
    """Names and data of server-sent events."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def streamed(caller: Any, document: Any) -> Events:
    answer = caller.post("stream_sample", document)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parsed(answer.content)


def test_a_stream_tells_what_a_sample_gives(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    document = caller.sample_document(sampler, sampling_params={"max_tokens": 9, "seed": 4, "stop": []})
    (sample,) = caller.do("asample", document)["sequences"]
    *tokens, done = streamed(caller, document)
    assert [name for name, _ in tokens] == ["token"] * 9
    assert [data["token_id"] for _, data in tokens] == sample["tokens"]
    assert [data["logprob"] for _, data in tokens] == pytest.approx(sample["logprobs"], rel=1e-5)
    assert [data["index"] for _, data in tokens] == list(range(9))
    assert "".join(data["token"] for _, data in tokens)
    assert done == ("done", {"finish_reason": "length", "total_tokens": 9})


def test_a_stream_of_several_samples_says_which_token_is_whose(caller: Any) -> None:
    params = {"max_tokens": 5, "seed": 4, "stop": []}
    document = caller.sample_document(caller.sampler(caller.session()), sampling_params=params, num_samples=3)
    samples = caller.do("asample", document)["sequences"]
    *tokens, (_, done) = streamed(caller, document)
    for number, sample in enumerate(samples):
        mine = [data["token_id"] for _, data in tokens if data["sequence"] == number]
        assert mine == sample["tokens"]
    assert done == {"finish_reason": "length", "total_tokens": 15, "finish_reasons": ["length"] * 3}


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"sampling_params": {"max_tokens": 0}}, 422),
        ({"prompt_logprobs": True}, 400),
        ({"topk_sample_logprobs": 2}, 400),
        ({"sampling_session_id": "s:sample:0"}, 404),
    ],
)
def test_a_stream_that_cannot_be_is_refused(caller: Any, more: dict[str, Any], status: int) -> None:
    sampler = caller.sampler(caller.session())
    answer = caller.post("stream_sample", {**caller.sample_document(sampler, **more), **more})
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)


def test_a_reader_that_leaves_frees_its_row(
    start: Callable[..., Any], open_caller: Any, tmp_path: Path
) -> None:
    caller = open_caller(start(tmp_path / "s", "--most-rows", "1"))
    sampler = caller.sampler(caller.session())
    # Both would run for minutes: what comes after them ends only if they are gone.
    endless = caller.sample_document(
        sampler, sampling_params={"max_tokens": 1000, "stop": []}, num_samples=100
    )
    for _ in range(2):
        with caller.http.stream("POST", "stream_sample", json=endless) as answer:
            assert b"token_id" in next(answer.iter_bytes())
    assert caller.do("asample", caller.sample_document(sampler))["sequences"]


# In this process, where the engine can be held


async def event(stream: Asked) -> tuple[str, dict[str, Any]]:
    return parsed(await stream.part())[0]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    data = DataDirectory(tmp_path / "s")
    data.open(1.0)
    service = Service(Options(data=tmp_path / "s"), data)
    service.start()
    yield service
    service.stop()


def document(sampler: str, max_tokens: int = 3) -> dict[str, Any]:
    return {
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "sampling_params": {"max_tokens": max_tokens, "seed": 1, "stop": []},
        "sampling_session_id": sampler,
        "seq_id": 0,
    }


def test_each_token_leaves_before_the_next_one_is_made(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def read() -> list[tuple[str, int]]:
        stream = Asked(service, "stream_sample", document(await a_sampler(service)))
        seen = []
        for _ in range(3):
            gate.open()
            name, _ = await event(stream)
            seen.append((name, gate.drawn))
        name, _ = await event(stream)
        await stream.task
        return [*seen, (name, gate.drawn)]

    assert asyncio.run(read()) == [("token", 1), ("token", 2), ("token", 3), ("done", 3)]


def test_a_stream_whose_reader_leaves_is_drawn_no_further(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def read() -> Any:
        sampler = await a_sampler(service)
        stream = Asked(service, "stream_sample", document(sampler, 1000))
        gate.open()
        await event(stream)
        stream.leave()
        await asyncio.wait_for(stream.task, 30)
        gate.open(4)  # one that the stream may be waiting for, three for what comes next
        handle = await Asked(service, "asample", document(sampler)).document()
        return await Asked(service, "retrieve_future", {"request_id": handle["request_id"]}).document()

    assert len(asyncio.run(read())["sequences"][0]["tokens"]) == 3
    assert gate.drawn <= 5


def test_what_goes_wrong_on_the_way_is_an_event(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def read() -> list[tuple[str, dict[str, Any]]]:
        stream = Asked(service, "stream_sample", document(await a_sampler(service)))
        gate.open()
        first = await event(stream)
        monkeypatch.setattr(Batch, "step", lambda _: 1 / 0)
        gate.open()
        events = [first]
        while events[-1][0] == "token":
            events.append(await event(stream))
        return events

    *tokens, (name, data) = asyncio.run(read())
    assert tokens
    assert (name, data["category"]) == ("error", "server")
    assert "ZeroDivisionError" in data["error"]


def test_a_server_that_stops_ends_its_streams(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def read() -> tuple[str, dict[str, Any]]:
        stream = Asked(service, "stream_sample", document(await a_sampler(service)))
        gate.open()
        await event(stream)
        service.waiters.release()
        return await event(stream)

    assert asyncio.run(read()) == ("error", {"error": "the server stops", "category": "server"})
    gate.open(3)
