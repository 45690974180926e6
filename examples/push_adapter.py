"""Train a little, and put the adapter on the Hugging Face hub, where PEFT finds it.

HF_TOKEN=hf_... python examples/push_adapter.py [REPOSITORY]

The repository is private. To try it without the hub, serve one on this machine with `python tests/support/fake_hub.py`,
and export the variables that it prints.
"""

import sys

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer


def batch() -> list[ta.Datum]:
    """One example."""
    tokens = get_tokenizer("local/tiny").encode("weights for everybody")
    targets = ta.TensorData(tokens[1:], dtype="int64")
    weights = ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32")
    return [ta.Datum(ta.ModelInput.from_ints(tokens[:-1]), {"target_tokens": targets, "weights": weights})]


def main(repository: str | None) -> None:
    """Put what was trained into `repository`, or into one that is named after the run."""
    with ta.ServiceClient(base_url="local") as service:
        training = service.create_lora_training_client("local/tiny", rank=8).result()
        training.forward_backward(batch(), "cross_entropy")
        training.optim_step(ta.AdamParams(learning_rate=1e-3))
        saved = training.save_weights_for_sampler("mine").result()
        rest = service.create_rest_client()
        try:
            pushed = rest.push_checkpoint_adapter(saved.path or "", repository).result()
        except ta.ConfigError as error:
            sys.exit(str(error))
        sys.stdout.write(f"{pushed.repo_id} at {pushed.revision}: {pushed.commit_url}\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
