"""A loss of one's own, in numpy: the focal loss, which counts most where the model is wrong most, near where it began.

The loss is a function of the logprobs and gives its gradient by them; the service does the rest. A regularizer from
`tinker_actors.losses` keeps the logprobs near the first ones, which each datum has beside its targets. The update is
submitted before the loss is computed: it waits for its turn.

    python examples/custom_loss.py [STEPS]
"""

import sys
import tempfile
from collections.abc import Sequence

import numpy as np

import tinker_actors as ta
from tinker_actors.losses import Array, Consistency, Evaluation, Pipeline, RegularizerSpec, value_and_grad
from tinker_actors.tokenization import get_tokenizer

FOCUS = 2.0
"""How much less a token counts that the model is sure of."""


@value_and_grad
def focal_loss(data: Sequence[ta.Datum], logprobs: Sequence[Array]) -> Evaluation:
    """-(1 - p)**FOCUS * log p of each token that counts.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (2017).
    """
    loss, gradients = 0.0, []
    for datum, logp in zip(data, logprobs, strict=True):
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        p = np.exp(logp)
        loss -= float((weights * (1 - p) ** FOCUS * logp).sum())
        gradients.append(weights * (FOCUS * (1 - p) ** (FOCUS - 1) * p * logp - (1 - p) ** FOCUS))
    tokens = sum(float(datum.loss_fn_inputs["weights"].to_numpy().sum()) for datum in data)
    return Evaluation(loss, gradients, {"focal:mean": loss / tokens})


def examples() -> list[ta.Datum]:
    """What is to be learned: some words and their translation."""
    tokenizer = get_tokenizer("local/tiny")
    data = []
    for question, answer in (("hello", "ellohay"), ("world", "orldway"), ("apple", "appleway")):
        asked, said = tokenizer.encode(question), [*tokenizer.encode(answer), tokenizer.eos_token_id]
        tokens, weights = asked + said, [0.0] * (len(asked) - 1) + [1.0] * len(said)
        data.append(
            ta.Datum(
                model_input=ta.ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={
                    "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
                    "weights": ta.TensorData(weights, dtype="float32"),
                },
            )
        )
    return data


def with_first_logprobs(data: list[ta.Datum], first: ta.ForwardBackwardOutput) -> list[ta.Datum]:
    """`data` with the logprobs that the regularizer compares with; they stay here."""
    return [
        ta.Datum(
            model_input=datum.model_input,
            loss_fn_inputs={**datum.loss_fn_inputs, "original_logprobs": output["logprobs"]},
        )
        for datum, output in zip(data, first.loss_fn_outputs, strict=True)
    ]


def main(steps: int) -> None:
    """Train for so many steps."""
    near = Pipeline([RegularizerSpec(Consistency(), weight=0.05, name="near")], track_grad_norms=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ta.ServiceClient(base_url="local", run_dir=f"{folder}/run") as service,
    ):
        training = service.create_lora_training_client("local/tiny", rank=8, seed=7).result()
        plain = examples()
        data = with_first_logprobs(plain, training.forward(plain, "cross_entropy").result())
        for step in training.steps(steps):
            loss = training.forward_backward_custom(data, focal_loss, regularizers=near)
            update = training.optim_step(ta.AdamParams(learning_rate=5e-3))
            metrics = loss.result().metrics
            print(
                f"step {step}: focal loss {metrics['focal:mean']:.3f} a token, "
                f"of {metrics['loss:sum']:.2f} in all {metrics['regularizer/near:sum']:.3f} to stay near, "
                f"gradient {metrics['total_grad_norm:max']:.2f}"
            )
            update.result()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
