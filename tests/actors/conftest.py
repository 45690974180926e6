"""Fixtures of tests about actors."""

import pytest

from tinker_actors.actors import pauses


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test was told to wait for is no matter of the next one, though it has the same server and key."""
    monkeypatch.setattr(pauses, "_registry", pauses._Registry())
