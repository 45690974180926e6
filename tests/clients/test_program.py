"""Programs that end in order: each case is a process of its own, because it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import KEY, WAIT_S, Server

HEAD = """
import asyncio, os, signal, sys, threading, time
import tinker_actors as ta
from harness import BATCHES, client, step

def say(*words):
    print(*words, flush=True)

def open_client():
    return ta.ServiceClient(base_url=sys.argv[1], api_key=sys.argv[2], run_dir=sys.argv[3])
"""
SUPPORT = Path(__file__).parent.parent / "support"


class Program:
    """A program under way, and what it printed."""

    def __init__(self, body: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + body, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(SUPPORT), "PATH": "/usr/bin:/bin"},
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        """Its exit code, the rest of its output, its errors."""
        output, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output.splitlines(), errors


@contextmanager
def program(body: str, *arguments: str) -> Iterator[Program]:
    one = Program(body, *arguments)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def ended(body: str, *arguments: str) -> tuple[int, list[str], str]:
    with program(body, *arguments) as one:
        return one.end()


def steps_saved(run_dir: Path) -> list[int]:
    """Steps of the checkpoints that the run has, that of its beginning aside."""
    file = run_dir / "checkpoints.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [step for line in lines if (step := json.loads(line)["batch"])]


@pytest.mark.parametrize(("returned", "code"), [("None", 0), ("0", 0), ("3", 3)])
def test_exit_code_is_what_main_returned(returned: str, code: int) -> None:
    assert ended(f"ta.run(lambda: {returned})")[0] == code


def test_exception_of_main_is_shown_and_ends_with_1() -> None:
    code, _, errors = ended("ta.run(lambda: 1 / 0)")
    assert (code, errors.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


def test_exit_of_main_keeps_its_code() -> None:
    assert ended("ta.run(lambda: sys.exit(7))")[0] == 7


@pytest.mark.parametrize(
    "main",
    ["main", "lambda: main()", "functools.partial(main)", "type('', (), {'__call__': lambda _: main()})()"],
)
def test_coroutine_is_run(main: str) -> None:
    body = f"""
import functools
async def main():
    await asyncio.sleep(0)
    return 4
ta.run({main})
"""
    assert ended(body)[0] == 4


@pytest.mark.parametrize(("main", "kind"), [("main()", "coroutine"), ("None", "NoneType"), ("3", "int")])
def test_what_is_no_function_is_refused(main: str, kind: str) -> None:
    code, _, errors = ended(f"async def main(): pass\nta.run({main})")
    assert (code, len(errors.split("Warning"))) == (1, 1)
    assert f"main must be a function, got {kind}; hand it over uncalled" in errors


TRAINS = """
def main():
    with open_client() as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result()
        say("begins at", training.step)
        for number in training.steps(1000):
            step(training, number)
            say("step", number)
            if number == 1:
                time.sleep(1000)
ta.run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_that_is_signalled_saves_its_steps_and_replays_nothing(
    server: Server, run_dir: Path, number: signal.Signals, code: int
) -> None:
    """SHU-06."""
    arguments = (server.url, KEY, str(run_dir))
    with program(TRAINS, *arguments) as one:
        assert [one.line() for _ in range(3)] == ["begins at 0", "step 0", "step 1"]
        one.send(number)
        assert one.end() == (code, [], "")
    assert steps_saved(run_dir) == [2]
    with program(TRAINS, *arguments) as again:
        assert again.line() == "begins at 2"


def test_clients_that_nobody_closed_are_closed(server: Server, run_dir: Path) -> None:
    body = """
def main():
    training = open_client().create_lora_training_client("local/tiny", rank=4, seed=1).result()
    step(training, 0)
ta.run(main)
"""
    assert ended(body, server.url, KEY, str(run_dir)) == (0, [], "")
    assert steps_saved(run_dir) == [1]


def test_coroutine_is_cancelled_and_closes_what_it_holds(server: Server, run_dir: Path) -> None:
    body = """
async def main():
    with open_client() as service:
        training = await service.create_lora_training_client_async("local/tiny", rank=4, seed=1)
        step(training, 0)
        say("waits")
        await asyncio.sleep(1000)
ta.run(main)
"""
    with program(body, server.url, KEY, str(run_dir)) as one:
        assert one.line() == "waits"
        one.send(signal.SIGTERM)
        assert one.end() == (143, [], "")
    assert steps_saved(run_dir) == [1]


DEAF = """
def main():
    while True:
        try:
            say("waits")
            threading.Event().wait()
        except BaseException as error:
            say(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(signal.SIGTERM, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)],
)
def test_second_signal_ends_a_program_that_does_not_listen(
    first: signal.Signals, second: signal.Signals, code: int
) -> None:
    """SHU-06."""
    with program(DEAF + "ta.run(main)") as one:
        assert one.line() == "waits"
        one.send(first)
        assert one.line() == {signal.SIGTERM: "SystemExit", signal.SIGINT: "KeyboardInterrupt"}[first]
        assert one.line() == "waits"
        one.send(second)
        assert one.end() == (code, [], "")


def test_deadline_ends_a_program_that_does_not_listen() -> None:
    """SHU-02, SHU-06."""
    with program(DEAF + "ta.run(main, deadline_s=0.2)") as one:
        assert one.line() == "waits"
        one.send(signal.SIGTERM)
        code, output, errors = one.end()
    assert (code, output) == (143, ["SystemExit", "waits"])
    assert errors == "not everything ended within 0.2 s (threads: MainThread); leaving\n"


def test_thread_that_never_ends_does_not_keep_the_process() -> None:
    """SHU-07."""
    body = """
def main():
    threading.Thread(target=threading.Event().wait, name="forgotten").start()
    return 5
ta.run(main, deadline_s=0.2)
"""
    code, _, errors = ended(body)
    assert code == 5
    assert "forgotten" in errors


def test_client_that_cannot_save_in_time_leaves_and_the_next_start_goes_on(
    run_dir: Path, tmp_path: Path
) -> None:
    """The service hangs: what was submitted stays in the journal."""
    with Server(tmp_path / "data") as server:
        arguments = (server.url, KEY, str(run_dir))
        with program(TRAINS.replace("ta.run(main)", "ta.run(main, deadline_s=6)"), *arguments) as one:
            assert [one.line() for _ in range(3)] == ["begins at 0", "step 0", "step 1"]
            server.control.arm({"effect": "hang", "operation": "save_weights", "count": "always"})
            one.send(signal.SIGTERM)
            assert one.end()[0] == 143
        server.control.clear()
        assert steps_saved(run_dir) == []
        with program(TRAINS, *arguments) as again:
            assert again.line() == "begins at 2"


def test_signal_to_a_forked_child_is_its_own() -> None:
    body = """
def main():
    pid = os.fork()
    if pid == 0:
        say("child")
        time.sleep(1000)
    os.read(0, 1)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    say(os.waitstatus_to_exitcode(status))
ta.run(main)
"""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEAD + body],
        input="x",
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(SUPPORT)},
        timeout=WAIT_S,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines()[-1] == str(-signal.SIGTERM)


def test_forked_child_that_leaves_main_closes_nothing(server: Server, run_dir: Path) -> None:
    body = """
def main():
    service = open_client()
    training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result()
    pid = os.fork()
    if pid == 0:
        return 9
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    step(training, 0)
    say(training.step)
import warnings
warnings.simplefilter("ignore")
ta.run(main)
"""
    assert ended(body, server.url, KEY, str(run_dir)) == (0, ["9", "1"], "")


def test_library_itself_installs_no_handler(server: Server, run_dir: Path) -> None:
    body = """
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
with open_client() as service:
    say(before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
"""
    assert ended(body, server.url, KEY, str(run_dir)) == (0, ["True"], "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "thread = threading.Thread(target=lambda: ta.run(int)); thread.start(); thread.join()",
            "main thread",
        ),
        ("ta.run(lambda: ta.run(int))", "once in a process"),
        ("ta.run(int, deadline_s=0)", "deadline_s must be seconds above 0, got 0"),
        ("ta.run(int, deadline_s=float('nan'))", "deadline_s must be seconds above 0, got nan"),
        ("ta.run(lambda: 'done')", "main must return an exit code or None, got str"),
    ],
)
def test_wrong_use_is_refused(body: str, said: str) -> None:
    _, _, errors = ended(body)
    assert "ConfigError: " in errors
    assert said in errors


def test_command_line_is_such_a_program(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "tinker_actors", "demo", "--run-dir", str(run_dir), "--no-chaos"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while not (run_dir / "metrics.jsonl").exists():
            assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    assert len(steps_saved(run_dir)) >= 1
