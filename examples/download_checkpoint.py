"""Train a little, save, and fetch the adapter to disk, where PEFT and others read it.

python examples/download_checkpoint.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer


def batch() -> list[ta.Datum]:
    """One example."""
    tokens = get_tokenizer("local/tiny").encode("weights that one can hold")
    targets = ta.TensorData(tokens[1:], dtype="int64")
    weights = ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32")
    return [ta.Datum(ta.ModelInput.from_ints(tokens[:-1]), {"target_tokens": targets, "weights": weights})]


def main(folder: Path) -> None:
    """Fetch what was trained into `folder`."""
    with ta.ServiceClient(base_url="local") as service:
        training = service.create_lora_training_client("local/tiny", rank=8).result()
        training.forward_backward(batch(), "cross_entropy")
        training.optim_step(ta.AdamParams(learning_rate=1e-3))
        saved = training.save_weights_for_sampler("mine").result()
        came: list[int] = []
        fetched = (
            service.create_rest_client()
            .download_checkpoint(saved.path or "", folder, progress=came.append)
            .result()
        )
        for file in sorted(fetched.iterdir()):
            sys.stdout.write(f"{file.name}: {file.stat().st_size} bytes\n")
        sys.stdout.write(f"{came[-1]} bytes came\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
