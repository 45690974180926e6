"""Processes that begin within milliseconds: each is forked off one that has imported everything, and has done nothing else.

Run as a program, this is the process that forks: it reads one request a line, and answers each with how it ended.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent


class Zygote:
    """Runs functions in processes of their own, one at a time.

    Args:
        modules: imported beforehand.
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        function: str,
        arguments: dict[str, Any],
        *,
        kill_after_s: float | None = None,
        log: Path | None = None,
    ) -> int:
        """Run `module:function` with JSON for arguments; its exit code, negative for a signal.

        Args:
            function: by name.
            arguments: of it, by name.
            kill_after_s: send SIGKILL then, if it still runs.
            log: gets what it prints and its errors.
        """
        request = {"function": function, "arguments": arguments, "kill_after_s": kill_after_s}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**request, "log": None if log is None else str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve(modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # its coming is waited for
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            os._exit(_run(request))
        sys.stdout.write(f"{_wait(pid, request['kill_after_s'])}\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> int:
    """In the child."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(request["log"] or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    module, _, name = request["function"].partition(":")
    try:
        getattr(importlib.import_module(module), name)(**request["arguments"])
    except BaseException:  # noqa: BLE001 - the end of a process
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    return 0


def _wait(pid: int, kill_after_s: float | None) -> int:
    """How a child ended; nobody but us takes it off the list of processes, so that its number is its own."""
    if kill_after_s is not None and signal.sigtimedwait({signal.SIGCHLD}, kill_after_s) is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    signal.sigtimedwait({signal.SIGCHLD}, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    _serve(sys.argv[1:])
