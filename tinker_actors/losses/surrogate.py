"""The two requests of a custom loss: one for the logprobs, one whose cross-entropy has the gradient of the loss.

Cross-entropy is -sum(weights * logprobs), so with weights = -gradient its gradient by the logprobs is that of the loss.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.losses.custom import Array
from tinker_actors.types import Datum, EncodedTextChunk, ForwardBackwardOutput, ModelInput, TensorData
from tinker_actors.types.chunks import token_ids

__all__ = ["forward_data", "logprobs_of", "weighted_data"]


def forward_data(data: Sequence[Datum]) -> list[Datum]:
    """`data` with their targets and weights alone; where there are no weights, they are 0.

    Raises:
        ValidationError: a datum has no targets.
    """
    return [_forward(number, datum) for number, datum in enumerate(data)]


def _forward(number: int, datum: Datum) -> Datum:
    inputs = datum.loss_fn_inputs
    if "target_tokens" not in inputs:
        raise ValidationError(f"a custom loss needs target_tokens; datum {number} has {sorted(inputs)}")
    targets = inputs["target_tokens"]
    weights = inputs.get("weights")
    if weights is None:
        weights = TensorData(np.zeros(targets.shape, np.float32))
        weights = weights.to_sparse() if targets.is_sparse else weights
    return msgspec.structs.replace(
        datum,
        model_input=_packed(datum.model_input),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )


def _packed(model_input: ModelInput) -> ModelInput:
    """The same with its lists of tokens as arrays: they are encoded twice."""
    if not any(isinstance(getattr(chunk, "tokens", None), list | tuple) for chunk in model_input.chunks):
        return model_input
    chunks = [
        EncodedTextChunk(tokens=token_ids(chunk.tokens)) if isinstance(chunk, EncodedTextChunk) else chunk  # type: ignore[arg-type]  # arrays are taken, too
        for chunk in model_input.chunks
    ]
    return ModelInput(chunks=chunks)


def logprobs_of(output: ForwardBackwardOutput, data: Sequence[Datum]) -> list[NDArray[Any]]:
    """The logprobs of the data, one array each in the shape of its targets.

    Raises:
        APIResponseValidationError: they are missing, or do not fit the data.
    """
    if len(output.loss_fn_outputs) != len(data):
        raise APIResponseValidationError(
            f"a forward of {len(data)} data gives as many outputs, got {len(output.loss_fn_outputs)}"
        )
    return [
        _logprobs(number, *pair) for number, pair in enumerate(zip(output.loss_fn_outputs, data, strict=True))
    ]


def _logprobs(number: int, given: dict[str, TensorData], datum: Datum) -> NDArray[Any]:
    wanted = tuple(datum.loss_fn_inputs["target_tokens"].shape)
    if "logprobs" not in given:
        raise APIResponseValidationError(
            f"a forward gives logprobs, for datum {number} it gave {sorted(given)}"
        )
    found = given["logprobs"].to_numpy()
    if found.size != int(np.prod(wanted)):
        raise APIResponseValidationError(
            f"a forward gives one logprob a target, {wanted} for datum {number}, got {found.shape}"
        )
    return found.reshape(wanted)


def weighted_data(data: Sequence[Datum], gradients: Sequence[Array]) -> list[Datum]:
    """`data` with weights whose cross-entropy has these gradients by the logprobs."""
    return [
        msgspec.structs.replace(
            datum,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "weights": TensorData((-gradient).astype(np.float32)).to_sparse(),
            },
        )
        for datum, gradient in zip(data, gradients, strict=True)
    ]
