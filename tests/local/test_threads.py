"""A server that lost a thread it needs ends, instead of keeping everybody waiting."""

import json
import subprocess
import sys

from tinker_actors.local.threads import DIED

PROGRAM = """
import threading
from tinker_actors.local.threads import vital

def fail():
    raise MemoryError("no more")

vital("executor", lambda: None).start()
vital("store", fail).start()
threading.Event().wait()
"""


def test_the_end_of_a_thread_by_an_error_ends_the_process_and_says_why() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    told = json.loads(run.stderr)
    assert run.returncode == DIED
    assert (told["event"], told["thread"], told["error"]) == (
        "thread_died",
        "store",
        "MemoryError('no more')",
    )
    assert any("in fail" in line for line in told["traceback"])
