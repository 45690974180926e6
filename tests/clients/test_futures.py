"""One kind of future: blocked for or awaited, as often and on as many loops as the caller likes."""

import asyncio
import copy
import sys
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from harness import ADAM, BATCHES, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.transport import Cancel, Send, TransportActor
from tinker_actors.clients.future import APIFuture, ClientFuture
from tinker_actors.errors import APITimeoutError, WouldDeadlockError


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[ta.ServiceClient]:
    with client(server, None) as service:
        yield service


@pytest.fixture(scope="module")
def training(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


@pytest.fixture(scope="module")
def sampler(service: ta.ServiceClient) -> ta.SamplingClient:
    return service.create_sampling_client(base_model="local/tiny").result(WAIT_S)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """A loop of its own for each call, as recipes have it."""
    return asyncio.run(asyncio.wait_for(main, WAIT_S))


async def awaited(future: APIFuture[Any]) -> Any:
    return await future


# Waiting --------------------------------------------------------------------------------------------


def test_a_future_is_awaited_from_several_loops_and_blocked_for(training: ta.TrainingClient) -> None:
    future = training.forward(BATCHES[0], "cross_entropy")
    results = [run(awaited(future)), run(awaited(future)), future.result(WAIT_S), run(future.coroutine())]
    assert all(result is results[0] for result in results)


def test_a_future_is_awaited_by_several_tasks_at_once(training: ta.TrainingClient) -> None:
    async def main() -> tuple[Any, ...]:
        future = training.forward(BATCHES[0], "cross_entropy")
        return await asyncio.gather(future.coroutine(), future.result_async(), awaited(future))

    assert len({id(result) for result in run(main())}) == 1


@pytest.mark.parametrize("wait", ["await", "result_async"])
def test_who_awaits_a_result_is_woken_although_a_callback_of_another_blocks(
    service: ta.ServiceClient, training: ta.TrainingClient, wait: str
) -> None:
    blocks, goes_on = threading.Event(), threading.Event()

    def block() -> None:
        blocks.set()
        goes_on.wait()

    service._runtime.settler.run(block)
    assert blocks.wait(WAIT_S)
    try:
        future = training.forward(BATCHES[0], "cross_entropy")
        assert run(awaited(future) if wait == "await" else future.result_async()).loss_fn_outputs
    finally:
        goes_on.set()


def test_a_callback_that_calls_for_an_exit_keeps_the_result_from_nobody(training: ta.TrainingClient) -> None:
    gate = threading.Event()

    def change(_: object) -> int:
        assert gate.wait(WAIT_S)
        return 1

    async def main() -> int:
        changed = training.forward(BATCHES[0], "cross_entropy").then(change)
        changed.add_done_callback(lambda _: sys.exit(1))
        asyncio.get_running_loop().call_soon(gate.set)  # once it is awaited
        return await changed

    assert run(main()) == 1


def test_result_works_on_the_thread_of_a_running_loop(training: ta.TrainingClient) -> None:
    async def main() -> float:
        return training.forward(BATCHES[0], "cross_entropy").result(WAIT_S).metrics["loss:sum"]

    assert run(main()) > 0


def test_waiting_where_the_result_comes_from_is_refused(training: ta.TrainingClient) -> None:
    refused: Future[BaseException] = Future()

    def callback(_: "Future[Any]") -> None:
        try:
            APIFuture[None](Future()).result(WAIT_S)
        except WouldDeadlockError as error:
            refused.set_result(error)

    training.forward(BATCHES[0], "cross_entropy").future().add_done_callback(callback)
    assert "use a callback" in str(refused.result(WAIT_S))


def test_an_error_is_raised_each_time_it_is_asked_for(training: ta.TrainingClient) -> None:
    future = training.forward(BATCHES[0], "no_such_loss")
    for _ in range(2):
        with pytest.raises(ta.BadRequestError, match="no_such_loss"):
            future.result(WAIT_S)
        with pytest.raises(ta.BadRequestError, match="no_such_loss"):
            run(awaited(future))


def test_a_timeout_is_typed_and_ends_nothing() -> None:
    future: Future[int] = Future()
    api: APIFuture[int] = APIFuture(future, is_cancellable=True)
    with pytest.raises(APITimeoutError):
        api.result(0)
    with pytest.raises(APITimeoutError):
        run(api.result_async(0))
    future.set_result(1)
    assert (api.result(0), run(api.result_async(0.5))) == (1, 1)


def test_an_operation_that_failed_with_a_timeout_keeps_its_own_error() -> None:
    future: Future[int] = Future()
    future.set_exception(TimeoutError("its own"))
    api = APIFuture(future)
    with pytest.raises(TimeoutError, match="its own"):
        api.result(WAIT_S)
    with pytest.raises(TimeoutError, match="its own"):
        run(api.result_async(WAIT_S))


def test_a_result_that_comes_after_its_loop_was_closed_hurts_nobody() -> None:
    future: Future[int] = Future()
    api: APIFuture[int] = APIFuture(future)
    with pytest.raises(APITimeoutError):
        run(api.result_async(0))
    with pytest.raises(TimeoutError):
        run(asyncio.wait_for(awaited(api), 0.01))
    future.set_result(1)
    assert run(awaited(api)) == 1


# Cancelling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["await", "result_async"])
@pytest.mark.parametrize("is_cancellable", [False, True], ids=["training", "sampling"])
def test_cancelling_an_await_cancels_sampling_and_never_training(is_cancellable: bool, wait: str) -> None:
    future: Future[int] = Future()
    api: APIFuture[int] = APIFuture(future, is_cancellable=is_cancellable)

    async def main() -> None:
        task = asyncio.ensure_future(awaited(api) if wait == "await" else api.result_async())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    run(main())
    assert future.cancelled() is is_cancellable


@pytest.mark.parametrize("is_cancellable", [False, True], ids=["training", "sampling"])
def test_cancelling_says_whether_it_did(is_cancellable: bool) -> None:
    future: Future[int] = Future()
    api = APIFuture(future, is_cancellable=is_cancellable)
    changed = api.then(str)
    assert (changed.cancel(), changed.future().cancelled()) == (is_cancellable, is_cancellable)
    assert future.cancelled() is is_cancellable
    assert api.cancel() is is_cancellable


@pytest.mark.parametrize("timeout", ["5", float("nan"), [], True], ids=repr)
def test_a_time_limit_that_is_no_number_is_refused(timeout: Any) -> None:
    api: APIFuture[int] = APIFuture(Future())
    with pytest.raises(ta.ValidationError, match="timeout must be"):
        api.result(timeout)
    with pytest.raises(ta.ValidationError, match="timeout must be"):
        run(api.result_async(timeout))


def test_a_time_limit_without_end_is_none_at_all() -> None:
    done: Future[int] = Future()
    api = APIFuture(done)
    done.set_result(7)
    assert api.result(float("inf")) == run(api.result_async(float("inf"))) == 7


def test_an_operation_whose_await_was_cancelled_is_carried_out(training: ta.TrainingClient) -> None:
    before = training.step

    async def main() -> None:
        training.forward_backward(BATCHES[0], "cross_entropy")
        update = training.optim_step(ADAM)
        task = asyncio.ensure_future(awaited(update))
        await asyncio.sleep(0)
        task.cancel()
        await update

    run(main())
    assert training.step == before + 1
    assert not training.forward(BATCHES[0], "cross_entropy").future().cancel()


def test_a_cancelled_sample_is_given_up_on_the_wire(
    sampler: ta.SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, cancelled = Future[str](), Future[str]()
    receive = TransportActor.on_receive

    def on_receive(actor: TransportActor, message: object) -> object:
        match message:
            case Send(call, owner=owner) if call.operation == "asample":
                sent.set_result(owner)  # and it is never answered
                return None
            case Cancel(owner):
                cancelled.set_result(owner)
        return receive(actor, message)

    monkeypatch.setattr(TransportActor, "on_receive", on_receive)
    future = sampler.sample([65], 1, ta.SamplingParams(max_tokens=1)).future()
    owner = sent.result(WAIT_S)
    assert future.cancel()
    assert cancelled.result(WAIT_S) == owner


def test_cancelling_what_follows_from_a_sample_cancels_the_sample() -> None:
    source: Future[int] = Future()
    changed = APIFuture(source, is_cancellable=True).then(lambda value: value + 1)
    assert changed.future().cancel()
    assert source.cancelled()


def test_what_follows_from_a_cancelled_sample_is_cancelled() -> None:
    source: Future[int] = Future()
    changed = APIFuture(source, is_cancellable=True).then(lambda value: value + 1)
    source.cancel()
    with pytest.raises(CancelledError):
        changed.result(WAIT_S)
    with pytest.raises(asyncio.CancelledError):
        run(awaited(APIFuture(source)))


# Clients on their way -----------------------------------------------------------------------------------


def test_a_client_future_acts_as_the_client(service: ta.ServiceClient) -> None:
    pending = service.create_sampling_client(base_model="local/tiny")
    prompt = ta.ModelInput.from_ints([65])
    assert pending.get_base_model() == "local/tiny"
    assert run(pending.sample_async(prompt, 1, ta.SamplingParams(max_tokens=1))).sequences
    assert isinstance(run(awaited(pending)), ta.SamplingClient)


def test_private_names_of_a_client_future_wait_for_nothing() -> None:
    pending: ClientFuture[Any] = ClientFuture(Future())
    with pytest.raises(AttributeError):
        pending._ipython_display_  # noqa: B018 - looking it up is the point
    assert copy.copy(pending).done() is False


def test_a_client_that_cannot_be_made_says_why_in_each_attribute(service: ta.ServiceClient) -> None:
    pending = service.create_sampling_client(model_path="tinker://nowhere/sampler_weights/x")
    with pytest.raises(ta.TinkerActorsError):
        pending.get_base_model()
    with pytest.raises(ta.TinkerActorsError):
        run(awaited(pending))
