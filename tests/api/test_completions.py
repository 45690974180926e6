"""One poll for all requests of a sampler, as data."""

import msgspec
import pytest

from tinker_actors.api.completions import Completion, Completions, retrieve_futures
from tinker_actors.errors import APIResponseValidationError
from tinker_actors.wire.calls import Answer

TARGET = {"type": "sampling_session", "sampling_session_id": "s:sample:0", "cloned_sampler_id": 3}


def test_a_held_poll_has_no_time_of_its_own() -> None:
    call = retrieve_futures("s:sample:0", 3, 12, ["r1"])
    sent = msgspec.json.decode(call.body)
    assert (call.method, call.path, call.timeout_s) == ("POST", "retrieve_futures", 45.0)
    assert sent == {"target": TARGET, "prev_cursor": 12, "retrieved_request_ids": ["r1"]}


def test_a_poll_that_only_acknowledges_is_answered_at_once() -> None:
    call = retrieve_futures("s:sample:0", 3, 0, is_held=False)
    assert msgspec.json.decode(call.body)["timeout"] == 0.0
    assert call.timeout_s == 5.0


def test_what_ended_is_read() -> None:
    body = b"""{"completions": [{"state": "finished", "request_id": "r1", "response_payload_uncompressed_size": 7},
        {"state": "failed", "request_id": "r2", "of next year": 1}], "cursor": 14}"""
    ended = [
        Completion(request_id="r1", state="finished", response_payload_uncompressed_size=7),
        Completion(request_id="r2", state="failed"),
    ]
    read = retrieve_futures("s", 0, 0).read(Answer(200, {}, body))
    assert read == Completions(completions=ended, cursor=14)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"completions": [{"state": "lost", "request_id": "r"}], "cursor": 1}']
)
def test_another_answer_is_a_typed_error(body: bytes) -> None:
    with pytest.raises(APIResponseValidationError):
        retrieve_futures("s", 0, 0).read(Answer(200, {}, body))
