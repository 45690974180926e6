"""What a model is trained on and asked with: model inputs and data."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.arrays import np
from tinker_actors.types.checks import MOST_INT32, text, whole
from tinker_actors.types.chunks import Chunk, EncodedTextChunk, chunk_of, token_ids
from tinker_actors.types.provenance import ProvenanceSpans, check_tiling, spans_of
from tinker_actors.types.tensors import DType, TensorData

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Datum", "ModelInput", "TextEncoder"]


class TextEncoder(Protocol):
    """What turns text to token ids: our tokenizers, and those of `transformers` and `tokenizers`."""

    def encode(self, text: str, /, *, add_special_tokens: bool = ...) -> Any:
        """The token ids of `text`, or what has them as `ids`."""


class ModelInput(msgspec.Struct, frozen=True):
    """What a model reads: chunks, one after another."""

    chunks: Sequence[Chunk]
    """The chunks in order; those of the official SDK, and duck types, become ours."""

    def __post_init__(self) -> None:
        chunks: Any = self.chunks
        if type(chunks) is list and all(isinstance(chunk, Chunk) for chunk in chunks):
            return
        if not isinstance(chunks, Sequence | Iterator) or isinstance(chunks, str | bytes | bytearray):
            raise ValidationError(f"model inputs hold a list of chunks, got {type(chunks).__name__}")
        msgspec.structs.force_setattr(self, "chunks", [chunk_of(chunk) for chunk in chunks])

    @classmethod
    def empty(cls) -> Self:
        """An input of no tokens."""
        return cls(chunks=[])

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> Self:
        """An input of one chunk of token ids."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def from_text(
        cls, text: str, tokenizer: "TextEncoder | str | Any", *, add_special_tokens: bool = False
    ) -> Self:
        """An input of one chunk: `text`, encoded.

        Args:
            text: any Unicode text.
            tokenizer: what encodes it: a tokenizer, ours or any with `encode(text, add_special_tokens=...)`; a client,
                whose `get_tokenizer()` is called; or a model's name, which `tinker_actors.tokenization` looks up.
            add_special_tokens: begin and end the text as the tokenizer does, such as with the token of its beginning;
                no part of a conversation wants that, as a chat template writes those tokens itself.

        Raises:
            ValidationError: there is no such tokenizer, or it cannot encode that.
            APIConnectionError: the tokenizer is on a hub that cannot be reached.
        """
        if not isinstance(text, str):
            raise ValidationError(f"text to encode must be a string, got {type(text).__name__}")
        found = _encoder(tokenizer).encode(text, add_special_tokens=add_special_tokens)
        return cls.from_ints(getattr(found, "ids", found))

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as a model input: ours, the official SDK's (by structure), or a sequence of token ids.

        Raises:
            ValidationError: something else, or a chunk of no known kind.
        """
        if isinstance(value, cls):
            return value
        if hasattr(value, "chunks"):
            return cls(chunks=value.chunks)
        if isinstance(value, np.ndarray):
            return cls.from_ints(token_ids(value).tolist())
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return cls.from_ints(value)
        raise ValidationError(
            f"a model input is a ModelInput or a list of token ids, got {type(value).__name__}"
        )

    @property
    def length(self) -> int:
        """Number of tokens of all chunks.

        Raises:
            ValidationError: a chunk does not say its length.
        """
        return sum(chunk.length for chunk in self.chunks)

    @property
    def known_length(self) -> int | None:
        """Number of tokens of all chunks; None where only the service can tell."""
        if any(getattr(chunk, "expected_tokens", 0) is None for chunk in self.chunks):
            return None
        return self.length

    def append(self, chunk: Chunk) -> Self:
        """This input with `chunk` behind it.

        Raises:
            ValidationError: it is no chunk.
        """
        return type(self)(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> Self:
        """This input with one token behind it, in its last chunk if that is text.

        Raises:
            ValidationError: it is no token id.
        """
        token = whole("a token id", token, least=0, most=MOST_INT32)
        match self.chunks:
            case [*before, EncodedTextChunk(tokens=tokens)]:
                return type(self)(chunks=[*before, EncodedTextChunk(tokens=[*tokens, token])])
        return self.append(EncodedTextChunk(tokens=[token]))

    def to_ints(self) -> list[int]:
        """All token ids.

        Raises:
            ValidationError: a chunk is not text.
        """
        return list(chain.from_iterable(self._texts()))

    def to_numpy(self) -> "NDArray[np.int32]":
        """All token ids, shape (length,).

        Raises:
            ValidationError: a chunk is not text, or something in it is not a token id.
        """
        return np.concatenate([np.zeros(0, np.int32), *(token_ids(tokens) for tokens in self._texts())])

    def text_ids(self) -> "NDArray[np.int32]":
        """The token ids of its text, other chunks left out.

        Raises:
            ValidationError: something in a chunk of text is not a token id.
        """
        texts = [chunk for chunk in self.chunks if isinstance(chunk, EncodedTextChunk)]
        return type(self)(chunks=texts).to_numpy()

    def _texts(self) -> list[Sequence[int]]:
        texts = [chunk.tokens for chunk in self.chunks if isinstance(chunk, EncodedTextChunk)]
        if len(texts) < len(self.chunks):
            kinds = sorted({chunk.type for chunk in self.chunks} - {EncodedTextChunk.type})
            raise ValidationError(f"only encoded text has token ids, got chunks of {', '.join(kinds)}")
        return texts


def _encoder(tokenizer: Any) -> TextEncoder:
    if isinstance(tokenizer, str):
        from tinker_actors.tokenization import get_tokenizer

        return get_tokenizer(tokenizer)
    if callable(getattr(tokenizer, "get_tokenizer", None)):
        tokenizer = tokenizer.get_tokenizer()
    if not callable(getattr(tokenizer, "encode", None)):
        raise ValidationError(
            "text is encoded by a tokenizer with encode(text, add_special_tokens=...), a client or a model's name, got"
            f" {type(tokenizer).__name__}"
        )
    return tokenizer  # type: ignore[no-any-return]  # it has the method


_DTYPES: dict[str, DType] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}
"""Loss inputs that may be given as plain lists, and what they become."""
_FINITE = {"weights", "advantages", "logprobs", "sequence_ratio_mask"}
"""Loss inputs whose every value goes into a sum; thresholds may be infinite."""
_SPARSE = {"target_tokens", "weights"}
"""Loss inputs of which a torch matrix is made sparse where that is smaller."""


class Datum(msgspec.Struct, frozen=True):
    """One training example: an input, and what its loss function needs beside it.

    Tensors may be given as `TensorData`, numpy or torch arrays, those with a known name as lists, too.

    Raises:
        ValidationError: a tensor or a span is malformed, or there is only one of the two lists of spans.
        ShapeError: spans do not cover what they belong to.
    """

    model_input: ModelInput
    """What the model reads."""
    loss_fn_inputs: Mapping[str, TensorData] = {}
    """By name; `target_tokens` (tokens,) int64 and `weights` (tokens,) float32 for cross-entropy."""
    model_input_spans: ProvenanceSpans | None = None
    """Where the input's tokens came from; covers them all. Given together with the other list or not at all."""
    loss_fn_input_spans: ProvenanceSpans | None = None
    """Where `target_tokens` came from; covers them all."""

    def __post_init__(self) -> None:
        if not isinstance(self.loss_fn_inputs, Mapping):
            raise ValidationError(
                f"loss_fn_inputs is a mapping of names to tensors, got {type(self.loss_fn_inputs).__name__}"
            )
        tensors = {
            text("the name of a loss input", name): _tensor(name, value)
            for name, value in self.loss_fn_inputs.items()
        }
        msgspec.structs.force_setattr(self, "model_input", ModelInput.of(self.model_input))
        msgspec.structs.force_setattr(self, "loss_fn_inputs", tensors)
        if (self.model_input_spans is None) != (self.loss_fn_input_spans is None):
            raise ValidationError("provenance comes as a pair: set both lists of spans or neither")
        for name in ("model_input_spans", "loss_fn_input_spans"):
            if getattr(self, name) is not None:
                msgspec.structs.force_setattr(self, name, spans_of(name, getattr(self, name)))
        self._check_tiling()

    def _check_tiling(self) -> None:
        if self.model_input_spans is None or self.loss_fn_input_spans is None:
            return
        tokens = self.model_input.known_length
        if tokens is not None:
            check_tiling("model_input", self.model_input_spans, tokens)
        targets = self.loss_fn_inputs.get("target_tokens")
        if targets is not None and len(targets.shape) == 1:
            check_tiling("target_tokens", self.loss_fn_input_spans, targets.shape[0])

    def with_provenance(self, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans) -> Self:
        """This datum with the spans of its input and of its targets."""
        return msgspec.structs.replace(
            self, model_input_spans=model_input, loss_fn_input_spans=loss_fn_inputs
        )

    @classmethod
    def of(cls, value: Any) -> Self:
        """`value` as a datum that can be trained on: ours, the official SDK's, or a duck type.

        Raises:
            ValidationError: it lacks `model_input` or `loss_fn_inputs`, or a value that must be finite is not.
        """
        if not hasattr(value, "model_input") or not hasattr(value, "loss_fn_inputs"):
            raise ValidationError(
                f"a datum has model_input and loss_fn_inputs, got {type(value).__name__}; build a tinker_actors.Datum"
            )
        datum = (
            value
            if isinstance(value, cls)
            else cls(
                model_input=value.model_input,
                loss_fn_inputs=value.loss_fn_inputs,
                model_input_spans=getattr(value, "model_input_spans", None),
                loss_fn_input_spans=getattr(value, "loss_fn_input_spans", None),
            )
        )
        for name in _FINITE & datum.loss_fn_inputs.keys():
            values = datum.loss_fn_inputs[name].values
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValidationError(f"{name} must be finite numbers, got others")
        return datum


def _tensor(name: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if isinstance(value, list | tuple) and name not in _DTYPES:
        raise ValidationError(
            f"{name} is no known loss input, so its dtype is unknown; give it as TensorData or as an array"
        )
    try:
        tensor = TensorData.of(value, _DTYPES.get(name))
    except ValidationError as error:
        kind = "integers" if _DTYPES.get(name) == "int64" else "numbers"
        raise type(error)(f"{name} must be {kind}: {error}") from error
    return tensor.to_sparse() if name in _SPARSE and hasattr(value, "detach") else tensor
