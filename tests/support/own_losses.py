"""Losses of a caller's own that tests train with."""

from collections.abc import Sequence
from typing import Any

import tinker_actors as ta
from tinker_actors.losses import Array, value_and_grad

__all__ = ["cross_entropy", "custom_step"]


@value_and_grad
def cross_entropy(data: Sequence[ta.Datum], logprobs: Sequence[Array]) -> Any:
    """The built-in loss again."""
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
    value = -sum(float((w * row).sum()) for w, row in zip(weights, logprobs, strict=True))
    return value, [-w for w in weights], {"mine:sum": value}


def custom_step(training: ta.TrainingClient, data: Sequence[ta.Datum], loss_fn: Any = cross_entropy) -> None:
    """One optimizer step with a loss of one's own."""
    forward = training.forward_backward_custom(data, loss_fn)
    training.optim_step(ta.AdamParams(learning_rate=2e-3)).result(60.0)
    forward.result(60.0)
