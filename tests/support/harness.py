"""What several test modules use: example data, a server of their own, a look into its checkpoints."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from control import KEY as KEY  # noqa: PLC0414 - tests import it from here
from control import Control

import tinker_actors as ta
from tinker_actors.tokenization import get_tokenizer

WAIT_S = 60.0
"""How long a test waits for what should come at once; only a broken program gets there."""


def example(prompt: str, answer: str) -> ta.Datum:
    """A datum for `local/tiny` whose loss counts the answer."""
    tokenizer = get_tokenizer("local/tiny")
    question, reply = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_token_id]
    tokens = question + reply
    return ta.Datum(
        model_input=ta.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
            "weights": ta.TensorData([0.0] * (len(question) - 1) + [1.0] * len(reply), dtype="float32"),
        },
    )


BATCHES = [
    [example("hello", "ellohay"), example("world", "orldway")],
    [example("apple pie", "appleway iepay")],
]
ADAM = ta.AdamParams(learning_rate=2e-3)
NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
"""Of tests that look at each request: nothing is sent but what they ask for."""


def step(training: ta.TrainingClient, number: int) -> dict[str, float]:
    """Optimizer step `number` of the program that every test runs; its metrics."""
    forward = training.forward_backward(BATCHES[number % len(BATCHES)], "cross_entropy")
    update = training.optim_step(ADAM)
    update.result(WAIT_S)
    return forward.result(WAIT_S).metrics


class Server:
    """An embedded server over `data` that tests talk to as if it were a remote service.

    Args:
        data: its directory.
        options: more of its command line.
    """

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self._options = options
        self.port = 0
        self._start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.control = Control(self.url)

    def _start(self) -> None:
        with self.data.with_name(f"{self.data.name}.stderr").open("a+") as errors:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tinker_actors.local",
                    "--data",
                    self.data,
                    f"--port={self.port}",
                    "--owned",
                    "--threads=1",
                    "--deterministic",
                    "--control",
                    *self._options,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            assert self._process.stdout is not None
            greeting = self._process.stdout.readline()
            errors.seek(0)
            assert greeting, errors.read()
        self.port = json.loads(greeting)["port"]

    def kill(self) -> None:
        """End it as the kernel would."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def restart(self) -> None:
        """Kill it, and start another one over the same data at the same address; faults are forgotten."""
        self.kill()
        self._start()

    def post(self, path: str, **document: Any) -> httpx.Response:
        """A request from outside of the program under test."""
        return httpx.post(f"{self.url}/api/v1/{path}", json=document, headers={"x-api-key": KEY})

    def unload(self, model_id: str) -> None:
        """Lose a model, as a service does that needs its memory."""
        self.post("unload_model", model_id=model_id, type="unload_model").raise_for_status()

    def finish_session(self, session_id: str) -> None:
        """Lose a session."""
        reason = {"type": "interrupted"}
        self.post(f"sessions/{session_id}/finish", reason=reason, detail=None).raise_for_status()

    def checkpoint(self, path: str) -> Path:
        """The file of training state behind a `tinker://` path."""
        return self.data / "checkpoints" / path.removeprefix("tinker://") / "checkpoint.safetensors"

    def digest(self, path: str) -> str:
        """Of that file's bytes."""
        return hashlib.sha256(self.checkpoint(path).read_bytes()).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@contextmanager
def client(server: Server, run_dir: Path | None, **arguments: Any) -> Iterator[ta.ServiceClient]:
    """A service client of `server`."""
    with ta.ServiceClient(
        base_url=server.url, api_key=KEY, run_dir=None if run_dir is None else str(run_dir), **arguments
    ) as service:
        yield service


def give_up(service: ta.ServiceClient, path: str) -> None:
    """What the watchdog does with an actor whose handler does not return."""
    slot = service.address(path)._runtime.names.get(path)
    assert slot is not None
    assert slot.incarnation is not None
    handling = slot.incarnation.handling
    assert handling is not None
    slot.incarnation.stalled(handling, 600.0)


class Events:
    """What a service client told since this was made; whoever looks waits until all that was told by then is here."""

    def __init__(self, service: ta.ServiceClient) -> None:
        self._told: list[object] = []
        service.subscribe(self._note)
        self._listener = service._runtime.tree.events._listeners[-1]

    def _note(self, event: object) -> None:
        if isinstance(event, threading.Event):
            event.set()
        else:
            self._told.append(event)

    @property
    def seen(self) -> list[object]:
        """All of them, in order."""
        up_to_here = threading.Event()
        self._listener.offer(up_to_here)
        give_up_at = time.monotonic() + WAIT_S
        while not up_to_here.wait(0.02) and self._listener.thread.is_alive():  # it ends with the client
            assert time.monotonic() < give_up_at, "the listener is stuck"
        return list(self._told)

    def of(self, kind: type[Any]) -> list[Any]:
        """Those of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]
