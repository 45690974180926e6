"""How a run is shown while it goes on: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["Progress"]

PLAIN_LINES = 20
"""About how many lines a run prints where there is no terminal."""


class Progress:
    """Step, loss, speed, time left and restarts of a run.

    Args:
        console: where to.
        total: steps of the whole run.
        restarts: gives the restarts so far.
    """

    def __init__(self, console: Console, total: int, restarts: Callable[[], int]) -> None:
        self._console = console
        self._total = total
        self._restarts = restarts
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._began: float | None = None
        self._done = 0
        self._tokens = 0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, highlight=False, markup=False)

    def step(self, step: int, loss: float, tokens: int) -> None:
        """Step `step`, counted from 0, is done.

        Args:
            step: which.
            loss: per answer token, nats.
            tokens: trained on in this step.
        """
        assert self._began is not None  # noqa: S101 - shown inside of a with block
        self._done += 1
        self._tokens += tokens
        elapsed_s = max(time.monotonic() - self._began, 1e-6)
        left_s = elapsed_s / self._done * (self._total - step - 1)
        line = (
            f"step {step + 1:>4}/{self._total}  loss {loss:.4f}  {self._tokens / elapsed_s:,.0f} tokens/s"
            f"  ETA {left_s:.0f} s  restarts {self._restarts()}"
        )
        if self._live is not None:
            self._live.update(Text(line))
        elif step % max(1, self._total // PLAIN_LINES) == 0 or step + 1 == self._total:
            self.say(line)
