"""Whatever the service, the network and the machine do to a run, by seed, it ends as if undisturbed."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from program_under_test import STEPS
from trial import Judgement, Trial

from tinker_actors.local.step_log import Executed

TRAINING = ["forward_backward", "optim_step", "save_weights"]
ANY = [*TRAINING, "save_weights_for_sampler", "retrieve_future", "sessions/*/heartbeat", "get_info"]
Faults = list[dict[str, Any]]


def drawn(generator: random.Random, operations: list[str], **fault: Any) -> dict[str, Any]:
    """A fault at some early request of some kind."""
    return {"operation": generator.choice(operations), "nth": generator.randint(1, 12), **fault}


def lost_requests(generator: random.Random) -> Faults:
    """Nothing reaches the service."""
    effects = ["drop", "reset", "status"]
    return [drawn(generator, ANY, effect=generator.choice(effects), when="before") for _ in range(6)]


def lost_replies(generator: random.Random) -> Faults:
    """The service did it, and the client does not hear of it."""
    effects = ["drop", "reset", "half_body", "status"]
    return [drawn(generator, ANY, effect=generator.choice(effects), when="after") for _ in range(6)]


def lost_models(generator: random.Random) -> Faults:
    """The service drops the model."""
    return [drawn(generator, [*TRAINING, "retrieve_future"], effect="lose_model") for _ in range(2)]


def lost_sessions(generator: random.Random) -> Faults:
    """The service ends the session."""
    return [drawn(generator, [*TRAINING, "retrieve_future"], effect="expire_session") for _ in range(2)]


def slow_answers(generator: random.Random) -> Faults:
    """Answers come late."""
    return [drawn(generator, ANY, effect="delay", seconds=0.2, count=3) for _ in range(3)]


@contextmanager
def server_killed(trial: Trial, generator: random.Random) -> Iterator[list[int]]:
    """Kill the server's process a few times, and start another one; the optimizer steps it had executed by then."""
    is_over, kills = threading.Event(), list[int]()
    before = steps_executed(trial)

    def kill() -> None:
        due = 1
        while len(kills) < 3 and not is_over.wait(0.01):
            executed = steps_executed(trial) - before
            if executed >= due:
                kills.append(executed)
                due = executed + generator.randint(1, 4)
                trial.server.restart()

    with ThreadPoolExecutor(1) as threads:
        killing = threads.submit(kill)
        try:
            yield kills
        finally:
            is_over.set()
            killing.result()


def steps_executed(trial: Trial) -> int:
    """By the server's own log."""
    entries = trial.server.control.log()
    return sum(isinstance(entry, Executed) and entry.kind == "optim_step" for entry in entries)


def run_through(trial: Trial, *faults: dict[str, Any], seed: int = 0) -> None:
    """One process, which comes to the end of the run whatever the faults do."""
    trial.server.control.arm(*faults, seed=seed)
    try:
        trial.finish()
        assert any(state["fired"] for state in trial.server.control.states())
    finally:
        trial.server.control.clear()


FAULTS = {
    "requests lost": lost_requests,
    "replies lost": lost_replies,
    "models lost": lost_models,
    "sessions lost": lost_sessions,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_run_through_faults_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, faults: Callable[[random.Random], Faults], seed: int
) -> None:
    run_through(trial, *faults(random.Random(seed)))
    undisturbed.check(trial)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_whose_requests_arrive_twice_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, seed: int
) -> None:
    trial.arguments = {"twice": seed}
    trial.finish()
    undisturbed.check(trial)


def test_a_run_whose_server_is_killed_is_as_if_undisturbed(trial: Trial, undisturbed: Judgement) -> None:
    with server_killed(trial, random.Random(1)) as kills:
        trial.finish()
    undisturbed.check(trial)
    assert any(0 < executed < STEPS for executed in kills)


def everything(trial: Trial, seed: int, *, with_server: bool = False) -> None:
    """Processes killed, models and sessions lost, requests lost and doubled, replies lost and late.

    Args:
        trial: not begun.
        seed: of all that happens.
        with_server: kill the server's process, too, which forgets the faults that are left.
    """
    generator = random.Random(seed)
    trial.arguments = {"twice": seed}
    kinds = [*FAULTS.values(), slow_answers]
    while True:
        faults = [fault for kind in generator.sample(kinds, 3) for fault in kind(generator)[:2]]
        trial.server.control.arm(*faults, seed=seed)
        nth = generator.randint(40, 200) if len(trial.deaths) < 5 else 0
        with server_killed(trial, generator) if with_server else nullcontext():
            was_killed = trial.start("*", nth)
        trial.server.control.clear()
        if not was_killed:
            return


@pytest.mark.parametrize("seed", range(3))
def test_a_run_through_everything_at_once_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, seed: int
) -> None:
    everything(trial, seed)
    undisturbed.check(trial)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_long_run_through_everything_at_once_is_as_if_undisturbed(
    trial: Trial, undisturbed: Judgement, seed: int
) -> None:
    everything(trial, seed, with_server=True)
    undisturbed.check(trial)
