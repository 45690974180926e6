"""Runs of many steps: what they need does not grow, and what is replayed of them is what was."""

import random

import pytest
from harness import ADAM, NO_CHECKPOINTS, WAIT_S, Events, Server, client, example
from trial import Trial

import tinker_actors as ta
from tinker_actors.events import ModelRestored

STEPS = 601
"""Enough for a hundred checkpoints of the runtime's own."""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_run(trial: Trial) -> None:
    trial.program = "program_under_test:at_length"
    trial.arguments = {"steps": STEPS}
    trial.finish()
    memory = [int(line) for line in trial.passed()]
    settled = memory[3:]  # caches and pools have filled up by then
    assert len(settled) == 10
    assert max(settled) - settled[0] < 100_000, memory


def drawn_step(training: ta.TrainingClient, generator: random.Random) -> None:
    """One step on random data, not waited for."""
    words = ["".join(generator.choices("abcdefgh ", k=generator.randint(1, 12))) for _ in range(4)]
    data = [example(words[0], words[1]), example(words[2], words[3])][: generator.randint(1, 2)]
    training.forward_backward(data, "cross_entropy")
    training.optim_step(ta.AdamParams(learning_rate=generator.uniform(1e-4, 3e-3)))


def trained(server: Server, seed: int, steps: int, *, is_lost: bool) -> tuple[str, int]:
    """Digest of the training state after so many steps, and how many requests were repeated for it."""
    with client(server, None, recovery=NO_CHECKPOINTS) as service:
        created = service.create_lora_training_client("local/tiny", rank=4, seed=seed)
        training, events, generator = created.result(WAIT_S), Events(service), random.Random(seed)
        for _ in range(steps):
            drawn_step(training, generator)
        training.optim_step(ADAM).result(10 * WAIT_S)
        if is_lost:
            server.unload(training.model_id)
        path = training.save_state("final").result(10 * WAIT_S).path
        return server.digest(path), sum(event.replayed for event in events.of(ModelRestored))


@pytest.mark.parametrize(
    ("steps", "seed"),
    [
        *((20, seed) for seed in range(3)),
        *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in range(50)),
    ],
)
def test_a_replay_from_the_beginning_gives_the_same_bits(server: Server, steps: int, seed: int) -> None:
    """DUR-07."""
    undisturbed, _ = trained(server, seed, steps, is_lost=False)
    assert trained(server, seed, steps, is_lost=True) == (undisturbed, 2 * steps + 2)
