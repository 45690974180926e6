"""Reinforce what a reward model likes; the reward model is an actor, crashes, and is brought back.

The reward model lives in the same tree as the training run. It crashes at every fifth batch; its supervisor starts
another incarnation, and the loop asks again, at the same address. Rewards are higher for text with more vowels.

    python examples/reward_model_actor.py [STEPS]
"""

import sys
from typing import Any

import tinker_actors as ta
from tinker_actors.supervision import Backoff, ChildRestarting, ChildSpec, Proxy, SupervisedActor
from tinker_actors.tokenization import get_tokenizer

MODEL = "local/tiny"
GROUP, TOKENS = 16, 12
LIFE, TRIES = 5, 3


def say(line: str) -> None:
    """Print from any thread."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class RewardModel(SupervisedActor):
    """Scores texts by their share of vowels; what it counted is gone with each incarnation."""

    exposed = ("score", "seen")

    def on_start(self) -> None:
        """Begin anew: this is where a real one would load its weights."""
        self.seen = 0

    def score(self, texts: list[str]) -> list[float]:
        """A reward for each text, from 0 to 1."""
        self.seen += 1
        if self.seen == LIFE:
            raise MemoryError("the reward model ran out of memory")
        return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]


def rewards_of(proxy: Proxy, texts: list[str]) -> list[float]:
    """Rewards, from whichever incarnation is there; a batch that one crashed on goes to the next."""
    for _ in range(TRIES):
        reply = proxy.score(texts)
        error = reply.exception()
        if error is None:
            break
        say(f"  asking again after: {error}")
    rewards: list[float] = reply.result()
    return rewards


def datum(prompt: list[int], sequence: ta.SampledSequence, advantage: float) -> ta.Datum:
    """One sample as training data; the prompt counts for nothing."""
    tokens, count = prompt + list(sequence.tokens), len(sequence.tokens)
    rest = [0.0] * (len(prompt) - 1)
    return ta.Datum(
        model_input=ta.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
            "logprobs": ta.TensorData(rest + list(sequence.logprobs or []), dtype="float32"),
            "advantages": ta.TensorData(rest + [advantage] * count, dtype="float32"),
        },
    )


def note(event: Any) -> None:
    """Say on screen what the supervisor does."""
    if isinstance(event, ChildRestarting) and event.path.endswith("/reward"):
        say(f"  {event.path} is restarted (restart {event.restarts})")


def main(steps: int) -> None:
    """Train for `steps` optimizer steps."""
    tokenizer = get_tokenizer(MODEL)
    prompt = tokenizer.encode("the ")
    with ta.ServiceClient(base_url="local") as service:
        service.subscribe(note)
        # What is sent while it waits for its restart waits with it.
        spec = ChildSpec("reward", RewardModel, backoff=Backoff(base_s=0.05, cap_s=30.0))
        reward = service.application.start(spec).result().proxy(RewardModel)
        training = service.create_lora_training_client(MODEL, rank=16, seed=1).result()
        for step in training.steps(steps):
            sampler = training.save_weights_and_get_sampling_client().result()
            params = ta.SamplingParams(max_tokens=TOKENS, temperature=1.0, seed=step)
            samples = sampler.sample(ta.ModelInput.from_ints(prompt), GROUP, params).result().sequences
            rewards = rewards_of(reward, [tokenizer.decode(list(one.tokens)) for one in samples])
            mean = sum(rewards) / len(rewards)
            batch = [datum(prompt, one, got - mean) for one, got in zip(samples, rewards, strict=True)]
            training.forward_backward(batch, "importance_sampling")
            training.optim_step(ta.AdamParams(learning_rate=1e-2)).result()
            say(f"step {step}: mean reward {mean:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16)
