"""A supervised training loop that knows a `TrainingPlatform` and nothing else, run on the embedded server.

The loop resumes by itself: it asks the platform how many steps the session has behind it. Here it is stopped in the
middle and started again, as a scheduler would do; the second part goes on where the first one ended.

    python examples/training_platform.py
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import tinker_actors as ta
from tinker_actors.compat.platform import SessionConfig, TinkerPlatform, TrainingPlatform
from tinker_actors.tokenization import get_tokenizer

PAIRS = [("red", "der"), ("green", "neerg"), ("blue", "eulb"), ("amber", "rebma")]
STEPS = 24
CONFIG = SessionConfig(base_model="local/tiny", rank=16, seed=1, name="reverse")


def example(word: str, answer: str) -> ta.Datum:
    """The loss counts the answer, not the question."""
    tokenizer = get_tokenizer(CONFIG.base_model)
    question, reply = tokenizer.encode(f"{word}:"), tokenizer.encode(answer)
    tokens = question + reply
    return ta.Datum(
        model_input=ta.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
            "weights": ta.TensorData([0.0] * (len(question) - 1) + [1.0] * len(reply), dtype="float32"),
        },
    )


def train(platform: TrainingPlatform[Any], total: int) -> str:
    """Take the steps that are left up to `total`, and save; the checkpoint's path."""
    session = platform.create_session(CONFIG)
    batch = [example(*pair) for pair in PAIRS]
    for step in range(platform.steps_taken(session), total):
        loss = platform.forward_backward(session, batch, "cross_entropy").metrics["loss:sum"]
        platform.optim_step(session, ta.AdamParams(learning_rate=5e-3))
        if step % 6 == 0:
            sys.stdout.write(f"step {step}: loss {loss:.2f}\n")
    return platform.save_checkpoint(session, f"after-{total}")


def main() -> None:
    """Train in two parts."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        for total in (STEPS // 2, STEPS):
            with TinkerPlatform.open(base_url="local", run_dir=run_dir) as platform:
                sys.stdout.write(f"saved {train(platform, total).rpartition('/')[2]}\n")


if __name__ == "__main__":
    main()
