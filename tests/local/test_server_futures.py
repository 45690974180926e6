"""Cancelling samples, polling for many at once, and large results, against a server in its own process."""

from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.wire.protobuf import decode_sample

PROTOBUF = "application/x-protobuf"
LONG = {"max_tokens": 1000, "stop": []}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, start_shared: Callable[..., Any]) -> Any:
    """A server in which one sample grows at a time, and every result is large."""
    options = (
        "--hold",
        "0.2",
        "--most-rows",
        "1",
        "--inline-kib",
        "1",
        "--batched-futures",
        "--join-samplers",
    )
    return start_shared(tmp_path_factory.mktemp("narrow"), *options)


@pytest.fixture
def caller(narrow: Any, open_caller: Callable[..., Any]) -> Any:
    return open_caller(narrow)


def cancel(caller: Any, request_id: str) -> Any:
    return caller.ask("cancel_future", {"request_id": request_id})


def test_a_cancelled_sample_leaves_its_place_to_the_next_one(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    documents = [
        caller.sample_document(sampler, seq_id, sampling_params=params, num_samples=samples)
        for seq_id, (params, samples) in enumerate([(LONG, 50), (LONG, 50), ({"max_tokens": 2}, 1)])
    ]
    growing, waiting, last = [caller.ask("asample", document)["request_id"] for document in documents]
    for request_id in (waiting, growing):
        assert cancel(caller, request_id) == {}
        assert caller.poll(request_id).json() == {"error": "the request was cancelled", "category": "user"}
    assert len(caller.poll(last).json()["sequences"][0]["tokens"]) == 2
    assert caller.ask("asample", documents[0])["request_id"] == growing
    cancel(caller, last)
    assert caller.poll(last).json()["sequences"]


def test_only_samples_can_be_cancelled(caller: Any) -> None:
    model_id = caller.model()
    response = caller.post("cancel_future", {"request_id": f"{model_id}:0"})
    assert (response.status_code, "only samples" in response.json()["detail"]) == (400, True)
    assert caller.post("cancel_future", {"request_id": "s:sample:0:1"}).status_code == 404


def test_a_large_result_is_announced_to_who_can_be_told(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    document = caller.sample_document(sampler, sampling_params={"max_tokens": 200, "stop": []})
    request_id = caller.ask("asample", document)["request_id"]
    whole = caller.poll(request_id, PROTOBUF).content
    poll = {"request_id": request_id, "allow_metadata_only": True}
    told = caller.http.post("retrieve_future", json=poll, headers={"Accept": PROTOBUF})
    assert told.json() == {"status": "complete_metadata", "response_payload_size": len(whole)}
    assert len(decode_sample(whole).sequences[0].tokens) == 200


def test_a_small_result_comes_at_once(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    request_id = caller.ask("asample", caller.sample_document(sampler))["request_id"]
    caller.poll(request_id)
    assert caller.ask("retrieve_future", {"request_id": request_id, "allow_metadata_only": True})["sequences"]


def test_clients_are_told_what_the_server_offers(caller: Any) -> None:
    assert caller.ask("client/config", {"sdk_version": "0.38.0"}) == {
        "sample_use_retrieve_futures": True,
        "sample_join_sampling_session": True,
    }


def ended(caller: Any, sampler: str, cursor: int = 0, clone: int = 0, **more: Any) -> Any:
    target = {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": clone}
    return caller.ask("retrieve_futures", {"target": target, "prev_cursor": cursor, **more})


def test_samples_of_a_clone_are_polled_for_together(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    counter = caller.ask("join_sampling_session", {"sampling_session_id": sampler})["client_counter"]
    assert counter == 1
    ids = [
        caller.ask("asample", caller.sample_document(sampler, counter * 10**9 + number))["request_id"]
        for number in range(3)
    ]
    found: list[str] = []
    cursor = 0
    while len(found) < 3:
        told = ended(caller, sampler, cursor, counter, retrieved_request_ids=found)
        found += [one["request_id"] for one in told["completions"]]
        cursor = told["cursor"]
    assert found == ids
    assert ended(caller, sampler, cursor, counter, timeout=0) == {"completions": [], "cursor": cursor}
    assert ended(caller, sampler, timeout=0) == {"completions": [], "cursor": 0}


def test_a_poll_for_many_is_answered_when_the_first_one_ends(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    document = caller.sample_document(sampler, sampling_params={"max_tokens": 300, "stop": []})
    request_id = caller.ask("asample", document)["request_id"]
    told: dict[str, Any] = {"completions": []}
    while not told["completions"]:
        told = ended(caller, sampler)
    (one,) = told["completions"]
    assert (one["state"], one["request_id"]) == ("finished", request_id)
    assert one["response_payload_uncompressed_size"] == len(caller.poll(request_id, PROTOBUF).content)


@pytest.mark.parametrize("path", ["join_sampling_session", "retrieve_futures"])
def test_an_unknown_sampling_session_is_named(caller: Any, path: str) -> None:
    target = {"sampling_session_id": "s:sample:0"}
    response = caller.post(path, {**target, "target": target})
    assert response.status_code == 404
