"""Damage to the journal's files: no wrong record is taken for a right one, and nothing damaged is touched."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.errors import JournalError
from tinker_actors.journal import database
from tinker_actors.journal import store as store_module
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
from tinker_actors.journal.store import RunImage, Store

LARGE = bytes(range(256)) * 5
"""More than stands in the database itself, with the limit of these tests."""
STEPS = 3
MAX_BYTES = 64 * 2**10
SUMMARY = b'{"loss:sum": 1.5}'


def step(number: int) -> list[Record]:
    """A forward_backward and an optim_step that were sent and had their results."""
    records: list[Record] = []
    for place, kind, body in (
        (2 * number + 1, Kind.FORWARD_BACKWARD, LARGE if number == STEPS - 1 else b"small"),
        (2 * number + 2, Kind.OPTIM_STEP, b"{}"),
    ):
        key: dict[str, Any] = {"run": "1", "place": place}
        records += [
            OperationRecord(**key, kind=kind, digest="d" * 64, ticket="t", state=State.DONE, summary=SUMMARY),
            PartRecord(**key, part=0, content=body),
            ResultRecord(**key, part=0, body=body, media_type="application/json", digest="r" * 64),
            SendRecord(**key, generation=1, part=0, seq_id=place, ended=1),
        ]
    return records


def fill(store: Store) -> Iterator[RunImage]:
    """A small run with all that a journal can have; what it is after each transaction."""
    key: dict[str, Any] = {"run": "1"}
    model = ModelRecord(**key, generation=1, session_id="s", model_seq_id=0, base_place=0, model_id="m")
    store.write([RunRecord(**key, config=b"{}"), SessionRecord(session_id="s", server="x", ordinal=0), model])
    yield image(store)
    for number in range(STEPS):
        store.write(step(number))
        yield image(store)
        path = f"tinker://m/weights/{number}"
        store.write([CheckpointRecord(**key, place=2 * number + 2, step=number + 1, path=path)])
        yield image(store)
        store.compact("1")
        yield image(store)


def image(store: Store) -> RunImage:
    found = store.load("1")
    assert found is not None
    return found


class Left:
    """A run directory as a killed process left it, and every state it ever was in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        work = directory.with_name("work")
        work.mkdir()
        store = Store(work / "journal.db")
        self.states = list(fill(store))
        self.states.append(image(store))
        shutil.copytree(
            work, directory, ignore=shutil.ignore_patterns("*-shm")
        )  # no process, no shared memory
        store.close()
        self.closed = contents(work)
        """As it would have been left in order: all in the database itself."""

    def files(self) -> dict[Path, bytes]:
        return contents(self.directory)


def contents(directory: Path) -> dict[Path, bytes]:
    """Of each file, but for SQLite's shared memory, which is made anew at each opening."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    with pytest.MonkeyPatch.context() as patch:  # so that there are few bytes to damage
        patch.setattr(database, "PAGE_BYTES", 512)
        patch.setattr(store_module, "INLINE_BYTES", 1024)
        left = Left(tmp_path_factory.mktemp("journal") / "left")
    assert sum(map(len, left.files().values())) <= MAX_BYTES
    return left


def opened(directory: Path) -> RunImage | None:
    """What the next process would go on from; None where it refuses."""
    before = contents(directory)
    with suppress(JournalError), closing(Store(directory / "journal.db")) as store:
        return store.load("1")
    assert contents(directory) == before
    return None


def put(directory: Path, files: dict[Path, bytes]) -> None:
    """Make a directory hold these files, and nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


def check(left: Left, directory: Path, name: Path, content: bytes) -> bool:
    """Open a copy with one file changed; whether it was refused, else it is a state that there was."""
    put(directory, {**left.files(), name: content})
    found = opened(directory)
    assert found is None or found in left.states
    return found is None


FILES = [Path("journal.db"), Path("journal.db-wal"), Path("segments/00000001.segment")]
CI, EVERY = pytest.param(257, id="sample"), pytest.param(1, id="every byte", marks=pytest.mark.slow)


def test_what_was_left_undamaged_is_the_last_state(left: Left, tmp_path: Path) -> None:
    put(tmp_path / "copy", left.files())
    assert {path for path, content in left.files().items() if content} == set(FILES)
    assert opened(tmp_path / "copy") == left.states[-1]


@pytest.mark.parametrize("stride", [CI, EVERY])
@pytest.mark.parametrize("name", FILES, ids=str)
def test_a_file_that_is_cut_off_is_refused_or_an_older_journal(
    left: Left, tmp_path: Path, name: Path, stride: int
) -> None:
    """DUR-01."""
    whole = left.files()[name]
    refused = sum(check(left, tmp_path / "copy", name, whole[:size]) for size in range(0, len(whole), stride))
    assert refused or name.name.endswith("-wal")  # SQLite's log is made to be cut off


@pytest.mark.parametrize("stride", [CI, EVERY])
@pytest.mark.parametrize("name", FILES, ids=str)
def test_a_byte_that_is_flipped_is_refused_or_of_no_consequence(
    left: Left, tmp_path: Path, name: Path, stride: int
) -> None:
    """DUR-02."""
    whole = left.files()[name]
    for at in range(stride // 2, len(whole), stride):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        check(left, tmp_path / "copy", name, bytes(flipped))


def test_a_column_that_has_another_name_is_refused(left: Left, tmp_path: Path) -> None:
    """Also of a table whose rows are compared only when they are read."""
    whole = left.files()[FILES[0]]
    assert check(left, tmp_path / "copy", FILES[0], whole.replace(b"end_step", b"end_stop"))


@pytest.mark.parametrize("value", ["{}", 17, 1.5])
def test_a_body_that_became_text_or_a_number_is_refused(tmp_path: Path, value: str | float) -> None:
    with closing(Store(tmp_path / "journal.db")) as store:
        store.write([RunRecord(run="1", config=b"{}"), *step(0)])
    with closing(sqlite3.connect(tmp_path / "journal.db")) as writer:
        writer.execute("UPDATE parts SET content = ?", (value,))
        writer.commit()
    with pytest.raises(JournalError, match=r"content of the row of parts with run '1'.* is not as it was"):
        Store(tmp_path / "journal.db")


def test_an_index_that_finds_a_row_no_more_is_refused(left: Left, tmp_path: Path) -> None:
    name, copy = FILES[0], tmp_path / "copy"
    put(copy, left.closed)
    with closing(sqlite3.connect(copy / name)) as reader:
        roots = [
            root for (root,) in reader.execute("SELECT rootpage FROM sqlite_master WHERE type = 'index'")
        ]
    whole, refused = left.closed[name], 0
    for at in (at for root in roots for at in range((root - 1) * 512, root * 512) if whole[at]):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        put(copy, {**left.closed, name: bytes(flipped)})
        found = opened(copy)
        assert found in (None, left.states[-1])
        refused += found is None
    assert refused > 10


def test_history_under_another_name_is_refused(left: Left, tmp_path: Path) -> None:
    put(tmp_path / "copy", left.closed)
    with closing(sqlite3.connect(tmp_path / "copy" / FILES[0])) as writer:
        writer.execute("UPDATE history SET run = '5'")
        writer.commit()
    with pytest.raises(JournalError, match="the row of history with run '5'"):
        Store(tmp_path / "copy" / FILES[0])


@pytest.mark.parametrize("has_log", [True, False])
def test_journal_that_a_process_left_in_the_middle_of_a_change_is_opened_as_before_it(
    tmp_path: Path, has_log: bool
) -> None:
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store:
        for number in range(200):
            store.write([SessionRecord(session_id=f"s{number}", server="x" * 500, ordinal=number)])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN"):
            writer.execute(statement)
        writer.execute("UPDATE sessions SET server = ''")  # spilled to the disk, and to be rolled back
        left = tmp_path / "left"
        left.mkdir()
        for file in tmp_path.glob("journal.db*"):
            shutil.copy(file, left)
    assert (left / "journal.db-journal").stat().st_size > 0
    if has_log:
        (left / "journal.db-wal").touch()
    with closing(Store(left / "journal.db")) as store:
        assert store.count_sessions() == 200


@pytest.mark.parametrize("stride", [CI, EVERY])
def test_a_byte_of_a_closed_journal_that_is_flipped_is_refused_or_of_no_consequence(
    left: Left, tmp_path: Path, stride: int
) -> None:
    name = Path("journal.db")
    whole, refused = left.closed[name], 0
    for at in range(stride // 2, len(whole), stride):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        put(tmp_path / "copy", {**left.closed, name: bytes(flipped)})
        found = opened(tmp_path / "copy")
        assert found in (None, left.states[-1])
        refused += found is None
    assert refused  # much of a small database is unused


@pytest.mark.parametrize("stride", [CI, EVERY])
def test_a_database_beside_a_log_of_another_age_is_refused_or_a_state_that_there_was(
    left: Left, tmp_path: Path, stride: int
) -> None:
    log = Path("journal.db-wal")
    whole = left.files()[log]
    for size in range(0, len(whole), stride):
        put(tmp_path / "copy", {**left.closed, log: whole[:size]})
        found = opened(tmp_path / "copy")
        assert found is None or found in left.states
