"""The engine beside PyTorch, transformers and PEFT on random models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_models import Pair, make_pair, random_examples

from tinker_actors.local.engine.model import forward
from tinker_actors.local.engine.scratch import Scratch
from tinker_actors.local.engine.training import Example

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks
    # Our adapters change the unembedding and leave the embedding it is tied to, which is what PEFT does unasked.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning"),
]

LENGTHS = (7, 19, 1, 30, 19)

NEEDED = {
    "cross_entropy": ("target_tokens", "weights"),
    "importance_sampling": ("target_tokens", "logprobs", "advantages"),
    "ppo": ("target_tokens", "logprobs", "advantages"),
    "cispo": ("target_tokens", "logprobs", "advantages"),
    "dro": ("target_tokens", "logprobs", "advantages"),
}
CASES: list[tuple[str, dict[str, float]]] = [
    ("cross_entropy", {}),
    ("importance_sampling", {}),
    ("ppo", {}),
    ("ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 3.0}),
    ("cispo", {}),
    ("cispo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    ("dro", {"beta": 0.3}),
]


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[("llama", 0), ("llama", 1), ("llama", 5), ("qwen3", 1), ("qwen3", 2)])
def pair(request: pytest.FixtureRequest, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    architecture, seed = request.param
    return make_pair(tmp_path_factory.mktemp("model"), architecture, seed, dtype)


def their_loss(name: str, logprobs: Any, inputs: dict[str, Any], config: dict[str, float]) -> Any:
    """The sum of one loss over tokens, after the formulas of the API's documentation."""
    if name == "cross_entropy":
        return -(inputs["weights"] * logprobs).sum()
    ratio, advantages = torch.exp(logprobs - inputs["logprobs"]), inputs["advantages"]
    if name == "importance_sampling":
        return -(ratio * advantages).sum()
    if name == "dro":
        gap = logprobs - inputs["logprobs"]
        return -(logprobs * advantages - 0.5 * config["beta"] * gap**2).sum()
    low, high = {"ppo": (0.8, 1.2), "cispo": (0.0, 4.0)}[name]
    held = ratio.clamp(config.get("clip_low_threshold", low), config.get("clip_high_threshold", high))
    if name == "ppo":
        return -torch.minimum(ratio * advantages, held * advantages).sum()
    return -(held.detach() * logprobs * advantages).sum()


def their_total(pair: Pair, examples: list[Example], name: str, config: dict[str, float]) -> Any:
    """The loss over all examples, each by itself, so that nothing is filled up."""
    total = torch.zeros((), dtype=getattr(torch, pair.dtype))
    for example in examples:
        inputs = {
            key: torch.from_numpy(values.astype(pair.dtype))
            for key, values in example.inputs.items()
            if key != "target_tokens"
        }
        total = total + their_loss(name, pair.logprobs(example), inputs, config)
    return total


def only(examples: list[Example], names: tuple[str, ...]) -> list[Example]:
    return [Example(item.tokens, {name: item.inputs[name] for name in names}) for item in examples]


def test_logits_agree(pair: Pair) -> None:
    tokens = np.random.default_rng(1).integers(pair.ours.base.config.vocab_size, size=64)
    weights = pair.ours.adapter.merged(pair.ours.base)
    tape = forward(weights, tokens[None], Scratch(pair.dtype))
    pair.assert_close(tape.hidden @ weights.unembedding.T, pair.logits(tokens))


def test_logprobs_agree(pair: Pair) -> None:
    examples = random_examples(pair, LENGTHS, seed=2)
    logprobs, _ = pair.ours.forward_backward(only(examples, NEEDED["cross_entropy"]), backward=False)
    for ours, example in zip(logprobs, examples, strict=True):
        pair.assert_close(ours, pair.logprobs(example))


@pytest.mark.parametrize(("name", "config"), CASES)
def test_losses_and_gradients_agree(pair: Pair, name: str, config: dict[str, float]) -> None:
    examples = random_examples(pair, LENGTHS, seed=3)
    _, metrics = pair.ours.forward_backward(only(examples, NEEDED[name]), name, config)
    gradients = pair.ours.state()
    pair.ours.load_state(pair.ours.state(include_gradient=False))
    trained = pair.trained()
    total = their_total(pair, examples, name, config)
    pair.assert_close(metrics["loss:sum"], total)
    assert trained.keys() == pair.ours.adapter.parameters.keys()
    for key, theirs in zip(trained, torch.autograd.grad(total, list(trained.values())), strict=True):
        pair.assert_close(gradients[f"gradient.{key}"], theirs, key)


def test_several_targets_a_position_agree(pair: Pair) -> None:
    random = np.random.default_rng(4)
    tokens = random.integers(pair.ours.base.config.vocab_size, size=12)
    targets = random.integers(5, size=(12, 4))  # so few that some stand twice in a row
    example = Example(tokens, {"target_tokens": targets, "weights": random.standard_normal((12, 4))})
    [logprobs], _ = pair.ours.forward_backward([example])
    gradients = pair.ours.state()
    pair.ours.load_state(pair.ours.state(include_gradient=False))
    pair.assert_close(logprobs, pair.logprobs(example))
    trained = pair.trained()
    total = their_total(pair, [example], "cross_entropy", {})
    for key, theirs in zip(trained, torch.autograd.grad(total, list(trained.values())), strict=True):
        pair.assert_close(gradients[f"gradient.{key}"], theirs, key)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.0, "grad_clip_norm": 0.0},
        {"weight_decay": 0.1, "grad_clip_norm": 0.0},
        {"weight_decay": 0.1, "grad_clip_norm": 0.05},
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_adam_steps_agree(tmp_path: Path, architecture: str, dtype: str, settings: dict[str, float]) -> None:
    pair = make_pair(tmp_path, architecture, 1, dtype)
    trained, betas = pair.trained(), {"beta1": 0.8, "beta2": 0.95}
    optimizer = torch.optim.AdamW(
        trained.values(),
        lr=3e-3,
        betas=tuple(betas.values()),
        eps=1e-6,
        weight_decay=settings["weight_decay"],
    )
    for step in range(5):
        examples = only(random_examples(pair, (9, 14), seed=step), NEEDED["cross_entropy"])
        pair.ours.forward_backward(examples)
        metrics = pair.ours.optim_step(3e-3, **betas, eps=1e-6, **settings)
        their_total(pair, examples, "cross_entropy", {}).backward()
        norm = torch.sqrt(sum((value.grad**2).sum() for value in trained.values()))
        pair.assert_close(metrics["grad_norm:mean"], norm)
        if settings["grad_clip_norm"]:
            assert norm > settings["grad_clip_norm"]
            for value in trained.values():
                value.grad *= settings["grad_clip_norm"] / norm
        optimizer.step()
        optimizer.zero_grad()
    for key, value in pair.ours.adapter.parameters.items():
        pair.assert_close(value, trained[key], key)


@pytest.mark.parametrize(
    "switches",
    [
        {"train_attn": True, "train_mlp": False, "train_unembed": False},
        {"train_attn": False, "train_mlp": True, "train_unembed": False},
        {"train_attn": False, "train_mlp": False, "train_unembed": True},
    ],
)
def test_adapters_of_every_switch_mean_the_same_to_peft(tmp_path: Path, switches: dict[str, bool]) -> None:
    pair = make_pair(tmp_path, "llama", 2, "float64", **switches)
    assert pair.trained().keys() == pair.ours.adapter.parameters.keys()
    examples = only(random_examples(pair, (20,), seed=0), NEEDED["cross_entropy"])
    [logprobs], _ = pair.ours.forward_backward(examples, backward=False)
    pair.assert_close(logprobs, pair.logprobs(examples[0]))
