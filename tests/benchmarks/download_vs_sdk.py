"""A checkpoint of 1 GiB on its way to disk, beside the official SDK, on one machine in one run.

Run by hand, in the development environment. The SDK needs an environment of its own, as for `client_vs_sdk.py`:

    TINKER_SDK_PYTHON=.venv-sdk/bin/python python tests/benchmarks/download_vs_sdk.py [MIB]

Exported weights, one file of 1 GiB and a small one, come from a stub in a process of its own, over loopback. They go to
where temporary files are (`TMPDIR`), where 2 GiB are wanted; nobody waits for the disk. Ours is `download_checkpoint`, the
SDK's what its command `tinker checkpoint download` does. Each download is a fresh process, the sides are taken in turn.
The exit status is 1 where ours is less than twice as fast, or takes more than 32 MiB for it.
"""

import importlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client_vs_sdk import FAST, HOW_TO_INSTALL, PROC, SDK, SDK_PYTHON, WAIT_S, memory_mib, service_of

CHECKPOINT, TINY = "tinker://run/external_weights/benchmark", "tinker://run/external_weights/tiny"
LARGE, SMALL = "adapter_model.safetensors", "adapter_config.json"
ROUNDS = 3
MOST_MIB = 32.0
LEAST = 2.0


def serve(folder: str) -> None:
    """Say the port, then answer each connection on a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection, Path(folder)), daemon=True).start()


def talk(connection: socket.socket, folder: Path) -> None:
    """HTTP, as far as the clients ask for it here."""
    host = f"http://127.0.0.1:{connection.getsockname()[1]}"
    reader = connection.makefile("rb")
    while line := reader.readline():
        path, length = line.split()[1].decode(), 0
        while (header := reader.readline()) != b"\r\n":
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        reader.read(length)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        if path.startswith("/files/"):
            with (folder / path.removeprefix("/files/")).open("rb") as file:
                connection.sendall(head % (b"application/octet-stream", os.fstat(file.fileno()).st_size))
                connection.sendfile(file)
            continue
        answer: dict[str, Any] = {"session_id": "s"} if path.endswith("create_session") else {}
        if path.endswith("external_weights_urls"):
            names = (SMALL,) if "tiny" in path else (SMALL, LARGE)
            urls = {name: f"{host}/files/{name}" for name in names}
            answer = {"urls": urls, "expires": "2099-01-01T00:00:00Z"}
        body = json.dumps(answer).encode()
        connection.sendall(head % (b"application/json", len(body)) + body)


@contextmanager
def stub(mib: int) -> Iterator[tuple[str, Path]]:
    """A stub server's URL, and a folder to write to."""
    folder = Path(tempfile.mkdtemp())
    files, target = folder / "files", folder / "target"
    files.mkdir()
    (files / SMALL).write_text('{"r": 8}')
    with (files / LARGE).open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(2**20))
    command = [sys.executable, __file__, "serve", str(files)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield f"http://127.0.0.1:{int(process.stdout.readline())}", target
            finally:
                process.kill()
    finally:
        shutil.rmtree(folder)


def fetch(library: Any, rest: Any, path: str, target: Path) -> None:
    """Have a checkpoint on disk."""
    if library.__name__ == "tinker":
        command = importlib.import_module("tinker.cli.commands.checkpoint")
        target.mkdir(parents=True, exist_ok=True)
        command._download_external_weights(rest, path, target, show_progress=False, format="json")
    else:
        rest.download_checkpoint(path, target).result(WAIT_S)


def download(library: Any, url: str, target: Path) -> dict[str, float]:
    """Seconds, CPU seconds, and how much more memory it took than there was before, in MiB."""
    rest = service_of(library, url).create_rest_client()
    fetch(library, rest, TINY, target / "before")  # what is loaded on first use is there then
    before, usage, start = memory_mib("VmHWM"), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    fetch(library, rest, CHECKPOINT, target)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    return {"wall": wall, "cpu": cpu, "memory": memory_mib("VmHWM") - before}


def compared(mib: int) -> int:
    """Print the ratios; the exit status."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "SDK": []}
    with stub(mib) as (url, target):
        for _ in range(ROUNDS):
            for name, side in (("ours", FAST), ("SDK", SDK)):
                output = side.output_of(__file__, "download", side.module, url, str(target))
                (large,) = target.rglob(LARGE)
                assert large.stat().st_size == mib * 2**20
                shutil.rmtree(target)
                found[name].append(json.loads(output.splitlines()[-1]))
    figures = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    ours, theirs = figures["ours"], figures["SDK"]
    speed, memory = theirs["wall"] / ours["wall"], max(one["memory"] for one in found["ours"])
    rates = ", ".join(f"{name} {mib * 2**20 / one['wall'] / 1e6:.0f}" for name, one in figures.items())
    print(f"MB/s: {speed:.2f}x (at least {LEAST:.2f}{', MISSED' if speed < LEAST else ''}) ({rates})")
    print(f"CPU: {ours['cpu'] / theirs['cpu']:.2f}x (ours {ours['cpu']:.2f}, SDK {theirs['cpu']:.2f} s)")
    print(
        f"memory: {memory:.1f} MiB more (at most {MOST_MIB:.0f}{', MISSED' if memory > MOST_MIB else ''})"
        f" (SDK {max(one['memory'] for one in found['SDK']):.1f})"
    )
    return int(speed < LEAST or memory > MOST_MIB)


def main() -> int:
    """What the arguments say; the exit status."""
    match sys.argv[1:]:
        case ["serve", folder]:
            serve(folder)
        case ["download", module, url, target]:
            print(json.dumps(download(importlib.import_module(module), url, Path(target))), flush=True)
            os._exit(0)
    if not SDK_PYTHON or not PROC.exists():
        print(f"this system has no {PROC}" if SDK_PYTHON else HOW_TO_INSTALL, file=sys.stderr)
        return 2
    return compared(int(sys.argv[1]) if sys.argv[1:] else 1024)


if __name__ == "__main__":
    sys.exit(main())
