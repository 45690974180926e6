"""A model in training: gradients accumulate, a step consumes them, everything can be saved exactly."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.batches import rectangles
from tinker_actors.local.engine.catalog import BaseModel, Floats, ModelConfig, Weights
from tinker_actors.local.engine.lora import Adapter, Gradient
from tinker_actors.local.engine.losses import Inputs, Loss, LossConfig, Settings, find_loss
from tinker_actors.local.engine.model import backward as run_backward
from tinker_actors.local.engine.model import forward as run_forward
from tinker_actors.local.engine.optimizer import AdamState, adam_step, clip_scale
from tinker_actors.local.engine.scratch import Scratch
from tinker_actors.local.engine.unembedding import TargetTokens, target_logprobs, target_logprobs_backward

__all__ = ["Example", "Objective", "Trainer", "check"]

ADAPTER, FIRST, SECOND, GRADIENT = "adapter.", "optimizer.first.", "optimizer.second.", "gradient."
STEPS = "optimizer.steps"

WORKERS = 2
"""Threads, the caller's among them, that share one call's rectangles. A constant: the order in which gradients are summed, and so
their last bits, would else depend on the machine's cores."""

Results = list[tuple[int, Floats, float]]
"""Index, logprobs and loss of some examples."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence and what its loss reads."""

    tokens: npt.NDArray[np.int64]
    """Input ids, shape (tokens,)."""
    inputs: Inputs
    """Loss inputs by name, each of shape (tokens,) or (tokens, targets); `target_tokens` holds the id that
    should come next, or those that may."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss with its settings."""

    loss: Loss
    settings: Settings

    def per_token(self, logprobs: Floats, inputs: Inputs) -> tuple[Floats, Floats]:
        """The loss of each target of one example, and d loss / d logprob."""
        return self.loss.per_token(logprobs, inputs, self.settings)


def check(
    examples: Sequence[Example], loss_fn: str, loss_fn_config: LossConfig | None, config: ModelConfig
) -> Objective:
    """The loss called `loss_fn` with its settings, if a model of this shape can be trained on `examples` with it.

    Raises:
        ValidationError: unknown loss or setting, no example, missing or unknown input, a token outside the
            vocabulary, too long a sequence, an input that is not finite, or one whose shape is not that of
            the tokens. The text names the first example that is wrong.
    """
    loss = find_loss(loss_fn)
    objective = Objective(loss, loss.complete(loss_fn_config or {}))
    if not examples:
        raise ValidationError("data must hold at least one example, got none")
    for index, example in enumerate(examples):
        try:
            _check(example, loss, config)
        except ValidationError as error:
            raise type(error)(f"data[{index}]: {error}") from error
    return objective


def _check(example: Example, loss: Loss, config: ModelConfig) -> None:
    tokens, inputs = example.tokens, example.inputs
    if tokens.ndim != 1:
        raise ShapeError(f"model_input must have shape (tokens,), got {tokens.shape}")
    if not 0 < len(tokens) <= config.max_context_length:
        raise ValidationError(
            f"model_input must have 1 to {config.max_context_length} tokens, got {len(tokens)}"
        )
    loss.check(inputs, len(tokens))
    config.check_ids("model_input", tokens)
    config.check_ids("target_tokens", inputs["target_tokens"])


class Trainer:
    """One adapter in training on one base model, with its optimizer.

    Not locked: one caller at a time. Equal calls in equal order give equal bits, on one machine, numpy
    and BLAS thread count. One BLAS thread is the fastest: the batch is already shared between `WORKERS`.
    """

    def __init__(self, base: BaseModel, adapter: Adapter) -> None:
        self.base = base
        self.adapter = adapter
        self._adam = AdamState.zeros(adapter.flat)
        self._pending: Floats | None = None
        self._workers = [Scratch(adapter.flat.dtype) for _ in range(WORKERS)]

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._adam.steps

    def forward_backward(
        self,
        examples: Sequence[Example],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossConfig | None = None,
        *,
        backward: bool = True,
    ) -> tuple[list[Floats], dict[str, float]]:
        """The loss of `examples`, a sum over tokens and examples; its gradient is added to what waits.

        Args:
            examples: at least one.
            loss_fn: name of the loss.
            loss_fn_config: its settings.
            backward: False computes the loss only.

        Returns:
            The logprobs of each example's target tokens in nats, of the shape of `target_tokens`, of every
            position whatever its weight; and metrics named `name:reduction`, among them `loss:sum`.

        Raises:
            ValidationError: as `check`, or a loss is not finite. Nothing was added.
        """
        objective = check(examples, loss_fn, loss_fn_config, self.base.config)
        work = _Work(self.adapter.merged(self.base), examples, objective)
        groups = rectangles([len(example.tokens) for example in examples], len(self._workers))
        logprobs: list[Floats] = [np.empty(0, self.adapter.flat.dtype)] * len(examples)
        losses = np.zeros(len(examples))
        gradients = []
        for results, gradient in self._share_out(work, groups, backward=backward):
            gradients.append(gradient)
            for index, values, total in results:
                logprobs[index], losses[index] = values, total
        self._collect(gradients)
        return logprobs, {"loss:sum": float(losses.sum())}

    def _share_out(
        self, work: "_Work", groups: Sequence[Sequence[list[int]]], *, backward: bool
    ) -> list[tuple[Results, Floats | None]]:
        """What each worker made of its groups, in the order of the workers."""

        def run(scratch: Scratch, own: Sequence[list[int]]) -> tuple[Results, Floats | None]:
            gradient = Gradient(self.adapter) if backward else None
            results = [result for group in own for result in work.run(group, gradient, scratch)]
            return results, None if gradient is None else gradient.flat

        if len(groups) == 1:
            return [run(self._workers[0], groups[0])]
        with ThreadPoolExecutor(len(groups) - 1) as threads:
            others = threads.map(run, self._workers[1:], groups[1:])
            return [run(self._workers[0], groups[0]), *others]

    def _collect(self, gradients: Sequence[Floats | None]) -> None:
        for gradient in gradients:
            if gradient is None:
                continue
            if self._pending is None:
                self._pending = gradient
            else:
                self._pending += gradient

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


@dataclass(frozen=True, slots=True)
class _Work:
    """What all rectangles of one call share; only read while workers run."""

    weights: Weights
    examples: Sequence[Example]
    objective: Objective

    def run(self, group: Sequence[int], gradient: Gradient | None, scratch: Scratch) -> Results:
        """Logprobs and loss of the examples of one rectangle; the first is the longest."""
        scratch.reset()
        batch = [self.examples[index] for index in group]
        tokens, targets = _rectangle(batch), _targets(batch)
        tape = run_forward(self.weights, tokens, scratch)
        head = (tape.hidden, self.weights.unembedding, targets)
        logprobs, normalizers = target_logprobs(*head, scratch)
        slopes = np.zeros_like(logprobs)
        results, start = [], 0
        for index, example in zip(group, batch, strict=True):
            shape = example.inputs["target_tokens"].shape
            own = slice(start, start + math.prod(shape))
            start = own.stop
            values, place = logprobs[own].reshape(shape), slopes[own].reshape(shape)
            losses, place[...] = self.objective.per_token(values, example.inputs)
            total = float(losses.sum(dtype=np.float64))
            self._check_finite(index, total, place)
            results.append((index, values, total))
        if gradient is not None:
            outgoing = target_logprobs_backward(
                slopes, *head, normalizers, gradient=gradient, scratch=scratch
            )
            run_backward(self.weights, tape, outgoing, gradient, scratch)
        return results

    def _check_finite(self, index: int, total: float, slopes: Floats) -> None:
        if not (math.isfinite(total) and np.isfinite(slopes).all()):
            raise ValidationError(
                f"data[{index}]: {self.objective.loss.name} must be finite, came to {total}: either the model has"
                " diverged (take a smaller learning_rate), or the ratio of its probabilities to `logprobs` is"
                " beyond all bounds"
            )


def _rectangle(batch: Sequence[Example]) -> npt.NDArray[np.int64]:
    """Tokens side by side, shape (examples, tokens of the first), filled up with 0."""
    tokens = np.zeros((len(batch), len(batch[0].tokens)), np.int64)
    for row, example in enumerate(batch):
        tokens[row, : len(example.tokens)] = example.tokens
    return tokens


def _targets(batch: Sequence[Example]) -> TargetTokens:
    """The targets of all examples, by their rows in the flat rectangle."""
    width, rows, ids = len(batch[0].tokens), [], []
    for index, example in enumerate(batch):
        targets = example.inputs["target_tokens"]
        steps = index * width + np.arange(len(targets))
        rows.append(np.repeat(steps, math.prod(targets.shape[1:])))
        ids.append(targets.reshape(-1))
    return TargetTokens(np.concatenate(rows), np.concatenate(ids))
