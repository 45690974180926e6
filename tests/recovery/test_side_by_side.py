"""Several runs of one process recover beside one another, each as if it were alone."""

import random
from itertools import accumulate

import pytest
from trial import Judgement, Trial

from tinker_actors.actors.published import RESTORES_AT_A_TIME

THREE = ["one", "two", "three"]
EIGHT = [f"run-{number}" for number in range(8)]


def together(trial: Trial, runs: list[str]) -> Trial:
    """The same trial, of several runs."""
    trial.program = "program_under_test:side_by_side"
    trial.arguments = {"runs": runs}
    return trial


def check_all(undisturbed: Judgement, trial: Trial, runs: list[str]) -> None:
    for run in runs:
        undisturbed.check(trial, run)


@pytest.mark.parametrize("seed", range(2))
def test_three_runs_killed_again_and_again_are_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, seed: int
) -> None:
    together(trial, THREE)
    generator = random.Random(seed)
    while trial.start("*", generator.randint(150, 500)):
        if generator.random() < 0.5:
            trial.lose_model(generator.choice(THREE))
    check_all(undisturbed, trial, THREE)
    assert len(trial.deaths) >= 2


def test_eight_runs_that_lose_their_session_in_the_middle_are_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement
) -> None:
    together(trial, EIGHT)
    fault = {"effect": "expire_session", "operation": "optim_step", "nth": 40}
    trial.server.control.arm(fault)
    trial.finish()
    trial.server.control.clear()
    check_all(undisturbed, trial, EIGHT)
    assert [trial.generations(run) for run in EIGHT] == [2] * 8


def most_at_a_time(passed: list[str]) -> int:
    """How many models were being made at the same time, by the points that a process passed."""
    changes = {"send load_weights": 1, "answer probe": -1}
    return max(accumulate(changes.get(point, 0) for point in passed))


def test_eight_runs_whose_models_are_lost_are_brought_back_a_few_at_a_time(
    trial: Trial, undisturbed: Judgement
) -> None:
    """REC-16."""
    together(trial, EIGHT)
    assert trial.start("program after update", 40)
    for run in EIGHT:
        trial.lose_model(run)
    trial.finish()
    check_all(undisturbed, trial, EIGHT)
    assert 1 < most_at_a_time(trial.passed()) <= RESTORES_AT_A_TIME
