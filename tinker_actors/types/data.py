"""What a model is trained on and asked with: chunks, model inputs, data."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from tinker_actors.errors import ValidationError
from tinker_actors.types.tensors import TensorData

__all__ = ["Datum", "EncodedTextChunk", "ModelInput"]


class EncodedTextChunk(msgspec.Struct, frozen=True, tag_field="type", tag="encoded_text"):
    """Text as token ids."""

    tokens: Sequence[int]
    """Token ids in the vocabulary of the model."""

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


class ModelInput(msgspec.Struct, frozen=True):
    """What a model reads: chunks, one after another."""

    chunks: Sequence[EncodedTextChunk]
    """The chunks in order."""

    @classmethod
    def empty(cls) -> Self:
        """An input of no tokens."""
        return cls(chunks=[])

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> Self:
        """An input of one chunk of token ids."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as a model input: ours, the official SDK's (by structure), or a sequence of token ids.

        Raises:
            ValidationError: something else, or a chunk that is not text.
        """
        if isinstance(value, cls):
            return value
        if hasattr(value, "chunks"):
            if not isinstance(value.chunks, Sequence):
                raise ValidationError(
                    f"model inputs hold a list of chunks, got {type(value.chunks).__name__}"
                )
            for chunk in value.chunks:
                if getattr(chunk, "type", "encoded_text") != "encoded_text" or not hasattr(chunk, "tokens"):
                    raise ValidationError(
                        f"model inputs hold chunks of encoded text, got {type(chunk).__name__}"
                    )
            return cls(chunks=[EncodedTextChunk(tokens=chunk.tokens) for chunk in value.chunks])
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return cls.from_ints(value)
        raise ValidationError(
            f"a model input is a ModelInput or a list of token ids, got {type(value).__name__}"
        )

    @property
    def length(self) -> int:
        """Number of tokens of all chunks."""
        return sum(chunk.length for chunk in self.chunks)

    def append(self, chunk: EncodedTextChunk) -> Self:
        """This input with `chunk` behind it."""
        return type(self)(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> Self:
        """This input with one token behind it."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def to_ints(self) -> list[int]:
        """All token ids."""
        return list(chain.from_iterable(chunk.tokens for chunk in self.chunks))

    def to_numpy(self) -> NDArray[np.int32]:
        """All token ids, shape (length,).

        Raises:
            ValidationError: something in a chunk is not a token id.
        """
        return np.concatenate([token_ids(chunk.tokens) for chunk in self.chunks] or [np.zeros(0, np.int32)])


def token_ids(tokens: Any) -> NDArray[np.int32]:
    """Token ids as int32, shape (tokens,).

    Raises:
        ValidationError: they are not whole numbers between 0 and 2**31 - 1.
    """
    try:
        array = np.asarray(tokens)
    except ValueError as error:
        raise ValidationError(f"token ids are a flat list of integers: {error}") from error
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValidationError(
            f"token ids are a flat list of integers, got {array.dtype} of shape {array.shape}"
        )
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValidationError(f"token ids lie between 0 and 2**31 - 1, got {array.min()} to {array.max()}")
    return array.astype(np.int32, copy=False)


class Datum(msgspec.Struct, frozen=True):
    """One training example: an input and what its loss function needs beside it."""

    model_input: ModelInput
    """What the model reads."""
    loss_fn_inputs: Mapping[str, TensorData]
    """By name; `target_tokens` (tokens,) int64 and `weights` (tokens,) float32 for cross-entropy."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as a datum whose tensors are `TensorData`: ours, the official SDK's, or a duck type.

        Raises:
            ValidationError: it lacks `model_input` or `loss_fn_inputs`.
        """
        try:
            inputs: Mapping[str, Any] = value.loss_fn_inputs
            model_input = value.model_input
        except AttributeError as error:
            raise ValidationError(
                f"a datum has model_input and loss_fn_inputs, got {type(value).__name__}; build a tinker_actors.Datum"
            ) from error
        if not isinstance(inputs, Mapping):
            raise ValidationError(
                f"loss_fn_inputs is a mapping of names to tensors, got {type(inputs).__name__}"
            )
        return cls(
            model_input=ModelInput.of(model_input),
            loss_fn_inputs={name: TensorData.of(tensor) for name, tensor in inputs.items()},
        )
