"""The `*_async` names of the official SDK: methods of a client again, as coroutines."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from tinker_actors.clients.future import APIFuture

__all__ = ["as_coroutine", "awaited"]

P = ParamSpec("P")
T = TypeVar("T")


def as_coroutine(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """`method` as a coroutine that gives what the method gives: a future, where it submits work."""

    async def twin(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        # Looked up by name, so that whoever replaces or overrides the method has replaced its twin, too.
        result: T = getattr(self, method.__name__)(*args, **kwargs)
        return result

    return _named(twin, method, f"`{method.__name__}`, as a coroutine that gives the same.")


def awaited(
    method: Callable[Concatenate[Any, P], APIFuture[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """`method` as a coroutine that gives the value."""

    async def twin(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await getattr(self, method.__name__)(*args, **kwargs)
        return result

    return _named(twin, method, f"`{method.__name__}`, awaited.")


def _named(twin: Callable[P, T], method: Callable[..., Any], doc: str) -> Callable[P, T]:
    functools.update_wrapper(twin, method)
    twin.__name__ = f"{method.__name__}_async"
    twin.__qualname__ = f"{method.__qualname__}_async"
    twin.__doc__ = doc
    return twin
