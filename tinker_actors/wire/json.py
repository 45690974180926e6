"""Results of forward_backward and of samples in JSON, as servers before protobuf give them."""

from typing import Any

import msgspec

from tinker_actors.errors import APIResponseValidationError, ValidationError
from tinker_actors.types import Datum, ForwardBackwardOutput, SampleResponse, TensorData
from tinker_actors.wire.documents import TensorDocument, WireDatum

__all__ = ["output_document", "read_datum", "read_output_document", "read_sample_document", "sample_document"]


class _OutputDocument(msgspec.Struct):
    loss_fn_outputs: list[dict[str, TensorDocument]]
    metrics: dict[str, float]
    loss_fn_output_type: str = "ArrayRecord"


def _tensor(document: TensorDocument) -> TensorData:
    return TensorData(document.data, dtype=document.dtype, shape=document.shape)


def read_datum(document: WireDatum) -> Datum:
    """A datum out of its JSON form.

    Raises:
        ValidationError: values and shape do not fit.
    """
    tensors = {name: _tensor(tensor) for name, tensor in document.loss_fn_inputs.items()}
    return Datum(model_input=document.model_input, loss_fn_inputs=tensors)


def output_document(output: ForwardBackwardOutput) -> dict[str, Any]:
    """The JSON form of a training result."""
    return {
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": [
            {name: {"data": t.data, "dtype": t.dtype, "shape": t.shape} for name, t in entry.items()}
            for entry in output.loss_fn_outputs
        ],
        "metrics": output.metrics,
    }


def read_output_document(body: bytes) -> ForwardBackwardOutput:
    """A training result out of JSON.

    Raises:
        APIResponseValidationError: the body is no such result.
    """
    try:
        document = msgspec.json.decode(body, type=_OutputDocument)
        outputs = [
            {name: _tensor(tensor) for name, tensor in entry.items()} for entry in document.loss_fn_outputs
        ]
    except (msgspec.DecodeError, UnicodeDecodeError, ValidationError) as error:
        raise APIResponseValidationError(f"a training result was wanted: {error}") from error
    return ForwardBackwardOutput(
        loss_fn_outputs=outputs,
        metrics=document.metrics,
        loss_fn_output_type=document.loss_fn_output_type.rpartition(":")[2],
    )


def sample_document(response: SampleResponse) -> dict[str, Any]:
    """The JSON form of a sample result."""
    return {
        "type": "sample",
        "sequences": [
            {"stop_reason": sequence.stop_reason, "tokens": sequence.tokens, "logprobs": sequence.logprobs}
            for sequence in response.sequences
        ],
        "prompt_logprobs": response.prompt_logprobs,
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    }


def read_sample_document(body: bytes) -> SampleResponse:
    """A sample result out of JSON.

    Raises:
        APIResponseValidationError: the body is no such result.
    """
    try:
        return msgspec.json.decode(body, type=SampleResponse)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise APIResponseValidationError(f"a sample result was wanted: {error}") from error
