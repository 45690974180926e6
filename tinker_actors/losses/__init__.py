"""Losses of the caller's own, in numpy or torch, and regularizers to add to them.

`TrainingClient.forward_backward_custom(data, loss_fn, regularizers=[...])` trains with them.
"""

from tinker_actors.losses.custom import (
    Array,
    Differentiable,
    Evaluation,
    LossFn,
    ValueAndGrad,
    evaluate,
    value_and_grad,
)
from tinker_actors.losses.pipeline import (
    BaseLossOutput,
    CustomLossOutput,
    Pipeline,
    RegularizerOutput,
    RegularizerSpec,
    gradient_norm,
)
from tinker_actors.losses.regularizers import (
    L1,
    L2,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    KLDivergence,
    Orthogonality,
)
from tinker_actors.losses.targets import Field, Target

__all__ = [
    "L1",
    "L2",
    "Array",
    "BaseLossOutput",
    "Consistency",
    "CustomLossOutput",
    "Differentiable",
    "ElasticNet",
    "Entropy",
    "Evaluation",
    "Field",
    "GradientPenalty",
    "KLDivergence",
    "LossFn",
    "Orthogonality",
    "Pipeline",
    "RegularizerOutput",
    "RegularizerSpec",
    "Target",
    "ValueAndGrad",
    "evaluate",
    "gradient_norm",
    "value_and_grad",
]
