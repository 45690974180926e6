"""Train with the official SDK on your own machine: no key, no GPU, no network.

The program starts `tinker-actors serve` and points the SDK at it. What it does there is what it would do with the hosted
service: train a LoRA adapter, sample from it, save it, go on from the saved state in another client, look up the records.

    pip install 'tinker-actors[local,cli]' tinker
    python examples/official_sdk.py [DATA_DIR] [STEPS]
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinker

from tinker_actors.tokenization import get_tokenizer

DATA = Path(__file__).parent / "data" / "pig_latin.jsonl"
MODEL = "local/tiny"
BATCH = 32
ADAM = tinker.AdamParams(learning_rate=2e-3)


@contextmanager
def serving(data: str) -> Iterator[dict[str, str]]:
    """What a shell would be told to export, while a server runs over the directory `data`."""
    command = [sys.executable, "-m", "tinker_actors", "serve", "--data", data, "--port", "0", "--owned"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        exports: dict[str, str] = {}
        for line in server.stdout or ():
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                exports[name] = value
            if {"TINKER_BASE_URL", "TINKER_API_KEY"} <= exports.keys():
                break
        yield exports  # then its standard input is closed, and --owned has it leave


def datum(prompt: str, answer: str) -> Any:
    """One example; only the answer and its end count in the loss."""
    tokenizer = get_tokenizer(MODEL)
    question = tokenizer.encode(f"{prompt} ->")
    reply = [*tokenizer.encode(f" {answer}"), tokenizer.eos_token_id]
    tokens = question + reply
    weights = [0.0] * (len(question) - 1) + [1.0] * len(reply)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData(data=tokens[1:], dtype="int64"),
            "weights": tinker.TensorData(data=weights, dtype="float32"),
        },
    )


def train(training: Any, first: int, last: int) -> None:
    """Take the optimizer steps from `first` to before `last`."""
    data = [datum(**json.loads(line)) for line in DATA.read_text().splitlines()]
    for step in range(first, last):
        batch = [data[(step * BATCH + i) % len(data)] for i in range(BATCH)]
        forward = training.forward_backward(batch, "cross_entropy")
        training.optim_step(ADAM).result()
        print(step, forward.result().metrics["loss:sum"], flush=True)


def main(data: str, steps: int) -> None:
    """Train in two clients, one after the other; sample; list what is kept."""
    with serving(data) as exports:
        settings = {"base_url": exports["TINKER_BASE_URL"], "api_key": exports["TINKER_API_KEY"]}
        with tinker.ServiceClient(**settings) as service:
            training = service.create_lora_training_client(MODEL, rank=32, seed=1).result()
            train(training, 0, steps // 2)
            middle = training.save_state("middle").result().path
            print("saved", middle, flush=True)

        with tinker.ServiceClient(**settings) as service:  # tomorrow, in another program
            training = service.create_training_client_from_state_with_optimizer(middle).result()
            train(training, steps // 2, steps)
            sampler = training.save_weights_and_get_sampling_client().result()
            tokenizer = get_tokenizer(MODEL)
            prompt = tinker.ModelInput.from_ints(tokenizer.encode("green tiger ->"))
            params = tinker.SamplingParams(max_tokens=24, temperature=0.0, stop=[tokenizer.eos_token_id])
            sample = sampler.sample(prompt, 1, params).result().sequences[0]
            print("green tiger ->" + tokenizer.decode(list(sample.tokens)), flush=True)

        rest = tinker.RestClient(**settings)
        for run in rest.list_training_runs().result().training_runs:
            print("kept", run.training_run_id, run.base_model, "rank", run.lora_rank, flush=True)


if __name__ == "__main__":
    given = [*sys.argv[1:], *["runs/official-sdk", "120"][len(sys.argv) - 1 :]]
    main(given[0], int(given[1]))
