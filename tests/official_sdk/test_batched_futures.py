"""The official SDK polls for many samples at once, numbers its clones and gives samples up."""

import asyncio
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server

LEAVING_S = 10.0
"""How long the SDK may take to close."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that tells clients of all that it offers, and takes few samples at a time."""
    options = ("--batched-futures", "--join-samplers", "--inline-kib=1", "--most-rows=8", "--hold=2")
    with Server(tmp_path / "s", *options) as server:
        yield server


@pytest.fixture
def sampler(tinker: Any, server: Server) -> Iterator[Any]:
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    yield service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    # The SDK cancels its poller and waits for it, without a limit of its own. If that has its last answer at this very
    # moment, the cancellation is lost in it, and the poller idles for good, with no request under way.
    with suppress(TimeoutError):
        service.close("success").result(LEAVING_S)


@pytest.fixture
def prompt(tinker: Any) -> Any:
    return tinker.ModelInput.from_ints(list(b"hello world"))


def test_many_samples_and_large_ones_are_polled_for_together(tinker: Any, sampler: Any, prompt: Any) -> None:
    lengths = [20 + 10 * (number % 20) for number in range(60)]  # the longest are announced by their size
    futures = [
        sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=length, seed=length, stop=[]))
        for length in lengths
    ]
    results = [future.result(WAIT_S) for future in futures]
    assert [len(result.sequences[0].tokens) for result in results] == lengths
    assert list(results[0].sequences[0].tokens) == list(results[20].sequences[0].tokens)


def test_a_clone_is_numbered_by_the_server(tinker: Any, sampler: Any, prompt: Any) -> None:
    clone = pickle.loads(pickle.dumps(sampler))  # noqa: S301 - our own
    (sequence,) = clone.sample(prompt, 1, tinker.SamplingParams(max_tokens=3)).result(WAIT_S).sequences
    assert sequence.sequence_id.endswith(":1000000000:0")


def test_who_stops_waiting_frees_the_server(tinker: Any, server: Server, sampler: Any, prompt: Any) -> None:
    async def give_up() -> None:
        endless = sampler.sample(prompt, 100, tinker.SamplingParams(max_tokens=1000, stop=[]))
        poll = {"request_id": f"{sampler._sampling_session_id}:0"}
        while server.post("retrieve_future", **poll).status_code == 404:
            pass  # what was not accepted yet could not be cancelled, and would be drawn all the same
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endless.result_async(), 0.5)

    asyncio.run(give_up())
    # It would be waited for while the 100 are drawn, which takes minutes.
    assert sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=3)).result(WAIT_S).sequences


def test_every_question_about_a_prompt_is_answered(tinker: Any, sampler: Any, prompt: Any) -> None:
    rows = prompt.length - 1
    result = sampler.sample(
        prompt,
        1,
        tinker.SamplingParams(max_tokens=3, stop=[]),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=3,
        topk_sample_logprobs=2,
        target_prompt_logprobs=tinker.TensorData(data=[-1, 5] * rows, dtype="int64", shape=[rows, 2]),
        prompt_alt_tokens_k=4,
        prompt_logprobs_last_n=2,
    ).result(WAIT_S)
    assert [one is None for one in result.prompt_logprobs] == [True] * (rows - 1) + [False, False]
    assert [row and len(row) for row in result.topk_prompt_logprobs] == [None] * (rows - 1) + [3, 3]
    assert [len(row) for row in result.sequences[0].topk_logprobs] == [2, 2, 2]
    assert result.target_prompt_logprobs.data[::2] == [0.0] * rows
    assert all(one < 0 for one in result.target_prompt_logprobs.data[1::2])
    assert result.prompt_alt_tokens.tokens.shape == result.prompt_alt_tokens.logprobs.shape == [rows, 4]
