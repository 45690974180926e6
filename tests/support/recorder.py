"""A server that writes down what clients ask and gives valid answers, with no model behind them.

It stands for generations of servers: a `Profile` says how it differs from today's hosted service. It knows
nothing of the package but the protobuf schema, so that what a client reads here is not what it wrote itself.
"""

import base64
import itertools
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from tinker_actors.wire.descriptors import message_class

__all__ = ["BASE_MODEL", "Profile", "Recorded", "Recorder"]

BASE_MODEL = "local/tiny"
JSON, PROTOBUF = "application/json", "application/x-protobuf"
TIME = "2026-01-02T03:04:05Z"
BEAT_WAIT_S = 30.0
"""How long a result is held back for a heartbeat, which clients send every 10 s; below their limit of 45 s."""


@dataclass(frozen=True)
class Profile:
    """How a server behaves; the defaults are the hosted service as SDK 0.38 sees it."""

    flags: dict[str, Any] | None = field(default_factory=dict)
    """Answer to client/config; None is a server without flags."""
    takes_protobuf: bool = True
    """Whether forward_backward may come as protobuf."""
    refuses_protobuf_with: int = 415
    """Status in answer to a body that is not read."""
    gives_protobuf: bool = True
    """Whether results that have a protobuf form come in it."""
    has_finish: bool = True
    """Whether sessions can be finished."""
    names_sequences: bool = True
    """Whether asample answers with the ids of its sequences."""
    derives_ids: bool = True
    """Whether ids are derived from the session's; else they are bare, and requests are numbered."""
    loads_into_session: bool = True
    """Whether load_weights makes a model of its own; else it wants one that was created just now."""
    refused_parts: frozenset[int] = frozenset()
    """Orders under which a forward_backward with the loss "refused" is refused."""
    counts_refused: bool = False
    """Whether a request that was refused used up its `seq_id`."""
    announces_sizes: bool = False
    """Whether results come only to who knows how large they are."""
    fails_with_400: bool = False
    """Whether a request that fails while executing answers its poll with 400; else with 200 and `error`."""
    failing: frozenset[str] = frozenset()
    """Endpoints whose requests fail while executing."""
    pending_once: frozenset[str] = frozenset({"optim_step"})
    """Endpoints whose requests are not done at the first poll."""


@dataclass(frozen=True)
class Recorded:
    """One request."""

    step: str
    """Of the flow: what the client was doing."""
    method: str
    path: str
    """Below `/api/v1/`."""
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""
    document: Any
    """The body, decoded from whatever it came in; None for none."""


@dataclass(frozen=True)
class _RefusedError(Exception):
    status: int
    detail: str


@dataclass
class _Result:
    """What a future gives."""

    endpoint: str
    document: dict[str, Any]
    message: bytes | None = None
    """The same in protobuf, for results that have such a form."""
    polls: int = 0


class Recorder:
    """The server, on a port of loopback, in threads of its own."""

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile or Profile()
        self.requests: list[Recorded] = []
        self.step = ""
        self.beaten = threading.Event()
        """Set once a heartbeat came."""
        self._lock = threading.Lock()
        self._answers = _Answers(self.profile)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/prefix"
        """Base URL, with a path that clients have to keep."""

    def to(self, path: str) -> list[Recorded]:
        """Requests to an endpoint, in the order of their arrival."""
        return [request for request in self.requests if request.path == path]

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, str]:
        """Status, body and media type."""
        parts = urlsplit(target)
        path = parts.path.removeprefix("/prefix/")
        if path.startswith("step/"):
            self.step = path.removeprefix("step/").replace("%20", " ")
            return 200, b"{}", JSON
        path = path.removeprefix("api/v1/")
        query = dict(parse_qsl(parts.query))
        with self._lock:
            document = _decoded(path, headers, body)
            self.requests.append(Recorded(self.step, method, path, query, headers, document))
        if path == "session_heartbeat":
            self.beaten.set()
        try:
            if path == "retrieve_future":
                return self._answers.result(document, headers.get("accept", ""), self.beaten)
            with self._lock:
                answer = self._answers.give(method, path, document, headers)
        except _RefusedError as refusal:
            return refusal.status, json.dumps({"detail": refusal.detail}).encode(), JSON
        except (KeyError, TypeError) as error:  # a request that lacks what the answer is made of
            return 422, json.dumps({"detail": repr(error)}).encode(), JSON
        return (204, b"", JSON) if answer is None else (200, json.dumps(answer).encode(), JSON)

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="recorder", daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _respond(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            status, answer, kind = recorder.answer(self.command, self.path, headers, body)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815 - the names are http.server's

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


# Requests ---------------------------------------------------------------------------------------------


def _decoded(path: str, headers: dict[str, str], body: bytes) -> Any:
    if headers.get("content-encoding") == "zstd":
        import zstandard  # comes with the extra `zstd`

        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if headers.get("content-type") == PROTOBUF:
        assert path == "forward_backward", f"{path} does not come as protobuf"
        return _readable(message_class("ForwardBackwardRequest").FromString(body))
    return json.loads(body) if body else None


def _readable(message: Any) -> dict[str, Any]:
    """The fields that are set, buffers as lists of numbers; fields that the schema lacks by their number."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown = UnknownFieldSet(message)
    numbers = [unknown[index].field_number for index in range(len(unknown))]
    fields: dict[str, Any] = {f"field {number}": "unknown" for number in numbers}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            is_message = descriptor.message_type.fields_by_name["value"].message_type is not None
            fields[name] = {key: _readable(value[key]) if is_message else value[key] for key in value}
        elif descriptor.message_type is not None:
            several = not hasattr(value, "ListFields")
            fields[name] = [_readable(one) for one in value] if several else _readable(value)
        elif isinstance(value, bytes):
            fields[name] = _numbers(message, name, value)
        else:
            fields[name] = value if isinstance(value, str | int | float) else list(value)
    return fields


def _numbers(message: Any, name: str, value: bytes) -> Any:
    kinds = {1: "<f4", 2: "<i8", 3: "<i4", 4: "<u2"}
    match message.DESCRIPTOR.name, name:
        case "EncodedTextChunk", "tokens":
            return np.frombuffer(value, "<i4").tolist()
        case "Tensor", "dense" if message.dtype in kinds:
            return np.frombuffer(value, kinds[message.dtype]).tolist()
        case "SparseCsr", "crow_indices" | "col_indices":
            return np.frombuffer(value, "<i8").tolist()
    return value.hex()


# Answers ----------------------------------------------------------------------------------------------


class _Answers:
    """What the server knows: ids it gave, results that are waiting."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._results: dict[str, _Result] = {}
        self._saved: dict[tuple[str, str], int] = {}
        """By model and name, what was saved first."""
        self._used_up: set[tuple[str, int]] = set()
        """Model and order of refused requests."""
        self._numbers = itertools.count(1)
        self._session = "session-1" if profile.derives_ids else "session_0a1b2c3d"

    def give(self, method: str, path: str, document: Any, headers: dict[str, str]) -> Any:
        """The answer in JSON; None for one without a body."""
        if headers.get("content-type") == PROTOBUF and not self._profile.takes_protobuf:
            raise _RefusedError(self._profile.refuses_protobuf_with, "this server reads JSON")
        first, _, rest = path.partition("/")
        submit = getattr(self, f"_submit_{path}", None)
        if submit is not None:
            if (
                self._profile.counts_refused
                and (document.get("model_id"), document.get("seq_id")) in self._used_up
            ):
                raise _RefusedError(409, f"seq_id {document['seq_id']} was used by another request")
            return self._submitted(path, document, submit(document))
        answer: Callable[..., Any] | None = getattr(self, f"_{method.lower()}_{first}", None)
        if answer is None:
            raise _RefusedError(404, f"there is no {method} {path}")
        return answer(rest, document)

    def result(self, document: Any, accept: str, beaten: threading.Event) -> tuple[int, bytes, str]:
        """The answer to one poll."""
        result = self._results.get(document["request_id"])
        if result is None:
            return 404, b'{"detail": "unknown request"}', JSON
        result.polls += 1
        if result.polls == 1 and result.endpoint in self._profile.pending_once:
            pending = {"type": "try_again", "request_id": document["request_id"], "queue_state": "active"}
            return 408, json.dumps(pending).encode(), JSON
        if result.document.get("path", "").endswith("/after-a-beat"):
            beaten.wait(BEAT_WAIT_S)
        if result.endpoint in self._profile.failing:
            if self._profile.fails_with_400:
                return 400, b'{"detail": "it failed"}', JSON
            return 200, b'{"error": "it failed", "category": "user"}', JSON
        if self._profile.announces_sizes and document.get("allow_metadata_only"):
            size = len(result.message or json.dumps(result.document))
            announced = {"status": "complete_metadata", "response_payload_size": size}
            return 200, json.dumps(announced).encode(), JSON
        if result.message is not None and self._profile.gives_protobuf and PROTOBUF in accept:
            return 200, result.message, PROTOBUF
        return 200, json.dumps(result.document).encode(), JSON

    def _submitted(self, path: str, document: Any, result: _Result) -> dict[str, Any]:
        if self._profile.derives_ids:
            owner = (
                document.get("sampling_session_id") or document.get("model_id") or document.get("session_id")
            )
            order = document["seq_id"] if "seq_id" in document else f"model {document['model_seq_id']}"
            request_id = f"{owner}:{order}"
        else:
            request_id = str(next(self._numbers))
        self._results.setdefault(request_id, result)
        handle: dict[str, Any] = {"request_id": request_id}
        if "model_id" in document:
            handle["model_id"] = document["model_id"]
        if path == "asample" and self._profile.names_sequences:
            count = document.get("num_samples", 1)
            handle["sample_sequence_ids"] = [f"{request_id}:{number}" for number in range(count)]
        return handle

    # Service and sessions

    def _post_client(self, rest: str, _document: Any) -> Any:
        if self._profile.flags is None:
            raise _RefusedError(404, "there are no flags")
        return self._profile.flags if rest == "config" else {}

    def _post_auth(self, _rest: str, _document: Any) -> Any:
        claims = [{"alg": "none"}, {"iat": 1_700_000_000, "exp": 4_100_000_000}]
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in claims]
        return {"jwt": ".".join([*parts, "signature"])}

    def _get_get_server_capabilities(self, _rest: str, _document: Any) -> Any:
        return {"supported_models": [{"model_name": BASE_MODEL, "max_context_length": 1024}]}

    def _post_create_session(self, _rest: str, _document: Any) -> Any:
        return {"session_id": self._session, "type": "create_session"}

    def _post_session_heartbeat(self, _rest: str, _document: Any) -> Any:
        return {"type": "session_heartbeat"}

    def _post_telemetry(self, _rest: str, _document: Any) -> Any:
        return {"status": "accepted"}

    def _post_sessions(self, rest: str, _document: Any) -> Any:
        if rest.endswith("/finish") and not self._profile.has_finish:
            raise _RefusedError(404, "Not Found")
        return {"sessions": []} if rest == "search" else {}

    def _put_sessions(self, _rest: str, _document: Any) -> Any:
        return None

    # Training

    def _model_id(self, document: Any) -> str:
        if self._profile.derives_ids:
            return f"{document['session_id']}:train:{document['model_seq_id']}"
        return f"model_{document['model_seq_id']:08x}"

    def _submit_create_model(self, document: Any) -> _Result:
        return _Result("create_model", {"model_id": self._model_id(document), "type": "create_model"})

    def _submit_load_weights(self, document: Any) -> _Result:
        if "model_id" not in document and not self._profile.loads_into_session:
            raise _RefusedError(422, "model_id: Field required")
        if document.get("seq_id", 1) != 1:
            raise _RefusedError(400, f"LoadWeights is not permitted with seq_id {document['seq_id']}")
        model_id = document.get("model_id") or self._model_id(document)
        return _Result(
            "load_weights", {"path": document["path"], "model_id": model_id, "type": "load_weights"}
        )

    def _post_get_info(self, _rest: str, document: Any) -> Any:
        model = {"model_name": BASE_MODEL, "arch": "tiny"}
        if self._profile.derives_ids:
            model["tokenizer_id"] = BASE_MODEL
        return {"model_id": document["model_id"], "model_data": model, "is_lora": True, "lora_rank": 8}

    def _submit_forward_backward(self, document: Any) -> _Result:
        body = document.get("forward_backward_input", document)
        if body["loss_fn"] == "refused" and document["seq_id"] in self._profile.refused_parts:
            raise _RefusedError(400, "there is no such loss")
        targets = [datum["loss_fn_inputs"]["target_tokens"] for datum in body["data"]]
        shapes = [target.get("shape") or [len(target.get("data") or target["dense"])] for target in targets]
        outputs = [[-0.5] * math.prod(shape) for shape in shapes]
        metrics = {"loss:sum": 1.5, "entropy:mean": 0.25} if self._profile.derives_ids else {}
        message = message_class("ForwardBackwardOutput")(loss_fn_output_type="ArrayRecord")
        message.metrics.update(metrics)
        record = message.loss_fn_outputs.add(num_datums=len(outputs))
        record.fields["logprobs"].data = b"".join(np.asarray(row, "<f4").tobytes() for row in outputs)
        offsets = np.cumsum([0, *(4 * len(row) for row in outputs)], dtype="<i8")
        record.fields["logprobs"].offsets = offsets.tobytes()
        record.fields["logprobs"].dtype = 1
        record.fields["logprobs"].trailing_shape.extend(shapes[0][1:])
        logprobs = [
            {"logprobs": {"data": row, "dtype": "float32", "shape": shape}}
            for row, shape in zip(outputs, shapes, strict=True)
        ]
        named = {
            "loss_fn_output_type": "ArrayRecord",
            "loss_fn_outputs": logprobs,
            "metrics": metrics,
        }
        return _Result("forward_backward", named, message.SerializeToString())

    def _submit_forward(self, document: Any) -> _Result:
        return self._submit_forward_backward({"forward_backward_input": document["forward_input"]})

    def _submit_optim_step(self, _document: Any) -> _Result:
        return _Result("optim_step", {"metrics": {"grad_norm": 0.75}} if self._profile.derives_ids else {})

    def _submit_save_weights(self, document: Any) -> _Result:
        known = self._saved.setdefault((document["model_id"], document["path"]), document["seq_id"])
        if known != document["seq_id"] and not document["overwrite"]:
            self._used_up.add((document["model_id"], document["seq_id"]))
            raise _RefusedError(409, f"there is a checkpoint {document['path']}")
        path = f"tinker://{document['model_id']}/weights/{document['path']}"
        return _Result("save_weights", {"path": path, "type": "save_weights"})

    def _submit_save_weights_for_sampler(self, document: Any) -> _Result:
        if "path" in document:
            path = f"tinker://{document['model_id']}/sampler_weights/{document['path']}"
            return _Result("save_weights_for_sampler", {"path": path, "type": "save_weights_for_sampler"})
        session_id = self._sampling_session(document["sampling_session_seq_id"])
        return _Result("save_weights_for_sampler", {"sampling_session_id": session_id})

    def _submit_save_weights_external(self, document: Any) -> _Result:
        path = f"tinker://{document['model_id']}/external_weights/{document['path']}"
        return _Result(
            "save_weights_external", {"path": path, "size_bytes": 7, "type": "save_weights_external"}
        )

    # Sampling

    def _sampling_session(self, number: int) -> str:
        return f"{self._session}:sample:{number}" if self._profile.derives_ids else f"sampling_{number:08x}"

    def _post_create_sampling_session(self, _rest: str, document: Any) -> Any:
        return {"sampling_session_id": self._sampling_session(document["sampling_session_seq_id"])}

    def _get_samplers(self, rest: str, _document: Any) -> Any:
        path = f"tinker://{self._session}:train:0/sampler_weights/named"
        return {"sampler_id": rest, "base_model": BASE_MODEL, "model_path": path}

    def _submit_asample(self, document: Any) -> _Result:
        count = document.get("num_samples", 1)
        length = sum(
            len(chunk["tokens"]) if "tokens" in chunk else chunk["expected_tokens"]
            for chunk in document["prompt"]["chunks"]
        )
        tokens, logprobs = [104, 105], [-1.0, -2.0]
        message = message_class("SampleResponse")(prompt_cache_hit_tokens=1)
        for _ in range(count):
            sequence = message.sequences.add(stop_reason=1)
            sequence.tokens = np.asarray(tokens, "<i4").tobytes()
            sequence.logprobs = np.asarray(logprobs, "<f4").tobytes()
            if document.get("topk_sample_logprobs"):
                _fill_topk(sequence.topk_sampled_logprobs, len(tokens), document["topk_sample_logprobs"])
        sequences = [{"stop_reason": "length", "tokens": tokens, "logprobs": logprobs}] * count
        named: dict[str, Any] = {"type": "sample", "sequences": sequences, "prompt_cache_hit_tokens": 0}
        if document.get("prompt_logprobs"):
            scored = min(document.get("prompt_logprobs_last_n") or length, length - 1)
            prompt = [math.nan] * (length - scored) + [-3.0] * scored
            message.prompt_logprobs = np.asarray(prompt, "<f4").tobytes()
            named["prompt_logprobs"] = [None] * (length - scored) + [-3.0] * scored
        if document.get("topk_prompt_logprobs"):
            _fill_topk(message.topk_prompt_logprobs, length, document["topk_prompt_logprobs"])
        if (k := document.get("prompt_alt_tokens_k", 0)) > 0:
            _fill_tensor(message.prompt_alt_tokens.tokens, np.zeros((length - 1, k), "<i8"), 2)
            _fill_tensor(message.prompt_alt_tokens.logprobs, np.zeros((length - 1, k), "<f4"), 1)
        if (target := document.get("target_prompt_logprobs")) is not None:
            _fill_tensor(message.target_prompt_logprobs, np.zeros(target["shape"], "<f4"), 1)
        return _Result("asample", named, message.SerializeToString())

    # REST

    def _get_training_runs(self, rest: str, _document: Any) -> Any:
        run_id, _, more = rest.partition("/")
        run = {
            "training_run_id": run_id or f"{self._session}:train:0",
            "base_model": BASE_MODEL,
            "model_owner": "owner",
            "is_lora": True,
            "lora_rank": 8,
            "corrupted": False,
            "last_request_time": TIME,
        }
        if not rest:
            return {"training_runs": [run], "cursor": {"offset": 0, "limit": 20, "total_count": 1}}
        if more.endswith("/external_weights_urls"):
            return {"urls": {"adapter_config.json": "https://files.example/1"}, "expires": TIME}
        return run if not more else {"checkpoints": [self._checkpoint(run_id)]}

    def _get_checkpoints(self, _rest: str, _document: Any) -> Any:
        cursor = {"offset": 0, "limit": 100, "total_count": 1}
        return {"checkpoints": [self._checkpoint(f"{self._session}:train:0")], "cursor": cursor}

    def _checkpoint(self, run_id: str) -> dict[str, Any]:
        return {
            "checkpoint_id": "weights/state",
            "checkpoint_type": "training",
            "time": TIME,
            "tinker_path": f"tinker://{run_id}/weights/state",
            "size_bytes": 1,
            "public": False,
        }

    def _post_training_runs(self, _rest: str, _document: Any) -> Any:
        return None

    _put_training_runs = _delete_training_runs = _post_training_runs

    def _post_copy_weights(self, _rest: str, document: Any) -> Any:
        return {"tinker_path": document["source_path"].replace("train:0", "train:9")}

    def _post_weights_info(self, _rest: str, _document: Any) -> Any:
        return {"base_model": BASE_MODEL, "is_lora": True, "lora_rank": 8}

    def _get_sessions(self, rest: str, _document: Any) -> Any:
        if not rest:
            return {"sessions": [self._session]}
        if rest.endswith("/trace_export"):
            return {"status": "ready", "url": "https://files.example/trace"}
        return {"training_run_ids": [f"{self._session}:train:0"], "sampler_ids": [self._sampling_session(0)]}


def _fill_topk(message: Any, length: int, k: int) -> None:
    message.k, message.length = k, length
    message.token_ids = np.zeros((length, k), "<i4").tobytes()
    message.logprobs = np.full((length, k), -1.0, "<f4").tobytes()


def _fill_tensor(message: Any, array: Any, dtype: int) -> None:
    message.dense, message.dtype = array.tobytes(), dtype
    message.shape.extend(array.shape)
