"""Fixtures of tests about actors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from network import Bench

from tinker_actors.actors import pauses


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test was told to wait for is no matter of the next one, though it has the same server and key."""
    monkeypatch.setattr(pauses, "_registry", pauses._Registry())


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches, and ends them."""
    made: list[Bench] = []

    def make(*arguments: Any, **options: Any) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
