"""Sampling speed of the numpy engine beside the same model in PyTorch, on one machine in one run.

Run by hand, in an environment of its own:

    python -m venv .venv-torch
    .venv-torch/bin/pip install torch==2.13.0 numpy tokenizers safetensors msgspec pykka
    .venv-torch/bin/pip install --no-deps -e .
    OPENBLAS_NUM_THREADS=1 chrt -f 1 .venv-torch/bin/python tests/benchmarks/sampling_vs_torch.py

Beside other work the ratio says nothing, as PyTorch's threads spin while they wait for each other: `chrt` (root)
gives the run both cores for the 25 s that it takes.

32 sequences of 32 prompt and 64 sampled tokens are drawn together: the engine in one continuous batch of
32 requests, PyTorch (two threads, no gradients) in one batch with a static cache of keys and values, its
fused attention and `torch.multinomial`. Both begin with the same weights; before they are timed the two must
agree on the logprobs of a text.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tinker_actors.local.engine.batching import Batch
from tinker_actors.local.engine.catalog import (
    Weights,
    load_base_model,
    model_names,
)
from tinker_actors.local.engine.catalog import rope_order as order_of
from tinker_actors.local.engine.prompts import PromptQuestions
from tinker_actors.local.engine.sampling import SampleSpec

THREADS, ROWS, PROMPT, TOKENS = 2, 32, 32, 64


class TorchSampler:
    """The engine's model in PyTorch, with a cache of keys and values for `ROWS` sequences."""

    def __init__(self, weights: Weights) -> None:
        self.config = weights.config
        config = self.config
        order = np.argsort(order_of(config))
        self.layers = [
            {
                "qkv": torch.from_numpy(np.ascontiguousarray(layer.qkv[order])),
                **{name: torch.from_numpy(getattr(layer, name)) for name in ("o", "gate_up", "down")},
                **{name: torch.from_numpy(getattr(layer, name)) for name in ("attention_norm", "mlp_norm")},
            }
            for layer in weights.layers
        ]
        self.embedding = torch.from_numpy(weights.embedding)
        self.unembedding = torch.from_numpy(weights.unembedding)
        self.final_norm = torch.from_numpy(weights.final_norm)
        half = config.head_dim // 2
        speed = config.rope_theta ** (-torch.arange(half) / half)
        angle = torch.arange(config.max_context_length)[:, None] * speed
        self.cos, self.sin = torch.cos(angle).repeat(1, 2), torch.sin(angle).repeat(1, 2)
        shape = (ROWS, config.kv_heads, PROMPT + TOKENS, config.head_dim)
        self.cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in self.layers]

    def norm(self, x: Any, gain: Any) -> Any:
        """RMSNorm."""
        return functional.rms_norm(x, (x.shape[-1],), gain, self.config.rms_norm_eps)

    def rotate(self, x: Any, start: int) -> Any:
        """Rotary positions by halves, shape (rows, heads, steps, head_dim)."""
        stop, half = start + x.shape[2], x.shape[3] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self.cos[start:stop] + turned * self.sin[start:stop]

    def logits(self, tokens: Any, start: int, last: int = 1) -> Any:
        """Logits after the `last` tokens of each row, shape (rows, last, vocab)."""
        config = self.config
        x = self.embedding[tokens]
        rows, steps = tokens.shape
        stop = start + steps
        widths = [config.query_width, *[config.kv_heads * config.head_dim] * 2]
        for layer, (keys, values) in zip(self.layers, self.cache, strict=True):
            qkv = functional.linear(self.norm(x, layer["attention_norm"]), layer["qkv"])
            q, k, v = (
                part.view(rows, steps, -1, config.head_dim).transpose(1, 2)
                for part in qkv.split(widths, dim=-1)
            )
            keys[:rows, :, start:stop] = self.rotate(k, start)
            values[:rows, :, start:stop] = v
            mixed = functional.scaled_dot_product_attention(
                self.rotate(q, start),
                keys[:rows, :, :stop],
                values[:rows, :, :stop],
                is_causal=steps > 1,
                enable_gqa=config.heads != config.kv_heads,
            )
            x = x + functional.linear(mixed.transpose(1, 2).reshape(rows, steps, -1), layer["o"])
            gate, up = functional.linear(self.norm(x, layer["mlp_norm"]), layer["gate_up"]).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(self.norm(x[:, -last:], self.final_norm), self.unembedding)

    def sample(self, prompts: Any) -> None:
        """Draw `TOKENS` tokens a row, with their logprobs."""
        tokens, start = prompts, 0
        with torch.inference_mode():
            for _ in range(TOKENS):
                logprobs = functional.log_softmax(self.logits(tokens, start)[:, -1], dim=-1)
                start += tokens.shape[1]
                tokens = torch.multinomial(logprobs.exp(), 1)
                logprobs.gather(1, tokens).tolist()


def engine_sample(weights: Weights, prompts: np.ndarray) -> None:
    """Draw `TOKENS` tokens for each prompt, one request a prompt."""
    batch = Batch(weights)
    for seed, prompt in enumerate(prompts):
        batch.join(SampleSpec(prompt=prompt.tolist(), max_tokens=TOKENS, stop=[], seed=seed))
    while not batch.is_empty:
        batch.step()


def distance(weights: Weights, model: TorchSampler, prompt: np.ndarray) -> float:
    """How far the logprobs of a text are apart between the two."""
    batch = Batch(weights)
    asked = SampleSpec(prompt=prompt.tolist(), max_tokens=1, questions=PromptQuestions(logprobs=True))
    generation = batch.join(asked)
    batch.step()
    tokens = torch.from_numpy(prompt)
    with torch.inference_mode():
        logprobs = functional.log_softmax(model.logits(tokens[None], 0, last=len(prompt))[0], dim=-1)
    theirs = logprobs[:-1].gather(1, tokens[1:, None])[:, 0].numpy()
    return float(np.abs(generation.scores.logprobs[1:] - theirs).max())


def speeds(runs: list[Callable[[], None]], seconds: float = 6.0) -> list[float]:
    """Tokens a second of each contestant, by its best quarter of rounds taken in turn."""
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end:
        for run, spent in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            spent.append(time.perf_counter() - start)
    return [ROWS * TOKENS / float(np.quantile(spent, 0.25)) for spent in times]


def main() -> None:
    """Print a row a model: tokens a second, their ratio, and how far the logprobs are apart."""
    torch.set_num_threads(THREADS)
    print(f"numpy {np.__version__}, torch {torch.__version__}, {THREADS} threads, {ROWS} sequences")
    for name in model_names():
        weights = load_base_model(name).weights
        sampler = TorchSampler(weights)
        prompts = np.random.default_rng(0).integers(200, size=(ROWS, PROMPT))
        apart = distance(weights, sampler, prompts[0])
        ours, theirs = speeds(
            [
                partial(engine_sample, weights, prompts),
                partial(sampler.sample, torch.from_numpy(prompts)),
            ]
        )
        print(
            f"{name:12s} numpy {ours:7.0f} tokens/s   torch {theirs:7.0f}   ratio {ours / theirs:.2f}   "
            f"logprobs apart by {apart:.1e}"
        )


if __name__ == "__main__":
    main()
