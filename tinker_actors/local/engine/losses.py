"""The losses of the training API, as pure functions of one example's logprobs.

Every loss is a sum over tokens; below, per token, with lp the learner's logprob of the target, q that of
the sampler (`logprobs`), A the advantage, w the weight and r = exp(lp - q):

```text
cross_entropy         -w * lp                                     w required
importance_sampling   -w * r * A                                  w here and below 1 where not given
ppo                   -w * min(r * A, clip(r, low, high) * A)     low 0.8, high 1.2: bounds of r
cispo                 -w * stop_gradient(clip(r, low, high)) * lp * A      low 0.0, high 4.0
dro                   -w * (lp * A - beta / 2 * (lp - q)^2)       beta required
```

Sources: Schulman et al., "Proximal Policy Optimization" (2017); MiniMax, "MiniMax-M1" (2025) for CISPO; Richemond
et al., "Offline Regularised Reinforcement Learning" (2024) for DRO.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.local.engine.catalog import Floats

__all__ = ["LOSSES", "Inputs", "Loss", "LossConfig", "Settings", "find_loss"]

Inputs = Mapping[str, npt.NDArray[Any]]
"""Loss inputs by name, each of the shape of `target_tokens`."""

LossConfig = Mapping[str, float | str]
"""A loss's settings as a request has them."""

Settings = Mapping[str, float]
"""A loss's settings, complete."""

LOW, HIGH = "clip_low_threshold", "clip_high_threshold"


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of one example; an operation's loss is the sum over its examples."""

    name: str
    inputs: tuple[str, ...]
    """Names of the inputs it needs besides `target_tokens`."""
    per_token: Callable[[Floats, Inputs, Settings], tuple[Floats, Floats]]
    """From logprobs, inputs and settings to the loss of each target and d loss / d logprob."""
    optional: tuple[str, ...] = ()
    """Names of the inputs it reads where they are given."""
    settings: Mapping[str, float | None] = field(default_factory=dict)
    """Its settings by name with their defaults; one without a default must be given."""
    many_targets: bool = False
    """Whether a position may have several targets: `target_tokens` of shape (tokens, targets)."""

    def check(self, inputs: Inputs, tokens: int) -> None:
        """Refuse inputs this loss cannot read.

        Raises:
            ValidationError: an input is missing, unknown or not finite.
            ShapeError: an input has not the shape of the tokens, or of `target_tokens`.
        """
        known = ("target_tokens", *self.inputs, *self.optional)
        for name in known[: 1 + len(self.inputs)]:
            if name not in inputs:
                raise ValidationError(f"{self.name} needs the loss input {name}, got {sorted(inputs)}")
        for name in inputs:
            if name not in known:
                raise ValidationError(
                    f"{self.name} reads {', '.join(known)}, got {name}, too; leave it out{_HINTS.get(name, '')}"
                )
        self._check_shapes(inputs, tokens)
        for name, values in inputs.items():
            is_bound = name in (LOW, HIGH)
            if np.isnan(values).any() or not (is_bound or np.isfinite(values).all()):
                raise ValidationError(f"{name} must be finite, got NaN or infinity")

    def _check_shapes(self, inputs: Inputs, tokens: int) -> None:
        shape = inputs["target_tokens"].shape
        most_dimensions = 2 if self.many_targets else 1
        if not 1 <= len(shape) <= most_dimensions or shape[0] != tokens or 0 in shape:
            wanted = f"({tokens},)" + (f" or ({tokens}, targets)" if self.many_targets else "")
            raise ShapeError(f"target_tokens must have shape {wanted}, as the model input, got {shape}")
        for name, values in inputs.items():
            if values.shape != shape:
                raise ShapeError(f"{name} must have shape {shape}, as target_tokens, got {values.shape}")

    def complete(self, config: LossConfig) -> Settings:
        """A request's settings, with defaults for those it leaves out.

        Raises:
            ValidationError: a setting is missing, unknown, not a number or outside its range.
        """
        for name in config:
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise ValidationError(f"{self.name} knows these settings: {known}; got {name!r}")
        settings = {
            name: self._number(name, config.get(name, default)) for name, default in self.settings.items()
        }
        if LOW in settings and settings[LOW] > settings[HIGH]:
            raise ValidationError(f"{LOW} must not be above {HIGH}, got {settings[LOW]} and {settings[HIGH]}")
        if settings.get("beta", 0.0) < 0.0 or settings.get("beta") == math.inf:
            raise ValidationError(f"beta must be finite and not negative, got {settings['beta']}")
        return settings

    def _number(self, name: str, value: float | str | None) -> float:
        if value is None:
            raise ValidationError(f"{self.name} needs the setting {name} in loss_fn_config, got none")
        if isinstance(value, str) or math.isnan(value):
            raise ValidationError(f"{name} must be a number, got {value!r}")
        return float(value)


_HINTS = {"mask": "; to leave tokens out, give them the weight 0 or the advantage 0"}


def find_loss(name: str) -> Loss:
    """The loss called `name`.

    Raises:
        ValidationError: no such loss.
    """
    loss = LOSSES.get(name)
    if loss is None:
        raise ValidationError(f"loss function must be one of {', '.join(LOSSES)}, got {name!r}")
    return loss


def _cross_entropy(logprobs: Floats, inputs: Inputs, settings: Settings) -> tuple[Floats, Floats]:
    del settings
    slopes = -_as(logprobs, inputs["weights"])
    return slopes * logprobs, slopes


def _importance_sampling(logprobs: Floats, inputs: Inputs, settings: Settings) -> tuple[Floats, Floats]:
    del settings
    losses = -_ratio(logprobs, inputs) * _gain(logprobs, inputs)
    return losses, losses


def _ppo(logprobs: Floats, inputs: Inputs, settings: Settings) -> tuple[Floats, Floats]:
    advantages = _as(logprobs, inputs["advantages"])
    ratio = _ratio(logprobs, inputs)
    free, held = ratio * advantages, _clipped(ratio, inputs, settings) * advantages
    weights = _weights(logprobs, inputs)
    return -weights * np.minimum(free, held), np.where(free <= held, -weights * free, 0.0)


def _cispo(logprobs: Floats, inputs: Inputs, settings: Settings) -> tuple[Floats, Floats]:
    slopes = -_clipped(_ratio(logprobs, inputs), inputs, settings) * _gain(logprobs, inputs)
    return slopes * logprobs, slopes


def _dro(logprobs: Floats, inputs: Inputs, settings: Settings) -> tuple[Floats, Floats]:
    advantages, beta = _as(logprobs, inputs["advantages"]), settings["beta"]
    gap = logprobs - _as(logprobs, inputs["logprobs"])
    weights = _weights(logprobs, inputs)
    losses = weights * (0.5 * beta * gap * gap - logprobs * advantages)
    return losses, weights * (beta * gap - advantages)


def _as(logprobs: Floats, values: npt.NDArray[Any]) -> Floats:
    return values.astype(logprobs.dtype)


def _weights(logprobs: Floats, inputs: Inputs) -> Floats:
    return _as(logprobs, inputs["weights"]) if "weights" in inputs else np.ones_like(logprobs)


def _gain(logprobs: Floats, inputs: Inputs) -> Floats:
    return _weights(logprobs, inputs) * _as(logprobs, inputs["advantages"])


def _ratio(logprobs: Floats, inputs: Inputs) -> Floats:
    """Probability of the target under the learner by that under the sampler; 1 where it does not count."""
    gap = logprobs - _as(logprobs, inputs["logprobs"])
    gap[_gain(logprobs, inputs) == 0.0] = 0.0
    with np.errstate(over="ignore"):  # infinity, which the trainer refuses by name
        ratio: Floats = np.exp(gap)
    return ratio


def _clipped(ratio: Floats, inputs: Inputs, settings: Settings) -> Floats:
    """The ratio between its bounds; those of a token, where given, go before those of the settings."""
    low, high = (
        _as(ratio, inputs[name]) if name in inputs else ratio.dtype.type(settings[name])
        for name in (LOW, HIGH)
    )
    clipped: Floats = np.clip(ratio, low, high)
    return clipped


_POLICY = ("logprobs", "advantages")
_BOUNDS = ("weights", LOW, HIGH)

LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", ("weights",), _cross_entropy, many_targets=True),
        Loss("importance_sampling", _POLICY, _importance_sampling, ("weights",)),
        Loss("ppo", _POLICY, _ppo, _BOUNDS, {LOW: 0.8, HIGH: 1.2}),
        Loss("cispo", _POLICY, _cispo, _BOUNDS, {LOW: 0.0, HIGH: 4.0}),
        Loss("dro", _POLICY, _dro, ("weights",), {"beta": None}),
    )
}
