"""Sample in processes of a pool: a sampling client travels to them by pickle, and none opens a session of its own.

python examples/worker_pool.py [WORKERS]
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer

WORDS = ["apple", "river", "stone", "cloud", "tiger", "bread", "house", "light"]


def complete(sampler: ta.SamplingClient, word: str) -> tuple[str, str]:
    """What follows after a word; this runs in a worker."""
    tokenizer = get_tokenizer("local/tiny")
    prompt = ta.ModelInput.from_ints(tokenizer.encode(word))
    params = ta.SamplingParams(max_tokens=8, temperature=0.0)
    return word, tokenizer.decode(sampler.sample(prompt, 1, params).result().sequences[0].tokens)


def main(workers: int) -> None:
    """Share the words out among the workers, and compare with what this process would have sampled."""
    with ta.ServiceClient(base_url="local") as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result()
        context = multiprocessing.get_context("spawn")  # a forked process could not use what its parent holds
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            found = dict(pool.map(complete, [sampler] * len(WORDS), WORDS))
        for word, text in found.items():
            sys.stdout.write(f"{word} -> {text!r}\n")
        same = found == dict(complete(sampler, word) for word in WORDS)
        sessions = service.create_rest_client().list_sessions().result().sessions
        sys.stdout.write(f"as in this process: {'yes' if same else 'no'}; sessions: {len(sessions)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
