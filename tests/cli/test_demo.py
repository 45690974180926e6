"""The demo, as a user runs it."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tinker_actors", "demo"]


def demo(*arguments: object, preexec: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=preexec,
    )


def test_the_demo_learns_although_its_actor_and_its_server_die(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = demo("--run-dir", run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crashing the training actor" in done.stdout
    assert "with SIGKILL" in done.stdout
    assert "training:1  running, 1 restart" in done.stdout
    assert done.stdout.count("✓") >= 3
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(240))
    assert (run_dir / "checkpoints.jsonl").read_text().count("state_path") >= 12
    assert "server killed" in (run_dir / "loss.svg").read_text()


def test_a_demo_that_did_not_learn_enough_fails_and_says_what(tmp_path: Path) -> None:
    done = demo("--run-dir", tmp_path / "run", "--steps", 3, "--no-chaos")
    assert done.returncode == 1
    assert "FAILED: at least 3 held-out answers must be exact, got 0" in done.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"}', "missing required field `answer`"),
        ("prompt: a", "malformed"),
        ('{"prompt": 1, "answer": "b"}', "Expected `str`"),
    ],
)
def test_a_bad_line_of_data_is_named_with_its_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    good = '{"prompt": "a b", "answer": "away ebay"}\n'
    (tmp_path / "pig_latin.jsonl").write_text(good + line + "\n")
    (tmp_path / "pig_latin_heldout.jsonl").write_text(good)
    done = demo("--data", tmp_path, "--run-dir", tmp_path / "run")
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"Error: {tmp_path / 'pig_latin.jsonl'}:2: ")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = demo("--run-dir", tmp_path / "file" / "run")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "must be writable" in done.stderr


def no_space() -> None:
    """Files of this process may not grow beyond a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_journal(tmp_path: Path) -> None:
    done = demo("--run-dir", tmp_path / "run", preexec=no_space)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "journal.db" in done.stderr
    again = demo("--run-dir", tmp_path / "run", "--steps", 3, "--no-chaos")
    assert "loss per answer token" in again.stdout
