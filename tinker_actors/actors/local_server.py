"""The embedded server's process: started, watched, started again."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import msgspec

from tinker_actors.actors.forks import in_forked_children
from tinker_actors.actors.published import TRANSPORT, Endpoint, Published
from tinker_actors.actors.transport import EndpointChanged
from tinker_actors.errors import ConfigError
from tinker_actors.events import LocalServerEnded, LocalServerStarted
from tinker_actors.supervision import Backoff, ExitReason, SupervisedActor

__all__ = ["LocalServerActor"]

_EXIT_WAIT_S = 3.0
"""The server leaves within 2 s when its owner's pipe closes."""
_BACKOFF = Backoff(base_s=0.1, cap_s=5.0, jitter=0.1)


class _Listening(msgspec.Struct):
    """The line that the server prints when it is ready."""

    host: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class _Ready:
    process: int
    line: bytes


@dataclass(frozen=True, slots=True)
class _Gone:
    process: int
    exit_code: int


class _StartAgain:
    pass


class LocalServerActor(SupervisedActor):
    """Owns the server's process. Its death is daily work: another one is started on the same data.

    Only a server that cannot start at all ends this actor, with the reason the server gave.
    """

    def __init__(self, published: Published) -> None:
        super().__init__()
        self._published = published
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._forget_pipes: Callable[[], None] | None = None

    def on_start(self) -> None:
        self._launch()

    def on_receive(self, message: Any) -> None:
        match message:
            case _Ready(process, line) if self._is_current(process):
                self._note_ready(line)
            case _Gone(process, exit_code) if self._is_current(process):
                self._note_gone(exit_code)
            case _StartAgain():
                self._launch()

    def on_exit(self, reason: ExitReason) -> None:  # noqa: ARG002 - the same for each reason
        """Close the owner's pipe, and make sure that the process is gone."""
        self._publish(None)
        if self._forget_pipes is not None:
            self._forget_pipes()
        process = self._process
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 - it was started with a pipe
        process.stdin.close()
        try:
            process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_current(self, pid: int) -> bool:
        return self._process is not None and self._process.pid == pid

    def _launch(self) -> None:
        directory = self._published.server_directory
        if directory is None:
            raise ConfigError("the embedded server needs a data directory")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tinker_actors.local", "--data", str(directory), "--owned"]
        with (directory / "server.log").open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--deterministic", "--models", "/"],  # whatever its owner may read
                bufsize=0,  # no lock of a buffer stands between a forked child and the end of its copies
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is for its owner
            )
        self._keep_from_children(self._process)
        threading.Thread(
            target=self._watch, args=(self._process,), name="local-server-watch", daemon=True
        ).start()

    def _keep_from_children(self, process: "subprocess.Popen[bytes]") -> None:
        """The pipe that says that we live must end with us, and not with the last child that has a copy."""
        if self._forget_pipes is not None:
            self._forget_pipes()
        pipes = [pipe for pipe in (process.stdin, process.stdout) if pipe is not None]
        self._forget_pipes = in_forked_children(lambda: [pipe.close() for pipe in pipes])

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """On a thread of its own: pass on the first line, then the end."""
        here = self.context.me
        output: IO[bytes] | None = process.stdout
        assert output is not None  # noqa: S101 - it was started with a pipe
        with output:
            line = output.readline()
            if line:
                here.tell(_Ready(process.pid, line))
            output.read()
        here.tell(_Gone(process.pid, process.wait()))

    def _note_ready(self, line: bytes) -> None:
        listening = msgspec.json.decode(line, type=_Listening)
        self._deaths = 0
        self._publish(Endpoint(f"http://{listening.host}:{listening.port}", listening.pid))
        self.context.emit(LocalServerStarted(pid=listening.pid, port=listening.port))

    def _note_gone(self, exit_code: int) -> None:
        process, self._process = self._process, None
        assert process is not None  # noqa: S101 - the message is about the current process
        if process.stdin is not None:
            process.stdin.close()
        was_up = self._published.endpoint is not None
        self._publish(None)
        if not was_up and exit_code > 0:
            raise ConfigError(
                f"the embedded server cannot start: {self._last_words() or f'exit code {exit_code}'}"
            )
        delay_s = _BACKOFF.delay_s(self._deaths, self.context.random)
        self._deaths += 1
        self.context.emit(LocalServerEnded(pid=process.pid, exit_code=exit_code, restart_in_s=delay_s))
        self.context.send_after(delay_s, _StartAgain())

    def _last_words(self) -> str:
        directory = self._published.server_directory
        assert directory is not None  # noqa: S101 - it was launched
        with (directory / "server.log").open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _publish(self, endpoint: Endpoint | None) -> None:
        self._published.endpoint = endpoint
        self.context.address(TRANSPORT).tell(EndpointChanged())


def _environment() -> dict[str, str]:
    """The child's environment: ours, with its output unbuffered."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def kill(endpoint: Endpoint) -> None:
    """SIGKILL the server's process, as a crash would: for demonstrations and tests."""
    if endpoint.pid is not None:
        os.kill(endpoint.pid, signal.SIGKILL)
