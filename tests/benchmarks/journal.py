"""What the journal costs: beside a step, in opening it, and until a new process trains on.

Run by hand, in the development environment; it takes about a minute. Names of parts (small, large, open, attach) as
arguments leave the others out. The exit status is 1 if a target is missed.

- Small step: a forward_backward of two short data and an optim_step, waited for, with a run directory and without one,
  in turn, against one embedded server; the median of what a step takes longer than its neighbour without one.
- Large step: the same with bodies of 6 MB in all, as a share of the step without one.
- Opening: a journal of 100,000 records that recovery needs every one of, and a run of as many that were folded.
- Re-attaching: from the first call of a new process, with everything imported, to a training client on the run of a
  process that was killed.

The run directories lie where Python puts temporary files: set TMPDIR to a real disk. Times hold for one machine at one
moment; the targets are wide enough for a busy one.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
from harness import ADAM, BATCHES, KEY, Server, client

import tinker_actors as ta
from tinker_actors.journal.records import (
    CheckpointRecord,
    Kind,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    RunRecord,
    SendRecord,
    State,
)
from tinker_actors.journal.store import Store

SMALL_STEPS, LARGE_STEPS = 200, 3
LARGE_BYTES = 6_000_000
TOKENS, TARGETS = 255, 16
"""Per datum, and per token: as in distillation from a teacher's likeliest tokens."""
RECORDS = 100_000
WAIT_S = 300.0
MOST_MS, MOST_SHARE, MOST_OPENING_S, MOST_ATTACHING_S = 2.0, 1.15, 1.0, 2.0
NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)

missed: list[str] = []


def report(name: str, value: float, limit: float, unit: str, more: str = "") -> None:
    """One line; a target that is missed is remembered."""
    verdict = "" if value <= limit else "  MISSED"
    missed.extend([name] if verdict else [])
    print(f"{name}: {value:.3g} {unit} (at most {limit:g}){more}{verdict}", flush=True)


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory for a while."""
    path = Path(tempfile.mkdtemp(prefix="journal-benchmark-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


# Steps -------------------------------------------------------------------------------------------------


def large_batch() -> list[ta.Datum]:
    """Data whose request takes so many bytes."""
    tokens = np.full((TOKENS, TARGETS), 65)
    tensors: Any = {"target_tokens": tokens, "weights": np.full((TOKENS, TARGETS), 1 / TARGETS, np.float32)}
    datum = ta.Datum(ta.ModelInput.from_ints(tokens[:, 0].tolist()), tensors)
    return [datum] * (LARGE_BYTES // (TOKENS * TARGETS * 12))


def step_s(training: ta.TrainingClient, batch: list[ta.Datum]) -> float:
    """Seconds that one step takes."""
    began = time.perf_counter()
    training.forward_backward(batch, "cross_entropy")
    training.optim_step(ADAM).result(WAIT_S)
    return time.perf_counter() - began


def steps(batch: list[ta.Datum], count: int) -> tuple[float, float, float]:
    """Median seconds of a step without a run directory, what one adds to it, and the bytes that a step journals."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    with (
        temporary() as directory,
        Server(directory / "server") as server,
        client(server, None, recovery=NO_CHECKPOINTS) as bare,
        client(server, directory / "run", recovery=NO_CHECKPOINTS) as durable,
    ):
        trainings = {
            is_durable: service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
            for is_durable, service in ((False, bare), (True, durable))
        }
        for training in trainings.values():
            step_s(training, batch)
        before = durable._runtime._store.size()
        for number in range(count):
            for is_durable in (False, True) if number % 2 else (True, False):
                taken[is_durable].append(step_s(trainings[is_durable], batch))
        size = (durable._runtime._store.size() - before) / count
    added = [with_it - without for without, with_it in zip(taken[False], taken[True], strict=True)]
    return statistics.median(taken[False]), statistics.median(added), size


def small() -> None:
    """What the journal adds to a small step."""
    bare_s, added_s, _ = steps(BATCHES[0], SMALL_STEPS)
    report("journaling a small step, added", added_s * 1e3, MOST_MS, "ms", f"; {bare_s * 1e3:.3g} ms without")


def large() -> None:
    """What the journal makes of a large step."""
    bare_s, added_s, size = steps(large_batch(), LARGE_STEPS)
    more = f"; {bare_s:.3g} s without, {size / 1e6:.3g} MB journaled"
    report("journaling a large step, to the step without", 1 + added_s / bare_s, MOST_SHARE, "x", more)


# Opening -----------------------------------------------------------------------------------------------


def records(place: int, kind: Kind, body: bytes) -> list[Record]:
    """An operation with its result."""
    key: dict[str, Any] = {"run": "1", "place": place}
    summary = b'{"loss:sum": 1.5, "tokens:sum": 4096.0}'
    answer: dict[str, Any] = {"media_type": "application/json", "digest": "r" * 64}
    return [
        OperationRecord(
            **key, kind=kind, digest="d" * 64, ticket="t" * 32, state=State.DONE, summary=summary
        ),
        PartRecord(**key, part=0, content=body),
        ResultRecord(**key, part=0, body=body, **answer),
        SendRecord(**key, generation=1, part=0, seq_id=place, ended=1),
    ]


def opening_s(path: Path) -> float:
    """Seconds to open a journal and to load its run."""
    began = time.perf_counter()
    store = Store(path)
    store.load("1")
    took_s = time.perf_counter() - began
    store.close()
    return took_s


def opening() -> None:
    """How long opening takes."""
    for name, is_folded in (("all of them needed", False), ("of which nearly all are folded", True)):
        with temporary() as directory:
            store = Store(directory / "journal.db")
            store.write([RunRecord(run="1", config=b"{}")])
            for step in range(RECORDS // 8):
                place = 2 * step + 1
                body = b"b" * 200
                both = [
                    *records(place, Kind.FORWARD_BACKWARD, body),
                    *records(place + 1, Kind.OPTIM_STEP, b"{}"),
                ]
                store.write(both, durable=False)
                if is_folded and step % 20 == 19:
                    path = f"tinker://m/weights/{step}"
                    store.write([CheckpointRecord(run="1", place=place + 1, step=step + 1, path=path)])
                    store.compact("1")
            store.close()
            took_s = statistics.median(opening_s(directory / "journal.db") for _ in range(3))
            report(f"opening {RECORDS:,} records, {name}", took_s, MOST_OPENING_S, "s")


# Attaching ---------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[4])
import harness, numpy, httpx
import tinker_actors as ta
import tinker_actors.clients.service, tinker_actors.wire.http
began = time.perf_counter()
service = ta.ServiceClient(base_url=sys.argv[1], api_key=sys.argv[2], run_dir=sys.argv[3])
training = service.create_lora_training_client("local/tiny", rank=4).result(60)
print(time.perf_counter() - began, training.step, flush=True)
for number in range(20):
    harness.step(training, number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def attaching() -> None:
    """How long a new process waits for a training client on an old run."""
    with temporary() as directory, Server(directory / "server") as server:
        support = str(Path(__file__).parents[1] / "support")
        arguments = [sys.executable, "-c", PROGRAM, server.url, KEY, str(directory / "run"), support]
        outputs = [
            subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
            for _ in range(4)
        ]
        assert [int(step) for _, step in outputs] == [0, 20, 40, 60]
        took_s = statistics.median(float(seconds) for seconds, _ in outputs[1:])
        report("re-attaching in a new process", took_s, MOST_ATTACHING_S, "s")


PARTS: dict[str, Callable[[], None]] = {"small": small, "large": large, "open": opening, "attach": attaching}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
    sys.exit(1 if missed else 0)
