"""A process killed at any named moment is followed by one that loses no step and takes none twice."""

from collections.abc import Callable
from itertools import cycle

import pytest
from program_under_test import STEPS
from trial import Death, Image, Judgement, Trial

CREATING = [
    "write runs before",
    "write runs after",
    "send create_session",
    "answer open",
    "write sessions before",
    "write sessions after",
    "send get_server_capabilities",
    "answer capabilities",
    "write model wanted before",
    "write model wanted after",
    "send create_model",
    "accept create",
    "answer create",
    "write model known before",
    "write model known after",
    "send get_info",
    "answer probe",
]
"""From nothing to a model that answers."""

TRAINING = {
    "write intent of forward_backward before": 5,
    "write intent of forward_backward after": 4,
    "mark before": 5,
    "mark after": 6,
    "unmark before": 17,
    "unmark after": 18,
    "send forward_backward": 9,
    "accept request": 16,
    "answer request": 17,
    "write result of forward_backward before": 7,
    "write result of forward_backward after": 8,
    "program between gradient and update": 2,
    "write intent of optim_step before": 2,
    "write intent of optim_step after": 3,
    "send optim_step": 5,
    "write result of optim_step before": 6,
    "write result of optim_step after": 3,
    "hand over before": 12,
    "hand over after": 18,
    "program after update": 4,
}
"""Where to kill, and at which passage."""

SAVING = [
    "write intent of save_weights before",
    "write intent of save_weights after",
    "send save_weights",
    "write result of save_weights before",
    "write result of save_weights after",
    "compact before",
    "compact after",
    "write intent of save_weights_for_sampler before",
    "write intent of save_weights_for_sampler after",
    "send save_weights_for_sampler",
    "write result of save_weights_for_sampler before",
    "write result of save_weights_for_sampler after",
    "write checkpoints before",
    "write checkpoints after",
    "send delete_checkpoint",
    "answer retire",
]

ENDING = [
    "program after the last save",
    "send finish_session",
    "answer finish",
]

ATTACHING = [
    "send session_heartbeat",
    "answer attach",
    "send get_info",
    "answer check",
    "write sessions before",
    "write sessions after",
    "write model wanted before",
    "write model wanted after",
    "send load_weights",
    "accept create",
    "answer create",
    "write model known before",
    "write model known after",
    "answer probe",
    "write numbers before",
    "write numbers after",
]
"""A process that finds its model lost, up to the model that takes its place."""

REPLAYING = {
    "send forward_backward": 2,
    "accept request": 2,
    "answer request": 2,
    "write replayed before": 1,
    "write replayed after": 2,
    "send optim_step": 1,
}
"""The steps behind the checkpoint are taken again."""


def left(death: Death) -> Image:
    """The journal that a process left, which had begun."""
    assert death.image is not None
    return death.image


@pytest.mark.parametrize(
    ("creating", "training", "saving", "ending"),
    list(zip(CREATING, cycle(TRAINING), cycle(SAVING), cycle(ENDING), strict=False)),
)
def test_a_run_killed_while_it_begins_trains_saves_and_ends_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, creating: str, training: str, saving: str, ending: str
) -> None:
    """REC-02."""
    assert trial.start(creating, 1)
    assert trial.start(training, TRAINING[training])
    assert 0 < left(trial.deaths[-1]).steps < STEPS
    assert trial.start(saving, 1)
    assert trial.start(ending, 1)
    trial.finish()
    undisturbed.check(trial)


def lose_the_model(trial: Trial) -> None:
    """Die two steps behind a checkpoint, and let the service lose the model meanwhile."""
    trial.start("program after update", 8)
    trial.lose_model()


@pytest.mark.parametrize(("attaching", "replaying"), list(zip(ATTACHING, cycle(REPLAYING), strict=False)))
def test_a_run_killed_while_its_model_is_brought_back_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, attaching: str, replaying: str
) -> None:
    lose_the_model(trial)
    assert trial.start(attaching, 1)
    assert trial.start(replaying, REPLAYING[replaying])
    assert left(trial.deaths[-1]).is_recovering
    assert left(trial.deaths[-1]).is_replaying
    trial.finish()
    undisturbed.check(trial)


def test_a_kill_between_gradient_and_update_leaves_a_gradient_without_one(trial: Trial) -> None:
    trial.start("program between gradient and update", 2)
    assert [left(death).is_between for death in trial.deaths] == [True]


def test_a_kill_during_a_save_leaves_one_that_was_begun(trial: Trial) -> None:
    trial.start("send save_weights", 4)
    assert [left(death).is_saving for death in trial.deaths] == [True]


def test_the_tables_name_every_point_that_a_run_passes(trials: Callable[[int], Trial]) -> None:
    whole, lost = trials(0), trials(1)
    whole.finish()
    assert set(whole.passages()) == {*CREATING, *TRAINING, *SAVING, *ENDING}
    lose_the_model(lost)
    lost.finish()
    assert {*ATTACHING, *REPLAYING} <= set(lost.passages())
    assert set(lost.passages()) <= {*TRAINING, *SAVING, *ENDING, *ATTACHING, *REPLAYING}
