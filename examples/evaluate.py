"""Train on some words and judge on others: `forward` gives the loss of held-out data and leaves no gradient behind.

python examples/evaluate.py [STEPS]
"""

import sys

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer

WORDS = ["apple", "river", "stone", "cloud", "tiger", "bread", "house", "light"]
HELD_OUT = ["ocean", "table"]


def pig_latin(word: str) -> ta.Datum:
    """The word and what it is in Pig Latin, which alone counts in the loss."""
    tokenizer = get_tokenizer("local/tiny")
    question = tokenizer.encode(f"{word} ->")
    reply = [*tokenizer.encode(f" {word[1:]}{word[0]}ay"), tokenizer.eos_token_id]
    tokens, weights = question + reply, [0.0] * (len(question) - 1) + [1.0] * len(reply)
    inputs = {
        "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
        "weights": ta.TensorData(weights, dtype="float32"),
    }
    return ta.Datum(ta.ModelInput.from_ints(tokens[:-1]), inputs)


def nats_per_token(output: ta.ForwardBackwardOutput, data: list[ta.Datum]) -> float:
    """The loss of each token that counts, on average."""
    counted = sum(float(datum.loss_fn_inputs["weights"].to_numpy().sum()) for datum in data)
    return output.metrics["loss:sum"] / counted


def main(steps: int) -> None:
    """Train, and judge every tenth step."""
    trained_on, held_out = [pig_latin(word) for word in WORDS], [pig_latin(word) for word in HELD_OUT]
    with ta.ServiceClient(base_url="local") as service:
        training = service.create_lora_training_client("local/tiny", rank=16, seed=1).result()
        for step in training.steps(steps):
            forward = training.forward_backward(trained_on, "cross_entropy")
            training.optim_step(ta.AdamParams(learning_rate=3e-3))
            if (step + 1) % 10 == 0:
                judged = training.forward(
                    held_out, "cross_entropy"
                )  # after the update, in the order of the calls
                sys.stdout.write(
                    f"step {step + 1}: {nats_per_token(forward.result(), trained_on):.3f} nats a token in training,"
                    f" {nats_per_token(judged.result(), held_out):.3f} held out\n"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
