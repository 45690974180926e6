"""A random model on both sides: in PyTorch as transformers and PEFT compute it, and in the engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers
from model_directories import write_tokenizer

from tinker_actors.local.checkpoints import encode_named
from tinker_actors.local.engine.catalog import load_base_model
from tinker_actors.local.engine.lora import new_adapter
from tinker_actors.local.engine.training import Example, Trainer
from tinker_actors.local.specs import ModelSpec

torch.set_num_threads(1)  # more would only get in each other's way in models so small

TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
"""Most the two sides may be apart, by the numbers they compute in."""

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
CONFIGS = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}


@dataclass(frozen=True)
class Pair:
    """One model with one adapter, twice."""

    directory: Path
    dtype: str
    ours: Trainer
    theirs: Any
    """A `peft.PeftModel` whose adapter is trained."""

    def assert_close(self, ours: npt.ArrayLike, theirs: Any, what: str = "") -> None:
        """Fail if the two are further apart than `TOLERANCES`, relative to the largest value."""
        expected = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
        found = np.asarray(ours)
        assert found.shape == expected.shape, what
        apart = np.abs(found - expected).max() / np.abs(expected).max()
        assert apart <= TOLERANCES[self.dtype], f"{what} {apart:.1e} apart"

    def logits(self, tokens: npt.NDArray[np.int64]) -> Any:
        """Their logits of one sequence, shape (tokens, vocab)."""
        with _in(self.dtype):
            return self.theirs(torch.from_numpy(tokens)[None]).logits[0]

    def logprobs(self, example: Example) -> Any:
        """Their logprobs of one example's targets, of their shape."""
        shares = torch.log_softmax(self.logits(example.tokens), dim=-1)
        targets = torch.from_numpy(example.inputs["target_tokens"])
        return shares.gather(1, targets.reshape(len(targets), -1)).reshape(targets.shape)

    def trained(self) -> dict[str, Any]:
        """Their parameters that are trained, by our names."""
        named = self.theirs.named_parameters()
        return {
            name.removeprefix("base_model.model.").replace(".default.", "."): parameter
            for name, parameter in named
            if parameter.requires_grad
        }


@contextmanager
def _in(dtype: str) -> Iterator[None]:
    """Have transformers compute in `dtype` throughout.

    Its norms and rotations are float32 whatever the model is, by casts that are written out: in float64 they
    would be the only error there is.
    """
    if dtype == "float32":
        yield
        return
    with (
        patch.object(torch, "float32", torch.float64),
        patch.object(torch, "float", torch.float64),
        patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def random_config(architecture: str, seed: int) -> Any:
    """A small shape: head width apart from hidden size, with and without groups, scaling and tied embeddings."""
    random = np.random.default_rng(seed)
    kv_heads, head_dim = int(random.choice([1, 2, 3])), int(random.choice([4, 8, 10]))
    heads = kv_heads * int(random.choice([1, 2, 4]))
    scaled, tied = seed % 2 == 1, seed % 3 == 1
    return CONFIGS[architecture](
        vocab_size=int(random.integers(40, 90)),
        hidden_size=heads * int(random.integers(4, 9)),
        intermediate_size=int(random.integers(20, 50)),
        num_hidden_layers=int(random.integers(1, 4)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=64,
        rms_norm_eps=float(random.choice([1e-5, 1e-6])),
        rope_parameters=LLAMA3 if scaled else {"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=tied,
    )


def make_pair(directory: Path, architecture: str, seed: int, dtype: str, **switches: bool) -> Pair:
    """A random model and adapter, written to `directory` and read back from there on both sides."""
    config = random_config(architecture, seed)
    torch.manual_seed(seed)
    with _in(dtype):
        model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        with torch.no_grad():
            for name, values in model.named_parameters():
                spread = values.shape[-1] ** -0.5 if values.dim() > 1 and "embed" not in name else 0.3
                values.normal_(0.0, spread).add_(float(values.dim() == 1))
    model.save_pretrained(directory)
    write_tokenizer(directory)
    base = load_base_model(str(directory), dtype)
    ours = Trainer(base, new_adapter(base.config, rank=1 + seed % 5, seed=seed, dtype=dtype, **switches))
    ours.adapter.flat += 0.05 * np.random.default_rng(seed).standard_normal(ours.adapter.flat.size)
    write_adapter(directory / "adapter", ours, **switches)
    with _in(dtype):
        theirs = peft.PeftModel.from_pretrained(model, directory / "adapter", is_trainable=True)
    return Pair(directory, dtype, ours, theirs)


def write_adapter(directory: Path, trainer: Trainer, **switches: bool) -> None:
    """The adapter as the server keeps it to sample from, which is what it exports."""
    spec = ModelSpec(
        base_model=trainer.base.name,
        rank=trainer.adapter.rank,
        seed=0,
        train_attn=switches.get("train_attn", True),
        train_mlp=switches.get("train_mlp", True),
        train_unembed=switches.get("train_unembed", True),
    )
    directory.mkdir()
    for file, content in encode_named("sampler_weights", spec, trainer).items():
        (directory / file).write_bytes(content)


def random_examples(pair: Pair, lengths: Sequence[int], seed: int) -> list[Example]:
    """Examples with all inputs of every loss; `logprobs` lie around the learner's, none at a bound of a loss."""
    random = np.random.default_rng(seed)
    vocab_size = pair.ours.base.config.vocab_size
    examples = []
    for length in lengths:
        tokens, targets = random.integers(vocab_size, size=(2, length))
        example = Example(tokens, {"target_tokens": targets})
        gaps = random.choice([-1.7, -0.5, -0.1, 0.0, 0.1, 0.4, 1.0], size=length)
        with torch.no_grad():
            logprobs = pair.logprobs(example).numpy() + gaps
        inputs = {
            "target_tokens": targets,
            "weights": random.choice([0.0, 0.5, 1.0, -0.3], size=length),
            "advantages": random.standard_normal(length),
            "logprobs": logprobs.astype(pair.dtype),
        }
        examples.append(Example(tokens, inputs))
    return examples
