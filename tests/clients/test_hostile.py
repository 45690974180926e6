"""Whatever is passed to a public method: it is taken, or refused by a typed error; nothing breaks deep inside."""

import inspect
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S
from recorder import BASE_MODEL, Recorder

import tinker_actors as ta
from tinker_actors.actors.futures import Settler, Submission, Submissions
from tinker_actors.actors.runtime import Runtime
from tinker_actors.clients import rest, service
from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import TinkerActorsError
from tinker_actors.losses import L1

PATH = "tinker://m/weights/a"
SAMPLER = "tinker://m/sampler_weights/a"
EXTERNAL = "tinker://m/external_weights/a"


class Angry:
    """Whatever is asked of it, it raises."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")

    __hash__ = None  # type: ignore[assignment]  # as of whatever defines __eq__

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        raise RuntimeError("no length")


def looped() -> list[Any]:
    """A list that holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


def looped_mapping() -> dict[str, Any]:
    """A mapping that holds itself."""
    loop: dict[str, Any] = {}
    loop["a"] = loop
    return loop


VALUES: dict[str, Any] = {
    "None": None,
    "object": object(),
    "class": dict,
    "function": len,
    "True": True,
    "0": 0,
    "-1": -1,
    "2**31": 2**31,
    "2**80": 2**80,
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "complex": 1j,
    "decimal": Decimal("1.5"),
    "empty text": "",
    "text": "x",
    "path": PATH,
    "surrogate": "\ud800",
    "nul": "a\0b",
    "line": "a\nb",
    "long text": "x" * 100_000,
    "bytes": b"x",
    "empty list": [],
    "list": [1, 2],
    "ragged": [[1], [2, 3]],
    "loop": looped(),
    "nested": [[[1]]],
    "dict": {"a": 1},
    "loop of a mapping": looped_mapping(),
    "wrong keys": {1: object()},
    "set": {1},
    "generator": "made anew",
    "array": np.arange(3),
    "empty array": np.zeros((0, 3)),
    "objects": np.array([object()], dtype=object),
    "texts": np.array(["a"]),
    "complex array": np.array([1j]),
    "scalar array": np.array(2),
    "times": np.array(["2026-01-01"], "datetime64[s]"),
    "unsigned": np.array([2**64 - 1], np.uint64),
    "structured": np.zeros(2, [("a", int)]),
    "namespace": SimpleNamespace(),
    "half a datum": SimpleNamespace(model_input=None, loss_fn_inputs=None),
    "chunks": SimpleNamespace(chunks=None),
    "a chunk": SimpleNamespace(type="image", data=5, format=5),
    "a tensor": SimpleNamespace(to_numpy=lambda: None),
    "sparse": SimpleNamespace(sparse_crow_indices=5, data=None, dtype=None, shape=None),
    "a torch tensor": SimpleNamespace(detach=None),
    "angry": Angry(),
}


def value_of(name: str) -> Any:
    return iter([1, object()]) if name == "generator" else VALUES[name]


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Any]]:
    with Recorder() as recorder, ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        yield {
            "service": service,
            "training": service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S),
            "sampler": service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S),
            "rest": service.create_rest_client(),
            "future": ta.APIFuture(_done()),
        }


def _done() -> "Future[int]":
    future: Future[int] = Future()
    future.set_result(1)
    return future


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settler = Settler()
    monkeypatch.setattr(Submissions, "add", lambda *_: Submission("ticket", None, settler).future)
    monkeypatch.setattr(Runtime, "fetch", lambda *_: Future())
    monkeypatch.setattr(Runtime, "start_run", lambda *_: None)
    monkeypatch.setattr(Runtime, "start_sampler", lambda *_: None)
    yield
    settler.close(WAIT_S)


METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "service": {
        "create_lora_training_client": {"base_model": BASE_MODEL},
        "create_training_client_from_state": {"path": PATH},
        "create_training_client_from_state_with_optimizer": {"path": PATH},
        "create_sampling_client": {"base_model": BASE_MODEL},
        "copy_weights": {"path": PATH},
        "close": {"status": "well"},
        "address": {"path": "service"},
        "set_circuit_mode": {"operation": "asample", "mode": "automatic"},
    },
    "training": {
        "forward_backward": {"data": BATCHES[0], "loss_fn": "cross_entropy"},
        "forward_backward_custom": {"data": BATCHES[0], "loss_fn": L1(), "regularizers": [L1()]},
        "forward": {"data": BATCHES[0], "loss_fn": "cross_entropy"},
        "optim_step": {"optim_params": ADAM},
        "save_state": {"name": "a"},
        "save_weights_for_sampler": {"name": "a"},
        "save_weights_external": {"name": "a"},
        "save_weights_and_get_sampling_client": {},
        "create_sampling_client": {"model_path": SAMPLER},
        "load_state": {"path": PATH},
        "load_state_with_optimizer": {"path": PATH},
    },
    "sampler": {
        "sample": {"prompt": [1, 2], "num_samples": 1, "sampling_params": ta.SamplingParams(max_tokens=1)},
        "compute_logprobs": {"prompt": [1, 2]},
    },
    "rest": {
        "get_session": {"session_id": "s"},
        "list_sessions": {},
        "iter_sessions": {},
        "iter_search_sessions": {"request": ta.SessionSearchRequest()},
        "search_sessions": {"request": ta.SessionSearchRequest()},
        "assign_session_project": {"session_id": "s", "project_id": "p"},
        "export_session_trace": {"session_id": "s"},
        "get_training_run": {"training_run_id": "r"},
        "get_training_run_by_tinker_path": {"tinker_path": PATH},
        "list_training_runs": {},
        "iter_training_runs": {},
        "get_sampler": {"sampler_id": "s"},
        "list_checkpoints": {"training_run_id": "r"},
        "list_user_checkpoints": {},
        "iter_user_checkpoints": {},
        "get_weights_info_by_tinker_path": {"tinker_path": PATH},
        "get_external_weights_urls": {"tinker_path": EXTERNAL},
        "get_checkpoint_archive_url": {"training_run_id": "r", "checkpoint_id": "weights/a"},
        "get_checkpoint_archive_url_from_tinker_path": {"tinker_path": PATH},
        "delete_checkpoint": {"training_run_id": "r", "checkpoint_id": "weights/a"},
        "delete_checkpoint_from_tinker_path": {"tinker_path": PATH},
        "publish_checkpoint_from_tinker_path": {"tinker_path": PATH},
        "unpublish_checkpoint_from_tinker_path": {"tinker_path": PATH},
        "set_checkpoint_ttl_from_tinker_path": {"tinker_path": PATH, "ttl_seconds": 3600},
        "copy_weights": {"path": PATH, "destination_project_id": "p"},
    },
    "future": {"result": {"timeout": 1.0}},
}
"""Methods with arguments that are right, by client."""

BUILT: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (ta.Datum, {"model_input": ta.ModelInput.from_ints([1]), "loss_fn_inputs": {"target_tokens": [1]}}),
    (ta.ModelInput, {"chunks": []}),
    (ta.ModelInput.from_ints, {"tokens": [1]}),
    (ta.ModelInput.from_ints([1]).append, {"chunk": ta.EncodedTextChunk(tokens=[1])}),
    (ta.ModelInput.from_ints([1]).append_int, {"token": 1}),
    (ta.EncodedTextChunk, {"tokens": [1]}),
    (ta.ImageChunk, {"data": b"x", "format": "png"}),
    (ta.ImageAssetPointerChunk, {"location": "x", "format": "png"}),
    (ta.DmelChunk, {"dmel": b"x"}),
    (ta.TensorData, {"data": [1.0]}),
    (ta.TensorData.from_numpy, {"array": np.zeros(2)}),
    (ta.TensorData.from_torch, {"tensor": None}),
    (ta.TensorData.from_torch_sparse, {"tensor": None}),
    (ta.SamplingParams, {}),
    (ta.AdamParams, {}),
    (ta.DimuonParams, {"learning_rate": 0.1}),
    (ta.PromptProvenanceSpan, {"sequence_id": "s", "length": 1}),
    (ta.SampledProvenanceSpan, {"sequence_id": "s", "length": 1}),
    (ta.ParsedCheckpointTinkerPath.from_tinker_path, {"tinker_path": PATH}),
    (ta.TopkLogprobs, {"token_ids": np.zeros((1, 1)), "logprobs": np.zeros((1, 1))}),
]


def arguments(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in kinds and one.name != "self"]


KINDS = {
    "service": ta.ServiceClient,
    "training": ta.TrainingClient,
    "sampler": ta.SamplingClient,
    "rest": ta.RestClient,
    "future": ta.APIFuture,
}
CASES = [
    (client, method, argument)
    for client, methods in METHODS.items()
    for method in methods
    for argument in arguments(getattr(KINDS[client], method))
]


ELSEWHERE = {
    "sampler.sample_stream": "gives an iterator, which begins a request when it is asked for the first token",
    "rest.download_checkpoint": "begins a thread that writes to disk; see test_downloads.py",
    "rest.download_session_trace": "as above",
    "rest.push_checkpoint_adapter": "begins a thread that asks the Hugging Face hub; see test_pushes.py",
    "sampler.from_sampler_handle": "opens connections of its own; see test_clones.py",
    "service.subscribe": "takes a function, and begins a thread for it",
    "training.steps": "gives an iterator, which checks when it is begun",
    "future.add_done_callback": "takes a function, as the future behind it does",
    "future.then": "takes a function, whose error is the future's",
}
"""Methods with arguments that are not in the table, and why."""


class NoRuntime:
    """Takes what a runtime takes, and starts nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def close_soon(self) -> None:
        pass

    def close(self, *_: Any) -> None:
        pass


CONSTRUCTED = [
    (build, argument)
    for build in (ta.ServiceClient, ta.RestClient, ta.RecoveryPolicy)
    for argument in arguments(build)
    if not argument.startswith("_")
]


def surprises(call: Callable[..., Any], given: dict[str, Any], argument: str) -> list[str]:
    """The values at which something else happened than an answer or a typed error."""
    found = []
    for name in VALUES:
        try:
            call(**{**given, argument: value_of(name)})
        except (TinkerActorsError, np.exceptions.ComplexWarning):
            continue
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def test_every_method_with_arguments_is_tried() -> None:
    public = {
        f"{client}.{name}"
        for client, kind in KINDS.items()
        for name, method in inspect.getmembers(kind, callable)
        if not name.startswith("_") and not name.endswith("_async") and arguments(method)
    }
    tried = {f"{client}.{method}" for client, methods in METHODS.items() for method in methods}
    assert public == tried | ELSEWHERE.keys()


@pytest.mark.filterwarnings("ignore:search_sessions is experimental:FutureWarning")
@pytest.mark.parametrize(("client", "method", "argument"), CASES)
def test_a_method_takes_a_value_or_refuses_it_by_a_typed_error(
    clients: dict[str, Any], client: str, method: str, argument: str
) -> None:
    given = METHODS[client][method]
    assert surprises(getattr(clients[client], method), given, argument) == []


@pytest.mark.parametrize(
    ("build", "given", "argument"),
    [(build, given, argument) for build, given in BUILT for argument in arguments(build)],
)
def test_a_value_is_built_or_refused_by_a_typed_error(
    build: Callable[..., Any], given: dict[str, Any], argument: str
) -> None:
    assert surprises(build, given, argument) == []


@pytest.mark.parametrize(("build", "argument"), CONSTRUCTED)
def test_a_client_is_made_or_refused_by_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., Any], argument: str
) -> None:
    for module in (service, rest):
        monkeypatch.setattr(module, "Runtime", NoRuntime)
    given = {} if build is ta.RecoveryPolicy else {"base_url": "http://127.0.0.1:9", "api_key": KEY}
    assert surprises(build, given, argument) == []


class Unknown(Vocabulary):
    """Of a model whose tokenizer is not here: the service would decide."""

    def __init__(self) -> None:
        super().__init__("no/model")

    size = None


INPUTS: list[Callable[[Any], Any]] = [
    lambda value: ta.ModelInput(chunks=value),
    lambda value: ta.ModelInput(chunks=[value]),
    lambda value: ta.ModelInput(chunks=[ta.EncodedTextChunk(tokens=value)]),
    lambda value: ta.ModelInput.from_ints([value]),
    lambda value: ta.ModelInput.from_ints([1]).append_int(value),
    lambda value: SimpleNamespace(chunks=[SimpleNamespace(type="encoded_text", tokens=value)]),
]
USES: list[Callable[[dict[str, Any], Any], Any]] = [
    lambda clients, given: clients["training"].forward_backward([datum(given)], "cross_entropy"),
    lambda clients, given: clients["training"].forward([datum(given)], "a loss of next year"),
    lambda clients, given: clients["sampler"].sample(given, 1, ta.SamplingParams(max_tokens=1)),
    lambda _, given: ta.ModelInput.of(given).known_length,
    lambda _, given: ta.ModelInput.of(given).to_numpy(),
    lambda _, given: ta.ModelInput.of(given).append_int(5).to_ints(),
]


def datum(model_input: Any) -> ta.Datum:
    targets: Any = {"target_tokens": [1], "weights": [1.0]}
    return ta.Datum(model_input=model_input, loss_fn_inputs=targets)


@pytest.mark.parametrize("is_known", [True, False], ids=["a known vocabulary", "an unknown one"])
@pytest.mark.parametrize("make", INPUTS, ids=range(len(INPUTS)))
@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
def test_an_input_is_used_or_refused_by_a_typed_error(
    clients: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Any], Any],
    use: Callable[[dict[str, Any], Any], Any],
    is_known: bool,
) -> None:
    if not is_known:
        for client in ("training", "sampler"):
            monkeypatch.setattr(clients[client], "_vocabulary", Unknown())
    assert surprises(lambda value: use(clients, make(value)), {}, "value") == []


@pytest.mark.parametrize("name", ["target_tokens", "weights"])
def test_a_loss_input_is_used_or_refused_by_a_typed_error(clients: dict[str, Any], name: str) -> None:
    def train(value: Any) -> None:
        inputs: Any = {"target_tokens": [1], "weights": [1.0], name: value}
        one = ta.Datum(model_input=ta.ModelInput.from_ints([1]), loss_fn_inputs=inputs)
        clients["training"].forward_backward([one], "cross_entropy")

    assert surprises(train, {}, "value") == []
