"""A model of one's own, by the path of its directory."""

from pathlib import Path

import pytest
from model_directories import write_model

import tinker_actors as ta

WAIT_S = 60.0


def test_a_model_in_a_directory_is_trained_and_sampled_from(tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_model(model, model_type="qwen3", head_dim=8)
    with ta.ServiceClient(base_url="local") as service:
        training = service.create_lora_training_client(str(model), rank=2, seed=1).result(WAIT_S)
        tokens = training.get_tokenizer().encode("the quick brown fox")
        inputs = {
            "target_tokens": ta.TensorData(tokens[1:]),
            "weights": ta.TensorData([1.0] * (len(tokens) - 1)),
        }
        datum = ta.Datum(model_input=ta.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)
        losses = []
        for _ in range(4):
            forward = training.forward_backward([datum], "cross_entropy")
            training.optim_step(ta.AdamParams(learning_rate=0.02)).result(WAIT_S)
            losses.append(forward.result(WAIT_S).metrics["loss:sum"])
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        greedy = ta.SamplingParams(max_tokens=3, temperature=0.0)
        sample = sampler.sample(ta.ModelInput.from_ints(tokens[:1]), 1, greedy).result(WAIT_S)
    assert losses == sorted(losses, reverse=True)
    assert len(sample.sequences[0].tokens) in (1, 2, 3)


def test_a_directory_without_a_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    with (
        ta.ServiceClient(base_url="local") as service,
        pytest.raises(ta.BadRequestError, match=r"must hold config\.json, and does not"),
    ):
        service.create_lora_training_client(str(tmp_path), rank=2).result(WAIT_S)
