"""The likeliest tokens at each position, as two matrices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types.arrays import np
from tinker_actors.types.checks import MOST_INT32
from tinker_actors.types.tensors import MOST_CELLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MASK_LOGPROB", "TopkLogprobs", "TopkRows"]

MASK_LOGPROB = -99999.0
"""The service's logprob for a cell without a token; its id is 0."""

TopkRows = list[list[tuple[int, float]] | None]
"""Per position, pairs of token id and logprob; None where nothing was scored."""


class TopkLogprobs:
    """The likeliest tokens at each position.

    Args:
        token_ids: int32, shape (positions, k).
        logprobs: of each, nats, float32, of the same shape; -99999.0 where a position has fewer.

    Raises:
        ValidationError: they are not numbers.
        ShapeError: the two are no matrices of one shape.
    """

    __slots__ = ("logprobs", "token_ids")

    def __init__(self, token_ids: "NDArray[Any]", logprobs: "NDArray[Any]") -> None:
        try:
            self.token_ids = np.asarray(token_ids, np.int32)
            self.logprobs = np.asarray(logprobs, np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValidationError(f"token_ids are int32 and logprobs are float32: {error}") from error
        if self.token_ids.ndim != 2 or self.token_ids.shape != self.logprobs.shape:  # noqa: PLR2004 - matrices
            raise ShapeError(
                f"token_ids and logprobs must be matrices of one shape, got {self.token_ids.shape} "
                f"and {self.logprobs.shape}"
            )

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[tuple[int, float]] | None]) -> Self:
        """The matrices of pairs of token id and logprob per position.

        Raises:
            ValidationError: an id is no int32, or the matrices would be too large.
        """
        k = max((len(row) for row in rows if row), default=0)
        if len(rows) * k > MOST_CELLS:
            raise ValidationError(f"{len(rows)} positions of {k} tokens are more than {MOST_CELLS} cells")
        ids, logprobs = np.zeros((len(rows), k), np.int32), np.full((len(rows), k), MASK_LOGPROB, np.float32)
        for position, row in enumerate(rows):
            for place, (token, logprob) in enumerate(row or ()):
                if not 0 <= token <= MOST_INT32:
                    raise ValidationError(f"token ids lie between 0 and 2**31 - 1, got {token}")
                ids[position, place] = token
                with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
                    logprobs[position, place] = logprob
        return cls(ids, logprobs)

    def tolist(self) -> TopkRows:
        """Per position, pairs of token id and logprob without those that are masked; None if all are."""
        present = (self.token_ids != 0) | (self.logprobs != np.float32(MASK_LOGPROB))
        counts = np.where(present, np.arange(1, present.shape[1] + 1), 0).max(axis=1, initial=0).tolist()
        pairs = zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True)
        return [
            list(zip(ids[:count], logprobs[:count], strict=True)) or None
            for (ids, logprobs), count in zip(pairs, counts, strict=True)
        ]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopkLogprobs):
            return NotImplemented
        same_ids = np.array_equal(self.token_ids, other.token_ids)
        return same_ids and np.array_equal(self.logprobs, other.logprobs, equal_nan=True)

    __hash__ = None  # type: ignore[assignment]  # values, compared by content, are not keys

    def __repr__(self) -> str:
        positions, k = self.token_ids.shape
        return f"TopkLogprobs(positions={positions}, k={k})"

    def __reduce__(self) -> tuple[Any, ...]:
        return TopkLogprobs, (self.token_ids, self.logprobs)
