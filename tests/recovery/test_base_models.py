"""Checkpoints of a run that was killed are byte for byte those of one that was not, whatever model is trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server
from model_directories import write_model
from trial import Judgement, Trial
from zygote import Zygote

STEPS = 6
"""Past a save, a sampler and a checkpoint of the runtime's own."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Base models by what they are."""
    directory = tmp_path_factory.mktemp("models")
    write_model(directory / "llama", vocab_size=300)
    write_model(directory / "qwen3", vocab_size=300, model_type="qwen3", head_dim=8, tie_word_embeddings=True)
    own = {name: str(directory / name) for name in ("llama", "qwen3")}
    return {"small": "local/small", **own, "": str(directory)}


@pytest.fixture(scope="module")
def server(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), "--models", models[""]) as server:
        yield server


@pytest.mark.parametrize("model", ["small", "llama", "qwen3"])
def test_a_run_of_another_model_that_is_killed_and_loses_it_is_as_if_undisturbed(
    server: Server, zygote: Zygote, models: dict[str, str], tmp_path: Path, model: str
) -> None:
    arguments = {"steps": STEPS, "base_model": models[model]}
    undisturbed = Trial(server, zygote, tmp_path / "undisturbed", arguments=arguments)
    undisturbed.finish()
    trial = Trial(server, zygote, tmp_path / "trial", arguments=arguments)
    assert trial.start("program between gradient and update", 2)
    trial.lose_model()
    assert trial.start("write replayed after", 1)
    assert trial.start("write result of save_weights before", 1)
    trial.finish()
    Judgement(undisturbed).check(trial)
