"""One request under way, as far as others may want to know."""

from typing import Any

from tinker_actors.wire.calls import Call

__all__ = ["SAMPLES", "Request"]

SAMPLES = frozenset({"asample", "stream_sample"})
"""Operations that keep the pause after a 429."""


class Request:
    """Where a request stands. Written on the event loop, read by anybody."""

    __slots__ = ("client", "is_accepted", "is_queued", "operation", "owner", "queue", "repeats", "since")

    def __init__(self, call: Call[Any], client: str, owner: str, since: float) -> None:
        self.operation = call.operation
        self.client = client
        """Path of the actor that sent it; empty for what no actor did."""
        self.owner = owner
        """All requests of one owner can be cancelled together."""
        self.since = since
        """On the tree's clock."""
        self.is_accepted = False
        """Whether the service works on it."""
        self.is_queued = False
        """Whether limits of our own hold it back."""
        self.queue: tuple[str, str] | None = None
        """Where it waits there, and why; None while it does not, as far as the service says."""
        self.repeats: tuple[float, str] | None = None
        """When it is sent again, and why; None while it is on its way."""
