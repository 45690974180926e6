"""The circuit breakers of one service: one circuit per operation, made when it is first called."""

import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tinker_actors.errors import ConfigError
from tinker_actors.supervision import BreakerMode, BreakerSettings, Circuit
from tinker_actors.wire.calls import WhenOpen

__all__ = ["Circuits", "SettingsByOperation"]

SettingsByOperation: TypeAlias = BreakerSettings | Mapping[str, BreakerSettings]
"""For all operations, or for those that are named; the others have the defaults."""


class Circuits:
    """What admits calls to one service; it outlives the actors that look after it.

    Made by the transport actor, read and forced by anybody.

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
        self._lock = threading.Lock()
        """So that no mode is missed by a circuit that is being made."""
        self._modes: dict[str, BreakerMode] = {}
        """Those that were set, by operation."""
        self._circuits: dict[str, Circuit] = {}

    def find(self, operation: str) -> Circuit | None:
        """The circuit of `operation`, if it was ever called."""
        return self._circuits.get(operation)

    def make(self, operation: str, clock: Callable[[], float], generator: random.Random) -> Circuit:
        """A circuit that has not seen a call for `operation`, in place of one that there may be."""
        settings = self._named.get(operation, self._default)
        with self._lock:
            circuit = Circuit(settings, clock, generator)
            if operation in self._modes:
                circuit.force(self._modes[operation])
            self._circuits[operation] = circuit
        return circuit

    def force(self, operation: str, mode: BreakerMode) -> None:
        """Have the circuit of `operation` go by `mode` from here on, also if there is none yet."""
        with self._lock:
            self._modes[operation] = mode
            circuit = self._circuits.get(operation)
        if circuit is not None:
            circuit.force(mode)

    def all(self) -> dict[str, Circuit]:
        """By operation, in the order of the first calls."""
        return dict(self._circuits)
