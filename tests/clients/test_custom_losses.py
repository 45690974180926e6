"""Training with losses of the caller's own, on the real path."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from harness import ADAM, BATCHES, KEY, NO_CHECKPOINTS, WAIT_S, Events, Server, client
from own_losses import cross_entropy, custom_step
from recorder import BASE_MODEL, Recorder

import tinker_actors as ta
from tinker_actors.errors import BadRequestError, CustomLossError, StepVoidError
from tinker_actors.events import CustomLossComputed, CustomLossFailed
from tinker_actors.losses import L1, L2, Array, Evaluation, Pipeline, RegularizerSpec, value_and_grad
from tinker_actors.supervision.current import current_incarnation

DATA = BATCHES[0]


@pytest.fixture
def training(server: Server) -> Iterator[ta.TrainingClient]:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        yield create(service)


def create(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)


def saved(server: Server, training: ta.TrainingClient) -> str:
    return server.digest(training.save_state("state").result(WAIT_S).path)


@pytest.fixture(scope="module")
def built_in(server: Server) -> str:
    """Digest of the weights after three steps with the loss that the service has."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        for _ in range(3):
            training.forward_backward(DATA, "cross_entropy")
            training.optim_step(ADAM)
        return saved(server, training)


@value_and_grad
def broken(_data: Any, _logprobs: Any) -> Any:
    raise ZeroDivisionError("no reward")


def test_a_loss_trains_as_the_built_in_one_that_it_equals(
    server: Server, training: ta.TrainingClient, built_in: str
) -> None:
    for _ in range(3):
        custom_step(training, DATA)
    assert saved(server, training) == built_in


def test_metrics_have_the_names_of_the_official_sdk(training: ta.TrainingClient) -> None:
    output = training.forward_backward_custom(DATA, cross_entropy).result(WAIT_S)
    plain = training.forward(DATA, "cross_entropy").result(WAIT_S)
    loss = plain.metrics["loss:sum"]
    assert output.metrics["mine:sum"] == output.metrics["loss:sum"] == pytest.approx(loss)
    assert output.metrics["surrogate_loss:sum"] == pytest.approx(loss)
    assert output.metrics.keys() - {"mine:sum", "surrogate_loss:sum"} == plain.metrics.keys()
    assert len(output.loss_fn_outputs) == len(DATA)


def test_the_surrogate_of_a_loss_has_its_gradient_as_weights(training: ta.TrainingClient) -> None:
    @value_and_grad
    def squares(_data: Any, logprobs: Sequence[Array]) -> Any:
        return sum(float((row**2).sum()) for row in logprobs), [2 * row for row in logprobs]

    output = training.forward_backward_custom(DATA, squares).result(WAIT_S)
    rows = [one["logprobs"].to_numpy() for one in output.loss_fn_outputs]
    total = sum(float((row.astype(np.float64) ** 2).sum()) for row in rows)
    assert output.metrics["loss:sum"] == pytest.approx(total)
    assert output.metrics["surrogate_loss:sum"] == pytest.approx(2 * total)  # -sum(-2 x * x)


def test_regularizers_are_added_to_the_loss(training: ta.TrainingClient) -> None:
    seen: list[float] = []

    @value_and_grad
    def nothing(_data: Any, logprobs: Sequence[Array]) -> Any:
        seen.append(sum(float(np.abs(row).sum()) for row in logprobs))
        return 1.0, [np.zeros_like(row) for row in logprobs]

    specs = Pipeline([RegularizerSpec(L1(), 0.5), RegularizerSpec(L2(), 0.0)], track_grad_norms=True)
    metrics = training.forward_backward_custom(DATA, nothing, regularizers=specs).result(WAIT_S).metrics
    tokens = sum(len(datum.loss_fn_inputs["target_tokens"].data) for datum in DATA)
    assert metrics["loss:sum"] == pytest.approx(1.0 + 0.5 * seen[0])
    assert metrics["regularizer/l1_sparsity:sum"] == pytest.approx(0.5 * seen[0])
    assert metrics["total_grad_norm:max"] == pytest.approx(0.5 * tokens**0.5)
    assert metrics["surrogate_loss:sum"] == pytest.approx(0.5 * seen[0])


def test_data_without_weights_and_in_several_requests_are_one_loss(server: Server) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        training = create(service)
        bare = [
            msgspec.structs.replace(
                datum, loss_fn_inputs={"target_tokens": datum.loss_fn_inputs["target_tokens"]}
            )
            for datum in DATA
        ]
        published = training._runtime.published
        published.config = msgspec.structs.replace(published.config, fwdbwd_max_chunk_len=1)
        output = training.forward_backward_custom(bare, L1()).result(WAIT_S)
        log = server.control.executed(training.model_id)
    assert len(output.loss_fn_outputs) == len(DATA)
    kinds = [entry.kind for entry in log if entry.kind.startswith("forward")]
    assert kinds == ["forward"] * len(DATA) + ["forward_backward"] * len(DATA)


def test_the_loss_gets_the_data_as_they_were_given(training: ta.TrainingClient) -> None:
    seen = []

    @value_and_grad
    def looks(data: Any, logprobs: Sequence[Array]) -> Any:
        seen.extend(data)
        return 0.0, [np.zeros_like(row) for row in logprobs]

    training.forward_backward_custom(iter(DATA), looks).result(WAIT_S)  # type: ignore[arg-type]  # duck types
    assert all(one is given for one, given in zip(seen, DATA, strict=True))


def test_what_is_submitted_behind_a_loss_waits_for_it(server: Server, training: ta.TrainingClient) -> None:
    reached, let_go = threading.Event(), threading.Event()

    @value_and_grad
    def slow(data: Any, logprobs: Sequence[Array]) -> Any:
        reached.set()
        let_go.wait(WAIT_S)
        return cross_entropy(data, logprobs)

    loss = training.forward_backward_custom(DATA, slow)
    update = training.optim_step(ADAM)
    save = training.save_state("behind")
    assert reached.wait(WAIT_S)
    before = [entry.kind for entry in server.control.executed(training.model_id)]
    assert not loss.done()
    assert training._runtime.status().clients[0].waits_for == "a loss of the caller's own"
    let_go.set()
    assert save.result(WAIT_S).path is not None
    assert (loss.done(), update.done()) == (True, True)
    after = [(entry.seq_id, entry.kind) for entry in server.control.executed(training.model_id)]
    assert before[-1] == "forward"
    assert after[-4:] == [(1, "forward"), (2, "forward_backward"), (3, "optim_step"), (4, "save_weights")]


def test_losses_run_in_no_actor_and_in_no_thread_that_others_wait_for(training: ta.TrainingClient) -> None:
    where: list[tuple[str, object]] = []
    other = training.forward(DATA, "cross_entropy")

    @value_and_grad
    def looks(data: Any, logprobs: Sequence[Array]) -> Any:
        where.append((threading.current_thread().name, current_incarnation()))
        other.result(WAIT_S)  # of what was submitted before, it may wait
        return cross_entropy(data, logprobs)

    for _ in range(2):
        training.forward_backward_custom(DATA, looks).result(WAIT_S)
    assert where == [("custom-loss:1", None)] * 2


@pytest.mark.parametrize("which", [0, 1])
def test_a_loss_that_waits_for_what_waits_for_it_fails_at_once(
    training: ta.TrainingClient, which: int
) -> None:
    """For its own result, and for that of an operation behind it."""
    submitted, results = threading.Event(), list[ta.APIFuture[Any]]()

    @value_and_grad
    def waits(data: Any, logprobs: Sequence[Array]) -> Any:
        assert submitted.wait(WAIT_S)
        results[which].result()
        return cross_entropy(data, logprobs)

    results += [training.forward_backward_custom(DATA, waits), training.forward(DATA, "cross_entropy")]
    submitted.set()
    with pytest.raises(ta.CustomLossError, match="waiting here") as caught:
        results[0].result(WAIT_S)
    assert isinstance(caught.value.__cause__, ta.WouldDeadlockError)
    results[1].result(WAIT_S)
    with pytest.raises(ta.StepVoidError):
        training.optim_step(ADAM).result(WAIT_S)


@pytest.mark.parametrize(
    "wait",
    [
        lambda behind, _: behind.then(str).result(),
        lambda behind, _: asyncio.run(behind.coroutine()),
        lambda behind, _: asyncio.run(behind.result_async()),
        lambda _, training: training.save_weights_and_get_sampling_client().result(),
    ],
    ids=["then", "await", "result_async", "sampler"],
)
def test_a_loss_waits_in_no_other_way_either_for_what_waits_for_it(
    training: ta.TrainingClient, wait: Callable[[ta.APIFuture[Any], ta.TrainingClient], object]
) -> None:
    submitted, behind = threading.Event(), list[ta.APIFuture[Any]]()

    @value_and_grad
    def waits(data: Any, logprobs: Sequence[Array]) -> Any:
        assert submitted.wait(WAIT_S)
        wait(behind[0], training)
        return cross_entropy(data, logprobs)

    loss = training.forward_backward_custom(DATA, waits)
    behind.append(training.forward(DATA, "cross_entropy"))
    submitted.set()
    with pytest.raises(ta.CustomLossError, match="waiting here"):
        loss.result(WAIT_S)
    behind[0].result(WAIT_S)
    with pytest.raises(ta.StepVoidError):
        training.optim_step(ADAM).result(WAIT_S)


@pytest.mark.usefixtures("no_thread_left")
def test_the_thread_of_losses_ends_with_the_client(server: Server) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        custom_step(create(service), DATA)


def test_closing_waits_for_losses(server: Server, run_dir: Any) -> None:
    with client(server, run_dir) as service:
        training = create(service)
        loss, update = training.forward_backward_custom(DATA, cross_entropy), training.optim_step(ADAM)
    assert loss.result(0).metrics["loss:sum"] > 0
    assert update.done()


def test_what_a_loss_was_and_why_it_failed_are_events(server: Server) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        events = Events(service)
        training = create(service)
        metrics = (
            training.forward_backward_custom(DATA, cross_entropy, regularizers=[L1()]).result(WAIT_S).metrics
        )
        with pytest.raises(CustomLossError):
            training.forward_backward_custom(DATA, broken).result(WAIT_S)
    (computed,), (failed,) = events.of(CustomLossComputed), events.of(CustomLossFailed)
    assert (computed.run, computed.loss) == ("1", metrics["loss:sum"])
    assert computed.metrics["regularizer/l1_sparsity:sum"] == metrics["regularizer/l1_sparsity:sum"]
    assert failed.reason == "loss 'broken' failed: ZeroDivisionError: no reward"


# Failures ---------------------------------------------------------------------------------------------


def test_a_loss_that_fails_fails_its_step_and_not_the_client(
    server: Server, training: ta.TrainingClient, built_in: str
) -> None:
    custom_step(training, DATA)
    before = training.forward_backward(DATA, "cross_entropy")
    loss = training.forward_backward_custom(DATA, broken)
    update = training.optim_step(ADAM)
    with pytest.raises(CustomLossError, match="loss 'broken' failed: ZeroDivisionError: no reward") as caught:
        loss.result(WAIT_S)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(StepVoidError, match="no reward"):
        update.result(WAIT_S)
    assert before.result(WAIT_S).metrics["loss:sum"] > 0
    for _ in range(2):
        custom_step(training, DATA)
    assert (training.step, saved(server, training)) == (3, built_in)


def test_what_belongs_to_a_step_of_a_failed_loss_fails_with_it(training: ta.TrainingClient) -> None:
    with pytest.raises(CustomLossError):
        training.forward_backward_custom(DATA, broken).result(WAIT_S)
    for late in (
        training.forward_backward(DATA, "cross_entropy"),
        training.forward_backward_custom(DATA, cross_entropy),
    ):
        with pytest.raises(CustomLossError, match="no reward"):
            late.result(WAIT_S)
    with pytest.raises(StepVoidError):
        training.optim_step(ADAM).result(WAIT_S)
    custom_step(training, DATA)


def test_a_program_that_wants_to_end_inside_a_loss_fails_the_loss(training: ta.TrainingClient) -> None:
    @value_and_grad
    def leaves(_data: Any, _logprobs: Any) -> Any:
        raise SystemExit(3)

    with pytest.raises(CustomLossError, match="SystemExit: 3"):
        training.forward_backward_custom(DATA, leaves).result(WAIT_S)


def test_a_forward_pass_that_is_refused_is_the_error_of_the_loss(
    server: Server, training: ta.TrainingClient
) -> None:
    server.control.arm({"effect": "status", "status": 400, "operation": "forward_backward"})
    loss = training.forward_backward_custom(DATA, cross_entropy)
    update = training.optim_step(ADAM)
    with pytest.raises(BadRequestError):
        loss.result(WAIT_S)
    with pytest.raises(StepVoidError):
        update.result(WAIT_S)
    custom_step(training, DATA)


def test_what_is_no_number_in_metrics_does_not_fail_the_step(training: ta.TrainingClient) -> None:
    @value_and_grad
    def chatty(_data: Any, logprobs: Sequence[Array]) -> Any:
        metrics = {"mode": "fast", "rate": float("nan")}
        return Evaluation(0.0, [np.zeros_like(row) for row in logprobs], metrics)

    found = training.forward_backward_custom(DATA, chatty).result(WAIT_S).metrics
    assert "mode" not in found
    assert np.isnan(found["rate"])
    training.optim_step(ADAM).result(WAIT_S)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((DATA, "cross_entropy"), {}, "goes to forward_backward by its name"),
        (([], cross_entropy), {}, "No data provided"),
        ((5, cross_entropy), {}, "a list of Datum, got int"),
        (
            ([ta.Datum(DATA[0].model_input, {})], cross_entropy),
            {},
            "a custom loss needs target_tokens; datum 0",
        ),
        ((DATA, cross_entropy), {"regularizers": L1()}, "regularizers is a list, got L1"),
        ((DATA, cross_entropy), {"regularizers": [L1(), L1()]}, "a name of its own"),
        ((DATA, cross_entropy), {"loss_type_input": "logits"}, "loss_type_input"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    recorder: Recorder, arguments: Any, options: dict[str, Any], words: str
) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY, recovery=NO_CHECKPOINTS) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        with pytest.raises(ta.ValidationError, match=words):
            training.forward_backward_custom(*arguments, **options)
        assert recorder.to("forward_backward") == []


@pytest.mark.torch
def test_a_torch_function_trains_as_the_built_in_loss_that_it_equals(
    server: Server, training: ta.TrainingClient, built_in: str
) -> None:
    torch = pytest.importorskip("torch", reason="runs losses in PyTorch")

    def loss_fn(data: Any, logprobs: Any) -> Any:
        weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
        loss = -sum((w * row).sum() for w, row in zip(weights, logprobs, strict=True))
        assert isinstance(loss, torch.Tensor)
        return loss, {"mine:sum": loss.item()}

    for _ in range(3):
        custom_step(training, DATA, loss_fn)
    assert saved(server, training) == built_in
