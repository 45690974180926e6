"""Several round trips for one result, carried out on behalf of a client."""

from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from tinker_actors.actors.runtime import Runtime
from tinker_actors.api.futures import Outcome, Pause, RoundTrips
from tinker_actors.errors import TinkerActorsError

__all__ = ["Walk"]

T = TypeVar("T")


class Walk(Generic[T]):
    """Carries out round trips: calls over the network, pauses on the tree's clock. It decides nothing.

    Args:
        runtime: whose network it is.
        steps: the round trips, not begun.
    """

    def __init__(self, runtime: Runtime, steps: RoundTrips[T]) -> None:
        self.future: Future[T] = Future()
        """The result; cancelling it ends the walk at its next step."""
        self._runtime = runtime
        self._steps = steps
        runtime.published.when_stopped(self, self._fail)
        try:
            self._take(next(steps))
        except TinkerActorsError:
            runtime.published.forget(self)
            raise

    def _take(self, step: Any) -> None:
        if isinstance(step, Pause):
            settle = partial(self._runtime.settler.run, partial(self._go_on, None))
            self._runtime.tree.clock.schedule(step.delay_s, settle)
        else:
            self._runtime.fetch(step).add_done_callback(self._note)

    def _note(self, done: "Future[Any]") -> None:
        error = done.exception()
        if error is None:
            self._go_on(done.result())
        elif isinstance(error, TinkerActorsError):
            self._go_on(error)
        else:
            self._fail(error)

    def _go_on(self, outcome: Outcome) -> None:
        if self.future.done():
            self._steps.close()
            self._runtime.published.forget(self)
            return
        try:
            self._take(self._steps.send(outcome))
        except StopIteration as end:
            self._runtime.published.forget(self)
            self._runtime.settler.settle(self.future, end.value)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to who waits
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._runtime.published.forget(self)
        self._runtime.settler.fail(self.future, error)
