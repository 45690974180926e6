"""Tokens while they are drawn: printed as they come, and given up in the middle.

The first stream is read to its end, the second is left after a few tokens, which frees the service's slot at once, and
three more are read side by side on one event loop.

    python examples/streaming.py
"""

import asyncio
import sys

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer


async def length(sampler: ta.SamplingClient, prompt: ta.ModelInput, seed: int) -> int:
    """How many tokens come before the model ends its text."""
    params = ta.SamplingParams(max_tokens=24, seed=seed)
    async with sampler.sample_stream(prompt, params) as stream:
        return max([chunk.index async for chunk in stream])


async def side_by_side(sampler: ta.SamplingClient, prompt: ta.ModelInput) -> list[int]:
    """The lengths of three samples whose tokens come in any order."""
    return await asyncio.gather(*(length(sampler, prompt, seed) for seed in range(3)))


def main() -> None:
    """Stream from the embedded server."""
    prompt = ta.ModelInput.from_ints(get_tokenizer("local/tiny").encode("Once upon a time"))
    with ta.ServiceClient(base_url="local") as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result()
        for chunk in sampler.sample_stream(prompt, ta.SamplingParams(max_tokens=16, seed=1, stop=[])):
            if chunk.is_done:
                print(f"\nended by {chunk.finish_reason} after {chunk.index} tokens")
            else:
                sys.stdout.write(chunk.token)
        with sampler.sample_stream(prompt, ta.SamplingParams(max_tokens=1000, stop=[])) as stream:
            some = [chunk.token_id for chunk, _ in zip(stream, range(5), strict=False)]
        print(f"left after {len(some)} tokens")
        print("side by side:", asyncio.run(side_by_side(sampler, prompt)))


if __name__ == "__main__":
    main()
