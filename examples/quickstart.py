"""Teach a small model pig latin, and survive being killed.

Run it, kill it at any moment, run it again: it goes on where it was, and the final weights are bit for bit those of
an undisturbed run.

    python examples/quickstart.py [RUN_DIR] [STEPS]
"""

import json
import sys
from pathlib import Path

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer

DATA = Path(__file__).parent / "data" / "pig_latin.jsonl"
BATCH = 32
MODEL = "local/tiny"


def datum(prompt: str, answer: str) -> ta.Datum:
    """One example; only the answer and its end count in the loss."""
    tokenizer = get_tokenizer(MODEL)
    question = tokenizer.encode(f"{prompt} ->")
    reply = [*tokenizer.encode(f" {answer}"), tokenizer.eos_token_id]
    tokens = question + reply
    return ta.Datum(
        model_input=ta.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
            "weights": ta.TensorData([0.0] * (len(question) - 1) + [1.0] * len(reply), dtype="float32"),
        },
    )


def main(run_dir: str, steps: int) -> None:
    """Train for `steps` optimizer steps in all, however often the program is started."""
    data = [datum(**json.loads(line)) for line in DATA.read_text().splitlines()]
    with ta.ServiceClient(base_url="local", run_dir=run_dir) as service:
        training = service.create_lora_training_client("local/tiny", rank=32, seed=1).result()
        for step in training.steps(steps):
            batch = [data[(step * BATCH + i) % len(data)] for i in range(BATCH)]
            forward = training.forward_backward(batch, "cross_entropy")
            update = training.optim_step(ta.AdamParams(learning_rate=2e-3))
            print(step, forward.result().metrics["loss:sum"], flush=True)
            update.result()
        print("saved", training.save_state("final").result().path, flush=True)
        sampler = training.save_weights_and_get_sampling_client("final").result()
        prompt = ta.ModelInput.from_ints(training.get_tokenizer().encode("green tiger ->"))
        sample = sampler.sample(prompt, 1, ta.SamplingParams(max_tokens=24, temperature=0.0)).result()
        print("green tiger ->" + training.get_tokenizer().decode(sample.sequences[0].tokens), flush=True)


if __name__ == "__main__":
    given = [*sys.argv[1:], *["runs/quickstart", "300"][len(sys.argv) - 1 :]]
    main(given[0], int(given[1]))
