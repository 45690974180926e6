"""More work than the server takes: first it says so, then it refuses."""

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process import Asked, a_sampler

from tinker_actors.local import ledger
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.executor import Limits
from tinker_actors.local.options import Options
from tinker_actors.local.refusals import BusyError
from tinker_actors.local.service import Service
from tinker_actors.local.specs import Ticket, as_json
from tinker_actors.local.store import Connection


@pytest.mark.parametrize(
    ("waiting", "of_session", "state"),
    [
        (0, 0, "active"),
        (9, 3, "active"),
        (10, 1, "paused_capacity"),
        (19, 1, "paused_capacity"),
        (9, 4, "paused_rate_limit"),
        (19, 7, "paused_rate_limit"),
    ],
)
def test_half_of_a_limit_is_a_pause(waiting: int, of_session: int, state: str) -> None:
    found, reason = Limits(most=20, most_of_session=8).state(waiting, of_session)
    assert found == state
    assert (reason is None) == (state == "active")


@pytest.mark.parametrize(
    ("waiting", "of_session", "state"),
    [(20, 1, "paused_capacity"), (9, 8, "paused_rate_limit"), (20, 8, "paused_rate_limit")],
)
def test_all_of_a_limit_is_a_refusal(waiting: int, of_session: int, state: str) -> None:
    with pytest.raises(BusyError) as refused:
        Limits(most=20, most_of_session=8).check(waiting, of_session)
    assert (refused.value.status, refused.value.queue_state) == (429, state)


@pytest.fixture
def busy(start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Any) -> tuple[Any, list[str]]:
    """A server that one session has filled: one sample grows for long, seven wait."""
    options = ("--hold", "0", "--most-rows", "1", "--most-waiting", "10", "--most-waiting-of-session", "8")
    caller = open_caller(start(tmp_path / "s", *options))
    sampler = caller.sampler(caller.session())
    params = {"max_tokens": 1000, "stop": []}
    ids: list[str] = []
    answer = httpx.Response(200)
    while answer.status_code == 200:
        document = caller.sample_document(sampler, len(ids), sampling_params=params, num_samples=50)
        answer = caller.post("asample", document)
        ids += [answer.json()["request_id"]] if answer.status_code == 200 else []
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["queue_state"] == "paused_rate_limit"
    return caller, ids


def test_a_full_queue_is_named_to_those_who_poll(busy: tuple[Any, list[str]]) -> None:
    caller, ids = busy
    answers = [caller.post("retrieve_future", {"request_id": request_id}) for request_id in (ids[0], ids[-1])]
    assert [answer.status_code for answer in answers] == [408, 408]
    first, last = (answer.json() for answer in answers)
    assert first == {"request_id": ids[0], "queue_state": "active", "type": "try_again"}
    assert last["queue_state"] == "paused_rate_limit"
    assert "wait" in last["queue_state_reason"]


def test_one_sessions_queue_is_not_anothers(busy: tuple[Any, list[str]]) -> None:
    caller, _ = busy
    sampler = caller.sampler(caller.session())
    answer = caller.post("asample", caller.sample_document(sampler))
    assert answer.status_code == 200
    pending = caller.post("retrieve_future", {"request_id": answer.json()["request_id"]}).json()
    assert pending["queue_state"] == "paused_capacity"


def test_training_goes_on_beside_samples_and_samples_beside_training(busy: tuple[Any, list[str]]) -> None:
    caller, ids = busy
    model_id = caller.model()
    steps = [caller.optim_step(model_id, seq_id).json()["request_id"] for seq_id in range(1, 20)]
    assert "metrics" in caller.poll(steps[-1]).json()
    short = caller.sample_document(caller.sampler(caller.session()), sampling_params={"max_tokens": 2})
    request_id = caller.ask("asample", short)["request_id"]
    steps = [caller.optim_step(model_id, seq_id).json()["request_id"] for seq_id in range(20, 40)]
    assert caller.post("cancel_future", {"request_id": ids[0]}).status_code == 200
    assert caller.poll(request_id).json()["sequences"]
    assert "metrics" in caller.poll(steps[-1]).json()
    assert caller.post("retrieve_future", {"request_id": ids[-1]}).status_code == 408


def test_operations_far_ahead_wait_outside(caller: Any) -> None:
    model_id = caller.model()
    assert caller.optim_step(model_id, ledger.MOST_AHEAD).status_code == 200
    far = caller.optim_step(model_id, ledger.MOST_AHEAD + 1)
    assert (far.status_code, far.json()["queue_state"]) == (429, "paused_rate_limit")
    caller.optim_step(model_id, 1)
    caller.poll(f"{model_id}:1")
    assert caller.optim_step(model_id, ledger.MOST_AHEAD + 1).status_code == 200


def test_more_models_than_fit_into_memory_train_all_the_same(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Any
) -> None:
    results = []
    for most in ("1", "8"):
        caller = open_caller(start(tmp_path / most, "--most-live-models", most))
        models = [caller.model(number=number) for number in range(3)]
        ids = []
        for seq_id in range(1, 7):
            for model_id in models:
                send = caller.forward_backward if seq_id % 3 else caller.optim_step
                ids.append(send(model_id, seq_id).json()["request_id"])
        results.append([caller.poll(request_id, "application/x-protobuf").content for request_id in ids])
    assert results[0] == results[1]
    assert len(set(results[0])) > 1


def memory() -> int:
    """Bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_ten_thousand_open_futures_are_borne(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "s")
    data.open(1.0)
    service = Service(Options(data=tmp_path / "s", hold_s=0.05), data)  # executes nothing until it is started
    body = {
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [200] * 1000}]},
        "sampling_params": {"max_tokens": 2},
        "padding": "x" * 4_000,
    }

    def fill(db: Connection, sampler: str) -> list[Ticket]:
        """Accept most of them at once."""
        tickets = []
        for number in range(1000, 10_000):
            request = ledger.Request(
                request_id=f"{sampler}:{number}",
                kind="sample",
                queue=sampler,
                seq_id=number,
                digest=b"",
                body=as_json({**body, "sampling_session_id": sampler, "seq_id": number}),
            )
            ledger.accept(db, request)
            tickets.append(request.ticket)
        return tickets

    async def open_all(sampler: str) -> list[str]:
        ids: list[str] = []
        for first in range(0, 1000, 200):
            asked = [
                Asked(service, "asample", {**body, "sampling_session_id": sampler, "seq_id": number})
                for number in range(first, first + 200)
            ]
            ids += [(await one.document())["request_id"] for one in asked]
        tickets = await service.run(lambda db: fill(db, sampler))
        service.executor.offer(tickets)
        return ids + [ticket.request_id for ticket in tickets]

    async def ask() -> tuple[set[str], str]:
        sampler = await a_sampler(service)
        before = memory()
        ids = await open_all(sampler)
        polls = [Asked(service, "retrieve_future", {"request_id": request_id}) for request_id in ids[::20]]
        states = {(await poll.document())["type"] for poll in polls}
        assert memory() - before < 50 * 2**20  # the bodies alone have 80 MB
        service.start()
        single = {**body, "sampling_session_id": await a_sampler(service), "seq_id": 0}
        request_id = (await Asked(service, "asample", single).document())["request_id"]
        answer: dict[str, str] = {"type": "try_again"}
        while answer["type"] == "try_again":
            answer = await Asked(service, "retrieve_future", {"request_id": request_id}).document()
        return states, answer["type"]

    try:
        assert asyncio.run(ask()) == ({"try_again"}, "sample")
    finally:
        service.stop()
