"""Where the tokens of a datum came from: runs of the prompts and samples of earlier requests."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types.checks import MOST_INT64, text, whole

__all__ = ["PromptProvenanceSpan", "ProvenanceSpans", "SampledProvenanceSpan", "check_tiling", "spans_of"]


class _Span(msgspec.Struct, frozen=True, kw_only=True):
    sequence_id: str
    """`SampledSequence.sequence_id` of the sequence."""
    offset: int = 0
    """Place of the run's first token in the prompt, or in the sampled tokens."""
    length: int
    """Number of tokens."""

    def __post_init__(self) -> None:
        text("a span's sequence_id", self.sequence_id)
        for name in ("offset", "length"):
            value = whole(f"a span's {name}", getattr(self, name), least=0, most=MOST_INT64)
            msgspec.structs.force_setattr(self, name, value)


class PromptProvenanceSpan(_Span, frozen=True, kw_only=True):
    """A run of tokens that the request of a sequence had in its prompt."""


class SampledProvenanceSpan(_Span, frozen=True, kw_only=True):
    """A run of tokens of one sampled sequence."""


ProvenanceSpans = Sequence[PromptProvenanceSpan | SampledProvenanceSpan]
"""Runs that, one after another, cover a field of a datum."""


def spans_of(name: str, value: Any) -> list[PromptProvenanceSpan | SampledProvenanceSpan]:
    """`value` as spans: ours, the official SDK's or a duck type, told apart by the name of their class.

    Raises:
        ValidationError: something in `value` is no span.
    """
    try:
        spans = list(value)
    except TypeError:  # also of an array without dimensions, which says that it can be walked
        raise ValidationError(f"{name} is a list of provenance spans, got {type(value).__name__}") from None
    return [_span(name, one) for one in spans]


def _span(name: str, value: Any) -> PromptProvenanceSpan | SampledProvenanceSpan:
    if isinstance(value, PromptProvenanceSpan | SampledProvenanceSpan):
        return value
    for kind in (PromptProvenanceSpan, SampledProvenanceSpan):
        known = [hasattr(value, field) for field in kind.__struct_fields__]
        if type(value).__name__ == kind.__name__ and all(known):
            return kind(sequence_id=value.sequence_id, offset=value.offset, length=value.length)
    raise ValidationError(
        f"{name} holds PromptProvenanceSpan and SampledProvenanceSpan, got {type(value).__name__}"
    )


def check_tiling(name: str, spans: ProvenanceSpans, length: int) -> None:
    """Nothing if `spans` cover exactly `length` tokens.

    Raises:
        ShapeError: they cover more or fewer.
    """
    covered = sum(span.length for span in spans)
    if covered != length:
        raise ShapeError(
            f"the spans of {name} must cover its {length} tokens without gaps, they cover {covered}"
        )
