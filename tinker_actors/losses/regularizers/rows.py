"""A regularizer over the rows of a matrix: they are to be unlike one another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tinker_actors.losses.custom import Array, Evaluation
from tinker_actors.types.checks import flag, one_of

__all__ = ["Orthogonality"]

LEAST_NORM = 1e-8


@dataclass(frozen=True, kw_only=True)
class Orthogonality:
    """How far the rows of M are from orthogonal, by their products G = M M^T.

    soft: sum of G_ij**2 over i != j; hard: |G - I|**2; spectral: (tr G - n)**2 plus soft, with n rows. Logprobs of shape
    (tokens,) are one row each of one matrix, shorter rows filled up with 0; logprobs of shape (tokens, k) are a matrix
    each, whose penalties add up.

    Source: Brock et al., "Neural Photo Editing with Introspective Adversarial Networks" (2017); Bansal et al., "Can We
    Gain More from Orthogonality Regularizations in Training Deep CNNs?" (2018).

    Raises:
        ValidationError: an argument is wrong.
    """

    name: ClassVar[str] = "orthogonality"

    mode: Literal["soft", "hard", "spectral"] = "soft"
    """What is penalised."""
    normalize: bool = True
    """Whether rows are scaled to length 1 first."""
    axis: Literal["rows", "sequence", "vocabulary"] = "rows"
    """What the rows are: those of the matrix ("sequence" is another name for it), or its columns."""

    def __post_init__(self) -> None:
        one_of("mode", self.mode, "soft", "hard", "spectral")
        flag("normalize", self.normalize)
        one_of("axis", self.axis, "rows", "sequence", "vocabulary")

    def value_and_grad(self, data: Sequence[Any], logprobs: Sequence[Array]) -> Evaluation:  # noqa: ARG002 - one signature
        """The penalty.

        >>> rows = [np.array([1.0, 0.0]), np.array([1.0, 1.0])]  # 45 degrees apart
        >>> round(Orthogonality().value_and_grad([], rows).value, 9)
        1.0
        """
        matrices = [row for row in logprobs if row.ndim > 1]
        lines = [row for row in logprobs if row.ndim == 1]
        stacked = [_stack(lines)] if lines else []
        found = [self._penalty(matrix) for matrix in (*stacked, *matrices)]
        value = float(sum(one for one, _ in found))
        whole = iter([gradient for _, gradient in found[len(stacked) :]])
        line = iter(found[0][1] if stacked else ())
        gradients = [next(line)[: row.size] if row.ndim == 1 else next(whole) for row in logprobs]
        return Evaluation(value, gradients, {"orthogonality": value})

    def _penalty(self, given: Array) -> tuple[float, Array]:
        matrix = given.reshape(math.prod(given.shape[:-1]), given.shape[-1])
        matrix = matrix.T if self.axis == "vocabulary" else matrix
        sizes = np.ones((len(matrix), 1))
        if self.normalize:
            sizes = np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), LEAST_NORM)
        rows = matrix / sizes
        value, slope = self._of_products(rows @ rows.T)
        gradient = 2 * slope @ rows
        if self.normalize:
            turning = np.where(sizes > LEAST_NORM, (gradient * rows).sum(axis=1, keepdims=True), 0.0)
            gradient = (gradient - turning * rows) / sizes
        gradient = gradient.T if self.axis == "vocabulary" else gradient
        return value, gradient.reshape(given.shape)

    def _of_products(self, products: Array) -> tuple[float, Array]:
        """The penalty, and its gradient by the products, which is symmetric."""
        identity = np.eye(len(products))
        others = products * (1 - identity)
        soft = float((others**2).sum())
        match self.mode:
            case "soft":
                return soft, 2 * others
            case "hard":
                return float(((products - identity) ** 2).sum()), 2 * (products - identity)
            case "spectral":
                excess = float(np.trace(products)) - len(products)
                return excess**2 + soft, 2 * others + 2 * excess * identity


def _stack(rows: Sequence[Array]) -> Array:
    matrix = np.zeros((len(rows), max(row.size for row in rows)))
    for number, row in enumerate(rows):
        matrix[number, : row.size] = row
    return matrix
