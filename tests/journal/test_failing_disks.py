"""Disks that fail in the middle of a write: what was acknowledged is there, what was not leaves nothing behind."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from failing_sqlite import FailingWrites

from tinker_actors.errors import JournalError
from tinker_actors.journal import store as store_module
from tinker_actors.journal.records import PartRecord, Record, RunRecord
from tinker_actors.journal.store import RunImage, Store

BODIES = 12


def transactions() -> Iterator[list[Record]]:
    yield [RunRecord(run="1", config=b"{}")]
    for place in range(1, BODIES + 1):
        yield [
            PartRecord(run="1", place=place, part=part, content=bytes([place]) * 5000) for part in range(2)
        ]


def opened(path: Path) -> tuple[Store, int]:
    """The journal, however often that fails; and how often it did."""
    failures = 0
    while True:
        try:
            return Store(path), failures
        except JournalError:
            failures += 1


def written(path: Path) -> tuple[RunImage | None, int]:
    """Write all transactions, each until it succeeds; what the next process finds, and how often something failed."""
    store, failures = opened(path)
    for records in transactions():
        while True:
            before = store.load("1")
            try:
                store.write(records)
                break
            except JournalError:
                failures += 1
                assert store.load("1") == before
    store.close()
    reopened, more = opened(path)
    image = reopened.load("1")
    reopened.close()
    return image, failures + more


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_writes_of_large_bodies_that_fail_now_and_then_are_as_if_they_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    monkeypatch.setattr(store_module, "INLINE_BYTES", 1000)
    undisturbed, _ = written(tmp_path / "undisturbed.db")
    original: Callable[..., Any] = getattr(os, name)
    chance = random.Random(7)

    def failing(*arguments: Any) -> Any:
        if chance.random() < 0.3:
            raise OSError(error, os.strerror(error))
        return original(*arguments)

    (tmp_path / "failing").mkdir()
    store = tmp_path / "failing" / "journal.db"
    Store(store).close()
    monkeypatch.setattr(os, name, failing)
    image, failures = written(store)
    assert image == undisturbed
    assert failures > 1
    size = sum(file.stat().st_size for file in (store.parent / "segments").iterdir())
    assert size <= 4 * BODIES * 5000  # what failed was written over, or swept


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=["EIO", "ENOSPC", "EINTR"])
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_each_write_of_the_database_may_fail(tmp_path: Path, error: int, stride: int) -> None:
    """DUR-03."""
    try:
        failing = FailingWrites()
    except AttributeError:
        pytest.skip("this Python has SQLite built in, where nobody gets at it")
    with failing as disk:
        disk.order(0, 0)
        undisturbed, _ = written(tmp_path / "undisturbed.db")
        total, failed = disk.writes, 0
        for nth in range(1, total + 1, stride):
            (tmp_path / str(nth)).mkdir()
            disk.order(nth, error)
            image, failures = written(tmp_path / str(nth) / "journal.db")
            assert image == undisturbed
            failed += failures
    assert total > 100
    assert (failed > 0) == (error != errno.EINTR)  # which is tried again


def test_writes_that_are_cut_short_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "INLINE_BYTES", 1000)
    undisturbed, _ = written(tmp_path / "undisturbed.db")
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: original(file, content[:700], at))
    (tmp_path / "short").mkdir()
    assert written(tmp_path / "short" / "journal.db") == (undisturbed, 0)


def test_a_file_that_may_not_grow_fails_one_write_and_loses_none(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from tinker_actors.errors import JournalError
from tinker_actors.journal.records import RunRecord
from tinker_actors.journal.store import Store
store, done = Store(Path(sys.argv[1])), 0
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
try:
    while True:
        store.write([RunRecord(run=f"{done:04d}", config=b"x" * 3000)])
        done += 1
except JournalError:
    print(done, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store.write([RunRecord(run="after", config=b"")])
print([run.run for run in store.runs()] == [*(f"{one:04d}" for one in range(done)), "after"])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "journal.db")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    done, is_whole = outcome.stdout.split()
    assert (int(done) > 5, is_whole) == (True, "True")
    reopened = Store(tmp_path / "journal.db")
    assert len(reopened.runs()) == int(done) + 1
    reopened.close()
