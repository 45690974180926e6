"""Weights of unnamed saves, which end with their session."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["UnnamedWeights"]


def _do_nothing() -> None: ...


@dataclass(slots=True, eq=False)
class UnnamedWeights:
    """What one sampler lives on. Its run's actor writes it, the sampler's actor reads it."""

    ticket: str
    """Of the save."""
    home: tuple[str | None, str | None]
    """The session they are in, and the sampling session over them there."""
    is_lost: bool = False
    """Whether they are in no session but that one, and never will be."""
    is_needed: Callable[[], bool] = lambda: True
    """Whether somebody holds the sampler."""
    wake: Callable[[], object] = _do_nothing
    """Tells the sampler's actor to look here."""

    def move(self, session_id: str, sampling_session_id: str | None) -> None:
        """They were saved again, in another session."""
        self.home = session_id, sampling_session_id
        self.wake()

    def lose(self) -> None:
        """Nobody will save them again: the session they are in is their last."""
        self.is_lost = True
        self.wake()
