"""`tinker-actors serve`, as a user runs it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tinker_actors as ta

COMMAND = [sys.executable, "-m", "tinker_actors", "serve", "--port", "0"]
WAIT_S = 60


class Serving:
    """The command, once it said what its users need."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        assert self.process.stdout is not None
        self.greeting = [self.process.stdout.readline().rstrip("\n") for _ in range(3)]
        exports = [line.removeprefix("export ").split("  #")[0].split("=", 1) for line in self.greeting[1:]]
        self.environment = dict(exports)

    def end(self, number: int) -> tuple[int, str]:
        """Exit code after a signal, and what was said on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def starting(*arguments: str) -> Serving:
        started.append(Serving(tmp_path, *arguments))
        return started[-1]

    yield starting
    for serving in started:
        serving.process.kill()
        serving.process.communicate()


def failed(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=folder, timeout=WAIT_S, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    return run.stderr


def test_what_it_prints_is_what_a_client_needs(
    serve: Callable[..., Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve()
    assert serving.environment.keys() == {"TINKER_BASE_URL", "TINKER_API_KEY"}
    assert "runs/server" in serving.greeting[0]
    for name, value in serving.environment.items():
        monkeypatch.setenv(name, value)
    with ta.RestClient() as client:
        assert client.get_server_capabilities().result(WAIT_S).supported_models
    assert (tmp_path / "runs" / "server").stat().st_mode & 0o777 == 0o700
    assert serving.end(signal.SIGINT) == (0, "")


def test_a_key_of_the_users_own_is_wanted_and_not_repeated(serve: Callable[..., Serving]) -> None:
    serving = serve("--api-key", "tml-mine")
    assert "tml-mine" not in "".join(serving.greeting)
    url = serving.environment["TINKER_BASE_URL"]
    with ta.RestClient(base_url=url, api_key="tml-mine") as client:
        assert client.get_server_capabilities().result(WAIT_S).supported_models
    with ta.RestClient(base_url=url, api_key="tml-other") as client, pytest.raises(ta.AuthenticationError):
        client.get_server_capabilities().result(WAIT_S)
    assert serving.end(signal.SIGTERM) == (0, "")


def test_a_second_signal_does_not_wait_for_anything(serve: Callable[..., Serving]) -> None:
    serving = serve("--hold", "600")
    port = int(serving.environment["TINKER_BASE_URL"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # A body that does not end keeps the server from leaving in order.
        head = "POST /api/v1/telemetry HTTP/1.1\r\nhost: x\r\nx-api-key: tml-x\r\ncontent-length: 99\r\n\r\n{"
        connection.sendall(head.encode())
        serving.process.send_signal(signal.SIGINT)
        assert serving.end(signal.SIGTERM)[0] == 130


def test_a_taken_port_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        errors = failed(tmp_path, "--port", str(taken.getsockname()[1]))
    assert "Address already in use; choose another with --port" in errors
    assert len(errors.splitlines()) == 1


def test_a_directory_in_use_is_told(serve: Callable[..., Serving], tmp_path: Path) -> None:
    serve()
    assert "another server uses the data directory" in failed(tmp_path, "--lock-patience", "0")


def test_the_command_imports_nothing_heavy_before_the_thread_limits_are_set() -> None:
    program = "import sys, tinker_actors.cli.commands, tinker_actors.cli.serve; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_the_list_of_commands_names_all_of_them() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tinker_actors", "-h"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert all(f"\n  {name} " in run.stdout for name in ("demo", "serve"))
