"""A process that is stopped, and goes on when everybody has given it up: nobody took its place, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import KEY, WAIT_S
from trial import Judgement, Trial

import tinker_actors as ta
from tinker_actors.errors import JournalError

SUPPORT = str(Path(__file__).parent.parent / "support")
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from program_under_test import main
main(**json.loads(sys.argv[2]))
"""


def stopped(trial: Trial, point: str, nth: int) -> "subprocess.Popen[bytes]":
    """A process of the trial that stopped itself at a point."""
    trial.directory.mkdir()
    arguments = {
        "url": trial.server.url,
        "run_dir": str(trial.run_dir),
        "trace": str(trial.directory / "trace"),
    }
    where = {"point": point, "nth": nth, "number": signal.SIGSTOP}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, SUPPORT, json.dumps(arguments | where)])
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return process


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("program between gradient and update", 2),
        ("send forward_backward", 6),
        ("write result of optim_step before", 4),
    ],
)
def test_a_stopped_process_keeps_its_run_and_goes_on_when_its_session_is_lost(
    trial: Trial, undisturbed: Judgement, point: str, nth: int
) -> None:
    """REC-15: the lock is the kernel's, and no lease of it ends."""
    with stopped(trial, point, nth) as process:
        try:
            with pytest.raises(JournalError, match=f"held by process {process.pid}"):
                ta.ServiceClient(base_url=trial.server.url, api_key=KEY, run_dir=str(trial.run_dir))
            trial.server.finish_session((trial.model_id() or "").partition(":")[0])
            process.send_signal(signal.SIGCONT)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
    undisturbed.check(trial)
    assert trial.generations() == 2
