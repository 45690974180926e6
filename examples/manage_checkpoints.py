"""What a service keeps of runs: listed, looked into, shared, kept for a time, deleted, and trained on from.

python examples/manage_checkpoints.py
"""

import sys

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer

HOUR_S = 3600


def batch() -> list[ta.Datum]:
    """One example."""
    tokens = get_tokenizer("local/tiny").encode("what is kept can be found again")
    targets = ta.TensorData(tokens[1:], dtype="int64")
    weights = ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32")
    return [ta.Datum(ta.ModelInput.from_ints(tokens[:-1]), {"target_tokens": targets, "weights": weights})]


def train(training: ta.TrainingClient, steps: int) -> float:
    """Take some steps; the loss at the last of them."""
    losses = []
    for _ in range(steps):
        losses.append(training.forward_backward(batch(), "cross_entropy"))
        training.optim_step(ta.AdamParams(learning_rate=1e-3))
    return losses[-1].result().metrics["loss:sum"]


def say(line: str) -> None:
    """Print it."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Make three checkpoints, and do with them what one does."""
    with ta.ServiceClient(base_url="local", user_metadata={"team": "blue"}) as service:
        training = service.create_lora_training_client("local/tiny", rank=8, seed=1).result()
        train(training, 5)
        early = training.save_state("early").result().path
        train(training, 5)
        late = training.save_state("late").result().path
        training.save_weights_for_sampler("late").result()

        rest = service.create_rest_client()
        (run,) = rest.iter_training_runs()
        say(f"run of {run.base_model}, rank {run.lora_rank}: {'given up' if run.corrupted else 'sound'}")
        for saved in rest.list_checkpoints(run.training_run_id).result().checkpoints:
            say(f"{saved.checkpoint_type} {saved.name}: {saved.size_bytes} bytes")
        info = rest.get_weights_info_by_tinker_path(late).result()
        say(f"late trains the MLP: {'yes' if info.train_mlp else 'no'}")

        rest.publish_checkpoint_from_tinker_path(late).result()
        rest.set_checkpoint_ttl_from_tinker_path(late, 24 * HOUR_S).result()
        rest.delete_checkpoint_from_tinker_path(early).result()
        for saved in rest.iter_user_checkpoints():
            expires = "never" if saved.expires_at is None else "in a day"
            say(
                f"kept: {saved.checkpoint_type} {saved.name}, {'public' if saved.public else 'private'}, deleted {expires}"
            )
        try:
            service.create_training_client_from_state_with_optimizer(early).result()
        except ta.TinkerActorsError as error:
            say(f"early cannot be gone on from: {type(error).__name__}")
        other = service.create_training_client_from_state_with_optimizer(late).result()
        say(f"the same loss in both runs: {'yes' if train(other, 1) == train(training, 1) else 'no'}")


if __name__ == "__main__":
    main()
