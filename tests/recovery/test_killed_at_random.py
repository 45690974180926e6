"""A program killed at random moments, by seed, again and again, ends as if undisturbed."""

import random
from collections.abc import Callable

import pytest
from trial import Death, Judgement, Trial


def kill_at_points(trial: Trial, generator: random.Random) -> None:
    """Die after some hundred crash points at most, until the program ends; now and then the model goes, too."""
    while trial.start("*", generator.randint(20, 150)):
        if generator.random() < 0.3:
            trial.lose_model()


def kill_by_the_clock(trial: Trial, generator: random.Random) -> None:
    """Be killed from outside after a time: a little more each time, so that on any machine some fall inside the run."""
    patience_s = 0.05
    while trial.start(kill_after_s=patience_s * generator.uniform(0.7, 1.0)):
        patience_s *= 1.1


KILLS = {"points": kill_at_points, "clock": kill_by_the_clock}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
def test_a_run_killed_again_and_again_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, kill: Callable[[Trial, random.Random], None], seed: int
) -> None:
    kill(trial, random.Random(seed))
    undisturbed.check(trial)
    assert sum(death.is_inside for death in trial.deaths) >= 2


@pytest.mark.slow
def test_a_thousand_kills_lose_and_double_nothing(
    trials: Callable[[int], Trial],
    undisturbed: Judgement,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    deaths: list[Death] = []
    seed = 1000
    while sum(death.is_inside for death in deaths) < 1000:
        trial, generator = trials(seed), random.Random(seed)
        generator.choice(list(KILLS.values()))(trial, generator)
        undisturbed.check(trial)
        deaths += trial.deaths
        seed += 1
    images = [death.image for death in deaths if death.image is not None]
    counts = {
        "runs": seed - 1000,
        "kills": len(deaths),
        "inside the run": sum(death.is_inside for death in deaths),
        "between gradient and update": sum(image.is_between for image in images),
        "during a save": sum(image.is_saving for image in images),
        "during recovery": sum(image.is_recovering for image in images),
        "during replay": sum(image.is_replaying for image in images),
    }
    for name, count in counts.items():
        record_testsuite_property(name, count)  # --junit-xml shows them
    assert min(counts.values()) > 0, counts
