# ruff: noqa: ARG002 - a platform takes what the protocol says, and need not use it
"""Training loops that know a platform and nothing else, on ours and on another one."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import BATCHES, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.compat.platform import SessionConfig, TinkerPlatform, TinkerSession, TrainingPlatform
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect

CONFIG = SessionConfig(base_model="local/tiny", rank=4, seed=3, name="run")
ADAM = ta.AdamParams(learning_rate=5e-3)
SAMPLER = "service/session/sampling/sampling:1"


def train(platform: TrainingPlatform[Any], config: SessionConfig, total: int) -> list[float]:
    """A loop that resumes: the losses of the steps that were left to take."""
    session, losses = platform.create_session(config), []
    for number in range(platform.steps_taken(session), total):
        output = platform.forward_backward(session, BATCHES[number % len(BATCHES)], "cross_entropy")
        platform.optim_step(session, ADAM)
        losses.append(output.metrics["loss:sum"])
    return losses


class Counting:
    """A platform that counts what a loop asks of it."""

    def __init__(self) -> None:
        self.steps = 0
        self.closed = False

    def create_session(self, config: SessionConfig) -> str:
        return config.base_model

    def steps_taken(self, session: str) -> int:
        return self.steps

    def forward(self, session: str, data: Sequence[ta.Datum], loss_fn: str) -> ta.ForwardBackwardOutput:
        return ta.ForwardBackwardOutput(
            loss_fn_output_type="", loss_fn_outputs=[], metrics={"loss:sum": float(len(data))}
        )

    forward_backward = forward

    def optim_step(self, session: str, params: Any = None) -> ta.OptimStepResponse:
        self.steps += 1
        return ta.OptimStepResponse()

    def save_checkpoint(self, session: str, name: str) -> str:
        return f"{session}/{name}"

    def load_checkpoint(self, path: str, config: SessionConfig) -> str:
        return path

    def sample(self, session: str, prompt: ta.ModelInput, num_samples: int, params: Any) -> ta.SampleResponse:
        return ta.SampleResponse(sequences=[])

    def close(self) -> None:
        self.closed = True

    async def create_session_async(self, config: SessionConfig) -> str:
        return self.create_session(config)

    async def forward_backward_async(
        self, session: str, data: Sequence[ta.Datum], loss_fn: str
    ) -> ta.ForwardBackwardOutput:
        return self.forward(session, data, loss_fn)

    async def optim_step_async(self, session: str, params: Any = None) -> ta.OptimStepResponse:
        return self.optim_step(session, params)

    async def save_checkpoint_async(self, session: str, name: str) -> str:
        return self.save_checkpoint(session, name)


def test_ours_and_others_are_training_platforms(server: Server) -> None:
    counting: TrainingPlatform[str] = Counting()
    with client(server, None) as service:
        ours: TrainingPlatform[TinkerSession] = TinkerPlatform(service)
        assert isinstance(ours, TrainingPlatform)
    assert isinstance(counting, TrainingPlatform)
    assert not isinstance(object(), TrainingPlatform)


def test_one_loop_runs_on_any_platform(server: Server, run_dir: Path) -> None:
    counting = Counting()
    assert train(counting, CONFIG, 4) == [2.0, 1.0, 2.0, 1.0]
    with client(server, run_dir) as service:
        losses = train(TinkerPlatform(service), CONFIG, 6)
    assert losses[4] < losses[0]
    assert losses[5] < losses[1]


def test_loop_that_is_started_again_takes_only_the_steps_that_are_left(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        undisturbed = train(TinkerPlatform(service), CONFIG, 4)
    with client(server, run_dir.with_name("other")) as service:
        first = train(TinkerPlatform(service), CONFIG, 2)
    with client(server, run_dir.with_name("other")) as service:
        assert first + train(TinkerPlatform(service), CONFIG, 4) == undisturbed


def test_session_outlives_its_actor(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        platform = TinkerPlatform(service)
        session = platform.create_session(CONFIG)
        platform.forward_backward(session, BATCHES[0])
        path = "service/session/training/training:run"
        with expect(service._runtime.tree, ChildStarted, path=path):
            crash(service.address(path))
        platform.optim_step(session, ADAM)
        assert platform.steps_taken(session) == 1


def test_session_that_begins_in_a_checkpoint_continues_the_other_one(server: Server) -> None:
    with client(server, None) as service:
        platform = TinkerPlatform(service)
        session = platform.create_session(CONFIG)
        platform.forward_backward(session, BATCHES[0])
        platform.optim_step(session)
        path = platform.save_checkpoint(session, "state")
        config = SessionConfig(base_model="local/tiny", name="second")
        loaded = platform.load_checkpoint(path, config)
        assert platform.forward(loaded, BATCHES[1]).metrics == platform.forward(session, BATCHES[1]).metrics


def test_samples_are_of_the_newest_weights_saved_once_a_step(server: Server) -> None:
    prompt, params = ta.ModelInput.from_ints([104, 101]), ta.SamplingParams(max_tokens=3, temperature=0.0)
    with client(server, None) as service:
        platform = TinkerPlatform(service)
        session = platform.create_session(CONFIG)
        platform.sample(session, prompt, 2, params)
        sampler = session.sampler
        platform.sample(session, prompt, 1, params)
        assert session.sampler is sampler
        platform.forward_backward(session, BATCHES[0])
        platform.optim_step(session, ADAM)
        assert len(platform.sample(session, prompt, 1, params).sequences) == 1
        assert session.sampler is not sampler


def test_weights_of_samples_that_the_service_forgot_are_saved_again(server: Server, run_dir: Path) -> None:
    prompt, params = ta.ModelInput.from_ints([104, 101]), ta.SamplingParams(max_tokens=3, temperature=0.0)
    with client(server, run_dir) as service:
        platform = TinkerPlatform(service)
        session = platform.create_session(CONFIG)
        before = platform.sample(session, prompt, 1, params).sequences[0].tokens
        assert session.sampler is not None
        weights = session.sampler[1]._sampler.weights
        assert weights is not None
        weights.home = weights.home[0], "gone:sample:0"
        with expect(service._runtime.tree, ChildStarted, path=SAMPLER, timeout_s=WAIT_S):
            crash(service.address(SAMPLER))
        assert platform.sample(session, prompt, 1, params).sequences[0].tokens == before


def test_awaited_calls_may_be_under_way_together(server: Server) -> None:
    async def main(platform: TinkerPlatform) -> tuple[float, int, str]:
        session = await platform.create_session_async(CONFIG)
        forward = platform.forward_backward_async(session, BATCHES[0])
        output, _ = await asyncio.wait_for(
            asyncio.gather(forward, platform.optim_step_async(session)), WAIT_S
        )
        path = await platform.save_checkpoint_async(session, "state")
        return output.metrics["loss:sum"], platform.steps_taken(session), path

    with client(server, None) as service:
        loss, steps, path = asyncio.run(main(TinkerPlatform(service)))
    assert (loss > 0, steps, path.endswith("/weights/state")) == (True, 1, True)


def test_what_is_no_config_is_refused(server: Server) -> None:
    with client(server, None) as service, pytest.raises(ta.ValidationError, match="SessionConfig, got dict"):
        TinkerPlatform(service).create_session({"base_model": "local/tiny"})  # type: ignore[arg-type]


def test_platform_closes_its_client(server: Server) -> None:
    with TinkerPlatform.open(base_url=server.url, api_key="tml-test") as platform:
        platform.create_session(CONFIG)
    with pytest.raises(ta.RuntimeStoppedError):
        platform.create_session(SessionConfig(base_model="local/tiny"))
