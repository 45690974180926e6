"""Which form a training request travels in, and how that is found out."""

import msgspec
import pytest

from tinker_actors.api.codecs import Capabilities, Codec, in_a_known_codec
from tinker_actors.api.futures import Outcome, RoundTrips
from tinker_actors.api.training import forward_backward, optim_step
from tinker_actors.errors import APIStatusError, UnprocessableEntityError
from tinker_actors.types import Datum, ModelInput, TensorData
from tinker_actors.wire.calls import JSON, PROTOBUF, Answer, Call, json_body
from tinker_actors.wire.documents import FutureHandle
from tinker_actors.wire.protobuf import encode_training_content

DATA = [
    Datum(
        model_input=ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": TensorData([[0, 9], [0, 0]]).to_sparse()},
    )
]
TRAINING = forward_backward("m", 3, encode_training_content(DATA, "cross_entropy"))
HANDLE = Answer(200, {"content-type": JSON}, b'{"request_id": "7"}')


def refusal(status: int) -> Answer:
    return Answer(status, {"content-type": JSON}, b'{"detail": "no"}')


def send(call: Call[FutureHandle]) -> RoundTrips[Answer]:
    outcome = yield call
    assert isinstance(outcome, Answer)
    return outcome.success()


class Server:
    """Gives one answer after the other, and keeps what it was sent and what is known of it."""

    def __init__(self, *answers: Answer, codec: Codec | None = None, has_flags: bool = True) -> None:
        self.known = Capabilities(codec=codec, has_flags=has_flags)
        self.sent: list[str] = []
        self._answers = iter(answers)

    def note(self, codec: Codec) -> None:
        self.known = msgspec.structs.replace(self.known, codec=codec)

    def submit(self, call: Call[FutureHandle] = TRAINING) -> Answer:
        steps = in_a_known_codec(call, lambda: self.known, self.note, send)
        given: Outcome = None
        while True:
            try:
                step = steps.send(given)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            assert isinstance(step, Call)
            self.sent.append(step.content_type)
            given = next(self._answers)


@pytest.mark.parametrize(
    ("status", "has_flags"), [(415, True), (415, False), (400, False), (422, False)], ids=str
)
def test_what_is_refused_as_protobuf_is_tried_in_json(status: int, has_flags: bool) -> None:
    server = Server(refusal(status), HANDLE, HANDLE, has_flags=has_flags)
    assert server.submit() == HANDLE
    assert server.submit() == HANDLE
    assert server.sent == [PROTOBUF, JSON, JSON]
    assert server.known.codec is Codec.JSON


@pytest.mark.parametrize(
    ("status", "has_flags"), [(400, True), (422, True), (404, False), (409, False)], ids=str
)
def test_other_refusals_say_nothing_about_the_codec(status: int, has_flags: bool) -> None:
    server = Server(refusal(status), has_flags=has_flags)
    with pytest.raises(APIStatusError):
        server.submit()
    assert (server.sent, server.known.codec) == ([PROTOBUF], None)


def test_what_is_refused_in_both_forms_leaves_the_question_open() -> None:
    server = Server(refusal(400), refusal(422), has_flags=False)
    with pytest.raises(UnprocessableEntityError):
        server.submit()
    assert server.known.codec is None


def test_a_server_that_took_protobuf_is_not_asked_again() -> None:
    server = Server(HANDLE, refusal(422), has_flags=False)
    server.submit()
    with pytest.raises(UnprocessableEntityError):
        server.submit()
    assert server.sent == [PROTOBUF, PROTOBUF]


def test_what_has_one_form_is_sent_in_it() -> None:
    server = Server(refusal(422), codec=None, has_flags=False)
    with pytest.raises(UnprocessableEntityError):
        server.submit(optim_step("m", 4, json_body({"learning_rate": 1.0})))
    assert server.sent == [JSON]


def test_the_request_is_the_same_in_both_forms() -> None:
    assert TRAINING.in_json is not None
    call = TRAINING.in_json()
    assert (call.path, call.content_type, call.retry) == ("forward_backward", JSON, TRAINING.retry)
    assert call.body == TRAINING.in_json().body
    assert msgspec.json.decode(call.body) == {
        "model_id": "m",
        "seq_id": 3,
        "forward_backward_input": {
            "data": [
                {
                    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
                    "loss_fn_inputs": {
                        "target_tokens": {"data": [0, 9, 0, 0], "dtype": "int64", "shape": [2, 2]}
                    },
                }
            ],
            "loss_fn": "cross_entropy",
        },
    }


def test_without_gradients_it_has_an_endpoint_of_its_own_in_json() -> None:
    content = encode_training_content(DATA, "ppo", {"clip_low_threshold": 0.9}, forward_only=True)
    make = forward_backward("m", 3, content).in_json
    assert make is not None
    body = msgspec.json.decode(make().body)
    assert make().path == "forward"
    assert body["forward_input"]["loss_fn_config"] == {"clip_low_threshold": 0.9}
