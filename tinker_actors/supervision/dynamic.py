"""A supervisor whose children come and go."""

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.supervisor import Supervisor

__all__ = ["DynamicSupervisor"]


class DynamicSupervisor(Supervisor):
    """Starts empty; children are added with `StartChild`, are independent, and end side by side.

    A child that is down for good, or was terminated, is forgotten with its spec. A new incarnation is empty.

    Args:
        max_restarts: restarts of all children together within `within_s` seconds; one more, and it gives up.
        within_s: that window.
        max_children: how many there may be, those starting and waiting included; None for no bound.
    """

    _is_dynamic = True

    def __init__(
        self, *, max_restarts: int = 3, within_s: float = 60.0, max_children: int | None = None
    ) -> None:
        super().__init__((), max_restarts=max_restarts, within_s=within_s)
        if max_children is not None and max_children < 0:
            raise ConfigError(f"max_children must be 0 or more, got {max_children}")
        self._max_children = max_children
