"""The quickstart, killed at three moments and started again, ends with the weights of an undisturbed run."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "examples" / "quickstart.py"
STEPS = 12


def run(run_dir: Path, *, kill_after: str | None = None) -> list[str]:
    """Run the program, kill it as soon as it prints a line that begins with `kill_after`; what it printed."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, run_dir, str(STEPS)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = []
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if kill_after is not None and line.startswith(kill_after):
                process.kill()
                break
    assert process.wait() == (0 if kill_after is None else -signal.SIGKILL)
    return lines


def weights(run_dir: Path) -> bytes:
    """The training state saved at the end."""
    (file,) = (run_dir / "server").glob("checkpoints/*/weights/final/checkpoint.safetensors")
    return file.read_bytes()


def journaled_steps(run_dir: Path) -> int:
    """Optimizer steps that the journal had when the program was killed."""
    journal = sqlite3.connect(run_dir / "journal.db")
    (count,) = journal.execute("SELECT count(*) FROM operations WHERE kind = 'optim_step'").fetchone()
    journal.close()
    return int(count)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run(run_dir)
    return weights(run_dir)


def test_a_program_killed_three_times_ends_with_the_weights_of_an_undisturbed_run(
    tmp_path: Path, undisturbed: bytes
) -> None:
    run_dir = tmp_path / "run"
    seen = []
    for last_line in ("2 ", "6 ", "10 "):
        run(run_dir, kill_after=last_line)
        seen.append(journaled_steps(run_dir))
    assert all(0 < steps < STEPS for steps in seen)
    assert seen == sorted(set(seen))
    printed = run(run_dir)
    assert weights(run_dir) == undisturbed
    assert int(printed[0].split()[0]) >= seen[-1] - 1


def test_a_program_that_ended_does_nothing_the_second_time(tmp_path: Path, undisturbed: bytes) -> None:
    run_dir = tmp_path / "run"
    run(run_dir)
    again = run(run_dir)
    assert [line for line in again if line[0].isdigit()] == []
    assert weights(run_dir) == undisturbed
