"""The server says how large a request may be; results do not depend on it."""

import pytest
from harness import BATCHES, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.run import TrainingOperation
from tinker_actors.api.setup import ClientConfig
from tinker_actors.journal.records import Kind

DATA = BATCHES[0] * 3


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (ClientConfig(), 1),
        (ClientConfig(fwdbwd_max_chunk_len=4), 2),
        (ClientConfig(fwdbwd_max_chunk_bytes_count=1), 6),
    ],
)
def test_an_operation_has_as_many_requests_as_the_limits_ask_for(config: ClientConfig, parts: int) -> None:
    operation = TrainingOperation.train(Kind.FORWARD_BACKWARD, DATA, "cross_entropy", {}, config)
    assert len(operation.contents) == parts


def outputs(training: ta.TrainingClient) -> tuple[float, list[list[float]]]:
    result = training.forward(DATA, "cross_entropy").result(WAIT_S)
    return result.metrics["loss:sum"], [entry["logprobs"].tolist() for entry in result.loss_fn_outputs]


def test_results_are_put_together_in_the_order_of_the_data(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        loss, logprobs = outputs(training)
        service._runtime.published.config = ClientConfig(fwdbwd_max_chunk_len=1)
        chunked_loss, chunked_logprobs = outputs(training)
    assert chunked_loss == pytest.approx(loss, rel=1e-5)
    for whole, chunked in zip(logprobs, chunked_logprobs, strict=True):
        assert chunked == pytest.approx(whole, abs=1e-5)
