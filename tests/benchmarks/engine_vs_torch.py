"""Training speed of the numpy engine beside the same model in PyTorch, on one machine in one run.

Run by hand, in an environment of its own:

    python -m venv .venv-torch
    .venv-torch/bin/pip install -e '.[local,numerics]'
    OPENBLAS_NUM_THREADS=1 chrt -f 1 .venv-torch/bin/python tests/benchmarks/engine_vs_torch.py

The engine shares a batch between two threads with one BLAS thread each, PyTorch has two threads.
Both sides start from the same weights and adapter and see the same batches; a step is forward, backward
and one Adam step. PyTorch uses autograd and its fused attention, with the adapter either merged into each
weight within the graph or as two thin products beside it; the faster of the two counts.

The sides take turns, and the ratio is the median over turns: what else the machine does then meets all sides
alike. It does not harm them alike: PyTorch's threads wait for each other in each operation, so that the ratio
means something only on a machine that does little else, or with both cores to itself, which `chrt` (root)
gives it. `quiet` is the ratio of the fastest steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tinker_actors.local.engine.catalog import BaseModel, load_base_model, rope_order
from tinker_actors.local.engine.lora import ALPHA, new_adapter
from tinker_actors.local.engine.training import Example, Trainer

RANK, LEARNING_RATE, THREADS = 32, 1e-3, 2
EPS = 1e-12


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of batch."""

    model: str
    name: str
    lengths: tuple[int, ...]

    def examples(self, seed: int) -> list[Example]:
        """Random tokens, every second one weighed."""
        random = np.random.default_rng(seed)
        result = []
        for length in self.lengths:
            ids = random.integers(256, size=length + 1)
            weights = np.where(np.arange(length) * 2 >= length, 1.0, 0.0)
            result.append(Example(ids[:-1], {"target_tokens": ids[1:], "weights": weights}))
        return result


CASES = (
    Case("local/small", "32 x 28..36 tokens", tuple(28 + index % 9 for index in range(32))),
    Case("local/small", "8 x 128 tokens", (128,) * 8),
    Case("local/small", "2 x 512 tokens", (512,) * 2),
    Case("local/tiny", "32 x 28..36 tokens", tuple(28 + index % 9 for index in range(32))),
    Case("local/tiny", "64 x 32 tokens", (32,) * 64),
    Case("local/tiny", "16 x 256 tokens", (256,) * 16),
)
CASE_S = 9.0
"""How long one case is measured; the models' first steps not counted."""


class TorchModel:
    """The engine's model in PyTorch; weights and adapter are copied from it."""

    def __init__(self, base: BaseModel, parameters: dict[str, np.ndarray], *, merged: bool) -> None:
        self.config = base.config
        self.merged = merged
        self.parameters = {
            name: torch.tensor(values.copy(), requires_grad=True) for name, values in parameters.items()
        }
        self.weights = base.weights
        order = np.argsort(rope_order(base.config))
        self.qkv = [torch.from_numpy(layer.qkv[order]) for layer in base.weights.layers]
        half = self.config.head_dim // 2
        speed = self.config.rope_theta ** (-torch.arange(half) / half)
        angle = torch.arange(self.config.max_context_length)[:, None] * speed
        self.cos, self.sin = torch.cos(angle).repeat(1, 2), torch.sin(angle).repeat(1, 2)

    def linear(self, x: Any, weight: Any, names: Sequence[str]) -> Any:
        """A stacked product with the adapter of each part."""
        scale = ALPHA / RANK
        factors = [
            (self.parameters[f"{name}.lora_A.weight"], self.parameters[f"{name}.lora_B.weight"])
            for name in names
        ]
        if self.merged:
            deltas = [right @ left for left, right in factors]
            stacked = deltas[0] if len(deltas) == 1 else torch.cat(deltas)
            return functional.linear(x, torch.add(weight, stacked, alpha=scale))
        thin = [(x @ left.T) @ right.T for left, right in factors]
        stacked = thin[0] if len(thin) == 1 else torch.cat(thin, dim=-1)
        return torch.add(functional.linear(x, weight), stacked, alpha=scale)

    def rotate(self, x: Any) -> Any:
        """Rotary positions by halves, shape (rows, heads, steps, head_dim)."""
        steps, half = x.shape[2], x.shape[3] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self.cos[:steps] + turned * self.sin[:steps]

    def attention(self, x: Any, index: int) -> Any:
        """Grouped-query attention of one layer, before its residual sum."""
        config, rows, steps = self.config, x.shape[0], x.shape[1]
        path = f"model.layers.{index}.self_attn"
        qkv = self.linear(x, self.qkv[index], [f"{path}.{part}_proj" for part in "qkv"])
        q, k, v = (
            part.view(rows, steps, -1, config.head_dim).transpose(1, 2)
            for part in qkv.split(
                [config.query_width, *[config.kv_heads * config.head_dim] * 2],
                dim=-1,
            )
        )
        mixed = functional.scaled_dot_product_attention(
            self.rotate(q), self.rotate(k), v, is_causal=True, enable_gqa=config.heads != config.kv_heads
        )
        mixed = mixed.transpose(1, 2).reshape(rows, steps, config.query_width)
        return self.linear(mixed, torch.from_numpy(self.weights.layers[index].o), [f"{path}.o_proj"])

    def mlp(self, x: Any, index: int) -> Any:
        """The gated MLP of one layer, before its residual sum."""
        path, layer = f"model.layers.{index}.mlp", self.weights.layers[index]
        names = [f"{path}.gate_proj", f"{path}.up_proj"]
        gate, up = self.linear(x, torch.from_numpy(layer.gate_up), names).chunk(2, dim=-1)
        return self.linear(functional.silu(gate) * up, torch.from_numpy(layer.down), [f"{path}.down_proj"])

    def norm(self, x: Any, gain: np.ndarray) -> Any:
        """RMSNorm with a frozen gain."""
        return functional.rms_norm(x, (x.shape[-1],), torch.from_numpy(gain), self.config.rms_norm_eps)

    def loss(self, tokens: Any, targets: Any, weights: Any) -> Any:
        """Weighted cross-entropy, summed, of a rectangle (rows, steps)."""
        x = functional.embedding(tokens, torch.from_numpy(self.weights.embedding))
        for index, layer in enumerate(self.weights.layers):
            x = x + self.attention(self.norm(x, layer.attention_norm), index)
            x = x + self.mlp(self.norm(x, layer.mlp_norm), index)
        hidden = self.norm(x, self.weights.final_norm)
        logits = self.linear(hidden, torch.from_numpy(self.weights.unembedding), ["lm_head"])
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses @ weights.flatten()


def padded(examples: Sequence[Example]) -> tuple[Any, Any, Any]:
    """Tokens, targets and weights as one rectangle."""
    shape = (len(examples), max(len(example.tokens) for example in examples))
    arrays = [np.zeros(shape, dtype) for dtype in ("int64", "int64", "float32")]
    for row, example in enumerate(examples):
        parts = (example.tokens, example.inputs["target_tokens"], example.inputs["weights"])
        for array, part in zip(arrays, parts, strict=True):
            array[row, : len(part)] = part
    return tuple(torch.from_numpy(array) for array in arrays)


def numpy_round(base: BaseModel) -> Callable[[list[Example]], float]:
    """One training round of the engine; gives the loss before the step."""
    trainer = Trainer(base, new_adapter(base.config, rank=RANK, seed=0))

    def run(examples: list[Example]) -> float:
        _, metrics = trainer.forward_backward(examples)
        trainer.optim_step(LEARNING_RATE)
        return metrics["loss:sum"]

    return run


def torch_round(base: BaseModel, *, merged: bool) -> Callable[[list[Example]], float]:
    """One training round of PyTorch; gives the loss before the step."""
    model = TorchModel(base, new_adapter(base.config, rank=RANK, seed=0).parameters, merged=merged)
    optimizer = torch.optim.AdamW(
        model.parameters.values(),
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=EPS,
        weight_decay=0.0,
        foreach=True,
    )

    def run(examples: list[Example]) -> float:
        loss = model.loss(*padded(examples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return run


def times(runs: Sequence[Callable[[list[Example]], float]], case: Case) -> Any:
    """Seconds a step of each contestant, taken in turns, shape (turns, contestants)."""
    batches = [case.examples(seed) for seed in range(4)]
    turns: list[list[float]] = []
    end = time.perf_counter() + CASE_S
    while time.perf_counter() < end or len(turns) < 3:
        batch, turn = batches[len(turns) % len(batches)], []
        for run in runs:
            start = time.perf_counter()
            run(batch)
            turn.append(time.perf_counter() - start)
        turns.append(turn)
    return np.array(turns)


def main() -> None:
    """Print a row a case: tokens a second, their ratio, and how far the losses are apart."""
    torch.set_num_threads(THREADS)
    print(f"numpy {np.__version__}, torch {torch.__version__}, {THREADS} threads, rank {RANK}")
    for case in CASES:
        base = load_base_model(case.model)
        makers = (numpy_round, lambda b: torch_round(b, merged=True), lambda b: torch_round(b, merged=False))
        runs = [make(base) for make in makers]
        batch = case.examples(0)
        losses = np.array([[run(batch) for run in runs] for _ in range(3)])
        apart = float(np.abs(losses[:, 1:] / losses[:, :1] - 1.0).max())
        spent = times(runs, case)
        ours, merged, thin = sum(case.lengths) / np.median(spent, axis=0)
        faster = spent[:, 1 if merged > thin else 2]
        print(
            f"{case.model:12s} {case.name:20s} numpy {ours:7.0f} tokens/s   torch {max(merged, thin):7.0f} "
            f"(merged {merged:.0f}, beside {thin:.0f})   ratio {np.median(faster / spent[:, 0]):.2f}   "
            f"quiet {faster.min() / spent[:, 0].min():.2f}   loss apart by {apart:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
