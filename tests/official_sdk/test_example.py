"""The example with the official SDK runs as it stands."""

import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[2] / "examples" / "official_sdk.py"
STEPS = 40


def test_the_example_learns_and_goes_on_in_another_client(tinker: Any, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "data", str(STEPS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    losses = [float(line[1]) for line in lines if line[0].isdigit()]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    # The first step of the second client goes on where the first client stopped.
    assert losses[STEPS // 2] < 0.9 * losses[0]
    assert any(line[0] == "saved" and line[1].endswith("/weights/middle") for line in lines)
    assert any(line.startswith("green tiger ->") for line in run.stdout.splitlines())
    assert len([line for line in lines if line[0] == "kept"]) == 2
    assert tinker.__version__ == "0.38.0"
