"""Chunks, model inputs and data: lengths, builders, other libraries' objects, provenance."""

import base64
from array import array
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinker_actors.errors import ShapeError, ValidationError
from tinker_actors.types import (
    Chunk,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    TensorData,
)

AUDIO = bytes([3, 2, 0x85, 0x02, 8]) + b"payload"  # dtype 3, two dimensions, 261 and 8
CHUNKS: list[Chunk] = [
    EncodedTextChunk(tokens=[1, 2]),
    ImageChunk(data=b"\x89PNG", format="png", expected_tokens=5),
    ImageAssetPointerChunk(format="jpeg", location="s3://images/1", expected_tokens=7),
    DmelChunk(dmel=AUDIO),
]


class PromptSpan:
    """Not the name of any span."""

    sequence_id, offset, length = "s", 0, 1


def foreign_span(kind: str, **fields: Any) -> Any:
    return type(kind, (), {"sequence_id": "s:1", "offset": 0} | fields)()


def datum(**more: Any) -> Datum:
    inputs = {"target_tokens": [2, 3, 4], "weights": [1, 1, 0]}
    return Datum(model_input=ModelInput.from_ints([1, 2, 3]), loss_fn_inputs=inputs, **more)  # type: ignore[arg-type]  # lists are taken, too


# Chunks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "kind", "length"),
    list(zip(CHUNKS, ["encoded_text", "image", "image_asset_pointer", "dmel"], [2, 5, 7, 261], strict=True)),
)
def test_each_chunk_says_its_kind_and_its_length(chunk: Any, kind: str, length: int) -> None:
    assert (chunk.type, chunk.length) == (kind, length)
    assert ModelInput(chunks=[chunk, chunk]).length == 2 * length


@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_chunk_comes_back_out_of_its_json(chunk: Any) -> None:
    whole = ModelInput(chunks=[chunk])
    assert msgspec.json.decode(msgspec.json.encode(whole), type=ModelInput) == whole


def test_chunks_have_the_fields_of_the_public_json() -> None:
    encoded = base64.b64encode(b"\x89PNG").decode()
    assert msgspec.to_builtins(CHUNKS[:3]) == [
        {"type": "encoded_text", "tokens": [1, 2]},
        {"type": "image", "data": encoded, "format": "png", "expected_tokens": 5},
        {"type": "image_asset_pointer", "format": "jpeg", "location": "s3://images/1", "expected_tokens": 7},
    ]
    assert msgspec.to_builtins(ImageChunk(data=b"", format="png")) == {
        "type": "image",
        "data": "",
        "format": "png",
    }


def test_an_image_may_be_given_as_base64() -> None:
    text: Any = base64.b64encode(b"\x00\xff").decode()
    assert ImageChunk(data=text, format="png").data == b"\x00\xff"


@pytest.mark.parametrize("chunk", [CHUNKS[1], CHUNKS[2]])
def test_an_image_of_unknown_length_has_none(chunk: Any) -> None:
    unknown = ModelInput(chunks=[msgspec.structs.replace(chunk, expected_tokens=None)])
    assert unknown.known_length is None
    with pytest.raises(ValidationError, match="expected_tokens"):
        _ = unknown.length


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageChunk(data=b"", format="gif"),  # type: ignore[arg-type]
        lambda: ImageChunk(data="!!", format="png"),  # type: ignore[arg-type]
        lambda: ImageChunk(data=None, format="png"),  # type: ignore[arg-type]
        lambda: ImageChunk(data=b"", format="png", expected_tokens=-1),
        lambda: ImageChunk(data=b"", format="png", expected_tokens=2**31),
        lambda: ImageAssetPointerChunk(format="png", location=""),
        lambda: ImageAssetPointerChunk(format="png", location="\ud800"),
        lambda: DmelChunk(dmel=5),  # type: ignore[arg-type]
    ],
)
def test_malformed_chunks_are_refused(make: Any) -> None:
    with pytest.raises(ValidationError):
        make()


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"\x00\x01\x05", 5),
        (b"\xfe\x07\x01\x05", 5),
        (b"", None),
        (b"\xfe", None),
        (b"\x08\x01\x05", None),
        (b"\x00\x00", None),
        (b"\x00\x01", None),
        (b"\x00\x01\x85", None),
        (b"\x00\x01" + b"\xff" * 20, None),
        (b"\x00\x01\x80\x80\x80\x80\x08", None),
    ],
)
def test_the_length_of_audio_is_in_its_header(header: bytes, length: int | None) -> None:
    if length is not None:
        assert DmelChunk(dmel=header).length == length
        return
    with pytest.raises(ValidationError, match="dmel"):
        _ = DmelChunk(dmel=header).length


@given(st.binary(max_size=40))
def test_no_audio_header_is_an_untyped_error(header: bytes) -> None:
    try:
        assert 0 <= DmelChunk(dmel=header).length < 2**31
    except ValidationError:
        return


# Model inputs -----------------------------------------------------------------------------------------


def test_builders_give_inputs_of_their_own() -> None:
    empty = ModelInput.empty()
    one = empty.append_int(1)
    two = one.append_int(2)
    assert (empty.length, one.to_ints(), two.to_ints()) == (0, [1], [1, 2])
    assert len(two.chunks) == 1
    assert [chunk.type for chunk in two.append(CHUNKS[1]).append_int(3).chunks] == [
        "encoded_text",
        "image",
        "encoded_text",
    ]


@pytest.mark.parametrize("tokens", [[1.5], [-1], [2**31], [[1]], ["a"], [[1], [1, 2]]])
def test_what_is_no_token_id_is_refused(tokens: Any) -> None:
    with pytest.raises(ValidationError, match="token ids"):
        ModelInput.from_ints(tokens).to_numpy()


def test_only_text_has_token_ids() -> None:
    mixed = ModelInput(chunks=CHUNKS)
    for read in (mixed.to_ints, mixed.to_numpy):
        with pytest.raises(ValidationError, match="dmel, image, image_asset_pointer"):
            read()
    assert mixed.text_ids().tolist() == [1, 2]


def test_chunks_of_another_library_are_taken_by_their_structure() -> None:
    foreign = [SimpleNamespace(type=chunk.type, **msgspec.structs.asdict(chunk)) for chunk in CHUNKS]
    assert ModelInput.of(SimpleNamespace(chunks=foreign)) == ModelInput(chunks=CHUNKS)
    ours: Any = foreign
    assert ModelInput.of(ModelInput(chunks=ours)) == ModelInput(chunks=CHUNKS)


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        5,
        None,
        SimpleNamespace(chunks=5),
        SimpleNamespace(chunks="text"),
        SimpleNamespace(chunks=[5]),
        SimpleNamespace(chunks=[SimpleNamespace(type="video", data=b"")]),
        SimpleNamespace(chunks=[SimpleNamespace(type="image", data=b"")]),
        SimpleNamespace(chunks=[SimpleNamespace(type="image_asset_pointer", format="png")]),
    ],
)
def test_what_is_no_model_input_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="model input"):
        ModelInput.of(wrong)


def test_arrays_are_token_ids() -> None:
    assert ModelInput.of(np.array([1, 2])) == ModelInput.from_ints([1, 2])


class Encoder:
    """A tokenizer of another library: an id a character; texts begin with 0 where asked."""

    def __init__(self, make: Any = list) -> None:
        self._make = make

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        return self._make([0] * add_special_tokens + [ord(one) for one in text])


@pytest.mark.parametrize(
    "tokenizer",
    [
        Encoder(),
        Encoder(np.array),
        Encoder(lambda ids: SimpleNamespace(ids=ids)),
        SimpleNamespace(get_tokenizer=Encoder),
        "local/tiny",
    ],
    ids=["list", "array", "object with ids", "client", "model's name"],
)
def test_text_is_encoded_by_whatever_encodes_text(tokenizer: Any) -> None:
    made = ModelInput.from_text("ab", tokenizer)
    assert (made.to_ints(), made.length, [chunk.type for chunk in made.chunks]) == (
        [97, 98],
        2,
        ["encoded_text"],
    )


def test_special_tokens_are_added_to_a_text_only_when_asked() -> None:
    assert ModelInput.from_text("ab", Encoder(), add_special_tokens=True).to_ints() == [0, 97, 98]
    assert ModelInput.from_text("ab", "local/tiny", add_special_tokens=True).to_ints() == [257, 97, 98]


@pytest.mark.parametrize("tokenizer", [None, 7, object(), SimpleNamespace(get_tokenizer=lambda: None)])
def test_what_encodes_no_text_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValidationError, match="encoded by a tokenizer with encode"):
        ModelInput.from_text("ab", tokenizer)


@pytest.mark.parametrize(
    ("text", "tokenizer", "message"),
    [
        (b"ab", Encoder(), "text to encode must be a string, got bytes"),
        ("ab", "local/other", "tokenizers exist for"),
        ("ab", Encoder(str), "token ids"),
        ("ab", Encoder(lambda _: [-1]), "token ids"),
    ],
    ids=["bytes", "unknown model", "ids that are text", "negative ids"],
)
def test_text_that_cannot_be_encoded_is_refused(text: Any, tokenizer: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelInput.from_text(text, tokenizer).to_numpy()


# Data -------------------------------------------------------------------------------------------------


def test_a_datum_of_another_library_is_taken_by_its_structure() -> None:
    chunk = SimpleNamespace(type="encoded_text", tokens=(1, 2))
    foreign = SimpleNamespace(
        model_input=SimpleNamespace(chunks=[chunk]), loss_fn_inputs={"weights": [0.0, 1.0]}
    )
    taken = Datum.of(foreign)
    assert taken.model_input.to_ints() == [1, 2]
    assert taken.loss_fn_inputs["weights"] == TensorData([0.0, 1.0])


def test_lists_get_the_dtype_of_their_name() -> None:
    made = datum()
    assert made.loss_fn_inputs["target_tokens"] == TensorData([2, 3, 4], dtype="int64")
    assert made.loss_fn_inputs["weights"] == TensorData([1.0, 1.0, 0.0], dtype="float32")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mine": [1.0]}, "mine is no known loss input"),
        ({"target_tokens": [1.5]}, "target_tokens must be integers"),
        ({"weights": [[1.0], [1.0, 2.0]]}, "weights must be numbers.*one length"),
        ({"weights": ["a"]}, "integers or floats"),
        ({5: [1.0]}, "name of a loss input"),
        ({"\ud800": np.ones(1)}, "name of a loss input"),
        ([1.0], "mapping of names"),
    ],
)
def test_loss_inputs_that_are_no_tensors_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs=inputs)


@pytest.mark.parametrize("name", ["weights", "advantages", "logprobs", "sequence_ratio_mask"])
def test_what_goes_into_a_sum_must_be_finite(name: str) -> None:
    wrong = Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs={name: TensorData([float("nan")])})
    with pytest.raises(ValidationError, match=f"{name} must be finite"):
        Datum.of(wrong)


def test_thresholds_and_inputs_of_unknown_name_may_be_infinite() -> None:
    inputs = {"clip_high_threshold": TensorData([float("inf")]), "mine": TensorData([float("nan")])}
    assert (
        Datum.of(Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs=inputs)).loss_fn_inputs == inputs
    )


def test_torch_targets_of_several_columns_are_made_sparse() -> None:
    values = np.array([[0, 0, 0, 0, 0, 7], [0] * 6])
    tensor: Any = SimpleNamespace(is_floating_point=lambda: False, numpy=lambda: values)
    tensor.detach = tensor.cpu = lambda: tensor
    inputs: Any = {"target_tokens": tensor, "mine": tensor}
    made = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs=inputs).loss_fn_inputs
    assert (made["target_tokens"].is_sparse, made["mine"].is_sparse) == (True, False)
    assert made["target_tokens"].tolist() == values.tolist()


# Provenance -------------------------------------------------------------------------------------------


def test_spans_come_as_a_pair_that_covers_every_token() -> None:
    prompt = PromptProvenanceSpan(sequence_id="s:1", length=2)
    sampled = SampledProvenanceSpan(sequence_id="s:1", offset=4, length=1)
    made = datum().with_provenance([prompt, sampled], [sampled, prompt])
    assert (made.model_input_spans, made.loss_fn_input_spans) == ([prompt, sampled], [sampled, prompt])
    assert made.loss_fn_inputs == datum().loss_fn_inputs
    with pytest.raises(ShapeError, match="model_input must cover its 3 tokens"):
        datum().with_provenance([prompt], [sampled, prompt])
    with pytest.raises(ShapeError, match="target_tokens must cover its 3 tokens"):
        datum().with_provenance([prompt, sampled], [sampled])
    with pytest.raises(ValidationError, match="pair"):
        datum(model_input_spans=[prompt, sampled])


def test_an_image_of_unknown_length_is_taken_on_trust() -> None:
    unknown = ModelInput(chunks=[ImageChunk(data=b"", format="png")])
    span = PromptProvenanceSpan(sequence_id="s:1", length=9)
    assert Datum(model_input=unknown, model_input_spans=[span], loss_fn_input_spans=[]).model_input_spans


def test_spans_of_another_library_are_told_apart_by_their_class() -> None:
    spans = [
        foreign_span("PromptProvenanceSpan", length=1),
        foreign_span("SampledProvenanceSpan", offset=3, length=2),
    ]
    assert datum(model_input_spans=spans, loss_fn_input_spans=spans).model_input_spans == [
        PromptProvenanceSpan(sequence_id="s:1", length=1),
        SampledProvenanceSpan(sequence_id="s:1", offset=3, length=2),
    ]


@pytest.mark.parametrize("wrong", [5, "spans", [5], [PromptSpan()], [None], np.array(5)])
def test_what_is_no_span_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="model_input_spans"):
        datum(model_input_spans=wrong, loss_fn_input_spans=wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"sequence_id": ""}, {"sequence_id": None}, {"length": -1}, {"length": 1.5}, {"offset": 2**63}],
)
def test_malformed_spans_are_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"sequence_id": "s:1", "length": 1} | wrong
    for kind in (PromptProvenanceSpan, SampledProvenanceSpan):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            kind(**fields)


@pytest.mark.parametrize(
    "tokens",
    [(1, 2), range(1, 3), iter([1, 2]), np.array([1, 2]), np.array([1, 2], np.uint8), array("i", [1, 2])],
    ids=["tuple", "range", "iterator", "array", "bytes of an array", "array of the library"],
)
def test_token_ids_come_in_whatever_has_an_order(tokens: Any) -> None:
    model_input = ModelInput.from_ints(tokens)
    assert (model_input.length, list(model_input.to_ints())) == (2, [1, 2])
    third: Any = np.int64(3)
    assert model_input.append_int(third).to_numpy().tolist() == [1, 2, 3]


@pytest.mark.parametrize("tokens", ["12", b"12", {1, 2}, {1: 2}, 5, None, np.array(5)], ids=repr)
def test_what_has_no_order_or_holds_no_ids_is_refused_when_it_is_given(tokens: Any) -> None:
    with pytest.raises(ValidationError, match="flat list of integers"):
        ModelInput.from_ints(tokens)


@pytest.mark.parametrize("token", [-1, 2**31, 1.5, "1", True, None], ids=repr)
def test_a_token_that_is_no_id_is_not_appended(token: Any) -> None:
    with pytest.raises(ValidationError, match="a token id must be"):
        ModelInput.empty().append_int(token)
