"""How a supervisor behaves as a whole: OTP's supervisor flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.checks import check_choice, check_count, check_seconds
from tinker_actors.supervision.specs import AutoShutdown, ChildSpec, Strategy

__all__ = ["SupervisorFlags", "check_specs"]


@dataclass(frozen=True, slots=True)
class SupervisorFlags:
    """What is the same for all children of one supervisor.

    Raises:
        ConfigError: a field is wrong; the message names it.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    """Who is restarted when one child is."""
    max_restarts: int = 3
    """Restarts of all children together within `within_s`; one more, and the supervisor gives up."""
    within_s: float = 60.0
    """That window, in seconds."""
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    """Whether the supervisor ends with its significant children."""
    max_zombies: int = 8
    """How many threads of its children may be left behind; one more, and the supervisor gives up."""
    is_dynamic: bool = False
    """Whether children come and go, independent of each other."""
    max_children: int | None = None
    """How many there may be, those starting and waiting included; None for no bound."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", check_choice("strategy", self.strategy, Strategy))
        object.__setattr__(
            self, "auto_shutdown", check_choice("auto_shutdown", self.auto_shutdown, AutoShutdown)
        )
        check_count("max_restarts", self.max_restarts, minimum=0)
        check_count("max_zombies", self.max_zombies, minimum=0)
        if self.max_children is not None:
            check_count("max_children", self.max_children, minimum=0)
        check_seconds("within_s", self.within_s, above_zero=True)


def check_specs(specs: Sequence[ChildSpec], flags: SupervisorFlags) -> tuple[ChildSpec, ...]:
    """The specs, each id once and each fit for a supervisor with these flags.

    Raises:
        ConfigError: an id stands there twice, something is no spec, or a child is significant where none can be.
    """
    given: Any = specs
    if not isinstance(given, list | tuple):
        raise ConfigError(f"children must be a list of ChildSpecs, got {given!r}")
    seen: set[str] = set()
    for spec in specs:
        if not isinstance(spec, ChildSpec):
            raise ConfigError(f"children must be ChildSpecs, got {spec!r}")
        if spec.id in seen:
            raise ConfigError(f"ChildSpec.id must be unique in its supervisor, got {spec.id!r} twice")
        if spec.significant and flags.auto_shutdown is AutoShutdown.NEVER:
            raise ConfigError(
                f"ChildSpec.significant of {spec.id!r} needs a supervisor with auto_shutdown, got never"
            )
        seen.add(spec.id)
    return tuple(specs)
