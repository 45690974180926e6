"""The kinds of chunk that a model input is made of: text, images, audio."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types.arrays import np
from tinker_actors.types.checks import MOST_INT32, one_of, text, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Chunk",
    "DmelChunk",
    "EncodedTextChunk",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "ImageFormat",
    "chunk_of",
    "token_ids",
]

ImageFormat = Literal["png", "jpeg"]


class EncodedTextChunk(msgspec.Struct, frozen=True, tag_field="type", tag="encoded_text"):
    """Text as token ids."""

    type: ClassVar[str] = "encoded_text"
    tokens: Sequence[int]
    """Token ids in the vocabulary of the model."""

    def __post_init__(self) -> None:
        if type(self.tokens) is not list:
            msgspec.structs.force_setattr(self, "tokens", _sequence_of_ids(self.tokens))

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


class ImageChunk(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="image"):
    """An image, as the bytes of its file; base64 in JSON."""

    type: ClassVar[str] = "image"
    data: bytes
    """The file's content; text is taken as its base64 form."""
    format: ImageFormat
    """Of the file."""
    expected_tokens: int | None = None
    """Tokens the image stands for; advisory, the service refuses a request where it is wrong."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "data", _content("image data", self.data))
        _check_image(self)

    @property
    def length(self) -> int:
        """Number of tokens, as far as the caller knows.

        Raises:
            ValidationError: `expected_tokens` is not set.
        """
        return _expected(self)


class ImageAssetPointerChunk(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="image_asset_pointer"
):
    """An image that the service finds elsewhere. Prompts may hold it, training data may not."""

    type: ClassVar[str] = "image_asset_pointer"
    format: ImageFormat
    """Of the file."""
    location: str
    """Path or URL of the image."""
    expected_tokens: int | None = None
    """Tokens the image stands for; advisory, the service refuses a request where it is wrong."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "location", text("an image's location", self.location))
        _check_image(self)

    @property
    def length(self) -> int:
        """Number of tokens, as far as the caller knows.

        Raises:
            ValidationError: `expected_tokens` is not set.
        """
        return _expected(self)


class DmelChunk(msgspec.Struct, frozen=True, tag_field="type", tag="dmel"):
    """Audio, as the bytes of a TensorContainer of dMel tokens; base64 in JSON."""

    type: ClassVar[str] = "dmel"
    dmel: bytes
    """The container; text is taken as its base64 form. Only its header is ever read here."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "dmel", _content("a dmel container", self.dmel))

    @property
    def length(self) -> int:
        """Number of positions: the container's first dimension.

        Raises:
            ValidationError: the bytes do not begin with the header of a TensorContainer.
        """
        return _first_dimension(self.dmel)


Chunk = EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk
_KINDS: dict[str, type[Any]] = {kind.type: kind for kind in get_args(Chunk)}


def chunk_of(value: Any) -> Chunk:
    """`value` as a chunk: ours, the official SDK's (by structure), or a duck type with `type` and its fields.

    Raises:
        ValidationError: it is no chunk of a known kind, or a field is wrong.
    """
    if isinstance(value, Chunk):
        return value
    kind = _KINDS.get(str(getattr(value, "type", "encoded_text")))
    fields: tuple[str, ...] = () if kind is None else kind.__struct_fields__
    known = {name: getattr(value, name) for name in fields if hasattr(value, name)}
    if kind is None or not set(fields) <= known.keys() | {"expected_tokens"}:
        raise ValidationError(
            f"model inputs hold chunks of type {', '.join(_KINDS)} with their fields, got {type(value).__name__}"
        )
    made: Chunk = kind(**known)
    return made


def token_ids(tokens: Any) -> "NDArray[np.int32]":
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
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValidationError(
            f"token ids are a flat list of integers, got {array.dtype} of shape {array.shape}"
        )
    if array.min() < 0 or array.max() > MOST_INT32:
        raise ValidationError(f"token ids lie between 0 and 2**31 - 1, got {array.min()} to {array.max()}")
    return array.astype(np.int32, copy=False)


def _sequence_of_ids(tokens: Any) -> Any:
    """Something that has a length and an order; what is in it is looked at when it is used."""
    is_array = isinstance(tokens, np.ndarray)
    if is_array and tokens.ndim == 1:
        return tokens
    if hasattr(tokens, "__array__") and not isinstance(tokens, type):  # a torch tensor, a column of a table
        return token_ids(tokens).tolist()
    if isinstance(tokens, Iterator):
        return list(tokens)
    if isinstance(tokens, Sequence) and not isinstance(tokens, str | bytes | bytearray | memoryview):
        return tokens
    raise ValidationError(f"token ids are a flat list of integers, got {type(tokens).__name__}")


def _content(what: str, value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValidationError(f"{what} as text must be base64: {error}") from error
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ValidationError(f"{what} must be bytes, got {type(value).__name__}")


def _check_image(chunk: ImageChunk | ImageAssetPointerChunk) -> None:
    one_of("an image's format", chunk.format, *get_args(ImageFormat))
    if chunk.expected_tokens is not None:
        tokens = whole("expected_tokens", chunk.expected_tokens, least=0, most=MOST_INT32)
        msgspec.structs.force_setattr(chunk, "expected_tokens", tokens)


def _expected(chunk: ImageChunk | ImageAssetPointerChunk) -> int:
    if chunk.expected_tokens is None:
        raise ValidationError("the length of an image is known only if its expected_tokens is set")
    return chunk.expected_tokens


# A TensorContainer begins: 254 if it is constant, its dtype, then as varints the number of dimensions and each of them.
_CONSTANT, _MOST_DTYPE = 254, 7
_VARINT_BYTES = 9


def _first_dimension(data: bytes) -> int:
    place = 1 if data[:1] == bytes([_CONSTANT]) else 0
    if len(data) <= place or data[place] > _MOST_DTYPE:
        raise ValidationError("a dmel container must begin with its dtype, got other bytes")
    dimensions, place = _varint(data, place + 1)
    if dimensions == 0:
        raise ValidationError("a dmel container must have a first dimension, got a scalar")
    size, _ = _varint(data, place)
    if size > MOST_INT32:
        raise ValidationError(f"a dmel container's length must be below 2**31, got {size}")
    return size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, seven bits a byte, and the place behind it."""
    value = 0
    for index, byte in enumerate(data[place : place + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the top bit says that more follows
            return value, place + index + 1
    raise ValidationError("a dmel container's header ends early or holds too large a number")
