"""What callers may rely on: order, names, what is refused before anything is sent, and how it all ends."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, client, example, step

import tinker_actors as ta
from tinker_actors.actors.futures import Submissions
from tinker_actors.errors import ConfigError, ForkedProcessError, RuntimeStoppedError, ValidationError

PARAMS = ta.SamplingParams(max_tokens=2)


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


@pytest.fixture
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks that no place was reserved."""
    added = []
    monkeypatch.setattr(Submissions, "add", lambda _, request: added.append(request))
    yield
    assert added == []


def foreign(tokens: Any, target_tokens: Any, weights: Any) -> Any:
    """A datum of another library: the same attributes, none of our types."""
    chunk = SimpleNamespace(type="encoded_text", tokens=tokens)
    inputs = {"target_tokens": target_tokens, "weights": weights}
    return SimpleNamespace(model_input=SimpleNamespace(chunks=[chunk]), loss_fn_inputs=inputs)


# Order ------------------------------------------------------------------------------------------------


def test_pairs_submitted_before_any_wait_are_carried_out_in_order(service: ta.ServiceClient) -> None:
    training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
    ahead = [
        (training.forward_backward(BATCHES[0], "cross_entropy"), training.optim_step(ADAM)) for _ in "12"
    ]
    losses = [forward.result(WAIT_S).metrics["loss:sum"] for forward, _ in ahead]
    other = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
    assert losses == [step(other, 0)["loss:sum"], step(other, 0)["loss:sum"]]


def test_calls_of_many_threads_lose_nothing_and_keep_each_threads_order(service: ta.ServiceClient) -> None:
    training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
    updates: list[list[ta.APIFuture[Any]]] = [[] for _ in range(4)]

    def submit(mine: list[ta.APIFuture[Any]]) -> None:
        mine.extend(training.optim_step(ADAM) for _ in range(5))

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in updates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in updates:
        mine[-1].result(WAIT_S)
        assert all(update.done() for update in mine)
    assert training.step == 20
    assert [record.step for record in training.history().result(WAIT_S)] == list(range(20))


def test_a_save_sees_the_steps_submitted_before_it_and_none_behind(
    server: Server, service: ta.ServiceClient
) -> None:
    def digests(steps_behind: int) -> str:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        training.forward_backward(BATCHES[0], "cross_entropy")
        training.optim_step(ADAM)
        saved = training.save_state("here")
        for _ in range(steps_behind):
            training.forward_backward(BATCHES[0], "cross_entropy")
            training.optim_step(ADAM)
        return server.digest(saved.result(WAIT_S).path)

    assert digests(0) == digests(2)


# The SDK's other names -----------------------------------------------------------------------------------


def test_coroutines_that_submit_give_futures_and_the_others_give_values(server: Server) -> None:
    async def main(service: ta.ServiceClient) -> None:
        training = await service.create_lora_training_client_async("local/tiny", rank=4)
        forward = await training.forward_backward_async(BATCHES[0], loss_fn="cross_entropy")
        update = await training.optim_step_async(ADAM)
        state, weights = (
            await training.save_state_async("a"),
            await training.save_weights_for_sampler_async("b"),
        )
        assert (await forward.result_async()).loss_fn_outputs
        assert (await update).metrics is not None
        assert (await state).path.endswith("/weights/a")
        assert (await (await training.forward_async(BATCHES[0], "cross_entropy"))).metrics
        path = (await weights).path
        assert path is not None
        for sampler in (
            await training.create_sampling_client_async(path, retry_config=None),
            await service.create_sampling_client_async(base_model="local/tiny", record_stability_info=False),
            await training.save_weights_and_get_sampling_client_async(record_stability_info=False),
        ):
            prompt = ta.ModelInput.from_ints([65])
            sampled = await sampler.sample_async(prompt=prompt, num_samples=1, sampling_params=PARAMS)
            assert len(sampled.sequences[0].tokens) <= 2
            assert (await sampler.compute_logprobs_async(prompt)) == [None]
            assert await sampler.get_base_model_async() == "local/tiny"
        assert (await training.get_info_async()).model_id == training.model_id
        assert (await service.get_server_capabilities_async()).supported_models

    with client(server, None) as service:
        asyncio.run(main(service))


def test_what_a_service_offers_is_read_with_and_without_waiting(service: ta.ServiceClient) -> None:
    offered = service.get_server_capabilities()
    assert offered.supported_models == offered.result(WAIT_S).supported_models
    assert "local/tiny" in [model.model_name for model in offered.supported_models]


def test_adam_params_may_be_given_by_either_name(training: ta.TrainingClient) -> None:
    before = training.step
    training.optim_step(adam_params=ADAM).result(WAIT_S)
    training.optim_step(SimpleNamespace(learning_rate=np.float64(1e-3), type="adam")).result(WAIT_S)  # type: ignore[arg-type]  # the SDK's, by structure
    assert training.step == before + 2


def test_data_of_another_library_train_like_ours(training: ta.TrainingClient) -> None:
    ours = example("hello", "ellohay")
    theirs = foreign(
        np.asarray(ours.model_input.to_ints()),
        SimpleNamespace(to_numpy=ours.loss_fn_inputs["target_tokens"].to_numpy),
        ours.loss_fn_inputs["weights"].tolist(),
    )
    losses = [training.forward([one], "cross_entropy").result(WAIT_S).metrics for one in (ours, theirs)]
    assert losses[0] == losses[1]


def test_numbers_of_numpy_are_numbers(sampler: ta.SamplingClient) -> None:
    numbers: Any = SimpleNamespace(
        max_tokens=np.int64(2), seed=np.int64(1), temperature=np.float32(1), stop=[np.int64(3)]
    )
    number: Any = np.int64(2)
    assert len(sampler.sample([number], number, numbers).result(WAIT_S).sequences) == 2


# Refused before anything is sent -----------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "No data provided"),
        (None, "list of Datum, got NoneType"),
        (BATCHES[0][0], "list of Datum, got Datum"),
        ([None], "model_input and loss_fn_inputs"),
        ([foreign([], [], [])], "at least one input token"),
        ([foreign([[1], [2, 3]], [1], [1.0])], "flat list of integers"),
        ([foreign([1, 999], [1, 2], [1.0, 1.0])], "vocabulary of local/tiny.*999"),
        ([foreign([1, 2], [1, 999], [1.0, 1.0])], "target_tokens.*999"),
        ([foreign([1, 2], [1, -1], [1.0, 1.0])], "target_tokens.*-1"),
        ([foreign([1, 2], [1.5, 2.5], [1.0, 1.0])], "target_tokens must be integers"),
        ([foreign([1, 2], ["a", "b"], [1.0, 1.0])], "integers or floats"),
        ([foreign([1, 2], [1, 2, 3], [1.0, 1.0])], "one entry per input token"),
        ([foreign([1, 2], [1, 2], [[1.0], [1.0]])], "shape of target_tokens"),
        ([foreign([1, 2], [1, 2], [1.0, float("nan")])], "finite"),
        ([SimpleNamespace(model_input=[1], loss_fn_inputs={})], "needs target_tokens and weights"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(
    training: ta.TrainingClient, data: Any, message: str
) -> None:
    for method in (training.forward_backward, training.forward):
        with pytest.raises(ValidationError, match=message):
            method(data, "cross_entropy")


POLICY = {"target_tokens": [1, 2], "logprobs": [-1.0, -2.0], "advantages": [1.0, 1.0]}


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo", "dro", "gspo"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": None}, "needs logprobs; datum 1 has"),
        ({"logprobs": None, "advantages": None}, "needs logprobs and advantages; datum 1"),
        ({"target_tokens": None}, "needs target_tokens; datum 1"),
        (
            {"advantages": [1.0]},
            r"advantages must have the shape of target_tokens, \(2,\); datum 1 has \(1,\)",
        ),
        ({"target_tokens": [1, 999]}, "target_tokens of datum 1.*999"),
        ({"target_tokens": [1]}, "one entry per input token, 2; datum 1"),
        ({"target_tokens": np.array([1.0, 2.0])}, "target_tokens must be integers"),
        ({"logprobs": [float("-inf"), 0.0]}, "logprobs must be finite"),
    ],
)
def test_data_that_no_policy_can_be_trained_on_are_refused(
    training: ta.TrainingClient, loss_fn: str, changes: dict[str, Any], message: str
) -> None:
    inputs = {name: value for name, value in {**POLICY, **changes}.items() if value is not None}
    data = [SimpleNamespace(model_input=[1, 2], loss_fn_inputs=one) for one in (POLICY, inputs)]
    with pytest.raises(ValidationError, match=message):
        training.forward_backward(data, loss_fn)  # type: ignore[arg-type]  # a duck type


def test_settings_of_a_loss_may_be_numpys_numbers(training: ta.TrainingClient) -> None:
    data: Any = [SimpleNamespace(model_input=[1, 2], loss_fn_inputs=POLICY)]
    config: Any = {"clip_low_threshold": np.float32(0.5), "clip_high_threshold": np.int64(2)}
    assert training.forward(data, "ppo", config).result(WAIT_S).metrics


def test_a_path_of_the_other_kind_is_refused_with_what_makes_the_right_one(
    service: ta.ServiceClient, training: ta.TrainingClient
) -> None:
    with pytest.raises(ta.TinkerPathError, match="save_state makes one"):
        service.create_training_client_from_state("tinker://m/sampler_weights/a")
    for sample_from in (service.create_sampling_client, training.create_sampling_client):
        with pytest.raises(ta.TinkerPathError, match="save_weights_for_sampler makes one"):
            sample_from("tinker://m/weights/a")


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize(
    "call",
    [
        lambda training: training.forward_backward(BATCHES[0], None),
        lambda training: training.forward_backward(BATCHES[0], "cross_entropy", 5),
        lambda training: training.forward_backward(BATCHES[0], "cross_entropy", {"a": object()}),
        lambda training: training.optim_step(),
        lambda training: training.optim_step(ADAM, adam_params=ADAM),
        lambda training: training.optim_step(5),
        lambda training: training.optim_step(SimpleNamespace(learning_rate=1e-3, type="dimuon")),
        lambda training: training.save_state("a/b"),
        lambda training: training.save_state(None),
        lambda training: training.save_state("a", ttl_seconds=0),
        lambda training: training.save_state("a", ttl_seconds="5"),
        lambda training: training.save_state("a", overwrite="no"),
        lambda training: training.save_state("a", user_metadata={"a": object()}),
        lambda training: training.save_weights_for_sampler(".."),
        lambda training: training.save_weights_and_get_sampling_client("a b"),
        lambda training: training.save_weights_and_get_sampling_client(kind="live"),
        lambda training: training.create_sampling_client("tinker://m/weights/x"),
        lambda training: training.create_sampling_client(None),
        lambda training: next(training.steps(-1)),
        lambda training: next(training.steps("x")),
    ],
)
def test_wrong_arguments_of_training_are_refused(
    training: ta.TrainingClient, call: Callable[[ta.TrainingClient], object]
) -> None:
    with pytest.raises(ValidationError):
        call(training)


@pytest.mark.usefixtures("nothing_sent")
@pytest.mark.parametrize(
    ("prompt", "num_samples", "params"),
    [
        (None, 1, PARAMS),
        ([], 1, PARAMS),
        (["a"], 1, PARAMS),
        ([[1], [2, 3]], 1, PARAMS),
        ([999], 1, PARAMS),
        ([1], 0, PARAMS),
        ([1], 1.5, PARAMS),
        ([1], 1, None),
        ([1], 1, SimpleNamespace(max_tokens="x")),
        ([1], 1, SimpleNamespace(max_tokens=1.5)),
        ([1], 1, SimpleNamespace(temperature=float("inf"))),
        ([1], 1, SimpleNamespace(top_k=1.5)),
        ([1], 1, SimpleNamespace(seed="x")),
        ([1], 1, SimpleNamespace(stop=5)),
        ([1], 1, SimpleNamespace(stop=[1.5])),
    ],
)
def test_wrong_arguments_of_sampling_are_refused(
    sampler: ta.SamplingClient, prompt: Any, num_samples: Any, params: Any
) -> None:
    with pytest.raises(ValidationError):
        sampler.sample(prompt, num_samples, params)


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_model": None},
        {"base_model": ""},
        {"rank": 0},
        {"rank": "4"},
        {"rank": True},
        {"seed": -1},
        {"seed": 2**80},
        {"train_mlp": "yes"},
        {"train_mlp": False, "train_attn": False, "train_unembed": False},
        {"optimizer": "dimuon"},
        {"user_metadata": 5},
        {"user_metadata": {"a": object()}},
        {"run": "a/b"},
        {"run": 5},
    ],
)
def test_wrong_arguments_of_a_run_are_refused(service: ta.ServiceClient, arguments: dict[str, Any]) -> None:
    before = service.tree()
    with pytest.raises(ValidationError):
        service.create_lora_training_client(**({"base_model": "local/tiny"} | arguments))
    assert service.tree() == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "http://"},
        {"base_url": "http://[::1"},
        {"base_url": "http://host:99999"},
        {"base_url": 5},
        {"api_key": "tml-secret\n"},
        {"api_key": "tml-s\u00e9cret"},
        {"api_key": 5},
        {"user_metadata": {"a": object()}},
        {"display_name": 5},
        {"display_name": "\ud800"},
        {"project_id": 5},
        {"recovery": 5},
        {"run_dir": 5},
        {"run_dir": "a\0b"},
    ],
)
def test_wrong_arguments_of_a_service_client_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValidationError)) as caught:
        ta.ServiceClient(**({"base_url": "http://host", "api_key": KEY} | arguments))
    assert "cret" not in str(caught.value)


# The end ------------------------------------------------------------------------------------------------


def test_after_the_end_every_call_says_so(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    calls: list[Callable[[], ta.APIFuture[Any]]] = [
        lambda: training.optim_step(ADAM),
        training.history,
        lambda: sampler.sample([65], 1, PARAMS),
        lambda: service.create_lora_training_client("local/tiny", run="another"),
        lambda: service.create_sampling_client(base_model="local/tiny"),
        service.get_server_capabilities,
    ]
    for call in calls:
        with pytest.raises(RuntimeStoppedError):
            call().result(WAIT_S)


def test_a_block_that_is_left_by_an_exception_still_carries_out_what_was_submitted(
    server: Server, run_dir: Path
) -> None:
    def leave() -> None:
        with client(server, run_dir) as service:
            training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
            training.forward_backward(BATCHES[0], "cross_entropy")
            training.optim_step(ADAM)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    with client(server, run_dir) as service:
        assert service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S).step == 1


def test_a_close_that_is_interrupted_leaves_the_directory_free(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = ta.ServiceClient(base_url=server.url, api_key=KEY, run_dir=run_dir)
    step(service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S), 0)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(service._runtime), "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        service.__exit__(None, None, None)
    monkeypatch.undo()
    with client(server, run_dir) as service:
        assert service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S).step == 1


def test_a_forked_child_is_refused_and_closes_nothing(
    training: ta.TrainingClient, service: ta.ServiceClient
) -> None:
    before = training.step
    child = os.fork()
    if child == 0:
        refused = 0
        for _ in "12":
            try:
                training.optim_step(ADAM)
            except ForkedProcessError:
                refused += 1
        service.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    training.optim_step(ADAM).result(WAIT_S)
    assert training.step == before + 1


def test_service_and_training_clients_do_not_travel_to_other_processes(
    service: ta.ServiceClient, training: ta.TrainingClient
) -> None:
    for one in (service, training):
        with pytest.raises(TypeError, match="belongs to its process"):
            one.__reduce__()
