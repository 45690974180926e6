"""Documents that are almost right, and bytes that are almost a message, over the whole HTTP application.

Nothing that a client sends may fail the server: each request is answered with what it asked for or a 4xx that says
why not, and what was accepted comes to a result or to the caller's own error.
"""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinker_actors.local.app import make_app
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.options import Options
from tinker_actors.local.service import Service
from tinker_actors.types import Datum, ModelInput, TensorData
from tinker_actors.wire.protobuf import encode_training_content, with_ids

# numpy warns of numbers that leave their range, which nobody sees on a server; here it would be an error.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PROTOBUF = "application/x-protobuf"
EXAMPLES = settings(
    max_examples=40,
    deadline=None,  # the machine may be busy
    derandomize=True,  # the same examples in each run; without it by hand now and then
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TOKENS = [72, 105, 33]
CHUNK = {"type": "encoded_text", "tokens": TOKENS}
TRAINING = {
    "data": [
        {
            "model_input": {"chunks": [CHUNK]},
            "loss_fn_inputs": {
                "target_tokens": {"data": TOKENS, "dtype": "int64", "shape": [3]},
                "weights": {"data": [1.0, 1.0, 0.5], "dtype": "float32", "shape": [3]},
            },
        }
    ],
    "loss_fn": "cross_entropy",
    "loss_fn_config": {},
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "client/config": {"sdk_version": "0.38.0"},
    "create_session": {"tags": ["a"], "user_metadata": {"b": "c"}, "sdk_version": "0.38.0"},
    "session_heartbeat": {"session_id": "SESSION"},
    "create_model": {
        "session_id": "SESSION",
        "model_seq_id": 5,
        "base_model": "local/tiny",
        "lora_config": {"rank": 2, "seed": 1, "train_attn": True, "train_mlp": True, "train_unembed": True},
        "optimizer_config": {"type": "adamw"},
    },
    "get_info": {"model_id": "MODEL"},
    "forward_backward": {"model_id": "MODEL", "seq_id": "SEQ", "forward_backward_input": TRAINING},
    "forward": {"model_id": "MODEL", "seq_id": "SEQ", "forward_input": TRAINING},
    "optim_step": {
        "model_id": "MODEL",
        "seq_id": "SEQ",
        "adam_params": {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "grad_clip_norm": 1.0,
        },
    },
    "save_weights": {"model_id": "MODEL", "seq_id": "SEQ", "path": "state", "overwrite": True},
    "save_weights_for_sampler": {"model_id": "MODEL", "seq_id": "SEQ", "sampling_session_seq_id": 7},
    "load_weights": {"session_id": "SESSION", "model_seq_id": 9, "path": "SAVED", "optimizer": True},
    "create_sampling_session": {
        "session_id": "SESSION",
        "sampling_session_seq_id": 3,
        "base_model": "local/tiny",
    },
    "asample": {
        "sampling_session_id": "SAMPLER",
        "seq_id": "DRAW",
        "num_samples": 2,
        "prompt": {"chunks": [CHUNK]},
        "sampling_params": {
            "max_tokens": 3,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
            "seed": 1,
            "stop": ["a"],
        },
        "prompt_logprobs": True,
        "topk_prompt_logprobs": 2,
    },
    "stream_sample": {
        "sampling_session_id": "SAMPLER",
        "seq_id": "STREAM",
        "num_samples": 1,
        "prompt": {"chunks": [CHUNK]},
        "sampling_params": {"max_tokens": 2},
    },
    "save_weights_external": {"model_id": "MODEL", "seq_id": "SEQ", "path": "out"},
    "join_sampling_session": {"sampling_session_id": "SAMPLER"},
    "retrieve_futures": {
        "target": {"type": "sampling_session", "sampling_session_id": "SAMPLER", "cloned_sampler_id": 0},
        "prev_cursor": 0,
        "timeout": 0.0,
        "retrieved_request_ids": ["x"],
    },
    "copy_weights": {"source_path": "SAVED", "destination_project_id": "p"},
    "sessions/search": {
        "user_metadata": {},
        "owner": {"type": "own"},
        "limit": 5,
        "statuses": [{"type": "active"}],
    },
    "retrieve_future": {"request_id": "REQUEST", "allow_metadata_only": False},
    "cancel_future": {"request_id": "REQUEST"},
    "unload_model": {"model_id": "UNKNOWN"},
    "telemetry": {"events": [], "session_id": "SESSION"},
    "sessions/SESSION/finish": {"reason": {"type": "no reason"}, "detail": None},
    "weights_info": {"tinker_path": "SAVED"},
}

PATHS = [
    "training_runs",
    "training_runs/MODEL",
    "training_runs/MODEL/checkpoints",
    "training_runs/MODEL/checkpoints/weights/first/publish",
    "training_runs/MODEL/checkpoints/weights/other",
    "training_runs/MODEL/checkpoints/weights/first/ttl",
    "training_runs/MODEL/checkpoints/sampler_weights/first/archive",
    "training_runs/MODEL/checkpoints/external_weights/first/external_weights_urls",
    "checkpoints",
    "sessions",
    "sessions/SESSION",
    "sessions/SESSION/project",
    "sessions/SESSION/trace_export",
    "samplers/SESSION:sample:0",
    "auth/apikey/me",
]
SUBMITS = (
    "asample",
    "forward",
    "forward_backward",
    "load_weights",
    "optim_step",
    "save_weights",
    "save_weights_external",
    "save_weights_for_sampler",
)
OWNERS = (("MODEL", "SEQ"), ("SAMPLER", "DRAW"))

numbers = st.sampled_from([0, -1, 1, 3, 2**31, 2**63 - 1, 2**63, 2**64, 2**70, 0.5, -0.0, 1e300, -1e300])
texts = st.sampled_from(["", "x", "..", "../..", "a/b", "\x00", "ä", "x" * 300, "tinker://a/weights/..", "7"])
leaves: st.SearchStrategy[Any] = st.none() | st.booleans() | numbers | texts | st.just([]) | st.just({})
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2)
)


class Fuzzed:
    """The application in this process.

    Args:
        service: what it is over.
        runner: of its event loop.
        failures: what the server reports as failures of its own.
    """

    def __init__(self, service: Service, runner: asyncio.Runner, failures: list[str]) -> None:
        self._failures = failures
        self._runner = runner
        self._transport = httpx.ASGITransport(make_app(service))
        self.names: dict[str, Any] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it, and check that the server found no failure of its own."""
        self._failures.clear()
        self._runner.run(work)
        assert self._failures == []

    async def post(
        self, path: str, body: bytes, media: str = "application/json", method: str = "POST"
    ) -> httpx.Response:
        headers = {"X-API-Key": "tml-x", "Content-Type": media}
        async with httpx.AsyncClient(transport=self._transport, base_url="http://server/api/v1") as http:
            return await http.request(method, path, content=body, headers=headers)

    async def ask(self, path: str, /, **document: Any) -> Any:
        response = await self.post(path, json.dumps(document).encode())
        assert response.status_code == 200, response.text
        return response.json()

    async def result(self, request_id: str) -> Any:
        for _ in range(200):
            response = await self.post("retrieve_future", json.dumps({"request_id": request_id}).encode())
            if response.status_code != 408:
                return response
        raise AssertionError(f"{request_id} comes to nothing")

    async def prepare(self) -> None:
        """A new session, a model, a sampler and a checkpoint to name."""
        session_id = (await self.ask("create_session"))["session_id"]
        lora = {"rank": 2, "seed": 1}
        self.names = {
            "SESSION": session_id,
            "SEQ": 0,
            "MODEL": f"{session_id}:train:0",
            "UNKNOWN": "nobody",
            "DRAW": 0,
        }
        await self.ask(
            "create_model", session_id=session_id, model_seq_id=0, base_model="local/tiny", lora_config=lora
        )
        saved = await self.ask("save_weights", model_id=self.names["MODEL"], seq_id=1, path="first")
        self.names["SAVED"] = (await self.result(saved["request_id"])).json()["path"]
        sampler = await self.ask(
            "create_sampling_session",
            session_id=session_id,
            sampling_session_seq_id=0,
            base_model="local/tiny",
        )
        self.names |= {"SAMPLER": sampler["sampling_session_id"], "REQUEST": saved["request_id"], "SEQ": 2}

    def named(self, value: Any) -> Any:
        """`value` with the names of what there is in the places of their words."""
        if isinstance(value, dict):
            return {name: self.named(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.named(inner) for inner in value]
        return self.names.get(value, value) if isinstance(value, str) else value

    async def survives(
        self, path: str, body: bytes, media: str = "application/json", method: str = "POST"
    ) -> None:
        """Send it, and check all that holds whatever it is."""
        for name in ("SESSION", "MODEL"):
            path = path.replace(name, self.names[name])
        response = await self.post(path, body, media, method)
        assert response.status_code < 500, (path, body, response.text)
        assert "Traceback" not in response.text
        if response.status_code >= 400:
            assert response.json()["detail"]
            assert int(response.headers["content-length"]) > 0
        if response.status_code == 409:  # an earlier one took the place before its turn
            await self.prepare()
        elif response.status_code == 200 and path in SUBMITS:
            await self._comes_to_something(path, body, response.json().get("request_id"))

    async def _comes_to_something(self, path: str, body: bytes, request_id: str | None) -> None:
        mine = {name: f"{self.names[owner]}:{self.names[name]}" for owner, name in OWNERS}
        for name, expected in mine.items():
            self.names[name] += request_id == expected
        if request_id is not None and request_id in mine.values():  # all others may wait for what never comes
            result = await self.result(request_id)
            assert b'"category":"server"' not in result.content, (path, body, result.text)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    path = tmp_path_factory.mktemp("server") / "data"
    data = DataDirectory(path)
    data.open(lock_patience_s=0)
    service = Service(Options(data=path, hold_s=0.1), data)
    service.start()
    failures: list[str] = []
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        for module in ("executor", "routes.http"):
            patch.setattr(
                f"tinker_actors.local.{module}.report_failure",
                lambda event, error, **facts: failures.append(f"{event} {error!r} {facts}"),
            )
        yield Fuzzed(service, runner, failures)
    service.stop()
    data.close()


@pytest.fixture
def fuzzed(application: Fuzzed) -> Fuzzed:
    """With nothing that an earlier test spoiled."""
    application.run(application.prepare())
    return application


def spots(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(spot for name, child in inner for spot in spots(child, (*at, name)))]


def at(value: Any, spot: tuple[Any, ...]) -> Any:
    """What stands at a spot."""
    for name in spot:
        value = value[name]
    return value


def changed(value: Any, spot: tuple[Any, ...], *put: Any) -> Any:
    """A copy of a document with another value at a spot, or without it."""
    if not spot:
        return put[0] if put else None
    copy = json.loads(json.dumps(value))
    place = copy
    for name in spot[:-1]:
        place = place[name]
    if put:
        place[spot[-1]] = put[0]
    else:
        del place[spot[-1]]
    return copy


@pytest.mark.parametrize("path", DOCUMENTS)
@EXAMPLES
@given(data=st.data())
def test_a_document_with_anything_in_any_place_is_survived(
    fuzzed: Fuzzed, path: str, data: st.DataObject
) -> None:
    document = DOCUMENTS[path]
    for _ in range(data.draw(st.integers(1, 3))):
        document = changed(document, data.draw(st.sampled_from(spots(document))), data.draw(values))
    fuzzed.run(fuzzed.survives(path, json.dumps(fuzzed.named(document)).encode()))


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type, among them those at the edges."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.sampled_from([0, 1, 2, 3, 7, 256, -1, 2**63 - 1])
        case float():
            return st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 1e-300, 0.999999, 1e30, 1e300, -1e300])
        case str():
            return st.just(value) | texts
        case list():
            return st.sampled_from([[], value[:1], value * 2, value * 50, value[1:]])
        case _:
            return st.just(value)


@pytest.mark.parametrize("path", DOCUMENTS)
@EXAMPLES
@given(data=st.data())
def test_a_document_with_other_values_of_the_right_types_is_survived(
    fuzzed: Fuzzed, path: str, data: st.DataObject
) -> None:
    document = fuzzed.named(DOCUMENTS[path])
    inner = [spot for spot in spots(document) if spot and not str(spot[-1]).endswith(("_id", "seq_id"))]
    for _ in range(data.draw(st.integers(1, 3)) if inner else 0):
        spot = data.draw(st.sampled_from(inner))
        if spot[-1] == "max_tokens":
            continue  # a million tokens are sampled if they are asked for
        with suppress(KeyError, IndexError, TypeError):  # an earlier change took it away
            document = changed(document, spot, data.draw(alike(at(document, spot))))
    fuzzed.run(fuzzed.survives(path, json.dumps(document).encode()))


@pytest.mark.parametrize("path", DOCUMENTS)
@EXAMPLES
@given(data=st.data())
def test_a_document_that_lacks_something_is_survived(fuzzed: Fuzzed, path: str, data: st.DataObject) -> None:
    document = changed(DOCUMENTS[path], data.draw(st.sampled_from(spots(DOCUMENTS[path]))))
    fuzzed.run(fuzzed.survives(path, json.dumps(fuzzed.named(document)).encode()))


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@EXAMPLES
@given(data=st.data())
def test_a_path_with_anything_in_any_place_is_survived(
    fuzzed: Fuzzed, method: str, data: st.DataObject
) -> None:
    parts = data.draw(st.sampled_from(PATHS)).split("/")
    place = data.draw(st.integers(0, len(parts) - 1))
    parts[place] = data.draw(
        st.sampled_from(["..", ".", "%2e%2e", "%2f", "%00", "%ff", "", "x" * 300, parts[place]])
    )
    query = data.draw(
        st.sampled_from(["", "?limit=-1", "?limit=x&offset=1e9", "?offset=" + "9" * 30, "?limit=0"])
    )
    body = (
        b"" if method == "GET" else data.draw(st.sampled_from([b"", b"{}", b'{"ttl_seconds": 1e300}', b"[]"]))
    )
    fuzzed.run(fuzzed.survives("/".join(parts) + query, body, method=method))


@EXAMPLES
@given(data=st.data())
def test_a_message_with_any_damage_is_survived(fuzzed: Fuzzed, data: st.DataObject) -> None:
    datum = Datum(
        model_input=ModelInput.from_ints(TOKENS),
        loss_fn_inputs={
            "target_tokens": TensorData(TOKENS, dtype="int64"),
            "weights": TensorData([1.0, 0.5, 2.0], dtype="float32"),
        },
    )
    content = encode_training_content([datum] * 2, "cross_entropy", {"a": 1.0})
    body = bytearray(with_ids(content, fuzzed.names["MODEL"], fuzzed.names["SEQ"]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 8)))
        body[start:end] = data.draw(st.binary(max_size=8))
    fuzzed.run(fuzzed.survives("forward_backward", bytes(body), PROTOBUF))


@EXAMPLES
@given(
    body=st.binary(max_size=200),
    path=st.sampled_from(list(DOCUMENTS)),
    media=st.sampled_from([PROTOBUF, "application/json", "text/plain", "multipart/form-data", "x" * 100, ""]),
)
def test_any_bytes_of_any_media_type_are_survived(fuzzed: Fuzzed, path: str, body: bytes, media: str) -> None:
    fuzzed.run(fuzzed.survives(path, body, media))
