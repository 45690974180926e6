"""A model in training: gradients accumulate, a step consumes them, everything can be saved exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.batches import rectangles
from tinker_actors.local.catalog import BaseModel, Floats, ModelConfig, Weights
from tinker_actors.local.lora import Adapter, Gradient
from tinker_actors.local.losses import Inputs, Loss, LossConfig, find_loss
from tinker_actors.local.model import backward as run_backward
from tinker_actors.local.model import forward as run_forward
from tinker_actors.local.optimizer import AdamState, adam_step, clip_scale
from tinker_actors.local.scratch import Scratch
from tinker_actors.local.unembedding import target_logprobs, target_logprobs_backward

__all__ = ["Example", "Trainer"]

ADAPTER, FIRST, SECOND, GRADIENT = "adapter.", "optimizer.first.", "optimizer.second.", "gradient."
STEPS = "optimizer.steps"


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence and what its loss reads."""

    tokens: npt.NDArray[np.int64]
    """Input ids, shape (tokens,)."""
    inputs: Inputs
    """Loss inputs by name, each of shape (tokens,); `target_tokens` holds the id that should come next."""


class Trainer:
    """One adapter in training on one base model, with its optimizer.

    Not locked: one thread at a time. Equal calls in equal order give equal bits, on one machine, numpy
    and BLAS thread count.
    """

    def __init__(self, base: BaseModel, adapter: Adapter) -> None:
        self.base = base
        self.adapter = adapter
        self._adam = AdamState.zeros(adapter.flat)
        self._pending: Floats | None = None
        self._scratch = Scratch(adapter.flat.dtype)

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._adam.steps

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient waits for `optim_step`."""
        return self._pending is not None

    def forward_backward(
        self,
        examples: Sequence[Example],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossConfig | None = None,
        *,
        backward: bool = True,
    ) -> tuple[list[npt.NDArray[np.float32]], dict[str, float]]:
        """The loss of `examples`, a sum over tokens and examples; its gradient is added to what waits.

        Args:
            examples: at least one.
            loss_fn: name of the loss.
            loss_fn_config: its settings.
            backward: False computes the loss only.

        Returns:
            The logprobs of each example's target tokens in nats, shape (tokens,), of every position
            whatever its weight; and metrics named `name:reduction`, among them `loss:sum`.

        Raises:
            ValidationError: unknown loss, missing input, a token outside the vocabulary, too long a
                sequence. Nothing was computed or added.
            ShapeError: an input whose shape is not that of the tokens. Nothing was added.
        """
        loss = find_loss(loss_fn)
        if not examples:
            raise ValidationError("forward_backward needs at least one example, got none")
        for example in examples:
            _check(example, loss, self.base.config)
        weights = self.adapter.merged(self.base)
        gradient = Gradient(self.adapter) if backward else None
        logprobs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(examples)
        losses = np.zeros(len(examples))
        for group in rectangles([len(example.tokens) for example in examples]):
            batch = [examples[index] for index in group]
            results = self._run(weights, batch, _Objective(loss, loss_fn_config or {}), gradient)
            for index, (values, total) in zip(group, results, strict=True):
                logprobs[index], losses[index] = values, total
        if gradient is not None:
            if self._pending is None:
                self._pending = gradient.flat
            else:
                self._pending += gradient.flat
        return logprobs, {"loss:sum": float(losses.sum())}

    def optim_step(
        self,
        learning_rate: float = 1e-4,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        grad_clip_norm: float = 0.0,
    ) -> dict[str, float]:
        """One AdamW step with the gradient that waits, which is then gone; without one, a zero gradient.

        Args:
            learning_rate: not negative.
            beta1: decay of the first moment.
            beta2: decay of the second moment.
            eps: added to the root of the second moment.
            weight_decay: decoupled decay; multiplied by the learning rate.
            grad_clip_norm: most the gradient's norm may be; 0 does not clip.

        Returns:
            Metrics: `grad_norm:mean`, before clipping, and `learning_rate:mean`.

        Raises:
            ValidationError: a setting lies outside its range. The gradient still waits.
        """
        if not grad_clip_norm >= 0.0:
            raise ValidationError(f"grad_clip_norm must not be negative, got {grad_clip_norm}")
        pending = np.zeros_like(self.adapter.flat) if self._pending is None else self._pending
        norm = float(np.sqrt(pending @ pending))
        adam_step(
            self.adapter.flat,
            pending * clip_scale(norm, grad_clip_norm),
            self._adam,
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
        )
        self.adapter.version += 1
        self._pending = None
        return {"grad_norm:mean": norm, "learning_rate:mean": float(learning_rate)}

    def state(self, *, include_gradient: bool = True) -> dict[str, npt.NDArray[Any]]:
        """Copies of all that `load_state` needs to go on bit for bit.

        Args:
            include_gradient: whether a gradient that waits is part of it.

        Returns:
            `adapter.<name>`, `optimizer.first.<name>`, `optimizer.second.<name>`, `optimizer.steps`
            (int64, shape (1,)), and `gradient.<name>` when one waits.
        """
        parts = {ADAPTER: self.adapter.flat, FIRST: self._adam.first, SECOND: self._adam.second}
        if include_gradient and self._pending is not None:
            parts[GRADIENT] = self._pending
        arrays: dict[str, npt.NDArray[Any]] = {
            prefix + name: view.copy()
            for prefix, flat in parts.items()
            for name, view in self.adapter.views(flat).items()
        }
        arrays[STEPS] = np.array([self._adam.steps], np.int64)
        return arrays

    def load_state(self, arrays: Mapping[str, npt.NDArray[Any]], *, optimizer: bool = True) -> None:
        """Become what `state` described.

        Args:
            arrays: by the names of `state`.
            optimizer: False starts a fresh optimizer, and no gradient waits.

        Raises:
            ValidationError: an array is missing. Nothing was changed.
            ShapeError: an array has another shape. Nothing was changed.
        """
        flat = self._gather(arrays, ADAPTER)
        adam, pending = AdamState.zeros(flat), None
        if optimizer:
            if STEPS not in arrays:
                raise ValidationError(f"optimizer state must have {STEPS}, got none")
            steps = int(arrays[STEPS][0])
            adam = AdamState(self._gather(arrays, FIRST), self._gather(arrays, SECOND), steps)
            if any(name.startswith(GRADIENT) for name in arrays):
                pending = self._gather(arrays, GRADIENT)
        self.adapter.flat[...] = flat
        self.adapter.version += 1
        self._adam, self._pending = adam, pending

    def _gather(self, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Floats:
        named = {
            name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)
        }
        flat = np.empty_like(self.adapter.flat)
        self.adapter.fill(flat, named)
        return flat

    def _run(
        self, weights: Weights, batch: Sequence[Example], objective: "_Objective", gradient: Gradient | None
    ) -> list[tuple[npt.NDArray[np.float32], float]]:
        """Logprobs and loss of each example of one rectangle; the first is the longest."""
        scratch = self._scratch
        scratch.reset()
        shape = (len(batch), len(batch[0].tokens))
        tokens, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, example in enumerate(batch):
            tokens[row, : len(example.tokens)] = example.tokens
            targets[row, : len(example.tokens)] = example.inputs["target_tokens"]
        tape = run_forward(weights, tokens, scratch)
        head = (tape.hidden, weights.unembedding, targets.reshape(-1))
        logprobs, normalizers = target_logprobs(*head, scratch)
        slopes = np.zeros(shape, logprobs.dtype)
        results = []
        for row, example in enumerate(batch):
            length = len(example.tokens)
            own = logprobs[row * shape[1] : row * shape[1] + length]
            losses, slopes[row, :length] = objective.per_token(own, example.inputs)
            results.append((own.astype(np.float32), float(losses.sum(dtype=np.float64))))
        if gradient is not None:
            outgoing = target_logprobs_backward(
                slopes.reshape(-1), *head, normalizers, gradient=gradient, scratch=scratch
            )
            run_backward(weights, tape, outgoing, gradient, scratch)
        return results


@dataclass(frozen=True, slots=True)
class _Objective:
    """A loss with its settings."""

    loss: Loss
    config: LossConfig

    def per_token(self, logprobs: Floats, inputs: Inputs) -> tuple[Floats, Floats]:
        return self.loss.per_token(logprobs, inputs, self.config)


def _check(example: Example, loss: Loss, config: ModelConfig) -> None:
    tokens = example.tokens
    if tokens.ndim != 1:
        raise ShapeError(f"tokens must have shape (tokens,), got {tokens.shape}")
    if not 0 < len(tokens) <= config.max_context_length:
        raise ValidationError(
            f"an example must have 1 to {config.max_context_length} tokens, got {len(tokens)}"
        )
    loss.check(example.inputs, len(tokens))
    for name, ids in (("tokens", tokens), ("target_tokens", example.inputs["target_tokens"])):
        if not (ids.min() >= 0 and ids.max() < config.vocab_size):
            raise ValidationError(
                f"{name} must lie in [0, {config.vocab_size}), got {ids.min()} to {ids.max()}"
            )
