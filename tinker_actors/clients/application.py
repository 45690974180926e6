"""Actors of the caller's own in the tree of a service client: reward models, environments, anything."""

from typing import Any

from tinker_actors.actors.application import ApplicationChildren
from tinker_actors.clients.future import APIFuture
from tinker_actors.errors import ValidationError
from tinker_actors.supervision import Address, ChildSpec
from tinker_actors.types.checks import text

__all__ = ["Application"]


class Application:
    """Supervises actors of your own beside training and sampling.

    Write one as for the supervision kit, and say how it is made. What `start` gives is an address: it sends
    messages with `tell` and `ask`, makes a look-alike of the actor with `proxy`, and outlives every restart.

    One that crashes more often than three times in a minute ends `application`, and in the end the whole tree; give
    its spec a `backoff` if that may happen.
    """

    def __init__(self, children: ApplicationChildren) -> None:
        self._children = children

    def start(self, spec: ChildSpec) -> APIFuture[Address]:
        """Start an actor, and restart it as `spec` says, for as long as the service client is open.

        Returns:
            A future of its address; done once it has started.

        Raises:
            ValidationError: `spec` is no child spec.
            StartFailedError: from the future: it did not start.
            CommandRefusedError: from the future: there is one of this id.
            RuntimeStoppedError: from the future: the service client is closed.
        """
        given: Any = spec
        if not isinstance(given, ChildSpec):
            raise ValidationError(f"an actor is started from a ChildSpec, got {type(given).__name__}")
        return APIFuture(self._children.start(spec))

    def stop(self, name: str) -> APIFuture[None]:
        """End an actor for good.

        Raises:
            CommandRefusedError: from the future: there is none of this id.
        """
        return APIFuture(self._children.stop(text("name", name)))

    def address(self, name: str) -> Address:
        """The address of the actor with this id; it need not be there yet."""
        return self._children.address(text("name", name))
