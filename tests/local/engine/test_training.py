import hashlib
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import load_base_model
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.model import forward
from tinker_actors.local.engine.scratch import Scratch
from tinker_actors.local.engine.training import Example, Trainer

MakeTrainer = Callable[..., Trainer]

TWO_STEPS = """
import hashlib
import numpy as np
from tinker_actors.local.engine.catalog import load_base_model
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.scratch import Scratch
from tinker_actors.local.engine.training import Example, Trainer

base = load_base_model("local/tiny")
trainer = Trainer(base, new_adapter(base.config, rank=8, seed=1))
ids = np.random.default_rng(0).integers(256, size=(40, 41))
batch = [
    Example(row[:-1], {"target_tokens": row[1:], "weights": np.ones(40, np.float32)})
    if index % 2 else Example(row[:25], {"target_tokens": row[1:26], "weights": np.ones(25, np.float32)})
    for index, row in enumerate(ids)
]
digest = hashlib.sha256()
for _ in range(2):
    for logprobs in trainer.forward_backward(batch)[0]:
        digest.update(logprobs.tobytes())
    trainer.optim_step(1e-2)
digest.update(trainer.adapter.flat.tobytes())
print(digest.hexdigest())
"""


def plain_logprobs(trainer: Trainer, example: Example) -> Any:
    """Logprobs of the targets of one example alone, by the definition."""
    weights = trainer.adapter.merged(trainer.base)
    logits = forward(weights, example.tokens[None], Scratch(np.float64)).hidden @ weights.unembedding.T
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.log(shares[np.arange(len(logits)), example.inputs["target_tokens"]])


def same_bits(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(left[key].tobytes() == right[key].tobytes() for key in left)


def has_gradient(trainer: Trainer) -> bool:
    return any(name.startswith("gradient.") for name in trainer.state())


def test_loss_is_the_sum_of_weighted_negative_logprobs(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    logprobs, metrics = make_trainer().forward_backward(examples, backward=False)
    weighed = [example.inputs["weights"] @ values for example, values in zip(examples, logprobs, strict=True)]
    assert metrics["loss:sum"] == pytest.approx(-sum(weighed), rel=1e-5)
    assert all(key.count(":") == 1 for key in metrics)


def test_logprobs_of_every_position_come_back_in_the_order_of_the_examples(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    trainer = make_trainer("float64")
    logprobs, _ = trainer.forward_backward(examples)
    for values, example in zip(logprobs, examples, strict=True):
        assert np.allclose(values, plain_logprobs(trainer, example), rtol=1e-12)


def test_several_targets_a_position_have_logprobs_of_their_shape(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    trainer = make_trainer("float64")
    tokens, inputs = examples[0].tokens, examples[0].inputs
    targets = np.stack([inputs["target_tokens"], np.full(len(tokens), 3)], axis=1)
    weights = np.stack([inputs["weights"], np.zeros(len(tokens))], axis=1)
    batch = [Example(tokens, {"target_tokens": targets, "weights": weights}), *examples[1:]]
    logprobs, metrics = trainer.forward_backward(batch)
    assert logprobs[0].shape == (9, 2)
    assert np.allclose(logprobs[0][:, 0], plain_logprobs(trainer, examples[0]), rtol=1e-12)
    assert metrics == pytest.approx(make_trainer("float64").forward_backward(examples)[1])


@pytest.mark.filterwarnings("error")
def test_a_loss_beyond_all_bounds_is_refused_and_adds_nothing(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    trainer = make_trainer()
    trainer.forward_backward(examples)
    before = trainer.state()
    inputs = {"target_tokens": np.array([1]), "logprobs": np.array([-1e9]), "advantages": np.ones(1)}
    with pytest.raises(ValidationError, match=r"data\[0\]: importance_sampling must be finite, came to -inf"):
        trainer.forward_backward([Example(np.array([1]), inputs)], "importance_sampling")
    assert same_bits(trainer.state(), before)


def test_gradients_of_two_calls_add_up(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    once, twice = make_trainer("float64"), make_trainer("float64")
    once.forward_backward(examples)
    twice.forward_backward(examples[:2])
    twice.forward_backward(examples[2:])
    left, right = once.state(), twice.state()
    assert all(np.allclose(left[key], right[key], rtol=1e-9, atol=1e-12) for key in left)


def test_many_targets_in_one_example_cost_the_others_nothing(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    inputs = {"target_tokens": np.zeros((1, 200_000), np.int64), "weights": np.full((1, 200_000), 1e-6)}
    wide = Example(np.array([1]), inputs)
    trainer = make_trainer()
    tracemalloc.start()
    trainer.forward_backward([wide, *examples * 10])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # side by side they would take 7 times as much


def test_long_sequences_give_the_same_bits_with_less_memory(
    make_trainer: MakeTrainer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, twice = make_trainer(), make_trainer()
    kept.forward_backward(examples)
    monkeypatch.setattr("tinker_actors.local.engine.model.KEPT_SHARES", 0)
    twice.forward_backward(examples)
    assert same_bits(twice.state(), kept.state())
    used = [max(len(scratch._block), scratch._most_used) for scratch in (kept._workers[0], twice._workers[0])]
    assert used[1] < used[0]


def test_forward_only_leaves_no_gradient(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    trainer = make_trainer()
    trainer.forward_backward(examples, backward=False)
    assert not has_gradient(trainer)


def test_a_step_consumes_the_gradient_and_lowers_the_loss(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    trainer = make_trainer()
    _, before = trainer.forward_backward(examples)
    assert has_gradient(trainer)
    metrics = trainer.optim_step(1e-3)
    _, after = trainer.forward_backward(examples, backward=False)
    assert after["loss:sum"] < before["loss:sum"]
    assert metrics["grad_norm:mean"] > 0
    assert not has_gradient(trainer)
    assert trainer.steps == 1


def test_a_refused_call_adds_nothing(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    trainer = make_trainer()
    trainer.forward_backward(examples)
    before = trainer.state()
    wrong = Example(np.array([1, 99]), {"target_tokens": np.array([1, 2]), "weights": np.ones(2)})
    with pytest.raises(ValidationError, match="99"):
        trainer.forward_backward([*examples, wrong])
    assert same_bits(trainer.state(), before)


@pytest.mark.parametrize(
    ("tokens", "targets", "error"),
    [
        ([], [], ValidationError),
        ([1] * 25, [1] * 25, ValidationError),
        ([1, 2], [1, 17], ValidationError),
        ([1, 2], [1, -1], ValidationError),
        ([1, 2], [1], ShapeError),
        ([[1, 2]], [1, 2], ShapeError),
    ],
)
def test_examples_the_model_cannot_read_are_refused(
    make_trainer: MakeTrainer, tokens: list[int], targets: list[int], error: type[Exception]
) -> None:
    inputs = {"target_tokens": np.array(targets), "weights": np.ones(len(targets))}
    with pytest.raises(error):
        make_trainer().forward_backward([Example(np.array(tokens), inputs)])


def test_no_examples_and_unknown_losses_are_refused(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    with pytest.raises(ValidationError, match="at least one"):
        make_trainer().forward_backward([])
    with pytest.raises(ValidationError, match="mystery"):
        make_trainer().forward_backward(examples, "mystery")


def test_state_goes_on_bit_for_bit_between_forward_backward_and_step(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    kept, other = make_trainer(), make_trainer()
    kept.forward_backward(examples)
    kept.optim_step(1e-2)
    kept.forward_backward(examples[:2])
    other.load_state(kept.state())
    assert same_bits(other.state(), kept.state())
    for trainer in (kept, other):
        trainer.forward_backward(examples[2:])
        trainer.optim_step(1e-2, grad_clip_norm=0.1)
        trainer.forward_backward(examples)
    assert same_bits(other.state(), kept.state())


def test_state_without_gradient_leaves_it_out(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    trainer = make_trainer()
    trainer.forward_backward(examples)
    assert not any(key.startswith("gradient.") for key in trainer.state(include_gradient=False))


def test_state_is_a_copy(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    trainer = make_trainer()
    state = trainer.state()
    before = hashlib.sha256(b"".join(array.tobytes() for array in state.values())).digest()
    trainer.forward_backward(examples)
    trainer.optim_step(1e-2)
    assert hashlib.sha256(b"".join(array.tobytes() for array in state.values())).digest() == before


def test_loading_without_the_optimizer_starts_it_afresh(
    make_trainer: MakeTrainer, examples: list[Example]
) -> None:
    kept, other = make_trainer(), make_trainer()
    kept.forward_backward(examples)
    kept.optim_step(1e-2)
    kept.forward_backward(examples)
    other.load_state(kept.state(), optimizer=False)
    assert other.adapter.flat.tobytes() == kept.adapter.flat.tobytes()
    assert other.steps == 0
    assert not has_gradient(other)


def test_a_partial_state_changes_nothing(make_trainer: MakeTrainer, examples: list[Example]) -> None:
    trainer = make_trainer()
    state = trainer.state()
    trainer.forward_backward(examples)
    trainer.optim_step(1e-2)
    before = trainer.state()
    del state["optimizer.second.lm_head.lora_A.weight"]
    with pytest.raises(ValidationError, match="lm_head"):
        trainer.load_state(state)
    assert same_bits(trainer.state(), before)


@pytest.mark.parametrize(
    "setting",
    [
        {"grad_clip_norm": -1.0},
        {"beta1": 1.5},
        {"learning_rate": 1e300, "weight_decay": 1e300},
        {"learning_rate": float("inf")},
    ],
)
def test_a_refused_step_keeps_the_gradient(
    make_trainer: MakeTrainer, examples: list[Example], setting: dict[str, float]
) -> None:
    trainer = make_trainer()
    trainer.forward_backward(examples)
    before = trainer.state()
    with pytest.raises(ValidationError):
        trainer.optim_step(**setting)
    assert same_bits(trainer.state(), before)


def test_two_processes_compute_equal_bits() -> None:
    command = [sys.executable, "-c", TWO_STEPS]
    digests = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_the_untrained_tiny_model_is_near_uniform() -> None:
    base = load_base_model("local/tiny")
    trainer = Trainer(base, new_adapter(base.config, rank=4, seed=0))
    ids = np.random.default_rng(0).integers(256, size=65)
    example = Example(ids[:-1], {"target_tokens": ids[1:], "weights": np.ones(64)})
    _, metrics = trainer.forward_backward([example], backward=False)
    assert metrics["loss:sum"] / 64 == pytest.approx(np.log(259), abs=0.2)
