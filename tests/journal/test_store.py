"""The journal's file: what is written is there, whatever dies; what is not ours is refused."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tinker_actors.errors import JournalError
from tinker_actors.journal.database import SCHEMA_VERSION
from tinker_actors.journal.records import (
    CheckpointRecord,
    Kind,
    ModelRecord,
    OperationRecord,
    PartRecord,
    Record,
    ResultRecord,
    RunRecord,
    SendRecord,
    SessionRecord,
    State,
)
from tinker_actors.journal.store import Store

RUN = RunRecord(run="1", config=b"{}")
Open = Callable[[Path | None], Store]


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens stores, and closes them at the end."""
    opened: list[Store] = []

    def open_one(path: Path | None) -> Store:
        opened.append(Store(path))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def operation(place: int, kind: Kind = Kind.OPTIM_STEP, state: State = State.DONE) -> OperationRecord:
    return OperationRecord(
        run="1", place=place, kind=kind, digest=f"d{place}", ticket=f"t-{place}", state=state, summary=b"{}"
    )


def part(place: int, content: bytes = b"body") -> PartRecord:
    return PartRecord(run="1", place=place, part=0, content=content)


def result(place: int) -> ResultRecord:
    return ResultRecord(
        run="1", place=place, part=0, body=b"answer", media_type="application/json", digest="d"
    )


def test_records_come_back_as_they_were_written(tmp_path: Path, open_store: Open) -> None:
    written: list[Record] = [
        RUN,
        SessionRecord(session_id="s", server="local", ordinal=0),
        ModelRecord(run="1", generation=1, session_id="s", model_seq_id=0, base_place=0),
        operation(1),
        part(1),
        result(1),
        SendRecord(run="1", generation=1, place=1, part=0, seq_id=1),
        CheckpointRecord(run="1", place=1, step=1, path="tinker://m/weights/a"),
    ]
    store = open_store(tmp_path / "journal.db")
    store.write(written)
    store.close()
    image = open_store(tmp_path / "journal.db").load("1")
    assert image is not None
    assert [
        image.run,
        *image.models,
        *image.operations,
        *image.parts,
        *image.results,
        *image.sends,
        *image.checkpoints,
    ] == [record for record in written if not isinstance(record, SessionRecord)]
    assert image.last_place == 1


def test_a_record_takes_the_place_of_the_one_with_its_keys(open_store: Open) -> None:
    store = open_store(None)
    store.write([RUN, operation(1, state=State.PLACED)])
    store.write([operation(1, state=State.DONE)], durable=False)
    image = store.load("1")
    assert image is not None
    assert [record.state for record in image.operations] == [State.DONE]


def test_a_transaction_is_all_or_nothing(open_store: Open) -> None:
    store = open_store(None)
    broken = OperationRecord(run="1", place=1, kind="x", digest=None)  # type: ignore[arg-type]  # what NOT NULL refuses
    with pytest.raises(JournalError):
        store.write([RUN, broken])
    assert store.load("1") is None
    store.write([RUN])
    assert store.load("1") is not None


def test_bodies_are_loaded_back_to_the_checkpoint_before_the_newest(open_store: Open) -> None:
    store = open_store(None)
    checkpoints = [
        CheckpointRecord(run="1", place=p, step=p, path=f"tinker://m/weights/{p}") for p in (2, 4, 6)
    ]
    store.write([RUN, *map(operation, range(1, 8)), *map(part, range(1, 8)), *checkpoints])
    image = store.load("1")
    assert image is not None
    assert [record.place for record in image.operations] == [5, 6, 7]
    assert image.earlier_steps == 4


def test_what_is_covered_is_folded_to_metrics_and_can_serve_no_more(open_store: Open) -> None:
    store = open_store(None)
    checkpoints = [CheckpointRecord(run="1", place=p, step=p, path=f"tinker://m/weights/{p}") for p in (1, 2)]
    bodies = [one for place in (1, 2) for one in (part(place), result(place))]
    store.write([RUN, operation(1), operation(2), *bodies, *checkpoints])
    store.compact("1")
    store.write([msgspec.structs.replace(one, usable=0) for one in checkpoints])
    image = store.load("1")
    assert image is not None
    assert (image.base_place, image.earlier_steps, image.last_place) == (1, 1, 2)
    assert [(record.place, record.content) for record in image.parts] == [(2, b"body")]
    assert [(record.place, record.body) for record in image.results] == [(2, b"answer")]
    assert [step.step for step in store.history("1")] == [0, 1]


def test_checkpoints_are_looked_at_without_reading_bodies(tmp_path: Path, open_store: Open) -> None:
    store = open_store(tmp_path / "journal.db")
    saved = CheckpointRecord(run="1", place=1, step=1, path="tinker://m/weights/1")
    store.write([RUN, operation(1), part(1, bytes(2**17)), saved])
    next((tmp_path / "segments").iterdir()).unlink()
    assert store.candidates("1") == [saved]


def test_what_was_committed_survives_a_process_that_is_killed(tmp_path: Path, open_store: Open) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tinker_actors.journal.records import RunRecord
from tinker_actors.journal.store import Store
store = Store(Path(sys.argv[1]))
store.write([RunRecord(run="synced", config=b"")])
store.write([RunRecord(run="written", config=b"")], durable=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "journal.db")], check=False)
    assert [run.run for run in open_store(tmp_path / "journal.db").runs()] == ["synced", "written"]


def test_another_programs_database_is_refused_untouched(tmp_path: Path, open_store: Open) -> None:
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program"):
        open_store(path)
    assert path.read_bytes() == before


def test_another_version_is_refused(tmp_path: Path, open_store: Open) -> None:
    """DUR-05, as far as there is one version: journals of another one are refused, and kept as they are."""
    path = tmp_path / "journal.db"
    open_store(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match=f"version {SCHEMA_VERSION}, got 99"):
        open_store(path)


def test_what_is_no_database_is_refused(tmp_path: Path, open_store: Open) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="cannot be opened"):
        open_store(path)
