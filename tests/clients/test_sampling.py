"""Every option of sampling: what is sent for it, what comes back, and what is said when nothing does."""

import base64
import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import numpy as np
import pytest
from harness import KEY, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.futures import Submissions
from tinker_actors.errors import APIResponseValidationError, BadRequestError, ShapeError, ValidationError
from tinker_actors.types import PromptAltTokens, SampledSequence, SampleResponse
from tinker_actors.wire.json import sample_document
from tinker_actors.wire.protobuf import encode_sample

PROMPT = [1, 2, 3, 4]
PARAMS = ta.SamplingParams(max_tokens=2)
TOPK = ta.TopkLogprobs.from_rows([None, [(7, -0.25), (8, -2.0)], [(9, -0.5)], [(1, -0.125)]])
TARGETS = ta.TensorData([[5], [-1], [6]], dtype="int64")
ANSWER = SampleResponse(
    sequences=[
        SampledSequence(
            tokens=[5, 6],
            logprobs=[-1.0, -2.0],
            stop_reason="length",
            topk_logprobs_np=ta.TopkLogprobs.from_rows([[(5, -1.0)], [(6, -2.0)]]),
        )
    ],
    prompt_logprobs=[None, -1.0, -2.0, -3.0],
    topk_prompt_logprobs_np=TOPK,
    target_prompt_logprobs=ta.TensorData([[-1.0], [0.0], [-3.0]], dtype="float32"),
    prompt_alt_tokens=PromptAltTokens(
        tokens=ta.TensorData(np.ones((3, 2), np.int64)), logprobs=ta.TensorData(np.ones((3, 2), np.float32))
    ),
)
PLAIN = SampleResponse(
    sequences=[SampledSequence(tokens=[5, 6], logprobs=[-1.0, -2.0], stop_reason="length")]
)


class Service:
    """A service on loopback that notes what it is asked, and answers what a test says."""

    def __init__(self) -> None:
        self.begin()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, kind, answer = service.reply(self.path.rpartition("/api/v1/")[2], body)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def begin(self) -> None:
        """Forget what was asked, and answer all that can be asked."""
        self.asked: list[dict[str, Any]] = []
        self.answer = copy.copy(ANSWER)
        self.sequence_ids: list[str] | None = ["s:0:0"]
        self.speaks_protobuf = True
        self.spoiled: bytes | None = None

    def reply(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, media type and body of the answer to a POST."""
        if path == "retrieve_future" and self.speaks_protobuf:
            return 200, "application/x-protobuf", self.spoiled or encode_sample(self.answer)
        if path == "retrieve_future":
            return 200, "application/json", msgspec.json.encode(sample_document(self.answer))
        documents: dict[str, Any] = {
            "create_session": {"session_id": "s"},
            "create_sampling_session": {"sampling_session_id": "s:sample:0"},
            "session_heartbeat": {"type": "session_heartbeat"},
            "asample": {"request_id": "r"} | self._ids(),
        }
        if path == "asample":
            self.asked.append(json.loads(body))
        if path not in documents:
            return 404, "application/json", b"{}"
        return 200, "application/json", msgspec.json.encode(documents[path])

    def _ids(self) -> dict[str, Any]:
        return {} if self.sequence_ids is None else {"sample_sequence_ids": self.sequence_ids}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def listening() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture(scope="module")
def sampler(listening: Service) -> Iterator[ta.SamplingClient]:
    with ta.ServiceClient(base_url=listening.url, api_key=KEY) as one:
        yield one.create_sampling_client(base_model="any/model").result(WAIT_S)


@pytest.fixture
def service(listening: Service) -> Service:
    listening.begin()
    return listening


@pytest.fixture
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks that no place was reserved."""
    added: list[object] = []
    monkeypatch.setattr(Submissions, "add", lambda _, request: added.append(request))
    yield
    assert added == []


# What is sent -----------------------------------------------------------------------------------------


def test_a_plain_sample_says_what_the_official_sdk_says(service: Service, sampler: ta.SamplingClient) -> None:
    sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)
    assert service.asked[0].pop("seq_id") >= 0
    assert service.asked == [
        {
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": PROMPT}]},
            "sampling_session_id": "s:sample:0",
            "num_samples": 1,
            "prompt_logprobs": False,
            "topk_prompt_logprobs": 0,
            "topk_sample_logprobs": 0,
            "prompt_alt_tokens_k": 0,
            "record_stability_info": False,
            "type": "sample",
            "sampling_params": {"max_tokens": 2, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
        }
    ]


def test_every_option_is_sent_and_its_answer_given(service: Service, sampler: ta.SamplingClient) -> None:
    service.answer.prompt_logprobs = [None, None, None, -3.0]
    response = sampler.sample(
        PROMPT,
        1,
        ta.SamplingParams(max_tokens=2, seed=3, stop=["end"]),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=2,
        topk_sample_logprobs=1,
        target_prompt_logprobs=TARGETS,
        prompt_alt_tokens_k=2,
        prompt_logprobs_last_n=1,
    ).result(WAIT_S)
    (asked,) = service.asked
    assert asked["sampling_params"] | {"seed": 3, "stop": ["end"]} == asked["sampling_params"]
    assert asked["target_prompt_logprobs"] == {"data": [5, -1, 6], "dtype": "int64", "shape": [3, 1]}
    names = ("prompt_logprobs", "topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k")
    assert [asked[name] for name in (*names, "prompt_logprobs_last_n")] == [True, 2, 1, 2, 1]
    assert response.sequences[0].topk_logprobs == [[(5, -1.0)], [(6, -2.0)]]
    assert response.topk_prompt_logprobs == TOPK.tolist()
    assert response.prompt_logprobs == [None, None, None, -3.0]
    assert response.target_prompt_logprobs == ANSWER.target_prompt_logprobs
    assert response.prompt_alt_tokens == ANSWER.prompt_alt_tokens


@pytest.mark.parametrize(("stop", "sent"), [("a", "a"), (["a", "b"], ["a", "b"]), ((3,), [3]), ([], [])])
def test_a_stop_is_sent_in_the_form_it_was_given(
    service: Service, sampler: ta.SamplingClient, stop: Any, sent: Any
) -> None:
    sampler.sample(PROMPT, 1, ta.SamplingParams(max_tokens=2, stop=stop)).result(WAIT_S)
    assert service.asked[0]["sampling_params"]["stop"] == sent


def test_a_sparse_question_is_sent_sparse(service: Service, sampler: ta.SamplingClient) -> None:
    ids = ta.TensorData([[-1] * 5, [-1] * 5, [-1, -1, -1, -1, 6]], dtype="int64").to_sparse(pad_value=-1)
    service.answer.target_prompt_logprobs = ta.TensorData([-0.5], "float32", [3, 5], [0, 0, 0, 1], [4])
    response = sampler.sample(PROMPT, 1, PARAMS, target_prompt_logprobs=ids).result(WAIT_S)
    sent = service.asked[0]["target_prompt_logprobs"]
    assert (sent["data"], sent["sparse_crow_indices"], sent["sparse_col_indices"]) == ([6], [0, 0, 0, 1], [4])
    assert response.target_prompt_logprobs == service.answer.target_prompt_logprobs


def test_prompts_may_hold_chunks_of_every_kind(service: Service, sampler: ta.SamplingClient) -> None:
    prompt = (
        ta.ModelInput.from_ints([1])
        .append(ta.ImageChunk(data=b"\x89PNG", format="png"))
        .append(ta.ImageAssetPointerChunk(format="jpeg", location="s3://image"))
        .append(ta.DmelChunk(dmel=b"\x00\x01\x05"))
    )
    sampler.sample(prompt, 1, PARAMS, include_prompt_logprobs=True, prompt_logprobs_last_n=3)
    sampler.sample(prompt, 1, PARAMS).result(WAIT_S)
    assert service.asked[-1]["prompt"]["chunks"] == [
        {"type": "encoded_text", "tokens": [1]},
        {"type": "image", "data": base64.b64encode(b"\x89PNG").decode(), "format": "png"},
        {"type": "image_asset_pointer", "format": "jpeg", "location": "s3://image"},
        {"type": "dmel", "dmel": base64.b64encode(b"\x00\x01\x05").decode()},
    ]


def test_stability_is_recorded_where_the_sampler_was_made_for_it(
    service: Service, sampler: ta.SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler._sampler, "record_stability_info", True)
    sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)
    assert service.asked[0]["record_stability_info"] is True


# What comes back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("speaks_protobuf", [True, False])
def test_sequences_have_the_ids_that_were_given_when_they_were_asked_for(
    service: Service, sampler: ta.SamplingClient, speaks_protobuf: bool
) -> None:
    service.speaks_protobuf = speaks_protobuf
    (sequence,) = sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences
    assert (sequence.tokens, sequence.sequence_id) == ([5, 6], "s:0:0")


def test_a_service_without_ids_gives_sequences_without_them(
    service: Service, sampler: ta.SamplingClient
) -> None:
    service.sequence_ids = None
    assert sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].sequence_id is None


@pytest.mark.parametrize("ids", [[], ["a", "b"]])
def test_ids_that_are_not_one_per_sequence_are_an_error(
    service: Service, sampler: ta.SamplingClient, ids: list[str]
) -> None:
    service.sequence_ids = ids
    with pytest.raises(APIResponseValidationError, match="needs an id"):
        sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)


@pytest.mark.parametrize(
    "option",
    [
        {"include_prompt_logprobs": True},
        {"topk_prompt_logprobs": 2},
        {"topk_sample_logprobs": 1},
        {"target_prompt_logprobs": TARGETS},
        {"prompt_alt_tokens_k": 2},
    ],
)
def test_an_option_that_the_service_passes_over_is_an_error_of_the_sample(
    service: Service, sampler: ta.SamplingClient, option: dict[str, Any]
) -> None:
    service.answer = PLAIN
    with pytest.raises(APIResponseValidationError, match=next(iter(option))):
        sampler.sample(PROMPT, 1, PARAMS, **option).result(WAIT_S)
    assert sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences[0].tokens == [5, 6]


def test_logprobs_of_more_than_was_asked_for_are_an_error(
    service: Service, sampler: ta.SamplingClient
) -> None:
    service.answer = SampleResponse(sequences=PLAIN.sequences, prompt_logprobs=[None, -1.0, -2.0, -3.0])
    with pytest.raises(APIResponseValidationError, match="prompt_logprobs_last_n=2"):
        sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=2).result(WAIT_S)
    assert sampler.compute_logprobs(PROMPT, 3).result(WAIT_S) == [None, -1.0, -2.0, -3.0]


def test_logprobs_of_a_prompt_come_with_the_likeliest_tokens_where_asked(
    service: Service, sampler: ta.SamplingClient
) -> None:
    service.answer = SampleResponse(
        sequences=PLAIN.sequences, prompt_logprobs=[None, None, None, -3.0], topk_prompt_logprobs_np=TOPK
    )
    future = sampler.compute_logprobs(PROMPT, 1, topk_prompt_logprobs=2)
    assert future.result(WAIT_S) == ([None, None, None, -3.0], TOPK.tolist())
    (asked,) = service.asked
    assert (asked["topk_prompt_logprobs"], asked["prompt_logprobs"]) == (2, True)
    assert asked["sampling_params"]["max_tokens"] == 1


def test_an_answer_that_cannot_be_read_fails_only_its_sample(
    service: Service, sampler: ta.SamplingClient
) -> None:
    service.spoiled = b"\xff\xff"
    with pytest.raises(APIResponseValidationError, match="no protobuf SampleResponse"):
        sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S)
    service.begin()
    assert sampler.sample(PROMPT, 1, PARAMS).result(WAIT_S).sequences


def test_an_option_that_the_service_refuses_is_its_error(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        image = ta.ModelInput(chunks=[ta.ImageChunk(data=b"x", format="png", expected_tokens=1)])
        with pytest.raises(BadRequestError, match="encoded text"):
            sampler.sample(image, 1, PARAMS).result(WAIT_S)


# Refused before anything is sent ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"num_samples": 2**31}, ValidationError),
        ({"include_prompt_logprobs": "yes"}, ValidationError),
        ({"include_prompt_logprobs": np.ones(2)}, ValidationError),
        ({"topk_prompt_logprobs": -1}, ValidationError),
        ({"topk_sample_logprobs": 1.5}, ValidationError),
        ({"prompt_alt_tokens_k": -1}, ValidationError),
        ({"prompt_logprobs_last_n": 1}, ValidationError),
        ({"prompt_logprobs_last_n": 0, "include_prompt_logprobs": True}, ValidationError),
        ({"prompt_logprobs_last_n": 4, "include_prompt_logprobs": True}, ValidationError),
        ({"target_prompt_logprobs": [[1.5], [1], [1]]}, ValidationError),
        ({"target_prompt_logprobs": [1, 2, 3]}, ShapeError),
        ({"target_prompt_logprobs": [[1], [2]]}, ShapeError),
        ({"target_prompt_logprobs": [[-1], [-1], [-1]]}, ValidationError),
        ({"target_prompt_logprobs": [[-2], [1], [1]]}, ValidationError),
        ({"target_prompt_logprobs": [[2**31], [1], [1]]}, ValidationError),
        ({"target_prompt_logprobs": "ids"}, ValidationError),
        ({"prompt": []}, ValidationError),
        ({"prompt": ta.ModelInput(chunks=[ta.DmelChunk(dmel=b"")])}, ValidationError),
    ],
)
@pytest.mark.usefixtures("nothing_sent")
def test_wrong_options_are_refused_before_anything_is_sent(
    sampler: ta.SamplingClient, wrong: dict[str, Any], error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"prompt": PROMPT, "num_samples": 1, "sampling_params": PARAMS} | wrong
    with pytest.raises(error):
        sampler.sample(**arguments)
