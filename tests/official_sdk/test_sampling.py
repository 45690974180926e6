"""The official SDK samples from the embedded server."""

from collections.abc import Callable
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server


@pytest.fixture
def sampler(training: Any, step: Callable[..., float]) -> Any:
    """Of weights after one step."""
    step(training)
    return training.save_weights_and_get_sampling_client().result(WAIT_S)


def test_200_samples_asked_for_at_once_all_come_and_are_the_same_as_one_by_one(
    tinker: Any, sampler: Any
) -> None:
    def ask(number: int) -> Any:
        prompt = tinker.ModelInput.from_ints(list(b"the fox"[: 1 + number % 7]))
        params = tinker.SamplingParams(max_tokens=1 + number % 8, seed=number, temperature=0.8)
        return sampler.sample(prompt, 1 + number % 2, params)

    def content(sampled: Any) -> Any:
        return [
            (sequence.stop_reason, list(sequence.tokens), list(sequence.logprobs))
            for sequence in sampled.sequences
        ]

    together = [content(future.result(WAIT_S)) for future in [ask(number) for number in range(200)]]
    assert [len(sequences) for sequences in together] == [1 + number % 2 for number in range(200)]
    for number in range(0, 200, 25):
        assert content(ask(number).result(WAIT_S)) == together[number]


def test_logprobs_of_a_prompt_are_those_of_its_loss(
    tinker: Any, training: Any, sampler: Any, datum: Callable[..., Any]
) -> None:
    output = training.forward([datum("abcd")], "cross_entropy").result(WAIT_S)
    expected = list(output.loss_fn_outputs[0]["logprobs"].data)[:3]
    logprobs = sampler.compute_logprobs(tinker.ModelInput.from_ints(list(b"abcd"))).result(WAIT_S)
    assert logprobs[0] is None
    assert logprobs[1:] == pytest.approx(expected, rel=1e-4)


def test_a_sampler_keeps_its_weights_while_training_goes_on(
    tinker: Any, training: Any, sampler: Any, step: Callable[..., float]
) -> None:
    prompt = tinker.ModelInput.from_ints(list(b"abcd"))
    before = sampler.compute_logprobs(prompt).result(WAIT_S)
    step(training, 1)
    assert sampler.compute_logprobs(prompt).result(WAIT_S) == before


def test_named_weights_are_sampled_from_by_another_client(
    server: Server, tinker: Any, training: Any, sampler: Any
) -> None:
    path = training.save_weights_for_sampler("named").result(WAIT_S).path
    prompt = tinker.ModelInput.from_ints(list(b"abcd"))
    with tinker.ServiceClient(base_url=server.url, api_key=KEY) as other:
        named = other.create_sampling_client(model_path=path).result(WAIT_S)
        assert named.get_base_model() == "local/tiny"
        assert named.compute_logprobs(prompt).result(WAIT_S) == sampler.compute_logprobs(prompt).result(
            WAIT_S
        )
