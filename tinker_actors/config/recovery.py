"""How training runs are recovered."""

import msgspec

from tinker_actors.errors import ConfigError

__all__ = ["RecoveryPolicy"]


class RecoveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run survives the loss of its model.

    Raises:
        ConfigError: a field is out of range.
    """

    max_attempts: int = 3
    """Restores without progress in between before the run halts."""
    checkpoint_every_steps: int = 20
    """Optimizer steps from one checkpoint of the runtime's own to the next; 0 makes none."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if type(getattr(self, name)) is not int:
                raise ConfigError(
                    f"RecoveryPolicy.{name} must be a whole number, got {getattr(self, name)!r}"
                )
        if self.max_attempts < 1:
            raise ConfigError(f"RecoveryPolicy.max_attempts must be at least 1, got {self.max_attempts}")
        if self.checkpoint_every_steps < 0:
            raise ConfigError(
                f"RecoveryPolicy.checkpoint_every_steps must be 0 or more, got {self.checkpoint_every_steps}"
            )
