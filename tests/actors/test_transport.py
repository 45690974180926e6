"""The network's actor, with a transport that a test answers for."""

import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec
import pytest
from harness import WAIT_S, Server, client
from network import CALL, EXPECTED, HANDLE, JSON, SAVED, Bench, Flags, answers, no_flags

from tinker_actors.actors import transport
from tinker_actors.actors.published import Endpoint
from tinker_actors.actors.transport import (
    Accepted,
    Answered,
    Cancel,
    EndpointChanged,
    Failed,
    Fetch,
    Send,
)
from tinker_actors.api.setup import DynamicConfig
from tinker_actors.errors import (
    APIConnectionError,
    AuthenticationError,
    ConflictError,
    OutcomeUnknownError,
    StartFailedError,
)
from tinker_actors.events import OperationDeprecated, QueueStateChanged, RequestRetried
from tinker_actors.supervision import ChildStarted, DeleteChild, TerminateChild
from tinker_actors.supervision.testing import VirtualClock, crash, expect
from tinker_actors.wire.calls import Answer, Call
from tinker_actors.wire.documents import FutureHandle


def test_a_request_is_told_when_it_is_accepted_and_when_its_result_is_there(
    bench: Callable[..., Bench],
) -> None:
    one = bench(answers(HANDLE, SAVED))
    one.send("a")
    assert one.next() == Accepted("a", FutureHandle(request_id="7"))
    assert one.next() == Answered("a", SAVED)


def test_a_request_that_left_is_told_before_it_is_accepted(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE, SAVED))
    one.send("a", sent=lambda: one.received.put("sent"))
    assert [one.next(), one.next()] == ["sent", Accepted("a", FutureHandle(request_id="7"))]


def test_a_try_that_failed_handles_nothing_any_more(bench: Callable[..., Bench]) -> None:
    one = bench(answers(APIConnectionError("gone"), None))
    one.transport.takes_bodies = False
    one.send("a", sent=lambda: one.received.put("sent"))
    assert one.next() == "sent"


def test_a_request_that_waits_to_be_sent_handles_nothing(bench: Callable[..., Bench]) -> None:
    one = bench(answers(), endpoint=None)
    one.send("a", sent=lambda: one.received.put("sent"))
    assert one.next() == "sent"


def test_what_passes_by_itself_is_tried_again_and_told(bench: Callable[..., Bench]) -> None:
    one = bench(answers(APIConnectionError("gone"), Answer(503, {}, b""), HANDLE, SAVED))
    with expect(one.tree, RequestRetried, count=2, operation="save_weights", timeout_s=WAIT_S):
        one.send("a")
    assert isinstance(one.next(), Accepted)


def test_a_refusal_says_that_nothing_was_accepted(bench: Callable[..., Bench]) -> None:
    one = bench(answers(Answer(409, JSON, b'{"detail": "no"}')))
    one.send("a")
    failed = one.next()
    assert isinstance(failed, Failed)
    assert (isinstance(failed.error, ConflictError), failed.accepted) == (True, False)


def test_requests_wait_until_there_is_a_server(bench: Callable[..., Bench]) -> None:
    seen: list[str] = []

    def script(_call: Call[Any], base_url: str) -> Answer:
        seen.append(base_url)
        return HANDLE if len(seen) == 1 else SAVED

    one = bench(script, endpoint=None)
    one.send("a")
    one.published.endpoint = Endpoint("http://later")
    one.address.tell(EndpointChanged())
    assert isinstance(one.next(), Accepted)
    assert seen[0] == "http://later"


def test_the_outcome_of_what_was_under_way_at_a_crash_is_unknown(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE, None))
    one.send("a")
    assert isinstance(one.next(), Accepted)
    assert one.transport.is_hanging.wait(WAIT_S)
    with expect(one.tree, ChildStarted, path="service/transport", timeout_s=WAIT_S):
        crash(one.address)
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutcomeUnknownError)


def test_a_request_that_calls_for_an_exit_costs_the_actor_alone(bench: Callable[..., Bench]) -> None:
    outcomes: Iterator[Callable[[], Answer]] = iter([sys.exit, lambda: HANDLE])
    one = bench(lambda _call, _url: next(outcomes)())
    with expect(one.tree, ChildStarted, path="service/transport", timeout_s=WAIT_S):
        one.send("a")
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutcomeUnknownError)
    assert one.address.call(Fetch(CALL), timeout_s=WAIT_S) == FutureHandle(request_id="7")


def test_a_transport_that_cannot_be_made_leaves_no_thread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ImportError("a library for another platform")

    before = set(threading.enumerate())
    monkeypatch.setattr(transport, "make_transport", fail)
    with pytest.raises(StartFailedError, match="another platform"), client(server, None):
        pass
    assert [thread.name for thread in set(threading.enumerate()) - before if thread.name == "network"] == []


def test_what_is_cancelled_is_not_answered(bench: Callable[..., Bench]) -> None:
    one = bench(answers(None, HANDLE, SAVED))
    one.send("mine", owner="me")
    assert one.transport.is_hanging.wait(WAIT_S)
    one.address.tell(Cancel("me"))
    one.send("later")
    assert one.next() == Accepted("later", FutureHandle(request_id="7"))
    assert one.next() == Answered("later", SAVED)
    assert one.received.empty()


def test_an_answer_to_an_actor_that_was_deleted_ends_nobody(bench: Callable[..., Bench]) -> None:
    one = bench(lambda _call, _url: HANDLE)
    root = one.tree.address("service")
    root.call(TerminateChild("receiver"))
    root.call(DeleteChild("receiver"))
    one.send("a", expected=None)
    for _ in range(2):
        assert one.address.call(Fetch(CALL)) == FutureHandle(request_id="7")
    transport = one.tree.snapshot().find(one.address.path)
    assert transport is not None
    assert transport.epoch == 1


def test_a_fetch_answers_its_asker(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE))
    assert one.address.call(Fetch(CALL), timeout_s=WAIT_S) == FutureHandle(request_id="7")


def test_a_fetch_that_fails_fails_its_asker_and_nobody_else(bench: Callable[..., Bench]) -> None:
    one = bench(answers(Answer(409, JSON, b"{}"), HANDLE))
    with pytest.raises(ConflictError):
        one.address.call(Fetch(CALL), timeout_s=WAIT_S)
    assert one.address.call(Fetch(CALL), timeout_s=WAIT_S) == FutureHandle(request_id="7")


def flags(*, config: Answer, jwt: str = "eyJ-1") -> Flags:
    answers = {
        "client/config": config,
        "client/dynamic_config": Answer(200, JSON, b"{}"),
        "auth/token": Answer(200, JSON, msgspec.json.encode({"jwt": jwt})),
    }
    return lambda call: answers[call.path]


WITH_TOKENS = Answer(200, JSON, b'{"pjwt_auth_enabled": true, "unknown": 1}')


def test_the_flags_are_asked_for_once_before_anything_else(bench: Callable[..., Bench]) -> None:
    one = bench(answers(HANDLE, SAVED, HANDLE, SAVED))
    for tag in ("a", "b"):
        one.send(tag)
        one.next(), one.next()
    paths = [path for path, _ in one.transport.seen]
    assert paths == ["client/config", "client/dynamic_config", *["save_weights", "retrieve_future"] * 2]


def test_flags_are_published(bench: Callable[..., Bench]) -> None:
    config = Answer(200, JSON, b'{"fwdbwd_max_chunk_len": 7}')
    one = bench(answers(HANDLE, SAVED), flags=flags(config=config))
    one.send("a")
    one.next()
    assert one.published.config.fwdbwd_max_chunk_len == 7
    assert one.published.config.fwdbwd_max_chunk_bytes_count == 5_000_000


def test_where_tokens_are_wanted_only_the_flags_and_the_exchange_see_the_key(
    bench: Callable[..., Bench],
) -> None:
    one = bench(answers(HANDLE, SAVED), flags=flags(config=WITH_TOKENS))
    one.send("a")
    one.next(), one.next()
    assert one.transport.seen == [
        ("client/config", "tml-x"),
        ("auth/token", "tml-x"),
        ("client/dynamic_config", "eyJ-1"),
        ("save_weights", "eyJ-1"),
        ("retrieve_future", "eyJ-1"),
    ]


def test_a_request_whose_token_was_rejected_is_sent_once_more_with_another(
    bench: Callable[..., Bench],
) -> None:
    rejected = Answer(401, {**JSON, "www-authenticate": 'Bearer error="invalid_token"'}, b"{}")
    tokens = iter(["eyJ-1", "eyJ-2"])

    def give(call: Call[Any]) -> Answer:
        return flags(config=WITH_TOKENS, jwt=next(tokens) if call.path == "auth/token" else "")(call)

    def script(call: Call[Any], _url: str) -> Answer:
        if call.headers["x-api-key"] == "eyJ-1":
            return rejected
        return SAVED if call.path == "retrieve_future" else HANDLE

    one = bench(script, flags=give)
    with expect(one.tree, RequestRetried, operation="save_weights", delay_s=0.0, timeout_s=WAIT_S):
        one.send("a")
    assert isinstance(one.next(), Accepted)
    assert [key for path, key in one.transport.seen if path == "save_weights"] == ["eyJ-1", "eyJ-2"]


def test_a_server_that_is_down_at_first_is_asked_again_by_the_rule_of_the_request(
    bench: Callable[..., Bench],
) -> None:
    first = [Answer(503, JSON, b"{}")]

    def give(call: Call[Any]) -> Answer:
        return first.pop() if first else no_flags(call)

    one = bench(answers(HANDLE, SAVED), flags=give)
    one.send("a")
    assert isinstance(one.next(), Accepted)


def test_a_key_that_the_server_refuses_fails_the_request(bench: Callable[..., Bench]) -> None:
    one = bench(answers(), flags=flags(config=Answer(401, JSON, b'{"detail": "who?"}')))
    one.send("a")
    failed = one.next()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, AuthenticationError)


@pytest.mark.parametrize(("wants_zstd", "encoding"), [(True, "zstd"), (False, None)])
def test_training_bodies_are_packed_where_the_server_asks_for_it(
    bench: Callable[..., Bench], wants_zstd: bool, encoding: str | None
) -> None:
    seen: list[Call[Any]] = []

    def script(call: Call[Any], _url: str) -> Answer:
        seen.append(call)
        return HANDLE

    config = Answer(200, JSON, msgspec.json.encode({"proto_compress_fwdbwd": wants_zstd}))
    one = bench(script, flags=flags(config=config))
    one.address.call(Fetch(msgspec.structs.replace(CALL, body=b"x" * 100, is_compressible=True)))
    assert seen[0].headers.get("content-encoding") == encoding
    assert (len(seen[0].body) < 100) == wants_zstd


def test_training_data_are_submitted_as_far_as_the_service_has_room(bench: Callable[..., Bench]) -> None:
    posted: list[bytes] = []

    def script(call: Call[Any], _url: str) -> Answer | None:
        if call.path == "forward_backward":
            posted.append(call.body)
            return None if call.body[:1] == b"a" else HANDLE
        return SAVED if call.path == "retrieve_future" else HANDLE

    config = Answer(200, JSON, b'{"fwdbwd_dispatch_bytes_semaphore_size": 100}')
    one = bench(script, flags=flags(config=config))
    one.address.call(Fetch(CALL))  # asks for the flags
    for name in ("a", "b"):
        training = msgspec.structs.replace(
            CALL, path="forward_backward", body=name.encode() * 101, in_json=lambda: CALL
        )
        one.send(name, owner=name, call=training)
    assert one.transport.is_hanging.wait(WAIT_S)
    one.address.call(Fetch(CALL))  # what is no training data goes past them
    assert posted == [b"a" * 101]
    one.address.tell(Cancel("a"))
    assert one.next() == Accepted("b", FutureHandle(request_id="7"))


def test_what_the_queue_says_is_an_event(bench: Callable[..., Bench]) -> None:
    waiting = Answer(408, JSON, b'{"queue_state": "paused_capacity", "queue_state_reason": "full"}')
    one = bench(answers(HANDLE, waiting, SAVED))
    with expect(one.tree, QueueStateChanged, state="paused_capacity", reason="full", request_id="7"):
        one.send("a")


def test_what_the_service_will_do_without_is_told_once(bench: Callable[..., Bench]) -> None:
    noted = {**JSON, "x-deprecation-note": "use another", "x-deprecation-level": "error"}
    handle = Answer(200, noted, HANDLE.body)
    one = bench(answers(handle, SAVED, handle, SAVED, Answer(503, JSON, b""), HANDLE, SAVED))
    told: queue.Queue[object] = queue.Queue()
    one.tree.events.subscribe(told.put)
    for tag in ("a", "b", "c"):
        one.send(tag)
        one.next(), one.next()
    seen = iter(lambda: told.get(timeout=WAIT_S), None)
    until_the_end = itertools.takewhile(lambda event: not isinstance(event, RequestRetried), seen)
    notes = [event for event in until_the_end if isinstance(event, OperationDeprecated)]
    assert notes == [OperationDeprecated(operation="save_weights", note="use another", is_urgent=True)]


@pytest.mark.parametrize("wants_to_know", [True, False])
def test_a_service_that_wants_to_know_is_told_of_samples_nobody_waits_for(
    bench: Callable[..., Bench], wants_to_know: bool
) -> None:
    told = threading.Event()

    def give(call: Call[Any]) -> Answer:
        if call.path == "client/dynamic_config":
            return Answer(200, JSON, msgspec.json.encode({"sample_cancel_enabled": wants_to_know}))
        return no_flags(call)

    def script(call: Call[Any], _url: str) -> Answer | None:
        match call.path:
            case "cancel_future":
                assert call.body == b'{"request_id":"7"}'
                told.set()
                return SAVED
            case "retrieve_future":
                return None
        return HANDLE

    one = bench(script, flags=give)
    sample = msgspec.structs.replace(CALL, operation="asample", path="asample")
    one.address.tell(Send(sample, "a", one.tree.address("service/receiver"), "owner", EXPECTED))
    assert isinstance(one.next(), Accepted)
    assert one.transport.is_hanging.wait(WAIT_S)
    one.address.tell(Cancel("owner"))
    if wants_to_know:
        assert told.wait(WAIT_S)
    else:
        one.address.call(Fetch(CALL))  # sent after the cancel
        assert "cancel_future" not in [path for path, _ in one.transport.seen]


def test_a_service_is_told_of_so_many_at_a_time_as_it_says(bench: Callable[..., Bench]) -> None:
    told = threading.Semaphore(0)

    def give(call: Call[Any]) -> Answer:
        if call.path == "client/dynamic_config":
            wants = {"sample_cancel_enabled": True, "sample_cancel_max_batch_size": 1}
            return Answer(200, JSON, msgspec.json.encode(wants))
        return no_flags(call)

    def script(call: Call[Any], _url: str) -> Answer | None:
        if call.path == "cancel_future":
            told.release()
            return None  # it hangs
        return None if call.path == "retrieve_future" else HANDLE

    one = bench(script, flags=give)
    sample = msgspec.structs.replace(CALL, operation="asample", path="asample")
    for tag in ("a", "b"):
        one.address.tell(Send(sample, tag, one.tree.address("service/receiver"), "owner", EXPECTED))
        assert isinstance(one.next(), Accepted)
    one.address.tell(Cancel("owner"))
    assert told.acquire(timeout=WAIT_S)
    one.address.call(Fetch(CALL))  # sent after the second cancel would have been
    assert not told.acquire(blocking=False)


def test_flags_that_change_are_asked_for_again_and_the_last_good_ones_kept(
    bench: Callable[..., Bench],
) -> None:
    clock, asked = VirtualClock(), threading.Semaphore(0)
    given = iter([b'{"sample_cancel_enabled": true}', None, b'{"sample_cancel_max_batch_size": 7}'])

    def give(call: Call[Any]) -> Answer:
        if call.path != "client/dynamic_config":
            return no_flags(call)
        body = next(given)
        asked.release()
        return Answer(503, JSON, b"{}") if body is None else Answer(200, JSON, body)

    one = bench(lambda _call, _url: HANDLE, flags=give, clock=clock)

    def pass_by() -> DynamicConfig:
        """What holds once all that was begun before is through."""
        for _ in range(2):
            one.address.call(Fetch(CALL))
        return one.published.dynamic_config

    pass_by()
    assert asked.acquire(timeout=WAIT_S)
    clock.advance(299.0)
    pass_by()
    assert not asked.acquire(blocking=False)
    for seconds, flags in (
        (1.0, DynamicConfig(sample_cancel_enabled=True)),
        (300.0, DynamicConfig(sample_cancel_max_batch_size=7)),
    ):
        clock.advance(seconds)
        pass_by()
        assert asked.acquire(timeout=WAIT_S)
        assert pass_by() == flags
