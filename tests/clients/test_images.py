"""Training data with more than text in it."""

import pytest
from harness import WAIT_S, Server, client

import tinker_actors as ta

IMAGE = ta.ImageChunk(data=b"\x89PNG", format="png", expected_tokens=3)


def datum(*chunks: ta.ImageChunk | ta.EncodedTextChunk, targets: int) -> ta.Datum:
    return ta.Datum(
        model_input=ta.ModelInput(chunks=list(chunks)),
        loss_fn_inputs={
            "target_tokens": ta.TensorData([1] * targets, dtype="int64"),
            "weights": ta.TensorData([1.0] * targets, dtype="float32"),
        },
    )


def test_an_image_takes_the_tokens_that_it_is_expected_to_take(server: Server) -> None:
    text = ta.EncodedTextChunk(tokens=[1, 2])
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        with pytest.raises(ta.ShapeError, match="one entry per input token, 5"):
            training.forward([datum(text, IMAGE, targets=4)], "cross_entropy")
        # The embedded server sees no images, and says so.
        with pytest.raises(ta.APIStatusError, match="image"):
            training.forward([datum(text, IMAGE, targets=5)], "cross_entropy").result(WAIT_S)
