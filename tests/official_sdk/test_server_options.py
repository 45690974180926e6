"""The official SDK on embedded servers that are started in other ways."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server

Step = Callable[..., float]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server with options: `start(*options)`."""
    servers: list[Server] = []

    def starting(*options: str) -> Server:
        servers.append(Server(tmp_path / "data", *options))
        return servers[-1]

    yield starting
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("option", ["--jwt", "--join-samplers"])
def test_the_sdk_does_what_a_server_started_otherwise_wants(
    tinker: Any, start: Callable[..., Server], step: Step, option: str
) -> None:
    with tinker.ServiceClient(base_url=start(option).url, api_key=KEY) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result(WAIT_S)
        step(training)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        prompt, params = tinker.ModelInput.from_ints([72]), tinker.SamplingParams(max_tokens=2)
        sampled = [sampler.sample(prompt, 1, params) for _ in range(20)]
        assert [len(future.result(WAIT_S).sequences) for future in sampled] == [1] * 20
