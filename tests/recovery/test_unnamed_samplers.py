"""Samplers of unnamed saves, whatever is lost meanwhile: the weights they were made of, or an error that names the step."""

import random
from collections.abc import Callable

import pytest
from harness import WAIT_S, Server, client, step

import tinker_actors as ta
from tinker_actors.errors import SamplerLostError
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

PROMPT = ta.ModelInput.from_ints([65, 66, 67])
POLICY = ta.RecoveryPolicy(checkpoint_every_steps=4, max_attempts=10, backoff_s=0.01, max_backoff_s=0.1)
STEPS = 16
ACTORS = ["session/training/training:1", "session/sampling", "session/heartbeat", "transport"]
CRASHES = 2
"""Of actors: their supervisors allow three in a minute."""


def crashed(service: ta.ServiceClient, generator: random.Random) -> None:
    path = f"service/{generator.choice(ACTORS)}"
    with expect(service._runtime.tree, ChildStarted, path=path, timeout_s=WAIT_S):
        crash(service.address(path))


def session_lost(server: Server, service: ta.ServiceClient) -> None:
    server.finish_session(service._runtime.published.session_id or "")


def model_lost(server: Server, service: ta.ServiceClient) -> None:
    server.unload(service.history().result(WAIT_S)[0].models[-1].model_id or "")


LOSSES: list[Callable[[Server, ta.ServiceClient], None]] = [session_lost, model_lost]


def weights_of(sampler: ta.SamplingClient) -> list[float | None] | int | None:
    """Figures that tell one set of weights from another; of those that are lost, the step that they were taken after."""
    try:
        return sampler.compute_logprobs(PROMPT).result(WAIT_S)
    except SamplerLostError as error:
        return error.step


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))]
)
def test_an_unnamed_sampler_never_samples_from_other_weights(server: Server, seed: int) -> None:
    generator, held, crashes = random.Random(seed), [], 0
    with client(server, None, recovery=POLICY) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        for number in range(STEPS):
            step(training, number)
            if generator.random() < 0.5:
                sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
                held.append((number + 1, sampler, weights_of(sampler)))
            if generator.random() < 0.3:
                generator.choice(LOSSES)(server, service)
            elif generator.random() < 0.2 and crashes < CRASHES:
                crashes += 1
                crashed(service, generator)
            for taken, sampler, before in held:
                assert weights_of(sampler) in (before, taken)
        assert training.step == STEPS
    assert held
