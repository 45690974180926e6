"""What a supervisor is told about a child, and what follows from it: values and pure decisions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.backoff import Backoff
from tinker_actors.supervision.checks import check_choice, check_count, check_seconds
from tinker_actors.supervision.exits import ExitReason, Ignored, is_clean
from tinker_actors.supervision.gates import Gate

if TYPE_CHECKING:
    from tinker_actors.supervision.actor import SupervisedActor

__all__ = ["AutoShutdown", "ChildSpec", "Kind", "OnPending", "Restart", "Strategy", "affected", "comes_back"]

_WORKER_SHUTDOWN_S = 5.0
_WORKER_START_S = 30.0


class Restart(StrEnum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"
    """Always, unless its factory says that there is nothing to run."""
    TRANSIENT = "transient"
    """After an abnormal end."""
    TEMPORARY = "temporary"
    """Never; its spec goes with it."""


class Strategy(StrEnum):
    """Who is restarted when one child is."""

    ONE_FOR_ONE = "one_for_one"
    """That child alone."""
    ONE_FOR_ALL = "one_for_all"
    """Every child."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those started after it."""


class AutoShutdown(StrEnum):
    """Whether a supervisor ends when its significant children have ended for good."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    """With the first of them."""
    ALL_SIGNIFICANT = "all_significant"
    """With the last of them."""


class Kind(StrEnum):
    """What a child is."""

    WORKER = "worker"
    """It has no children."""
    SUPERVISOR = "supervisor"
    """It has children and ends them before itself."""


class OnPending(StrEnum):
    """What becomes of messages that were queued, not begun, when the child crashed."""

    FAIL = "fail"
    """Asks fail with `NotDeliveredError`, tells become dead letters."""
    CARRY = "carry"
    """They go to the next incarnation, in order, ahead of newer ones."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: how to make it, when to restart it, how long to wait for it.

    Raises:
        ConfigError: a field is wrong; the message names it.
    """

    id: str
    """Unique within its supervisor; the last part of its path, so without `/`."""
    start: "Callable[[], SupervisedActor | Ignored]" = field(repr=False)
    """Makes the actor, or answers `IGNORED`; called once per incarnation, in its own thread, so it may block."""
    restart: Restart = Restart.PERMANENT
    """When to start it again."""
    shutdown_s: float | None = None
    """Seconds it has to end when asked; then it is abandoned. None: 5 for a worker, unlimited for a supervisor."""
    start_timeout_s: float | None = None
    """Seconds it has to start; then it is abandoned. None: 30 for a worker, unlimited for a supervisor."""
    backoff: Backoff = field(default_factory=Backoff)
    """The pause before a restart."""
    max_mailbox: int = 1000
    """How many messages may wait for it."""
    on_pending: OnPending = OnPending.FAIL
    """What becomes of messages still waiting when it crashes."""
    kind: Kind = Kind.WORKER
    """Worker or supervisor."""
    free_causes: tuple[type[Exception], ...] = ()
    """Causes that are not the child's fault: they use up no restart. Needs a `backoff` that pauses."""
    gate: Gate | None = None
    """After a free cause the child is not started before this gate is open."""
    significant: bool = False
    """Whether its end for good may end its supervisor, see `AutoShutdown`; not for a permanent child."""
    handler_deadline_s: float = 300.0
    """Seconds a handler may run before a warning; after twice that the incarnation is given up. May be infinite."""
    max_poison_attempts: int = 3
    """How many incarnations messages with one key may cost before further ones are refused."""
    carry_timeout_s: float = 30.0
    """Seconds for which messages carried over from a crash wait for the next incarnation. May be infinite."""

    def __post_init__(self) -> None:
        child_id: Any = self.id
        if not isinstance(child_id, str) or not child_id or "/" in child_id:
            raise ConfigError(f"ChildSpec.id must be a name without '/', got {child_id!r}")
        if not callable(self.start):
            raise ConfigError(f"ChildSpec.start of {self.id!r} must be callable, got {self.start!r}")
        self._check_choices()
        self._check_limits()

    def _check_choices(self) -> None:
        choices: dict[str, type[StrEnum]] = {"restart": Restart, "on_pending": OnPending, "kind": Kind}
        for name, kind in choices.items():
            object.__setattr__(self, name, check_choice(self._name(name), getattr(self, name), kind))
        if not isinstance(self.significant, bool):
            raise ConfigError(f"{self._name('significant')} must be a bool, got {self.significant!r}")
        if self.significant and self.restart is Restart.PERMANENT:
            raise ConfigError(
                f"{self._name('significant')} needs restart transient or temporary, got permanent"
            )
        if self.gate is not None and not isinstance(self.gate, Gate):
            raise ConfigError(f"{self._name('gate')} must be a Gate, got {self.gate!r}")
        causes: Any = self.free_causes
        if type(causes) is not tuple or not all(
            isinstance(cause, type) and issubclass(cause, Exception) for cause in causes
        ):
            raise ConfigError(
                f"{self._name('free_causes')} must be a tuple of exception classes, got {causes!r}"
            )

    def _check_limits(self) -> None:
        if self.shutdown_s is not None:
            check_seconds(self._name("shutdown_s"), self.shutdown_s, above_zero=False)
        if self.start_timeout_s is not None:
            check_seconds(self._name("start_timeout_s"), self.start_timeout_s, above_zero=True)
        for name in ("handler_deadline_s", "carry_timeout_s"):
            check_seconds(self._name(name), getattr(self, name), above_zero=True)
        for name in ("max_mailbox", "max_poison_attempts"):
            check_count(self._name(name), getattr(self, name), minimum=1)
        if not isinstance(self.backoff, Backoff):
            raise ConfigError(f"{self._name('backoff')} must be a Backoff, got {self.backoff!r}")
        if self.free_causes and not (self.backoff.base_s > 0 and self.backoff.cap_s > 0):
            raise ConfigError(
                f"{self._name('backoff')} must have base_s and cap_s above 0 with free_causes, else nothing pauses it"
            )

    def _name(self, name: str) -> str:
        return f"ChildSpec.{name} of {self.id!r}"

    @property
    def shutdown_limit_s(self) -> float:
        """Seconds the child has to end; may be infinite."""
        if self.shutdown_s is not None:
            return self.shutdown_s
        return _WORKER_SHUTDOWN_S if self.kind is Kind.WORKER else math.inf

    @property
    def start_limit_s(self) -> float:
        """Seconds the child has to start; may be infinite."""
        if self.start_timeout_s is not None:
            return self.start_timeout_s
        return _WORKER_START_S if self.kind is Kind.WORKER else math.inf


def comes_back(restart: Restart, reason: ExitReason) -> bool:
    """Whether a child with this restart type is started again after `reason`."""
    match restart:
        case Restart.PERMANENT:
            return not isinstance(reason, Ignored)
        case Restart.TRANSIENT:
            return not is_clean(reason)
        case Restart.TEMPORARY:
            return False


def affected(strategy: Strategy, order: Sequence[str], failed: str) -> list[str]:
    """The ids to restart when `failed` is, in start order."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return [failed]
        case Strategy.ONE_FOR_ALL:
            return list(order)
        case Strategy.REST_FOR_ONE:
            return list(order[order.index(failed) :])
