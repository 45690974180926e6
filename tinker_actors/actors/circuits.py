"""The circuit breakers of one service: one circuit per operation, made when it is first called."""

import random
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tinker_actors.errors import ConfigError
from tinker_actors.supervision import BreakerSettings, Circuit
from tinker_actors.wire.calls import WhenOpen

__all__ = ["Circuits", "SettingsByOperation"]

SettingsByOperation: TypeAlias = BreakerSettings | Mapping[str, BreakerSettings]
"""For all operations, or for those that are named; the others have the defaults."""


class Circuits:
    """What admits calls to one service; it outlives the actors that look after it.

    Written by the transport actor, read by anybody.

    Args:
        settings: of the breakers.
        sampling_waits: whether samples wait for a circuit that is open.

    Raises:
        ConfigError: `settings` is something else.
    """

    def __init__(self, settings: SettingsByOperation | None = None, *, sampling_waits: bool = False) -> None:
        self.sampling = WhenOpen.WAIT if sampling_waits else WhenOpen.FAIL
        """What samples do while their circuit is open."""
        named = {} if settings is None or isinstance(settings, BreakerSettings) else settings
        self._default = settings if isinstance(settings, BreakerSettings) else BreakerSettings()
        if not isinstance(named, Mapping) or not all(
            isinstance(name, str) and isinstance(one, BreakerSettings) for name, one in named.items()
        ):
            raise ConfigError(
                "circuit_breaker must be BreakerSettings, or a mapping from names of operations to them, "
                f"got {settings!r}"
            )
        self._named = dict(named)
        self._circuits: dict[str, Circuit] = {}

    def find(self, operation: str) -> Circuit | None:
        """The circuit of `operation`, if it was ever called."""
        return self._circuits.get(operation)

    def make(self, operation: str, clock: Callable[[], float], generator: random.Random) -> Circuit:
        """A closed circuit for `operation`, in place of one that there may be."""
        settings = self._named.get(operation, self._default)
        self._circuits[operation] = circuit = Circuit(settings, clock, generator)
        return circuit

    def all(self) -> dict[str, Circuit]:
        """By operation, in the order of the first calls."""
        return dict(self._circuits)
