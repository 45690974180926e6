"""How training runs are recovered."""

import math
import random
from collections.abc import Callable
from typing import Literal

import msgspec

from tinker_actors.config.checks import check_bool, check_choice, check_count, check_number, wrong

__all__ = ["LATEST", "RecoveryPolicy"]

LATEST = "latest"
"""The checkpoint strategy that takes the newest one that can serve."""

OnRecovery = Callable[[str, str, str | None], object]
OnFailure = Callable[[str, BaseException], object]

_COUNTS = {
    "max_attempts": 1,
    "checkpoint_every_steps": 0,
    "keep_checkpoints": 1,
    "max_journal_bytes": 2**16,
    "max_skipped": 0,
}
"""Whole numbers, and the least of each."""
_TTL_S = (3600, 10 * 366 * 86_400)
"""What a service takes for a lifetime: an hour to ten years."""
_NUMBERS = {
    "backoff_s": 0.0,
    "max_backoff_s": 0.0,
    "checkpoint_every_s": 1.0,
    "poll_interval_s": 1.0,
    "divergence_nats": 0.0,
}
"""Other numbers, and the least of each."""


class RecoveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run survives the loss of its model.

    Raises:
        ConfigError: a field is out of range; the message names it.
    """

    max_attempts: int = 3
    """Restores without progress in between before the run halts."""
    backoff_s: float = 5.0
    """Pause before the second restore without progress; doubles with each further one."""
    max_backoff_s: float = 60.0
    """Longest of these pauses."""
    checkpoint_every_steps: int = 20
    """Optimizer steps from one checkpoint of the runtime's own to the next; 0 counts no steps."""
    checkpoint_every_s: float = 1800.0
    """Seconds after which the next optimizer step is followed by one all the same; infinity counts none."""
    max_journal_bytes: int = 512 * 2**20
    """A journal that is larger is made smaller by a checkpoint after the next optimizer step."""
    keep_checkpoints: int = 2
    """Checkpoints of the runtime's own that are kept; older ones are deleted once a newer one is complete."""
    checkpoint_ttl_s: int | None = None
    """So many seconds after this process ended they are deleted by the service, at the latest: they are saved with that
    lifetime, which is renewed twice in each. None keeps them for as long as nobody deletes them.
    """
    checkpoint_strategy: str = LATEST
    """"latest", or the `tinker://` path of the one checkpoint of the run that restores may begin in."""
    restore_optimizer: bool = True
    """Whether a restore takes the optimizer's state along; without it training goes on, but not as it would have."""
    on_divergence: Literal["halt", "accept"] = "halt"
    """What is done when a restored model gives other results than it gave before, and no older checkpoint does better:
    "halt" the run, or "accept" the model that there is, without looking for an older one."""
    divergence_nats: float = 0.05
    """So much may results differ when they are repeated: mean |Δlogprob|. Those of the embedded server must be equal."""
    on_poison: Literal["halt", "skip"] = "halt"
    """What is done when a batch has brought the program down three times, beside leaving its optimizer step out: "halt"
    the run, or "skip" to the next step."""
    max_skipped: int = 10
    """So many steps are skipped in the life of a run; at the next one it halts."""
    poll_interval_s: float = 30.0
    """How often the service is asked whether the run is corrupted; infinity does not ask."""
    on_recovery: OnRecovery | None = None
    """Called with the model's old id, its new one, and the checkpoint it was restored from, or None."""
    on_failure: OnFailure | None = None
    """Called with the run's name and the error when a run is halted."""

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            check_count(self, name, least)
        for name, least_of_it in _NUMBERS.items():
            check_number(self, name, least_of_it)
        if self.max_backoff_s < self.backoff_s or math.isinf(self.max_backoff_s):
            raise wrong(self, "max_backoff_s", f"finite, and backoff_s ({self.backoff_s:g}) or more")
        if self.checkpoint_ttl_s is not None:
            check_count(self, "checkpoint_ttl_s", *_TTL_S)
        check_bool(self, "restore_optimizer")
        check_choice(self, "on_divergence", "halt", "accept")
        check_choice(self, "on_poison", "halt", "skip")
        strategy = self.checkpoint_strategy
        if not isinstance(strategy, str) or (strategy != LATEST and not strategy.startswith("tinker://")):
            raise wrong(self, "checkpoint_strategy", f'"{LATEST}" or a tinker:// path')
        for name in ("on_recovery", "on_failure"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise wrong(self, name, "callable or None")

    def pause_s(self, restores: int, generator: random.Random) -> float:
        """Seconds before a restore: none, then `backoff_s`, twice that, and so on.

        That is `min(max_backoff_s, backoff_s * 2**(restores - 2))` times a draw from [0.75, 1).

        Args:
            restores: without progress in between, this one included.
            generator: of the jitter.
        """
        if restores <= 1:
            return 0.0
        pause_s = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(restores - 2, 60))
        return pause_s * (0.75 + 0.25 * generator.random())
