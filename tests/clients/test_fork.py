"""Processes forked from one with open clients, such as those that load data: they hang, hold and finish nothing of ours."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import WAIT_S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork there")

HEAD = """
import gc, multiprocessing, os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", ".*use of fork.*", DeprecationWarning)
import tinker_actors as ta
from harness import ADAM, BATCHES, step

def say(*words):
    print(*words, flush=True)

def forked(act):
    "What `act` leads to in a forked child that ends like any program: its exit code."
    pid = os.fork()
    if pid == 0:
        act()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

service = ta.ServiceClient(base_url="local", run_dir=sys.argv[1])
training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result()
"""
SUPPORT = Path(__file__).parent.parent / "support"


@contextmanager
def program(body: str, run_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body, str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(SUPPORT)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def printed(body: str, run_dir: Path) -> list[str]:
    with program(body, run_dir) as process:
        output, errors = process.communicate(timeout=WAIT_S)
        assert (process.returncode, errors) == (0, "")
    return output.splitlines()


def test_embedded_server_ends_with_its_owner_though_a_forked_child_lives(run_dir: Path) -> None:
    body = """
child = os.fork()
if child == 0:
    signal.pause()
say(child)
say(service._runtime.published.endpoint.base_url.rpartition(":")[2])
signal.pause()
"""
    with program(body, run_dir) as process:
        assert process.stdout is not None
        child, port = int(process.stdout.readline()), int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
            process.kill()
            assert connection.recv(1) == b""  # the server is gone
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        os.kill(child, 0)


def test_every_use_of_a_client_in_a_forked_child_is_refused(run_dir: Path) -> None:
    body = """
rest = service.create_rest_client()
sampler = training.save_weights_and_get_sampling_client().result()
tell = service.address("service/journal").tell
application = service.application
uses = {
    "train": lambda: training.forward_backward(BATCHES[0], "cross_entropy"),
    "step": lambda: training.optim_step(ADAM),
    "save": lambda: training.save_state("a"),
    "history": lambda: training.history(),
    "sample": lambda: sampler.sample([1], 1, ta.SamplingParams(max_tokens=1)),
    "create": lambda: service.create_lora_training_client("local/tiny", run="b"),
    "create sampler": lambda: service.create_sampling_client(base_model="local/tiny"),
    "capabilities": lambda: service.get_server_capabilities(),
    "rest": lambda: rest.list_training_runs(),
    "tree": lambda: service.tree(),
    "subscribe": lambda: service.subscribe(print),
    "application": lambda: service.application,
    "handle": lambda: training.handle.proxy().optim_step(ADAM).result(),
    "address": lambda: tell("hello"),
}

def use():
    for name, act in uses.items():
        try:
            act()
        except ta.ForkedProcessError:
            continue
        say(name, "was not refused")

say(forked(use))
step(training, 0)
say(training.step)
service.close().result()
"""
    assert printed(body, run_dir) == ["0", "1"]


def test_child_does_not_wait_for_results_that_come_to_its_parent(run_dir: Path) -> None:
    body = """
import asyncio
from concurrent.futures import Future
done = training.history()
done.result()
pending = ta.APIFuture(Future())

async def awaits():
    await pending

def wait():
    say(done.result() == [])
    for act in (pending.result, lambda: asyncio.run(awaits()), lambda: asyncio.run(pending.result_async())):
        try:
            act()
        except ta.ForkedProcessError as error:
            say(str(error).split(",")[0] == f"this result comes to process {os.getppid()}")

say(forked(wait))
service.close().result()
"""
    assert printed(body, run_dir) == ["True"] * 4 + ["0"]


def test_child_that_ends_like_any_program_finishes_nothing(run_dir: Path) -> None:
    body = """
sampler = training.save_weights_and_get_sampling_client().result()

def leave():
    global sampler
    with service:
        del sampler
        gc.collect()
    service.close().result()

say(forked(leave))
step(training, 0)
say(len(sampler.sample([1], 1, ta.SamplingParams(max_tokens=1)).result().sequences))
service.close().result()
again = ta.ServiceClient(base_url="local", run_dir=sys.argv[1])
say(again.create_lora_training_client("local/tiny", rank=4, seed=1).result().step)
again.close().result()
"""
    assert printed(body, run_dir) == ["0", "1", "1"]


def test_children_that_are_forked_while_a_run_is_busy_all_end(run_dir: Path) -> None:
    body = """
futures = []
for number in range(10):
    futures.append(training.forward_backward(BATCHES[0], "cross_entropy"))
    training.optim_step(ADAM)
    assert forked(gc.collect) == 0
for future in futures:
    future.result()
service.close().result()
say(training.step)
"""
    assert printed(body, run_dir) == ["10"]


def test_pool_of_forked_workers_loads_data_for_a_run(run_dir: Path) -> None:
    body = """
def load(number):
    return BATCHES[number % 2]

with multiprocessing.get_context("fork").Pool(2) as pool:
    for batch in pool.imap(load, range(6)):
        training.forward_backward(batch, "cross_entropy")
        training.optim_step(ADAM).result()
say(training.step)
service.close().result()
"""
    assert printed(body, run_dir) == ["6"]


def test_child_holds_neither_the_lock_nor_the_right_to_the_run_directory(run_dir: Path) -> None:
    body = """
def open_same():
    try:
        ta.ServiceClient(base_url="local", run_dir=sys.argv[1])
    except ta.JournalError as error:
        say(f"is held by process {os.getppid()}" in str(error))

def open_another():
    with ta.ServiceClient(base_url="local", run_dir=sys.argv[1] + "-child") as own:
        say(own.create_lora_training_client("local/tiny", rank=4).result().step)

say(forked(open_same))
say(forked(open_another))
child = os.fork()
if child == 0:
    signal.pause()
service.close().result()
ta.ServiceClient(base_url="local", run_dir=sys.argv[1]).close().result()
os.kill(child, signal.SIGKILL)
"""
    assert printed(body, run_dir) == ["True", "0", "0", "0"]
