"""Regularizers: what is added to a loss to keep a model simple, sure of itself or near another one.

Each is a frozen value with a `name` and `value_and_grad(data, logprobs)`. Formulas follow tinkex 0.4, whose KL and
consistency have no gradient, and whose figures named raw include the factor; ours are exact. `logprobs` has one array
a datum, in nats; sums and means go over all entries of all data. What is said of distributions is computed over the
last axis: the candidates of each token of shape (tokens, k), and the tokens themselves of shape (tokens,).
"""

from tinker_actors.losses.regularizers.distributions import Entropy, KLDivergence
from tinker_actors.losses.regularizers.gradient_penalty import GradientPenalty
from tinker_actors.losses.regularizers.norms import L1, L2, ElasticNet
from tinker_actors.losses.regularizers.pairs import Consistency
from tinker_actors.losses.regularizers.rows import Orthogonality

__all__ = [
    "L1",
    "L2",
    "Consistency",
    "ElasticNet",
    "Entropy",
    "GradientPenalty",
    "KLDivergence",
    "Orthogonality",
]
