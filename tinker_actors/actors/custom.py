"""Custom losses between their two requests: what stands in the order meanwhile, and where the caller's code runs.

The first request is a forward like any other. Its result goes to the caller's code, in a thread of its own, which makes
the second request, a forward_backward. Until then nothing that was submitted behind it is taken, so that ids have no
holes, whoever dies.
"""

import math
import queue
import threading
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tinker_actors.errors import TinkerActorsError
from tinker_actors.journal.records import Kind, OperationRecord

__all__ = [
    "FIRST",
    "Awaited",
    "Broken",
    "CallersCode",
    "custom_metrics",
    "dropped_losses",
    "recalled_metrics",
]

FIRST = "/forward"
"""At the end of the ticket of a first request; without it, it is that of the second."""
_DROPPED = "/dropped"
"""In its place once it was told that there will be no second one."""
_LOSS = "loss:sum"
_SURROGATE = "surrogate_loss:sum"


class Awaited(msgspec.Struct, frozen=True):
    """A forward_backward whose body is not known yet."""

    kind: Kind = Kind.FORWARD_BACKWARD


class Broken(msgspec.Struct, frozen=True):
    """A forward_backward that will have no body."""

    error: TinkerActorsError
    """Why."""
    kind: Kind = Kind.FORWARD_BACKWARD


class CallersCode:
    """Runs functions of callers one after another, in a thread that is begun by the first; thread-safe.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_begun = False
        self._is_closed = False

    def run(self, job: Callable[[], None]) -> None:
        """Run `job`, which raises nothing, when those before it are through; dropped once this is closed."""
        with self._lock:
            if self._is_closed:
                return
            self._queue.put(job)
            if not self._is_begun:
                self._is_begun = True
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def close(self) -> None:
        """End the thread once its present job is through."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None and not self._is_closed:
            job()
            del job  # else its data would stay until the next one


def custom_metrics(service: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a custom loss: the service's, whose loss is that of the surrogate, and the caller's own.

    Source: the official SDK 0.38.
    """
    merged = {**{name: value for name, value in service.items() if name != _LOSS}, **own}
    if _LOSS in service:  # not every service tells it
        merged[_SURROGATE] = service[_LOSS]
    return merged


def recalled_metrics(summary: bytes) -> dict[str, float]:
    """Metrics as the journal has them; what JSON could not hold is not a number."""
    found: dict[str, float | None] = msgspec.json.decode(summary)
    return {name: math.nan if value is None else value for name, value in found.items()}


def dropped_losses(
    operations: Iterable[OperationRecord], is_own: Callable[[str | None], bool]
) -> list[OperationRecord]:
    """First requests of dead processes that got no second one, marked as told of."""
    known = list(operations)
    tickets = {one.ticket for one in known}
    return [
        msgspec.structs.replace(one, ticket=one.ticket.removesuffix(FIRST) + _DROPPED)
        for one in known
        if one.ticket is not None
        and one.ticket.endswith(FIRST)
        and not is_own(one.ticket)
        and one.ticket.removesuffix(FIRST) not in tickets
    ]
