"""The official SDK trains on the embedded server."""

from collections.abc import Callable
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server

Step = Callable[..., float]


def model_id(training: Any) -> str:
    return str(training.get_info().model_id)


def saved(training: Any, name: str) -> str:
    return str(training.save_state(name).result(WAIT_S).path)


def test_a_model_learns(training: Any, step: Step) -> None:
    losses = [step(training) for _ in range(10)]
    assert losses[-1] < losses[0] / 2


def test_what_was_submitted_ahead_is_executed_once_and_in_order(
    server: Server, tinker: Any, training: Any, datum: Callable[..., Any]
) -> None:
    futures = []
    for _ in range(3):
        futures.append(training.forward_backward([datum("abc")], "cross_entropy"))
        futures.append(training.optim_step(tinker.AdamParams(learning_rate=1e-3)))
    for future in reversed(futures):
        future.result(WAIT_S)
    log = server.control.executed(model_id(training))
    assert [(entry.seq_id, entry.kind) for entry in log[1:]] == [
        (2 * step + place, kind)
        for step in range(3)
        for place, kind in ((1, "forward_backward"), (2, "optim_step"))
    ]


def test_chunks_that_arrive_in_another_order_are_executed_in_theirs(
    server: Server, training: Any, datum: Callable[..., Any]
) -> None:
    output = training.forward_backward([datum("ab")] * 2500, "cross_entropy").result(WAIT_S)
    assert len(output.loss_fn_outputs) == 2500
    log = server.control.executed(model_id(training))
    assert [entry.seq_id for entry in log] == [0, 1, 2, 3]


def test_the_loss_is_that_of_the_logprobs(training: Any, datum: Callable[..., Any]) -> None:
    output = training.forward([datum("abc")], "cross_entropy").result(WAIT_S)
    (logprobs,) = [record["logprobs"].data for record in output.loss_fn_outputs]
    assert output.metrics["loss:sum"] == pytest.approx(-sum(logprobs), rel=1e-5)


def test_a_custom_loss_trains_as_the_loss_it_equals(
    server: Server, service: Any, tinker: Any, datum: Callable[..., Any]
) -> None:
    pytest.importorskip("torch", reason="the SDK runs custom losses in torch")

    def cross_entropy(_data: Any, logprobs: Any) -> Any:
        loss = -sum(row.sum() for row in logprobs)
        return loss, {"mine:sum": loss.item()}

    digests = []
    for number in range(2):
        training = service.create_lora_training_client("local/tiny", rank=8, seed=7).result(WAIT_S)
        for _ in range(2):
            data = [datum("abc"), datum("defgh")]
            if number == 0:
                output = training.forward_backward(data, "cross_entropy").result(WAIT_S)
            else:
                output = training.forward_backward_custom(data, cross_entropy).result(WAIT_S)
                assert output.metrics["mine:sum"] == output.metrics["loss:sum"]
            training.optim_step(tinker.AdamParams(learning_rate=5e-3)).result(WAIT_S)
        digests.append(server.digest(saved(training, "state")))
    assert digests[0] == digests[1]


def test_a_custom_loss_with_a_shape_of_its_own_is_minimized(
    training: Any, tinker: Any, datum: Callable[..., Any]
) -> None:
    torch = pytest.importorskip("torch", reason="the SDK runs custom losses in torch")
    losses = []

    def squared(_data: Any, logprobs: Any) -> Any:
        loss = sum(torch.square(row + 0.5).sum() for row in logprobs)
        losses.append(loss.item())
        return loss, {}

    for _ in range(15):
        training.forward_backward_custom([datum("hello")], squared).result(WAIT_S)
        training.optim_step(tinker.AdamParams(learning_rate=5e-3)).result(WAIT_S)
    assert losses[-1] < losses[0] / 2


def test_a_request_that_is_refused_leaves_the_client_usable(
    training: Any, tinker: Any, datum: Callable[..., Any], step: Step
) -> None:
    with pytest.raises(tinker.BadRequestError, match="no_such_loss"):
        training.forward_backward([datum("abc")], "no_such_loss").result(WAIT_S)
    assert step(training) > 0


def test_a_run_resumed_in_a_new_client_is_bit_for_bit_one_that_went_on(
    server: Server, tinker: Any, training: Any, step: Step
) -> None:
    for number in range(3):
        step(training, number)
    path = saved(training, "middle")
    with tinker.ServiceClient(base_url=server.url, api_key=KEY) as other:
        resumed = other.create_training_client_from_state_with_optimizer(path).result(WAIT_S)
        digests = []
        for client in (training, resumed):
            for number in range(3, 6):
                step(client, number)
            digests.append(server.digest(saved(client, "end")))
    assert digests[0] == digests[1]


def test_a_run_resumed_without_optimizer_has_the_weights_only(
    server: Server, service: Any, training: Any, step: Step
) -> None:
    for number in range(2):
        step(training, number)
    path = saved(training, "middle")
    resumed = service.create_training_client_from_state(path).result(WAIT_S)
    assert step(resumed, 2) == step(training, 2)
    assert server.digest(saved(resumed, "end")) != server.digest(saved(training, "end"))


def test_the_sdk_and_our_client_send_the_same_work_and_get_the_same_weights(
    server: Server, tinker: Any, service: Any
) -> None:
    import tinker_actors as ta

    digests = []
    with ta.ServiceClient(base_url=server.url, api_key=KEY) as ours:
        for library, client in ((tinker, service), (ta, ours)):
            training = client.create_lora_training_client("local/tiny", rank=8, seed=7).result(WAIT_S)
            for _ in range(3):
                inputs = {
                    "target_tokens": library.TensorData(data=[98, 99], dtype="int64"),
                    "weights": library.TensorData(data=[1.0, 0.5], dtype="float32"),
                }
                batch = [
                    library.Datum(model_input=library.ModelInput.from_ints([97, 98]), loss_fn_inputs=inputs)
                ]
                training.forward_backward(batch, "cross_entropy").result(WAIT_S)
                training.optim_step(library.AdamParams(learning_rate=5e-3)).result(WAIT_S)
            digests.append(server.digest(training.save_state("end").result(WAIT_S).path))
    assert digests[0] == digests[1]
