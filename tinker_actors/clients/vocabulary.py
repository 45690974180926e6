"""Which token ids a model knows, as far as this process can tell."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinker_actors.errors import ValidationError
from tinker_actors.tokenization import tokenizer_at_hand

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Vocabulary"]


def _size(base_model: str) -> int | None:
    tokenizer = tokenizer_at_hand(base_model)
    return None if tokenizer is None else tokenizer.vocab_size  # without one here, the service decides


class Vocabulary:
    """Checks token ids before they are sent, where the model's tokenizer is at hand."""

    def __init__(self, base_model: str) -> None:
        self._base_model = base_model

    @cached_property
    def size(self) -> int | None:
        """Number of ids; None where it is not known here."""
        return _size(self._base_model)

    def check(self, ids: "NDArray[Any]", what: str) -> None:
        """Refuse ids outside of the vocabulary.

        Raises:
            ValidationError: it names `what` and the id.
        """
        if self.size is not None and ids.size and not 0 <= ids.min() <= ids.max() < self.size:
            wrong = ids.max() if ids.max() >= self.size else ids.min()
            raise ValidationError(
                f"{what} must hold token ids below {self.size} (the vocabulary of {self._base_model}), got {wrong}"
            )
