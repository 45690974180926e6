"""What the trials of recovery share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Server
from trial import Judgement, Trial, prepared
from zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Where the processes of all trials come from."""
    with prepared() as zygote:
        yield zygote


@pytest.fixture
def trial(server: Server, zygote: Zygote, tmp_path: Path) -> Trial:
    """A trial that has not begun."""
    return Trial(server, zygote, tmp_path / "trial")


@pytest.fixture
def trials(server: Server, zygote: Zygote, tmp_path: Path) -> Callable[[int], Trial]:
    """Trials by number."""
    return lambda number: Trial(server, zygote, tmp_path / f"trial-{number}")


@pytest.fixture(scope="module")
def undisturbed(server: Server, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Judgement:
    """What every trial must end like."""
    trial = Trial(server, zygote, tmp_path_factory.mktemp("undisturbed"))
    trial.finish()
    return Judgement(trial)
