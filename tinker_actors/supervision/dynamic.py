"""A supervisor whose children come and go."""

from dataclasses import replace

from tinker_actors.supervision.supervisor import Supervisor

__all__ = ["DynamicSupervisor"]


class DynamicSupervisor(Supervisor):
    """Starts empty; children are added with `StartChild`, are independent, and end side by side.

    A child that is down for good, or was terminated, is forgotten with its spec. A new incarnation is empty.

    Args:
        max_restarts: restarts of all children together within `within_s` seconds; one more, and it gives up.
        within_s: that window.
        max_children: how many there may be, those starting and waiting included; None for no bound.
        max_zombies: how many threads of its children may be left behind; one more, and it gives up.

    Raises:
        ConfigError: a limit is wrong.
    """

    def __init__(
        self,
        *,
        max_restarts: int = 3,
        within_s: float = 60.0,
        max_children: int | None = None,
        max_zombies: int = 8,
    ) -> None:
        super().__init__(
            (),
            max_restarts=max_restarts,
            within_s=within_s,
            max_zombies=max_zombies,
        )
        self._kit_configure(replace(self.flags, is_dynamic=True, max_children=max_children), ())
