"""A run through an outage: the service refuses optimizer steps for a while, and the run waits and goes on.

The embedded server is told to answer 503 to every `optim_step` for some seconds. The breaker of that operation opens,
so that the server is left alone but for a probe now and then; the others stay closed. Training waits, and each step is
taken once.

    python examples/outage.py [SECONDS]
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinker_actors as ta
from tinker_actors.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, RequestRetried, StepDone
from tinker_actors.tokenization import get_tokenizer

KEY = "tml-outage"
STEPS = 4


def say(line: str) -> None:
    """Print from any thread."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def server(data: Path) -> Iterator[str]:
    """The embedded server on its own, with the endpoint by which things can be broken; its URL."""
    command = [sys.executable, "-m", "tinker_actors.local", "--data", str(data), "--owned", "--control"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.terminate()


def break_down(url: str, operation: str, seconds: float) -> None:
    """Let the server refuse an operation for so long."""
    fault = {"effect": "status", "status": 503, "operation": operation, "count": "always", "until_s": seconds}
    request = urllib.request.Request(  # noqa: S310 - on loopback
        f"{url}/control/faults",
        data=json.dumps({"faults": [fault]}).encode(),
        headers={"x-api-key": KEY, "content-type": "application/json"},
    )
    urllib.request.urlopen(request).close()  # noqa: S310 - on loopback


def tell(event: Any) -> None:
    """What happens, on screen."""
    match event:
        case CircuitOpened(operation=operation, open_s=open_s):
            say(f"  circuit of {operation} opened, for {open_s:.1f} s")
        case CircuitHalfOpened(operation=operation):
            say(f"  circuit of {operation} lets one call try")
        case CircuitClosed(operation=operation):
            say(f"  circuit of {operation} closed")
        case RequestRetried(operation=operation, delay_s=delay_s):
            say(f"  {operation} failed, and is tried again in {delay_s:.1f} s")
        case StepDone(step=step):
            say(f"step {step} is taken")


def batch() -> list[ta.Datum]:
    """One example."""
    tokens = get_tokenizer("local/tiny").encode("an outage is not the end")
    targets = ta.TensorData(tokens[1:], dtype="int64")
    weights = ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32")
    return [
        ta.Datum(
            model_input=ta.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": targets, "weights": weights},
        )
    ]


def main(seconds: float) -> None:
    """Train through an outage of so many seconds."""
    breaker = ta.BreakerSettings(open_s=0.5, max_open_s=2.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "server") as url,
        ta.ServiceClient(
            base_url=url, api_key=KEY, run_dir=Path(folder) / "run", circuit_breaker=breaker
        ) as service,
    ):
        unsubscribe = service.subscribe(tell)
        training = service.create_lora_training_client("local/tiny", rank=8).result()
        say(f"optim_step goes down for {seconds:g} s")
        break_down(url, "optim_step", seconds)
        for _ in training.steps(STEPS):
            training.forward_backward(batch(), "cross_entropy")
            update = training.optim_step(ta.AdamParams(learning_rate=1e-3))
            while not wait([update.future()], timeout=1.0).done:
                say(f"  waits for {service.status().clients[0].waits_for}")
            update.result()
        unsubscribe()
        closed = [name for name, one in service.status().breakers.items() if one.state == "closed"]
        say(f"{training.step} steps taken; closed circuits: {', '.join(closed)}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0)
