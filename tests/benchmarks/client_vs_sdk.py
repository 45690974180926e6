"""What our client costs beside the official SDK, on one machine in one run, as ratios.

Run by hand, in the development environment; it takes about three minutes. The SDK needs an environment of its own:

    python -m venv .venv-sdk
    .venv-sdk/bin/pip install tinker==0.38.0 torch==2.13.0
    TINKER_SDK_PYTHON=.venv-sdk/bin/python python tests/benchmarks/client_vs_sdk.py

Names of parts (training, losses, sampling, standing) as arguments leave the others out. Each line is one ratio, ours to the
SDK's, once with the fast transport and once with httpx, each with its target; the exit status is 1 if any is missed.

- Training step: CPU of one forward_backward of 8 data of 64 tokens with one optim_step, both waited for
  before the next two.
- Encode and send: CPU of a forward_backward of 128 data of 4,096 tokens, made each time from numpy arrays in the
  quickest form that the library takes (the SDK takes lists of token ids only). Its result is small.
- Custom loss: CPU of one forward_backward_custom of 32 data of 1,024 tokens, made beforehand, with one optim_step, both
  waited for. The SDK's loss is a torch function, as it wants it; ours gives its gradient in numpy. Where our Python has
  PyTorch, too, a second line has the same torch function on both sides.
- 256 concurrent samples: calls per second and CPU per call, of 64 prompt tokens and 64 drawn ones.
- 2,000 concurrent samples: peak resident memory to that after 256 at a time, of ours alone.
- Import: wall time of a fresh interpreter that imports the package. Ours loads most of itself on first use;
  what that then takes stands in parentheses.
- Memory with a service client open: resident set after its first request.

All run the same program against a stub in a process of its own, whose answers are canned and whose futures
are resolved at once. Each measurement is a fresh process of one side, the sides are taken in turn, CPU is that
of all threads. The SDK has its defaults (a compiled transport under httpx), but for telemetry, which is off for all.
Figures in parentheses hold for this machine at this moment only.
"""

import asyncio
import importlib.util
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SDK_PYTHON = os.environ.get("TINKER_SDK_PYTHON", "")
HOW_TO_INSTALL = (
    "TINKER_SDK_PYTHON must name the Python of an environment with the official SDK: "
    "python -m venv .venv-sdk && .venv-sdk/bin/pip install tinker==0.38.0"
)
BASE_MODEL = "benchmark/model"
"""A name without a tokenizer here, so that neither side loads one."""
ROUNDS = 3
WAIT_S = 60.0
FEW, MANY = 256, 2_000
CUSTOM_DATA, CUSTOM_TOKENS = 32, 1_024
TOKENS = 64
PROC = Path("/proc/self/status")

Figures = dict[str, list[float]]


# The stub ----------------------------------------------------------------------------------------------


class Answers:
    """What the stub says to each request; it knows only what the benchmark asks."""

    def __init__(self) -> None:
        import numpy as np

        from tinker_actors.types import ForwardBackwardOutput, SampledSequence, SampleResponse, TensorData
        from tinker_actors.wire.descriptors import message_class
        from tinker_actors.wire.protobuf import encode_output, encode_sample

        self._numbers = itertools.count()
        self._request = message_class("ForwardBackwardRequest")
        logprobs, many = (
            TensorData(np.linspace(-2.0, -1.0, count, dtype="float32")) for count in (TOKENS, CUSTOM_TOKENS)
        )
        self._output: Callable[[int], bytes] = lambda count: encode_output(
            ForwardBackwardOutput(
                loss_fn_outputs=[{"logprobs": many if count == CUSTOM_DATA else logprobs}] * count,
                metrics={"loss:sum": 1.5},
                loss_fn_output_type="ArrayRecord",
            )
        )
        drawn = SampledSequence(
            tokens=list(range(TOKENS)), logprobs=logprobs.data, stop_reason="length", topk_logprobs_np=None
        )
        self._sample = encode_sample(SampleResponse(sequences=[drawn]))
        self._results: dict[str, tuple[bytes, bytes]] = {}
        """By the first word of the request id."""

    def to(self, path: str, body: bytes) -> tuple[bytes, bytes]:
        """Media type and body of the answer to a request."""
        operation = path.removeprefix("/api/v1/")
        if operation == "retrieve_future":
            return self._results[json.loads(body)["request_id"].partition(" ")[0]]
        return self._to_work(operation, body) or self._to_setup(operation, body)

    def _to_work(self, operation: str, body: bytes) -> tuple[bytes, bytes] | None:
        number = next(self._numbers)
        match operation:
            case "asample":
                self._results["sample"] = b"application/x-protobuf", self._sample
                return _json({"request_id": f"sample {number}", "sample_sequence_ids": [f"drawn {number}"]})
            case "forward_backward":
                kind = f"output-{len(self._request.FromString(body).data)}"
                if kind not in self._results:
                    count = int(kind.partition("-")[2])
                    self._results[kind] = b"application/x-protobuf", self._output(count)
                return _json({"request_id": f"{kind} {number}"})
            case "optim_step":
                self._results["optim"] = _json({"metrics": {"grad_norm": 1.0}})
                return _json({"request_id": f"optim {number}"})
        return None

    def _to_setup(self, operation: str, body: bytes) -> tuple[bytes, bytes]:
        number = next(self._numbers)
        match operation:
            case "create_model":
                asked = json.loads(body)
                model_id = f"{asked['session_id']}:train:{asked['model_seq_id']}"
                self._results["model"] = _json({"model_id": model_id, "type": "create_model"})
                return _json({"request_id": f"model {number}"})
            case "get_info":
                data = {"model_name": BASE_MODEL, "arch": "benchmark"}
                named = {"model_id": json.loads(body)["model_id"], "model_data": data}
                return _json({**named, "is_lora": True, "lora_rank": 8, "model_name": BASE_MODEL})
            case "create_session":
                return _json({"session_id": f"session-{number}", "type": "create_session"})
            case "create_sampling_session":
                return _json({"sampling_session_id": f"sampling-{number}"})
            case "get_server_capabilities":
                return _json({"supported_models": [{"model_name": BASE_MODEL}]})
            case "telemetry":
                return _json({"status": "accepted"})
            case _:  # flags, beats, the end of a session
                return _json({})


def _json(document: dict[str, Any]) -> tuple[bytes, bytes]:
    return b"application/json", json.dumps(document).encode()


class Connection(asyncio.Protocol):
    """HTTP/1.1, as much of it as the two clients speak."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._unread = bytearray()
        self._path, self._body_begins, self._wanted = "", 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while self._has_head() and len(self._unread) >= self._wanted:
            body = bytes(self._unread[self._body_begins : self._wanted])
            del self._unread[: self._wanted]
            self._wanted = 0
            kind, answer = self._answers.to(self._path, body)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % (kind, len(answer)) + answer)

    def _has_head(self) -> bool:
        """Whether it is known what comes and how long it is."""
        if self._wanted == 0:
            end = self._unread.find(b"\r\n\r\n")
            if end < 0:
                return False
            first, *fields = self._unread[:end].decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)
            }
            if "transfer-encoding" in headers:
                raise ValueError("the stub reads bodies of a known length only")
            self._path = first.split(" ")[1].partition("?")[0]
            self._body_begins = end + 4
            self._wanted = self._body_begins + int(headers.get("content-length", "0"))
        return True


async def serve() -> None:
    """Say the port, then answer until standard input ends."""
    loop, answers = asyncio.get_running_loop(), Answers()
    server = await loop.create_server(lambda: Connection(answers), "127.0.0.1", 0, backlog=MANY)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


@contextmanager
def stub() -> Iterator[str]:
    """A stub server's URL."""
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


# One side, in a process of its own -----------------------------------------------------------------------


def cpu_s() -> float:
    """Of all threads of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_mib(which: str) -> float:
    """`VmRSS`, the resident set of this process, or `VmHWM`, the largest that it was."""
    lines = PROC.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


def service_of(library: Any, url: str) -> Any:
    """A service client."""
    return library.ServiceClient(base_url=url, api_key="tml-benchmark")


def each(work: Callable[[], object], blocks: int, times: int) -> list[float]:
    """CPU seconds of one `work`, as the mean of each block."""
    result = []
    for _ in range(blocks):
        start = cpu_s()
        for _ in range(times):
            work()
        result.append((cpu_s() - start) / times)
    return result


def train(library: Any, url: str) -> Figures:
    """Small steps one after another, then large batches."""
    import numpy as np

    training = service_of(library, url).create_lora_training_client(BASE_MODEL, rank=8)
    if hasattr(training, "result"):
        training = training.result(WAIT_S)
    random = np.random.default_rng(0)
    adam = library.AdamParams(learning_rate=1e-4)

    def tokens_of(row: Any) -> Any:
        return row.tolist() if library.__name__ == "tinker" else row

    def batch(tokens: Any) -> list[Any]:
        weights = np.ones(tokens.shape[1] - 1, "float32")
        return [
            library.Datum(
                model_input=library.ModelInput.from_ints(tokens_of(row[:-1])),
                loss_fn_inputs={
                    "target_tokens": library.TensorData.from_numpy(row[1:]),
                    "weights": library.TensorData.from_numpy(weights),
                },
            )
            for row in tokens
        ]

    small = batch(random.integers(50_000, size=(8, TOKENS + 1)))
    large = random.integers(50_000, size=(128, 4_097))

    def step() -> None:
        forward, update = training.forward_backward(small, "cross_entropy"), training.optim_step(adam)
        assert len(forward.result(WAIT_S).loss_fn_outputs) == len(small)
        update.result(WAIT_S)

    def send() -> None:
        outputs = training.forward_backward(batch(large), "cross_entropy").result(WAIT_S).loss_fn_outputs
        assert len(outputs) == len(large)

    each(step, 1, 20)
    each(send, 1, 1)
    return {"step": each(step, 5, 40), "send": each(send, 5, 1)}


def custom(library: Any, url: str, *, in_torch: bool = False) -> Figures:
    """Steps with a loss of one's own."""
    import numpy as np

    training = service_of(library, url).create_lora_training_client(BASE_MODEL, rank=8)
    if hasattr(training, "result"):
        training = training.result(WAIT_S)
    tokens = np.random.default_rng(0).integers(50_000, size=(CUSTOM_DATA, CUSTOM_TOKENS + 1))
    weights = np.ones(CUSTOM_TOKENS, "float32")

    def tokens_of(row: Any) -> Any:
        return row.tolist() if library.__name__ == "tinker" else row

    data = [
        library.Datum(
            model_input=library.ModelInput.from_ints(tokens_of(row[:-1])),
            loss_fn_inputs={
                "target_tokens": library.TensorData.from_numpy(row[1:]),
                "weights": library.TensorData.from_numpy(weights),
            },
        )
        for row in tokens
    ]
    adam = library.AdamParams(learning_rate=1e-4)

    def in_numpy(data: Any, logprobs: Any) -> Any:
        weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
        loss = sum((w * row**2).sum() for w, row in zip(weights, logprobs, strict=True))
        return (
            loss,
            [2 * w * row for w, row in zip(weights, logprobs, strict=True)],
            {"mine:sum": float(loss)},
        )

    def by_autograd(data: Any, logprobs: Any) -> Any:
        weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
        loss = sum((w * row**2).sum() for w, row in zip(weights, logprobs, strict=True))
        return loss, {"mine:sum": loss.item()}

    loss_fn: Any = by_autograd
    if library.__name__ != "tinker" and not in_torch:
        loss_fn = importlib.import_module("tinker_actors.losses").value_and_grad(in_numpy)

    def step() -> None:
        loss = training.forward_backward_custom(data, loss_fn)
        update = training.optim_step(adam)
        assert "surrogate_loss:sum" in loss.result(WAIT_S).metrics
        update.result(WAIT_S)

    each(step, 1, 3)
    return {"custom": each(step, 5, 5)}


def custom_in_torch(library: Any, url: str) -> Figures:
    """The same with a torch function on either side."""
    return custom(library, url, in_torch=True)


def sample(library: Any, url: str) -> Figures:
    """Bursts of samples: a few at a time, then many."""
    sampler = service_of(library, url).create_sampling_client(base_model=BASE_MODEL)
    if hasattr(sampler, "result"):
        sampler = sampler.result(WAIT_S)
    prompt = library.ModelInput.from_ints(list(range(TOKENS)))
    params = library.SamplingParams(max_tokens=TOKENS)

    def burst(count: int) -> tuple[float, float]:
        """CPU and wall seconds."""
        wall, cpu = time.perf_counter(), cpu_s()
        futures = [sampler.sample(prompt, 1, params) for _ in range(count)]
        for future in futures:
            assert len(future.result(WAIT_S).sequences[0].tokens) == TOKENS
        return cpu_s() - cpu, time.perf_counter() - wall

    burst(FEW)
    bursts = [burst(FEW) for _ in range(5)]
    figures = {"call": [cpu / FEW for cpu, _ in bursts], "rate": [FEW / wall for _, wall in bursts]}
    figures["few"] = [memory_mib("VmHWM")]
    for _ in range(2):
        burst(MANY)
    return {**figures, "many": [memory_mib("VmHWM")]}


def open_client(library: Any, url: str) -> Figures:
    """A service client that has made a request."""
    service = service_of(library, url)
    capabilities = service.get_server_capabilities()
    if hasattr(capabilities, "result"):
        capabilities = capabilities.result(WAIT_S)
    assert capabilities.supported_models[0].model_name == BASE_MODEL
    return {"open": [memory_mib("VmRSS")]}


CASES = {
    "train": train,
    "custom": custom,
    "custom_in_torch": custom_in_torch,
    "sample": sample,
    "open": open_client,
}


# All sides ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """A library as it is measured."""

    module: str
    python: str
    settings: dict[str, str]
    """Of the environment."""

    def output_of(self, *arguments: str) -> str:
        """Of a process of its Python, which must succeed."""
        command = [self.python, *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=self._environment(), timeout=4 * WAIT_S
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return done.stdout

    def measured(self, case: str, url: str) -> Figures:
        """What a fresh process finds."""
        output = self.output_of(__file__, case, self.module, url)
        figures: Figures = json.loads(output.splitlines()[-1])
        return figures

    def seconds(self, code: str) -> float:
        """Wall time that an interpreter lives for `code`."""
        start = time.perf_counter()
        self.output_of("-c", code)
        return time.perf_counter() - start

    def imports(self) -> Figures:
        """How long an interpreter takes to import it."""
        name = self.module
        whole = f"import {name}" if name == "tinker" else f"from {name} import *"
        codes = {"import": f"import {name}", "bare": "pass", "whole": whole}
        return {figure: [self.seconds(code)] for figure, code in codes.items()}

    def version(self) -> str:
        """Of its Python and of the library."""
        package = self.module.replace("_", "-")
        code = f"import sys, importlib.metadata as m; print(sys.version.split()[0], m.version({package!r}))"
        return self.output_of("-c", code).strip()

    def _environment(self) -> dict[str, str]:
        """Ours without what could change how the clients work."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TINKER", "CLOUDFLARE")) and not name.lower().endswith("_proxy")
        }
        return {**kept, **self.settings, "TINKER_TELEMETRY": "0"}


FAST, HTTPX = (
    Side("tinker_actors", sys.executable, {"TINKER_ACTORS_TRANSPORT": name}) for name in ("fast", "httpx")
)
SDK = Side("tinker", str(Path(SDK_PYTHON).absolute()), {})
SIDES = {"fast": FAST, "httpx": HTTPX, "SDK": SDK}
Medians = dict[str, dict[str, float]]
"""By side and figure."""


def medians(measure: Callable[[Side], Figures], rounds: int = ROUNDS) -> Medians:
    """The median of each figure, the sides taken in turn."""
    found: dict[str, Figures] = {name: defaultdict(list) for name in SIDES}
    for _ in range(rounds):
        for name, side in SIDES.items():
            for figure, values in measure(side).items():
                found[name][figure].extend(values)
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output."""

    what: str
    ratios: dict[str, float]
    """By transport."""
    targets: dict[str, float]
    figures: str
    is_least: bool = False
    """Whether targets are the least good ratios instead of the largest."""

    @property
    def missed(self) -> list[str]:
        """Transports with which the target is missed."""
        sign = -1 if self.is_least else 1
        return [name for name, ratio in self.ratios.items() if sign * ratio > sign * self.targets[name]]

    def __str__(self) -> str:
        word = "least" if self.is_least else "most"
        told = [
            f"{name} {ratio:5.2f}x (at {word} {self.targets[name]:.2f}{', MISSED' if name in self.missed else ''})"
            for name, ratio in self.ratios.items()
        ]
        return f"{self.what:38s} {told[0]:33s} {told[1]:34s} {self.figures}"


def compared(
    what: str,
    found: Medians,
    figure: str,
    targets: tuple[float, float],
    unit: str,
    scale: float = 1.0,
    *,
    is_least: bool = False,
) -> Finding:
    """Ours to the SDK's."""
    values = {name: scale * figures[figure] for name, figures in found.items()}
    told = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    return Finding(
        what,
        {name: values[name] / values["SDK"] for name in ("fast", "httpx")},
        dict(zip(("fast", "httpx"), targets, strict=True)),
        f"({told} {unit})",
        is_least,
    )


def training(url: str) -> Iterator[Finding]:
    """Steps, and what large batches cost."""
    found = medians(lambda side: side.measured("train", url))
    yield compared("training step, CPU", found, "step", (1 / 3, 1.0), "ms", 1e3)
    yield compared("encode and send 128 x 4,096, CPU", found, "send", (0.5, 0.5), "ms", 1e3)


def losses(url: str) -> Iterator[Finding]:
    """A loss of one's own."""
    what = f"custom loss on {CUSTOM_DATA} x {CUSTOM_TOKENS:,}, CPU"
    found = medians(lambda side: side.measured("custom", url))
    yield compared(what, found, "custom", (0.5, 0.5), "ms", 1e3)
    if importlib.util.find_spec("torch") is not None:
        found = medians(lambda side: side.measured("custom_in_torch", url))
        yield compared(f"{what}, in torch", found, "custom", (0.5, 0.5), "ms", 1e3)


def sampling(url: str) -> Iterator[Finding]:
    """Many samples at a time."""
    found = medians(lambda side: side.measured("sample", url))
    yield compared(f"{FEW} concurrent samples, calls", found, "rate", (4.0, 1.0), "calls/s", is_least=True)
    yield compared(f"{FEW} concurrent samples, CPU a call", found, "call", (0.25, 1.0), "ms", 1e3)
    growth = {name: figures["many"] / figures["few"] for name, figures in found.items()}
    peaks = ", ".join(f"{name} {figures['many']:.0f}" for name, figures in found.items())
    yield Finding(
        f"{MANY:,} to {FEW} concurrent samples, memory",
        {name: growth[name] for name in ("fast", "httpx")},
        dict.fromkeys(("fast", "httpx"), 1.25),
        f"(SDK {growth['SDK']:.2f}x; peaks {peaks} MiB)",
    )


def standing(url: str) -> Iterator[Finding]:
    """What it costs to be there."""
    found = medians(Side.imports, 2 * ROUNDS)
    yield compared("import, wall time", found, "import", (1 / 3, 1 / 3), "s")
    yield compared("import of all there is, wall time", found, "whole", (1.0, 1.0), "s")
    found = medians(lambda side: side.measured("open", url))
    yield compared("service client open, memory", found, "open", (0.6, 0.75), "MiB")


PARTS = {"training": training, "losses": losses, "sampling": sampling, "standing": standing}


def main() -> int:
    """Print a line a measurement; the exit status."""
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case [case, module, url] if case in CASES:
            print(json.dumps(CASES[case](importlib.import_module(module), url)), flush=True)
            os._exit(0)  # neither side's ending is measured
    if not SDK_PYTHON or not PROC.exists():
        print(f"this system has no {PROC}" if SDK_PYTHON else HOW_TO_INSTALL, file=sys.stderr)
        return 2
    print(
        f"(python, version) tinker-actors {FAST.version()}, SDK {SDK.version()}; {os.cpu_count()} cores",
        flush=True,
    )
    is_missed = False
    with stub() as url:
        for part in sys.argv[1:] or PARTS:
            for finding in PARTS[part](url):
                print(finding, flush=True)
                is_missed |= bool(finding.missed)
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
