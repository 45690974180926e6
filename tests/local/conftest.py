"""A real server in a process of its own, and a small client for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedded import Embedded, WallClock

import tinker_actors as ta
from tinker_actors.types import Datum, ModelInput, TensorData
from tinker_actors.wire.protobuf import encode_training_content, with_ids

KEY = {"X-API-Key": "tml-test"}
PROTOBUF = "application/x-protobuf"
SERVER = (sys.executable, "-m", "tinker_actors.local")
_SMALL_FILES = """
import resource, runpy, sys
most = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
runpy.run_module("tinker_actors.local", run_name="__main__")
"""
SERVER_OF_SMALL_FILES = (sys.executable, "-c", _SMALL_FILES)
"""A server none of whose files may grow above so many bytes, as on a disk that is full."""
TEXT = list(b"the quick brown fox jumps over the lazy dog")


class Process:
    """One server process over a data directory."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self._errors = data.with_name(data.name + ".stderr")
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                # One thread: idle BLAS threads spin, which starves whatever else runs on a small machine.
                [*SERVER, "--data", data, "--owned", "--threads=1", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.errors
        self.listening = json.loads(line)
        self.url = f"http://{self.listening['host']}:{self.listening['port']}/api/v1"

    def kill(self) -> None:
        """End it as the kernel would, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    def signal(self, number: int) -> int:
        """Send a signal; the exit code."""
        os.kill(self.listening["pid"], number)
        return self.wait()

    def close_input(self) -> int:
        """Let go of it as a dying owner would; the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        return self.wait()

    def wait(self) -> int:
        code = self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    @property
    def errors(self) -> str:
        """What it wrote on standard error so far."""
        return self._errors.read_text()

    def stop(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)


def step_document(model_id: str, seq_id: int, learning_rate: float = 0.01) -> dict[str, Any]:
    return {"model_id": model_id, "seq_id": seq_id, "adam_params": {"learning_rate": learning_rate}}


def datum(tokens: list[int], **more: Any) -> Datum:
    inputs = {
        "target_tokens": TensorData([*tokens[1:], 256], dtype="int64"),
        "weights": TensorData([1.0] * len(tokens), dtype="float32"),
    }
    inputs.update(more)
    return Datum(model_input=ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


def training_document(
    model_id: str, seq_id: int, tokens: list[int], key: str = "forward_backward_input"
) -> dict[str, Any]:
    """A forward_backward request in JSON, equal to that of `Caller.forward_backward`."""
    inputs: Mapping[str, Any] = {
        "target_tokens": {"data": [*tokens[1:], 256], "dtype": "int64", "shape": [len(tokens)]},
        "weights": {"data": [1.0] * len(tokens), "dtype": "float32"},
    }
    chunk = {"type": "encoded_text", "tokens": tokens}
    content = {
        "data": [{"model_input": {"chunks": [chunk]}, "loss_fn_inputs": inputs}],
        "loss_fn": "cross_entropy",
    }
    return {"model_id": model_id, "seq_id": seq_id, key: content}


def sample_document(sampler_id: str, seq_id: int = 0, **more: Any) -> dict[str, Any]:
    params = {"max_tokens": 8, **more.pop("sampling_params", {})}
    chunk = {"type": "encoded_text", "tokens": TEXT[:5]}
    return {
        "prompt": {"chunks": [chunk]},
        "sampling_params": params,
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "num_samples": 1,
        **more,
    }


class Caller:
    """One client of the API: posts documents, polls for results."""

    TEXT = TEXT
    datum = staticmethod(datum)
    step_document = staticmethod(step_document)
    sample_document = staticmethod(sample_document)
    training_document = staticmethod(training_document)

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, path: str, document: Any) -> httpx.Response:
        return self.http.post(path, json=document)

    def ask(self, path: str, document: Any) -> Any:
        response = self.post(path, document)
        assert response.status_code == 200, response.text
        return response.json()

    def poll(self, request_id: str, accept: str = "application/json") -> httpx.Response:
        """The answer once the request is done."""
        response = httpx.Response(408)
        while response.status_code == 408:
            response = self.http.post(
                "retrieve_future", json={"request_id": request_id}, headers={"Accept": accept}
            )
        return response

    def do(self, path: str, document: Any) -> Any:
        """What a request in the background comes to."""
        return self.poll(self.ask(path, document)["request_id"]).json()

    def session(self) -> str:
        return str(self.ask("create_session", {"tags": [], "sdk_version": "0.38.0"})["session_id"])

    def model(
        self,
        session_id: str | None = None,
        *,
        number: int = 0,
        rank: int = 4,
        seed: int = 7,
        base_model: str = "local/tiny",
    ) -> str:
        """A new model's id."""
        document = {
            "session_id": session_id or self.session(),
            "model_seq_id": number,
            "base_model": base_model,
            "lora_config": {"rank": rank, "seed": seed},
        }
        return str(self.do("create_model", document)["model_id"])

    def forward_backward(self, model_id: str, seq_id: int, tokens: list[int] | None = None) -> httpx.Response:
        body = with_ids(encode_training_content([datum(tokens or TEXT)], "cross_entropy"), model_id, seq_id)
        return self.http.post("forward_backward", content=body, headers={"Content-Type": PROTOBUF})

    def optim_step(self, model_id: str, seq_id: int, learning_rate: float = 0.01) -> httpx.Response:
        return self.post("optim_step", step_document(model_id, seq_id, learning_rate))

    def save(self, model_id: str, seq_id: int, name: str, **more: Any) -> httpx.Response:
        return self.post("save_weights", {"model_id": model_id, "seq_id": seq_id, "path": name, **more})

    def sampler(self, session_id: str, number: int = 0, **source: str) -> str:
        document = {
            "session_id": session_id,
            "sampling_session_seq_id": number,
            **(source or {"base_model": "local/tiny"}),
        }
        return str(self.ask("create_sampling_session", document)["sampling_session_id"])


@contextmanager
def calling(url: str) -> Iterator[Caller]:
    # Reading the certificates would take most of a test's time, and nothing here is encrypted.
    with httpx.Client(base_url=url, headers=KEY, timeout=60, verify=False) as http:  # noqa: S501
        yield Caller(http)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that all tests of a module share, and whose models may lie in their directories."""
    models = str(tmp_path_factory.getbasetemp())
    server = Process(tmp_path_factory.mktemp("server"), "--hold", "0.2", "--models", models)
    yield server
    server.kill()


@pytest.fixture
def caller(process: Process) -> Iterator[Caller]:
    """A client of the shared server."""
    with calling(process.url) as caller:
        yield caller


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts servers of a test's own: `start(data, *options)`."""
    started: list[Process] = []

    def starting(data: Path, *options: str) -> Process:
        started.append(Process(data, *options))
        return started[-1]

    yield starting
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def start_shared() -> Iterator[Callable[..., Process]]:
    """Starts servers that the tests of a module share: `start_shared(data, *options)`."""
    with ExitStack() as stack:

        def starting(data: Path, *options: str) -> Process:
            process = Process(data, *options)
            stack.callback(process.kill)
            return process

        yield starting


@pytest.fixture(scope="module")
def open_caller() -> Iterator[Callable[[Process], Caller]]:
    """Clients of servers that are not the shared one."""
    with ExitStack() as stack:
        yield lambda process: stack.enter_context(calling(process.url))


@pytest.fixture
def clock() -> WallClock:
    """What the server of `embedded` is told the time by."""
    return WallClock()


@pytest.fixture
def embedded(tmp_path: Path, clock: WallClock) -> Iterator[Embedded]:
    """A server in this process."""
    with Embedded(tmp_path / "embedded", clock) as embedded:
        yield embedded


@pytest.fixture
def talker(embedded: Embedded) -> Iterator[Caller]:
    """A client of the server in this process."""
    with calling(f"{embedded.url}/api/v1") as caller:
        yield caller


@pytest.fixture
def open_url() -> Iterator[Callable[[str], Caller]]:
    """Clients of servers in this process that a test starts itself."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(calling(f"{url}/api/v1"))


@pytest.fixture
def rest(embedded: Embedded) -> Iterator[ta.RestClient]:
    """Our own client of its records."""
    with ta.RestClient(base_url=embedded.url, api_key=KEY["X-API-Key"]) as client:
        yield client


@pytest.fixture
def refused() -> Callable[..., str]:
    """What a server that does not start says: `refused(data, *options)`; exit code 2, nothing on stdout."""

    def starting(data: Path, *options: str, most_bytes: int | None = None) -> str:
        program = SERVER if most_bytes is None else (*SERVER_OF_SMALL_FILES, str(most_bytes))
        command = [*program, "--data", data, "--owned", *options]
        run = subprocess.run(command, capture_output=True, input="", text=True, timeout=60, check=False)
        assert (run.returncode, run.stdout) == (2, ""), run.stderr
        return run.stderr

    return starting
