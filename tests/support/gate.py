"""The engine of a server in this process, held between two tokens."""

import threading

import pytest
from harness import WAIT_S

from tinker_actors.local.engine.batching import Batch, Generation


class Gate:
    """Lets a batch draw one token each time it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Semaphore(0)
        self.drawn = 0
        step = Batch.step

        def held(batch: Batch) -> list[Generation]:
            assert self._open.acquire(timeout=WAIT_S)
            self.drawn += 1
            return step(batch)

        monkeypatch.setattr(Batch, "step", held)

    def open(self, times: int = 1) -> None:
        self._open.release(times)
