"""Stops and starts of several children, as data: what is left to do, in which order."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tinker_actors.supervision.gates import Gate
from tinker_actors.supervision.lifecycle import Child

__all__ = ["Plan", "Queue", "queue"]

# A plain dict finds its first entry by walking over all that were taken out before.
Queue: TypeAlias = OrderedDict[str, Child]


@dataclass(slots=True)
class Plan:
    """Stops and starts of several children, one after another."""

    to_stop: Queue = field(default_factory=OrderedDict)
    """By id, in the order of stopping."""
    to_start: Queue = field(default_factory=OrderedDict)
    """By id, in the order of starting, after all stops."""
    paused: Child | None = None
    """The child whose backoff passes between the stops and the starts."""
    delay_s: float = 0.0
    """That backoff."""
    gate: Gate | None = None
    """What it waits for instead of a time."""
    awaited: Child | None = None
    """The child whose next signal lets the plan go on."""


def queue(children: Sequence[Child]) -> Queue:
    """Those children, by id, in that order."""
    return OrderedDict((child.spec.id, child) for child in children)
