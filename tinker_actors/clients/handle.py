"""A client as an actor: for programs made of actors, which talk to it as to any of their own."""

from concurrent.futures import Future
from typing import Any, ClassVar, Protocol, cast

from tinker_actors.clients.future import APIFuture
from tinker_actors.errors import TinkerActorsError, ValidationError
from tinker_actors.supervision import Address, CallMethod, Clock, GetAttribute, Proxy, Reply, perform
from tinker_actors.types.checks import finite

__all__ = ["Handle"]

TIMEOUT_S = 3600.0
"""Within this an answer is to come, unless an ask says otherwise: what must get through is tried for an hour."""


class Exposing(Protocol):
    """What can have a handle."""

    exposed: ClassVar[tuple[str, ...]]
    """Names of the methods and attributes that a proxy offers."""


class Handle:
    """Speaks for a client the way the address of an actor speaks for the actor.

    It is as good as the client: it outlives each restart of the actor behind it. Requests are submitted in the
    caller's thread, so those of one thread keep their order; answers come in a `Reply`, for which an actor may wait.

    Args:
        client: whom it speaks for.
        path: of the actor that serves the client.
        clock: of the tree.
    """

    def __init__(self, client: Exposing, path: str, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.path = path
        """Where the client's actor is in the tree."""

    def ask(self, message: CallMethod | GetAttribute, *, timeout_s: float = TIMEOUT_S) -> Reply:
        """Have the client do what `message` says; what comes of it, errors included, is in the reply.

        Raises:
            ValidationError: the message is neither, or `timeout_s` no time.
        """
        _check_time(timeout_s)
        reply = Reply(self._clock, timeout_s=timeout_s, target=self.path)
        try:
            outcome = self._perform(message)
        except (TinkerActorsError, AttributeError, TypeError) as error:
            if isinstance(error, ValidationError) and not isinstance(message, CallMethod | GetAttribute):
                raise
            reply.fail(error)
            return reply
        if isinstance(outcome, APIFuture):
            outcome.add_done_callback(lambda done: _pass_on(done, reply))
        else:
            reply.set(outcome)
        return reply

    def tell(self, message: CallMethod) -> None:
        """Have the client do what `message` says, and expect no answer.

        Raises:
            ValidationError: an argument is wrong, or the message asks for nothing that a client does.
            TinkerActorsError: the client takes no requests any more.
        """
        self._perform(message)

    def call(self, message: CallMethod | GetAttribute, *, timeout_s: float = TIMEOUT_S) -> Any:
        """`ask`, and wait for the answer."""
        return self.ask(message, timeout_s=timeout_s).result()

    def proxy(self, *, timeout_s: float = TIMEOUT_S) -> Proxy:
        """A look-alike of the client, whose methods and attributes are a `Reply` each.

        Raises:
            ValidationError: `timeout_s` is no time.
        """
        _check_time(timeout_s)
        # What a proxy needs of an address is there.
        return Proxy(cast("Address", self), type(self._client), timeout_s)

    def _perform(self, message: Any) -> Any:
        if not isinstance(message, CallMethod | GetAttribute):
            raise ValidationError(
                f"a client's handle takes a CallMethod, got {type(message).__name__}; its proxy makes them"
            )
        return perform(message, self._client)

    def __repr__(self) -> str:
        return f"<Handle {type(self._client).__name__} at {self.path}>"


def _check_time(timeout_s: Any) -> None:
    if finite("timeout_s", timeout_s) <= 0:
        raise ValidationError(f"timeout_s must be seconds above 0, got {timeout_s}")


def _pass_on(done: "Future[Any]", reply: Reply) -> None:
    error = done.exception() if not done.cancelled() else None
    if done.cancelled():
        reply.lose("the request was cancelled")
    elif error is not None:
        reply.fail(error)
    else:
        reply.set(done.result())
