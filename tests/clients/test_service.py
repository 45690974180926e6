"""A service client from its opening to its end, against a server that records what it is told."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import KEY, WAIT_S
from recorder import BASE_MODEL, Recorder

import tinker_actors as ta

CONSOLE = "https://tinker.thinkingmachines.ai"
FINISH = "sessions/session-1/finish"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


def opened(recorder: Recorder, **arguments: Any) -> ta.ServiceClient:
    """A service client that has a session."""
    service = ta.ServiceClient(base_url=recorder.url, api_key=KEY, **arguments)
    service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
    return service


def finishes(recorder: Recorder) -> list[Any]:
    return [request.document for request in recorder.to(FINISH)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "success"),
        (ValueError("no"), "errored"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
        (asyncio.CancelledError(), "interrupted"),
    ],
    ids=["success", "exception", "ctrl-c", "exit", "cancelled"],
)
def test_a_block_ends_its_session_with_how_it_was_left(
    recorder: Recorder, error: BaseException | None, status: str
) -> None:
    def leave() -> None:
        with opened(recorder):
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(type(error)):
            leave()
    assert finishes(recorder) == [{"reason": {"type": status}, "detail": None}]


def test_closing_gives_a_future_and_is_done_once(recorder: Recorder) -> None:
    with opened(recorder) as service:
        service.close("errored", "diverged").result(WAIT_S)
        service.close("success").result(WAIT_S)
    assert finishes(recorder) == [{"reason": {"type": "errored"}, "detail": "diverged"}]


def test_closing_is_awaited_without_holding_the_loop(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, loop_went_on = opened(recorder), threading.Event()
    close = service._runtime.close

    def slow_close(*arguments: Any) -> bool:
        assert loop_went_on.wait(WAIT_S)
        return close(*arguments)

    monkeypatch.setattr(service._runtime, "close", slow_close)

    async def main() -> None:
        closing = asyncio.ensure_future(service.close().coroutine())
        await asyncio.sleep(0)
        loop_went_on.set()
        await closing

    asyncio.run(main())
    assert len(finishes(recorder)) == 1


CLOSE = "service.close('success', 'left')"


@pytest.mark.parametrize(
    "close", [CLOSE, f"atexit.register(lambda: {CLOSE})"], ids=["at its end", "after it"]
)
def test_a_program_that_ends_while_its_client_closes_still_ends_the_session(
    recorder: Recorder, close: str
) -> None:
    program = (
        "import atexit, time, tinker_actors as ta\n"
        f"service = ta.ServiceClient(base_url={recorder.url!r}, api_key={KEY!r})\n"
        f"service.create_sampling_client(base_model={BASE_MODEL!r}).result({WAIT_S})\n"
        "close = service._runtime.close\n"
        "service._runtime.close = lambda *status: (time.sleep(0.5), close(*status))\n"  # who does not wait, loses
        f"{close}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT_S)
    assert [finish["detail"] for finish in finishes(recorder)] == ["left"]


@pytest.mark.parametrize("arguments", [("done",), (None,), (5,), ("success", 5), ("success", "")], ids=repr)
def test_a_session_ends_with_one_of_three_words(recorder: Recorder, arguments: tuple[Any, ...]) -> None:
    with opened(recorder) as service:
        with pytest.raises(ta.ValidationError):
            service.close(*arguments)
        assert finishes(recorder) == []


def test_a_forked_child_that_leaves_the_block_waits_for_nothing(recorder: Recorder) -> None:
    with opened(recorder) as service:
        service._closing.acquire()  # as while another thread closes it
        child = os.fork()
        if child == 0:
            service.__exit__(None, None, None)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        service._closing.release()


def test_other_tools_find_the_session_id_where_the_sdk_has_it(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        with pytest.raises(ta.ValidationError, match="there is none yet"):
            service.holder.get_session_id()
        assert service.get_console_url() == f"{CONSOLE}/sessions"
        service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
        assert service.holder.get_session_id() == "session-1"
        assert service.get_console_url() == f"{CONSOLE}/sessions/session-1"


def test_headers_have_the_sdks_name_too(recorder: Recorder) -> None:
    with opened(recorder, default_headers_overrides={"X-Team": "blue"}):
        pass
    assert {request.headers["x-team"] for request in recorder.requests} == {"blue"}
    with pytest.raises(ta.ConfigError, match="got both"):
        ta.ServiceClient(base_url=recorder.url, api_key=KEY, default_headers={}, default_headers_overrides={})


def test_a_client_knows_the_page_of_its_session_once_it_has_one(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        assert service.get_console_url() == f"{CONSOLE}/sessions"
        service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
        assert service.get_console_url() == f"{CONSOLE}/sessions/session-1"


def test_each_model_and_each_sampler_of_a_session_has_a_number_of_its_own(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service, ThreadPoolExecutor(8) as pool:
        makers: list[Callable[[], Any]] = [
            lambda: service.create_lora_training_client(BASE_MODEL),
            lambda: service.create_sampling_client(base_model=BASE_MODEL),
        ]
        made = [pool.submit(make) for make in makers for _ in range(8)]
        clients = [one.result().result(WAIT_S) for one in made]
        clients[0].save_weights_and_get_sampling_client().result(WAIT_S)
    models = [request.document["model_seq_id"] for request in recorder.to("create_model")]
    asked = [*recorder.to("create_sampling_session"), *recorder.to("save_weights_for_sampler")]
    assert sorted(models) == list(range(8))
    assert sorted(request.document["sampling_session_seq_id"] for request in asked) == list(range(9))


def test_two_clients_number_what_is_theirs_each_by_itself(recorder: Recorder) -> None:
    with opened(recorder) as one, opened(recorder) as other:
        for service in (one, other):
            service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
    asked = [request.document for request in recorder.to("create_sampling_session")]
    assert [document["sampling_session_seq_id"] for document in asked] == [0, 0, 1, 1]


def test_saves_know_their_pages_on_the_console(recorder: Recorder) -> None:
    with opened(recorder) as service:
        training = service.create_lora_training_client(BASE_MODEL).result(WAIT_S)
        state = training.save_state("state").result(WAIT_S)
        weights = training.save_weights_for_sampler("named").result(WAIT_S)
        assert training.get_console_url() == f"{CONSOLE}/training_runs/{training.model_id}"
    run = training.model_id.replace(":", "%3A")
    assert state.get_console_url() == f"{CONSOLE}/checkpoints/{run}/weights%2Fstate"
    assert weights.get_console_url() == f"{CONSOLE}/checkpoints/{run}/sampler_weights%2Fnamed"
    assert weights.get_playground_url().endswith(f"tinker%3A%2F%2F{run}%2Fsampler_weights%2Fnamed")
    with pytest.raises(ta.ValidationError, match="no page"):
        ta.SaveWeightsForSamplerResponse(sampling_session_id="s").get_console_url()


def test_nothing_is_reported_unless_it_is_said_so(recorder: Recorder) -> None:
    with opened(recorder) as service:
        sampler = service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
        assert [one.get_telemetry() for one in (service, sampler, service.create_rest_client())] == [None] * 3


@pytest.mark.parametrize("callback", [None, 5, "print", []], ids=repr)
def test_events_are_given_to_functions_alone(recorder: Recorder, callback: Any) -> None:
    with opened(recorder) as service, pytest.raises(ta.ValidationError, match="given to a function"):
        service.subscribe(callback)
