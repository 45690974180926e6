"""Run directories: whose they are, and what is refused as it was found."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tinker_actors as ta
from tinker_actors.errors import JournalError
from tinker_actors.journal.database import SCHEMA_VERSION
from tinker_actors.journal.directory import RunDirectory, holder_of, kept_from_writers
from tinker_actors.journal.records import RunRecord
from tinker_actors.journal.store import Store

MOUNT, UMOUNT = shutil.which("mount") or "", shutil.which("umount") or ""


def test_the_journal_is_for_its_owner_only(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    Store(directory.path / "journal.db").close()
    assert (
        directory.path.stat().st_mode & 0o777,
        (directory.path / "journal.db").stat().st_mode & 0o777,
    ) == (0o700, 0o600)
    directory.close()


def test_a_directory_is_held_by_one_client_at_a_time(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(JournalError, match="already open"):
        RunDirectory(tmp_path / "run")
    directory.close()
    RunDirectory(tmp_path / "run").close()


def test_a_directory_held_by_another_process_is_refused_with_its_pid(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.claim()
    program = (
        "import sys; from tinker_actors.journal.directory import RunDirectory; RunDirectory(sys.argv[1])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program, str(directory.path)], capture_output=True, text=True, check=False
    )
    directory.close()
    assert f"held by process {os.getpid()}" in outcome.stderr


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(JournalError, match=r"thesis\.tex"):
        RunDirectory(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(JournalError, match="got the file"):
        RunDirectory(tmp_path / "run")


def test_a_directory_is_the_same_by_whatever_name(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(JournalError, match="already open"):
        RunDirectory(tmp_path / "link")
    directory.close()
    RunDirectory(tmp_path / "link").close()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    """REC-14."""
    program = (
        "import sys, time; from tinker_actors.journal.directory import RunDirectory;"
        "d = RunDirectory(sys.argv[1]); d.claim(); print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert holder_of(tmp_path / "run") == str(process.pid)
        with pytest.raises(JournalError, match=f"held by process {process.pid}"):
            RunDirectory(tmp_path / "run")
        process.send_signal(signal.SIGKILL)
    assert holder_of(tmp_path / "run") is None
    RunDirectory(tmp_path / "run").close()


def test_nobody_begins_to_write_to_a_directory_that_is_looked_at(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").close()
    program = (
        "import sys; from tinker_actors.journal.directory import RunDirectory;"
        "RunDirectory(sys.argv[1]).close()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with kept_from_writers(tmp_path / "run") as holder:
        assert holder is None
        assert b"is held by process" in subprocess.run(command, capture_output=True, check=False).stderr
    subprocess.run(command, check=True)


def test_a_look_at_a_directory_of_our_own_leaves_it_locked(tmp_path: Path) -> None:
    """REC-14."""
    directory = RunDirectory(tmp_path / "run")
    assert holder_of(tmp_path / "run") == str(os.getpid())
    program = (
        "import sys; from tinker_actors.journal.directory import RunDirectory; RunDirectory(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    assert b"is held by process" in subprocess.run(command, capture_output=True, check=False).stderr
    directory.close()


def test_a_copied_directory_needs_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Store(tmp_path / "run" / "journal.db").close()
    RunDirectory(tmp_path / "run").close()


# What cannot be used is left as it was found ----------------------------------------------------------


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
        if not path.name.endswith("-shm")  # SQLite makes it anew at each opening
    }


def another_version(directory: Path) -> None:
    database = sqlite3.connect(directory / "journal.db")
    database.execute("PRAGMA user_version = 99")
    database.close()


def another_program(directory: Path) -> None:
    (directory / "journal.db").unlink()
    database = sqlite3.connect(directory / "journal.db")
    database.execute("CREATE TABLE mine (x)")
    database.close()


def damaged(directory: Path) -> None:
    path = directory / "journal.db"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"precious", b"preciouz"))
    assert path.read_bytes() != content


def no_run_directory(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    (directory / "thesis.tex").write_text("chapter 1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_version, f"version {SCHEMA_VERSION}, got 99"),
        (another_program, "another program"),
        (damaged, r"the row of runs with run '1' is not as it was written; nothing was changed"),
        (no_run_directory, r"no run directory \(it holds thesis\.tex\)"),
    ],
)
def test_a_directory_that_cannot_be_used_is_refused_in_one_sentence_and_left_as_it_was(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    directory = tmp_path / "run"
    held = RunDirectory(directory)
    store = Store(directory / "journal.db")
    store.write([RunRecord(run="1", config=b"precious")])
    store.close()
    held.close()
    spoil(directory)
    before = contents(directory)
    for _ in range(2):
        with pytest.raises(JournalError, match=said):
            ta.ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-x", run_dir=str(directory))
    assert contents(directory) == before


@contextmanager
def mounted(where: Path, options: str) -> Iterator[None]:
    """A file system in memory at `where`."""
    where.mkdir(exist_ok=True)
    mount = [MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if not MOUNT or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system takes rights that this user does not have")
    try:
        yield
    finally:
        subprocess.run([UMOUNT, str(where)], check=True)


def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        RunDirectory(disk / "run").close()
        Store(disk / "run" / "journal.db").close()
        before = contents(disk)
        subprocess.run([MOUNT, "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(JournalError, match="must be writable: Read-only file system"):
            RunDirectory(disk / "run")
        assert contents(disk) == before


def test_on_a_full_disk_no_journal_is_made_and_an_old_one_keeps_what_it_has(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        store = Store(disk / "journal.db")
        store.write([RunRecord(run="1", config=b"{}")])
        (disk / "fresh").mkdir()
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(b"x" * 2**21)
        with pytest.raises(JournalError, match="cannot be made"):
            Store(disk / "fresh" / "journal.db")
        assert list((disk / "fresh").iterdir()) == []
        before = store.runs()
        with pytest.raises(JournalError, match="cannot be written"):
            store.write([RunRecord(run="2", config=b"x" * 10_000)])
        with pytest.raises(JournalError, match="cannot be written"):
            store.write([RunRecord(run="2", config=b"x" * 100_000)])
        assert store.runs() == before
        (disk / "filler").unlink()
        store.write([RunRecord(run="2", config=b"x" * 100_000)])
        store.close()
        reopened = Store(disk / "journal.db")
        assert [run.run for run in reopened.runs()] == ["1", "2"]
        reopened.close()
