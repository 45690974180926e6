"""Which requests get into a batch, and which wait: without a thread, a step at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.local import ledger, records, samplers
from tinker_actors.local.checkpoints import Checkpoints
from tinker_actors.local.engine.batching import Batch, Token
from tinker_actors.local.queues import FairQueue
from tinker_actors.local.samplers import Samplers, Stream
from tinker_actors.local.specs import Result, Ticket, as_json
from tinker_actors.local.store import Store
from tinker_actors.types import ModelInput, SamplingParams
from tinker_actors.wire.documents import SampleRequest
from tinker_actors.wire.protobuf import decode_sample

MakeSamplers = Callable[..., Samplers]


class Desk:
    """A queue and sampling sessions of a store, and samplers that take from them."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "store")
        self.checkpoints = Checkpoints(directory)
        self.queue = FairQueue()
        self.samplers = self.make()
        self.done: dict[str, Result] = {}
        self.streams: dict[str, Stream] = {}

    def make(self, *, together: bool = True, most_rows: int = 8, most_bytes: int = 2**30) -> Samplers:
        return Samplers(
            self.store, self.checkpoints, together=together, most_rows=most_rows, most_bytes=most_bytes
        )

    def session(self) -> str:
        """A sampling session of a session of its own."""
        session_id = self.store.ask(lambda db: records.add_session(db, b"{}"))
        sampler = f"{session_id}:sample:0"
        self.store.ask(lambda db: records.add_sampler(db, sampler, b"", base="local/tiny", path=None))
        return sampler

    def ask(self, sampler: str, seq_id: int, **more: Any) -> str:
        """Accept a sample request; its id."""
        params = {"max_tokens": 3, "seed": seq_id, "stop": [], **more.pop("params", {})}
        body = {
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
            "sampling_params": params,
            "sampling_session_id": sampler,
            "seq_id": seq_id,
            **more,
        }
        request = ledger.Request(
            request_id=f"{sampler}:{seq_id}",
            kind="sample",
            queue=sampler,
            seq_id=seq_id,
            digest=b"",
            body=as_json(body),
        )
        self.store.ask(lambda db: ledger.accept(db, request))
        self.queue.put(request.ticket)
        return request.request_id

    def step(self, count: int = 1) -> None:
        """As many tokens as the executor would draw."""
        for _ in range(count):
            finished = self.samplers.admit(
                lambda: self.queue.take_sample(self.samplers.may_take), self.streams
            )
            finished += self.samplers.step()
            for ticket, result in finished:
                self.done[ticket.request_id] = result

    def run(self) -> None:
        while self.samplers.is_busy or self.queue.samples_waiting:
            self.step()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


def test_requests_of_all_sessions_grow_in_one_batch(desk: Desk) -> None:
    ids = [desk.ask(desk.session(), 1) for _ in range(3)]
    desk.step(3)
    assert set(desk.done) == set(ids)


def test_a_request_joins_while_others_grow_and_leaves_before_them(desk: Desk) -> None:
    sampler = desk.session()
    long = desk.ask(sampler, 1, params={"max_tokens": 9})
    desk.step(2)
    short = desk.ask(sampler, 2, params={"max_tokens": 2})
    desk.step(2)
    assert list(desk.done) == [short]
    desk.run()
    assert list(desk.done) == [short, long]


def test_a_session_with_many_requests_leaves_room_for_others(desk: Desk) -> None:
    busy = desk.session()
    for seq_id in range(1000):
        desk.ask(busy, seq_id, params={"max_tokens": 50})
    desk.step()
    assert desk.queue.samples_waiting == 1000 - 6
    single = desk.ask(desk.session(), 1)
    desk.step(3)
    assert list(desk.done) == [single]


def test_a_request_for_which_there_is_no_room_waits_for_it(desk: Desk) -> None:
    first, second = desk.session(), desk.session()
    desk.ask(first, 1, num_samples=6)
    desk.ask(second, 1, num_samples=6)
    desk.step()
    assert not desk.queue.samples_waiting
    desk.step(2)
    assert list(desk.done) == [f"{first}:1"]
    desk.step(3)
    assert list(desk.done) == [f"{first}:1", f"{second}:1"]


def test_small_requests_of_others_do_not_keep_a_large_one_out_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "MOST_PASSES", 5)
    others = [desk.session(), desk.session()]
    large = desk.session()
    for number, other in enumerate(others):
        desk.ask(other, 0, params={"max_tokens": 2 + number})
    desk.ask(large, 0, num_samples=8)
    for seq_id in range(1, 40):  # at each step there is a small one that could begin
        for other in others:
            desk.ask(other, seq_id)
        desk.step()
    assert f"{large}:0" in desk.done
    desk.run()
    assert len(desk.done) == 1 + 2 * 40


def test_a_request_that_is_larger_than_all_room_grows_alone(desk: Desk) -> None:
    sampler = desk.session()
    desk.ask(sampler, 1, num_samples=20)
    desk.ask(sampler, 2)
    desk.run()
    assert list(desk.done) == [f"{sampler}:1", f"{sampler}:2"]
    assert len(decode_sample(desk.done[f"{sampler}:1"].body).sequences) == 20


def test_memory_bounds_what_grows_at_once(desk: Desk) -> None:
    desk.samplers = desk.make(most_bytes=150_000)  # keys and values of two rows of 64 steps
    for _ in range(3):
        desk.ask(desk.session(), 1)
    desk.step()
    assert len(list(desk.samplers._running())) == 2
    desk.run()
    assert len(desk.done) == 3


def test_apart_no_two_requests_share_a_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Batch] = []
    begin = Batch.__init__

    def count(batch: Batch, *arguments: Any) -> None:
        begin(batch, *arguments)
        made.append(batch)

    monkeypatch.setattr(Batch, "__init__", count)
    desk.samplers = desk.make(together=False)
    sampler = desk.session()
    for seq_id in range(4):
        desk.ask(sampler, seq_id)
    desk.run()
    assert (len(made), len(desk.done)) == (4, 4)


def test_a_cancelled_request_leaves_at_once(desk: Desk) -> None:
    sampler = desk.session()
    request_id = desk.ask(sampler, 1, num_samples=6)
    held = desk.ask(desk.session(), 1, num_samples=6)
    desk.step()
    for cancelled in (request_id, held):
        ticket = desk.samplers.cancel(cancelled)
        assert ticket is not None
        assert ticket.request_id == cancelled
    assert desk.samplers.cancel(request_id) is None
    assert not desk.samplers.is_busy
    after = desk.ask(sampler, 2)
    desk.run()
    assert list(desk.done) == [after]


def test_a_batch_that_fails_fails_its_requests_only(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = desk.session()
    ids = [desk.ask(sampler, seq_id) for seq_id in (1, 2)]
    desk.step()
    with monkeypatch.context() as broken:
        broken.setattr(Batch, "step", lambda _: 1 / 0)
        desk.step()
    assert [desk.done[request_id].form for request_id in ids] == ["error", "error"]
    after = desk.ask(sampler, 3)
    desk.run()
    assert desk.done[after].form == "sample"


def test_weights_that_are_gone_fail_the_request(desk: Desk) -> None:
    session = desk.session().rpartition(":sample:")[0]
    sampler = f"{session}:sample:1"
    path = f"tinker://{session}:train:0/sampler_weights/gone"
    desk.store.ask(lambda db: records.add_sampler(db, sampler, b"", base="local/tiny", path=path))
    request_id = desk.ask(sampler, 1)
    desk.step()
    assert desk.done[request_id].form == "error"


def test_a_stream_is_told_its_tokens_while_it_grows(desk: Desk) -> None:
    told: list[Token] = []
    sampler = desk.session()
    request = SampleRequest(
        prompt=ModelInput.from_ints([1, 2, 3]),
        sampling_params=SamplingParams(max_tokens=3, stop=[]),
        sampling_session_id=sampler,
        seq_id=0,
    )
    ticket = Ticket(request_id=f"{sampler}:stream", kind="sample", queue=sampler, seq_id=None)
    desk.streams[ticket.request_id] = Stream(request, 1, told.append)
    desk.queue.put(ticket)
    counts = []
    while not desk.done:
        desk.step()
        counts.append(len(told))
    assert counts == [1, 2, 3]
    assert not desk.streams
