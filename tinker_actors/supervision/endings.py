"""The end of an actor: which hooks run, and what a remembered crash may keep."""

import contextlib
import inspect
import traceback
from collections.abc import Callable

from tinker_actors.supervision.actor import SupervisedActor
from tinker_actors.supervision.exits import ExitReason, cause_of, is_clean

__all__ = ["forget_locals", "hooks_of"]

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def hooks_of(actor: SupervisedActor, reason: ExitReason) -> list[tuple[str, Callable[[], object]]]:
    """The hooks the class has of its own, in the order in which they run."""
    kind = type(actor)
    error = cause_of(reason)
    hooks: list[tuple[str, Callable[[], object]]] = []
    if is_clean(reason):
        if kind.on_stop is not SupervisedActor.on_stop:
            hooks.append(("on_stop", actor.on_stop))
    elif error is not None and kind.on_failure is not SupervisedActor.on_failure:
        hooks.append(("on_failure", lambda: actor.on_failure(type(error), error, error.__traceback__)))
    if kind.on_exit is not SupervisedActor.on_exit:
        hooks.append(("on_exit", lambda: actor.on_exit(reason)))
    return hooks


def forget_locals(error: BaseException | None) -> None:
    """Let the tracebacks keep their lines but no locals, so that a remembered crash keeps no actor alive.

    Frames of generators and coroutines are left alone: clearing a suspended one would end it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_flags & _SUSPENDABLE:
                with contextlib.suppress(RuntimeError):  # still running
                    frame.clear()
        error = error.__cause__ or error.__context__
