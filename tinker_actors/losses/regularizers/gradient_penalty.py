"""A regularizer over the gradient of another loss: its length is to be a given one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from tinker_actors.errors import ValidationError
from tinker_actors.losses.custom import (
    Array,
    Differentiable,
    Evaluation,
    LossFn,
    check_loss_fn,
    evaluate,
    loss_and_metrics,
    name_of,
)
from tinker_actors.losses.targets import field_of, references
from tinker_actors.types.checks import finite, one_of

__all__ = ["GradientPenalty"]

STEP = 1e-5
"""Of the difference quotient along a direction of length 1, in nats: of its error, that of rounding and that of the step
are about equal in float64."""


@dataclass(frozen=True, kw_only=True)
class GradientPenalty:
    """(|grad f(x)| - target)**2, the length taken over all logprobs at once.

    In mode "interpolated", x is e * logprobs + (1 - e) * reference, with e drawn evenly from 0 to 1 at each call. The
    gradient of the penalty wants the second derivative of f along its gradient: of a loss in numpy by the central
    difference of its gradients, of a torch function from PyTorch.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs" (2017).

    Raises:
        ValidationError: an argument is wrong, or interpolation has no reference.
        MissingTorchError: `loss_fn` is a torch function, and PyTorch is not installed.
    """

    name: ClassVar[str] = "gradient_penalty"

    loss_fn: LossFn
    """f."""
    mode: Literal["output", "interpolated"] = "output"
    """Where the gradient is taken."""
    target_norm: float = 1.0
    """The length wanted."""
    reference_field: str | None = None
    """Name of the input of each datum that has the reference, of the shape of its logprobs."""
    seed: int | None = None
    """Of the draws; None for others each time."""
    _generator: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_loss_fn(self.loss_fn)
        one_of("mode", self.mode, "output", "interpolated")
        finite("target_norm", self.target_norm)
        if self.mode == "interpolated" and self.reference_field is None:
            raise ValidationError("GradientPenalty interpolates to a reference: name its reference_field")
        object.__setattr__(self, "_generator", np.random.default_rng(self.seed))

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:
        """The penalty.

        Raises:
            ValidationError: a datum has no reference.
            ShapeError: a reference has not the shape of the logprobs.
        """
        share, points = 1.0, list(logprobs)
        if self.mode == "interpolated" and self.reference_field is not None:
            share = float(self._generator.uniform())
            given = [field_of(datum, self.reference_field) for datum in data]
            others = references(self.reference_field, given, logprobs)
            points = [share * x + (1 - share) * y for x, y in zip(logprobs, others, strict=True)]
        if isinstance(self.loss_fn, Differentiable):
            norm, gradients = self._in_numpy(data, points)
        else:
            norm, gradients = self._in_torch(data, points)
        value = (norm - self.target_norm) ** 2
        return Evaluation(value, [share * gradient for gradient in gradients], {"gradient_norm": norm})

    def _in_numpy(self, data: Sequence[Any], points: Sequence[Array]) -> tuple[float, list[Array]]:
        gradients = evaluate(self.loss_fn, data, points).gradients
        norm = float(np.sqrt(sum((one**2).sum() for one in gradients)))
        if norm == 0:
            return norm, [np.zeros_like(one) for one in gradients]  # any direction is as good
        ahead, behind = (
            evaluate(
                self.loss_fn,
                data,
                [x + side * STEP * g / norm for x, g in zip(points, gradients, strict=True)],
            ).gradients
            for side in (1, -1)
        )
        slope = 2 * (norm - self.target_norm) / (2 * STEP)
        return norm, [slope * (a - b) for a, b in zip(ahead, behind, strict=True)]

    def _in_torch(self, data: Sequence[Any], points: Sequence[Array]) -> tuple[float, list[Array]]:
        import torch

        function: Any = getattr(self.loss_fn, "compute", self.loss_fn)
        tensors = [torch.tensor(row, dtype=torch.float32, requires_grad=True) for row in points]
        with torch.enable_grad():
            loss, _ = loss_and_metrics(name_of(self.loss_fn), function(data, tensors))
            gradients = torch.autograd.grad(
                loss.sum(), tensors, create_graph=True, allow_unused=True, materialize_grads=True
            )
            norm = torch.sqrt(sum((one**2).sum() for one in gradients))
            if norm.requires_grad and norm.item() > 0:
                ((norm - self.target_norm) ** 2).backward()
        slopes = [None if row.grad is None else row.grad.numpy() for row in tensors]
        filled = [
            np.zeros(row.shape) if one is None else np.asarray(one, np.float64)
            for row, one in zip(points, slopes, strict=True)
        ]
        return float(norm.item()), filled
