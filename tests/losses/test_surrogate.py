"""The two requests of a custom loss: what goes out, and what is read of the answer."""

import json
from typing import Any

import numpy as np
import pytest

import tinker_actors as ta
from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.losses.surrogate import forward_data, logprobs_of, weighted_data
from tinker_actors.types import ForwardBackwardOutput, TensorData
from tinker_actors.wire.json import read_output_document


def datum(**inputs: Any) -> ta.Datum:
    return ta.Datum(model_input=ta.ModelInput.from_ints([1, 2]), loss_fn_inputs=inputs)


PLAIN = datum(target_tokens=[3, 4], weights=[0.5, 1.0], advantages=[1.0, 2.0])
TWO_TARGETS = datum(target_tokens=TensorData([[3, 4], [5, 6]], dtype="int64"))


def output(*logprobs: Any) -> ForwardBackwardOutput:
    return ForwardBackwardOutput(loss_fn_outputs=list(logprobs), metrics={})


def test_only_targets_and_weights_are_sent_and_weights_are_0_where_there_are_none() -> None:
    one, two = forward_data([PLAIN, TWO_TARGETS])
    assert one.loss_fn_inputs.keys() == two.loss_fn_inputs.keys() == {"target_tokens", "weights"}
    assert one.loss_fn_inputs["weights"] == PLAIN.loss_fn_inputs["weights"]
    assert two.loss_fn_inputs["weights"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_spans_of_the_data_stay() -> None:
    spans = [ta.PromptProvenanceSpan(sequence_id="s:1", length=2)]
    (sent,) = forward_data([PLAIN.with_provenance(spans, spans)])
    (weighted,) = weighted_data([sent], [np.zeros(2)])
    assert sent.model_input_spans == weighted.model_input_spans == weighted.loss_fn_input_spans == spans


def test_targets_are_wanted() -> None:
    with pytest.raises(ValidationError, match=r"target_tokens; datum 1 has \['weights'\]"):
        forward_data([PLAIN, datum(weights=[1.0])])


def test_weights_are_the_negative_gradient_and_all_else_is_as_it_was() -> None:
    sent = forward_data([PLAIN, TWO_TARGETS])
    one, two = weighted_data(sent, [np.array([0.25, -2.0]), np.array([[1.0, 0.0], [0.0, 3.0]])])
    assert one.loss_fn_inputs["weights"].tolist() == [-0.25, 2.0]
    assert two.loss_fn_inputs["weights"].tolist() == [[-1.0, 0.0], [0.0, -3.0]]
    assert one.model_input.to_ints() == PLAIN.model_input.to_ints()
    assert one.loss_fn_inputs["target_tokens"] == PLAIN.loss_fn_inputs["target_tokens"]


@pytest.mark.parametrize(
    "logprobs",
    [
        {"data": [-1.0, -2.0], "dtype": "float32", "shape": [2]},
        {"data": [-1.0, -2.0], "dtype": "float32"},
        [-1.0, -2.0],
    ],
    ids=["with its shape", "flat", "a list alone"],
)
def test_logprobs_are_read_in_every_form_that_services_have(logprobs: Any) -> None:
    document = {
        "type": "forward_backward",
        "loss_fn_outputs": [{"logprobs": logprobs}],
        "loss_fn_output_type": "ArrayRecord",
        "metrics": {},
    }
    found = logprobs_of(read_output_document(json.dumps(document).encode()), [PLAIN])
    assert [row.tolist() for row in found] == [[-1.0, -2.0]]


def test_logprobs_come_in_the_shape_of_their_targets() -> None:
    flat = TensorData([-1.0, -2.0, -3.0, -4.0])
    assert logprobs_of(output({"logprobs": flat}), [TWO_TARGETS])[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (output(), "a forward of 1 data gives as many outputs, got 0"),
        (output({"losses": TensorData([1.0])}), r"for datum 0 it gave \['losses'\]"),
        (output({"logprobs": TensorData([1.0])}), r"one logprob a target, \(2,\) for datum 0, got \(1,\)"),
    ],
    ids=["none", "other", "short"],
)
def test_an_answer_that_does_not_fit_is_the_services_fault(given: ForwardBackwardOutput, words: str) -> None:
    with pytest.raises(APIResponseValidationError, match=words):
        logprobs_of(given, [PLAIN])
