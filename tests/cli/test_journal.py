"""`tinker-actors journal`, on the directories of runs that ended, died or go on."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BATCHES, WAIT_S, Server, client, step

import tinker_actors as ta

COMMAND = [sys.executable, "-m", "tinker_actors", "journal"]


def journal(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of the command."""
    run = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=WAIT_S,
        env={"COLUMNS": "500", "PATH": ""},
    )
    return run.returncode, run.stdout


def contents(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def run_dir(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lost its model once, and whose third step failed."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    with client(server, run_dir) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        step(training, 0)
        training.save_state("kept").result(WAIT_S)
        server.unload(training.model_id)
        step(training, 1)
        with pytest.raises(ta.BadRequestError):
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
    return run_dir


def test_show_lists_models_checkpoints_and_sessions(run_dir: Path) -> None:
    before = contents(run_dir)
    code, output = journal("show", run_dir)
    assert code == 0
    assert "run 1: local/tiny, step 2" in output
    assert "weights/kept" in output
    assert "finished" in output
    assert contents(run_dir) == before


def test_explain_tells_why_the_model_is_another_one(run_dir: Path) -> None:
    code, output = journal("explain", run_dir)
    assert code == 0
    assert "Run '1' trains local/tiny and took 2 steps." in output
    assert "took the place of the one before, because the service does not go on with it" in output
    assert "weights/kept, with 1 step taken." in output
    assert "a forward_backward, is void: the service answered 400" in output


def test_verify_finds_a_sound_journal_sound_and_a_damaged_one_damaged(run_dir: Path, tmp_path: Path) -> None:
    before = contents(run_dir)
    assert journal("verify", run_dir) == (0, "The journal is sound.\n")
    assert contents(run_dir) == before
    damaged = tmp_path / "run"
    damaged.mkdir()
    content = (run_dir / "journal.db").read_bytes()
    (damaged / "journal.db").write_bytes(content.replace(b"local/tiny", b"local/tinY"))
    before = contents(damaged)
    code, output = journal("verify", damaged)
    assert contents(damaged) == before  # not even a lock is made
    assert code == 1
    assert "DAMAGED: the row of runs with run '1' is not as it was written" in output


@pytest.mark.parametrize("command", ["show", "explain", "verify"])
def test_a_copy_of_a_directory_whose_process_was_killed_is_looked_at_without_a_trace(
    server: Server, tmp_path: Path, command: str
) -> None:
    """Its log is there, and nothing of what processes share: whoever opens it must not make that."""
    with client(server, tmp_path / "run") as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        (tmp_path / "copy").mkdir()
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(tmp_path / "run" / name, tmp_path / "copy")
    code, output = journal(command, tmp_path / "copy")
    assert code == 0, output
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["journal.db", "journal.db-wal"]


def test_a_directory_in_use_can_be_looked_at_and_not_verified(server: Server, tmp_path: Path) -> None:
    with client(server, tmp_path / "run") as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        code, output = journal("explain", tmp_path / "run")
        assert code == 0
        assert "holds it: this is how it stands at the moment" in output
        assert "took 1 step." in output
        assert "Its model was never replaced." in output
        code, output = journal("verify", tmp_path / "run")
        assert code == 1
        assert "is held by process" in output
        step(training, 1)


def test_what_is_no_run_directory_is_told_in_one_line(tmp_path: Path) -> None:
    for command in ("show", "verify", "explain"):
        code, output = journal(command, tmp_path)
        assert code == 1
        assert output == f"Error: a run directory is wanted, got {tmp_path}, which has no journal\n"


def test_a_client_tells_the_same_of_its_runs(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        (history,) = service.history().result(WAIT_S)
    assert (history.steps, history.base_model) == (2, "local/tiny")
    assert [(model.step, model.reason is None) for model in history.models][:2] == [(0, True), (1, False)]
    assert [saved.state for saved in history.checkpoints if saved.path.endswith("kept")] == ["usable"]
