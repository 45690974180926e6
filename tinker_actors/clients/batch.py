"""The data and settings of one training call, checked before a place is reserved for it."""

from collections.abc import Iterable, Mapping
from typing import Any

from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types import Datum, TensorData
from tinker_actors.types.checks import finite, text

__all__ = ["check_batch", "check_custom_batch", "loss_settings"]

_POLICY = ("target_tokens", "logprobs", "advantages")
_REQUIRED = {
    "cross_entropy": ("target_tokens", "weights"),
    **dict.fromkeys(("importance_sampling", "ppo", "cispo", "dro", "gspo"), _POLICY),
}
"""Inputs that a loss function cannot do without, each in the shape of its targets."""


def check_batch(data: Any, loss_fn: Any, vocabulary: Vocabulary) -> list[Datum]:
    """`data` as data that `loss_fn` can be computed of.

    Args:
        data: ours, the official SDK's or duck types.
        loss_fn: name of the loss; one that is not known here is left to the service.
        vocabulary: of the model.

    Raises:
        ValidationError: there are none, one is malformed, lacks an input or holds an id that the model does not know.
        ShapeError: an input has not the shape of the tokens.
    """
    known = [Datum.of(datum) for datum in _listed(data)]
    _check_all(known, text("loss_fn", loss_fn), vocabulary)
    return known


def check_custom_batch(data: Any, vocabulary: Vocabulary) -> tuple[list[Any], list[Datum]]:
    """`data` as a list for a loss of the caller's own, and as data for the forward pass that it begins with.

    Raises:
        ValidationError: as `check_batch` for "cross_entropy"; weights may be missing.
        ShapeError: an input has not the shape of the tokens.
    """
    from tinker_actors.losses.surrogate import forward_data

    given = _listed(data)
    known = forward_data([Datum.of(datum) for datum in given])
    _check_all(known, "cross_entropy", vocabulary)
    return given, known


def _listed(data: Any) -> list[Any]:
    if not isinstance(data, Iterable):
        raise ValidationError(f"data is a list of Datum, got {type(data).__name__}")
    try:
        given = list(data)
    except TypeError as error:  # an array without dimensions
        raise ValidationError(f"data is a list of Datum: {error}") from error
    if not given:
        raise ValidationError("No data provided")
    return given


def _check_all(data: list[Datum], loss_fn: str, vocabulary: Vocabulary) -> None:
    required = _REQUIRED.get(loss_fn, ())
    for number, datum in enumerate(data):
        if vocabulary.size is not None:
            vocabulary.check(datum.model_input.text_ids(), f"datum {number}")
        _check(number, datum, loss_fn, required, vocabulary)


def _check(
    number: int, datum: Datum, loss_fn: str, required: tuple[str, ...], vocabulary: Vocabulary
) -> None:
    length, inputs = datum.model_input.known_length, datum.loss_fn_inputs
    if length == 0:
        raise ValidationError(f"a datum needs at least one input token, datum {number} has none")
    missing = [name for name in required if name not in inputs]
    if missing:
        raise ValidationError(f"{loss_fn} needs {' and '.join(missing)}; datum {number} has {sorted(inputs)}")
    if "target_tokens" in inputs:
        _check_targets(number, length, inputs["target_tokens"], vocabulary)
        for name in required:
            if inputs[name].shape != inputs["target_tokens"].shape:
                raise ShapeError(
                    f"{name} must have the shape of target_tokens, {_shape(inputs['target_tokens'])}; "
                    f"datum {number} has {_shape(inputs[name])}"
                )


def _check_targets(number: int, length: int | None, targets: TensorData, vocabulary: Vocabulary) -> None:
    if targets.dtype != "int64":
        raise ValidationError(f"target_tokens must be integers; datum {number} has {targets.dtype}")
    if length is not None and targets.shape[:1] != [length]:
        raise ShapeError(
            f"target_tokens must have one entry per input token, {length}; datum {number} has {_shape(targets)}"
        )
    if vocabulary.size is not None:
        vocabulary.check(targets.values, f"target_tokens of datum {number}")


def _shape(tensor: TensorData) -> tuple[int, ...]:
    return tuple(tensor.shape)


def loss_settings(config: Any) -> dict[str, float | str]:
    """Settings of a loss as plain numbers and texts; none for None.

    Raises:
        ValidationError: they are no mapping, or one is neither a number nor a text.
    """
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise ValidationError(f"loss_fn_config is a mapping of names to numbers, got {type(config).__name__}")
    settings: dict[str, float | str] = {}
    for name, value in config.items():
        known = text("a name in loss_fn_config", name)
        what = f"loss_fn_config[{known!r}]"
        settings[known] = text(what, value) if isinstance(value, str) else finite(what, value)
    return settings
