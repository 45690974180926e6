"""What 200 idle clients cost the embedded server, in shares of one core.

Run by hand: python tests/benchmarks/idle_clients.py [clients] [seconds]

Each client keeps a session alive by a heartbeat every 10 s, as the official SDK does, and waits for a result
that does not come, in polls of 30 s. The time is the server process's own, user and system, whatever else the
machine does.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

HEARTBEAT_S = 10.0
KEY = {"X-API-Key": "tml-bench"}


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(http: httpx.AsyncClient, path: str, document: dict[str, Any]) -> httpx.Response:
    """One request."""
    return await http.post(path, json=document, timeout=60)


async def beat(http: httpx.AsyncClient, session_id: str, delay_s: float) -> None:
    """Heartbeats for ever."""
    await asyncio.sleep(delay_s)
    while True:
        assert (await ask(http, "session_heartbeat", {"session_id": session_id})).status_code == 200
        await asyncio.sleep(HEARTBEAT_S)


async def poll(http: httpx.AsyncClient, request_id: str, delay_s: float) -> None:
    """Polls for a result for ever."""
    await asyncio.sleep(delay_s)
    while True:
        answer = await ask(http, "retrieve_future", {"request_id": request_id})
        assert answer.status_code == 408, answer.text


async def measure(url: str, pid: int, clients: int, seconds: float) -> float:
    """The share of a core that idle clients cost."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=KEY, limits=limits) as http:
        sessions = [(await ask(http, "create_session", {"tags": []})).json() for _ in range(clients)]
        made = {
            "session_id": sessions[0]["session_id"],
            "model_seq_id": 0,
            "base_model": "local/tiny",
            "lora_config": {"rank": 4},
        }
        model = (await ask(http, "create_model", made)).json()["request_id"].rpartition(":")[0]
        tasks = []
        for number, session in enumerate(sessions):
            step = {"model_id": model, "seq_id": number + 2, "adam_params": {}}  # 1 never comes
            request_id = (await ask(http, "optim_step", step)).json()["request_id"]
            spread = number / clients
            tasks += [
                asyncio.ensure_future(beat(http, session["session_id"], HEARTBEAT_S * spread)),
                asyncio.ensure_future(poll(http, request_id, HEARTBEAT_S * spread)),
            ]
        await asyncio.sleep(HEARTBEAT_S)  # all are there
        before = cpu_s(pid)
        await asyncio.sleep(seconds)
        spent = cpu_s(pid) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return spent / seconds


def main() -> None:
    """Start a server, measure, print."""
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "tinker_actors.local", "--data", f"{data}/s", "--owned"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            listening = json.loads(server.stdout.readline())
            url = f"http://{listening['host']}:{listening['port']}"
            share = asyncio.run(measure(url, listening["pid"], clients, seconds))
            server.terminate()
    print(f"{clients} idle clients over {seconds:.0f} s: {100 * share:.1f} % of one core")


if __name__ == "__main__":
    main()
