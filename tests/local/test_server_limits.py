"""More work than the server takes: first it says so, then it refuses."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tinker_actors.local.executor import Limits
from tinker_actors.local.refusals import BusyError


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
