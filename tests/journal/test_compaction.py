"""Long runs: what no recovery needs is folded, and the files, the image and the opening stay small."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tinker_actors.journal import exports
from tinker_actors.journal import segments as segments_module
from tinker_actors.journal import store as store_module
from tinker_actors.journal.history import StepRecord
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
    State,
)
from tinker_actors.journal.store import Store

EVERY = 20
"""Steps from one checkpoint to the next."""
BYTES_PER_STEP = 128
"""Most that a step with two metrics leaves."""
SUMMARY = b'{"loss:sum": 1.5, "tokens:sum": 4096.0}'


def operation(place: int, kind: Kind, body: bytes) -> list[Record]:
    return [
        OperationRecord(
            run="1",
            place=place,
            kind=kind,
            digest="d" * 64,
            ticket="t" * 32,
            state=State.DONE,
            summary=SUMMARY,
        ),
        PartRecord(run="1", place=place, part=0, content=body),
        ResultRecord(run="1", place=place, part=0, body=body, media_type="application/json", digest="r" * 64),
        SendRecord(run="1", generation=1, place=place, part=0, seq_id=place, ended=1),
    ]


def train(store: Store, steps: range, body: bytes = b"b" * 2000) -> None:
    """A run with a checkpoint every so many steps, after which the journal is compacted."""
    for number in steps:
        place = 2 * number + 1
        gradient, update = Kind.FORWARD_BACKWARD, Kind.OPTIM_STEP
        store.write([*operation(place, gradient, body), *operation(place + 1, update, b"{}")], durable=False)
        if number % EVERY == EVERY - 1:
            path = f"tinker://m/weights/{number}"
            store.write(
                [
                    CheckpointRecord(
                        run="1", place=place + 1, step=number + 1, path=path, automatic=1, retired=2
                    )
                ]
            )
            store.compact("1")


def begin(store: Store) -> None:
    model = ModelRecord(run="1", generation=1, session_id="s", model_seq_id=0, base_place=0, model_id="m")
    store.write([RunRecord(run="1", config=b"{}"), model])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "journal.db")
    begin(store)
    yield store
    store.close()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A journal without a directory, to which a hundred bytes are many."""
    monkeypatch.setattr(store_module, "INLINE_BYTES", 100)
    store = Store(None)
    begin(store)
    yield store
    store.close()


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if not path.name.endswith("-shm"))


def test_a_long_run_leaves_metrics_alone(store: Store, tmp_path: Path) -> None:
    """DUR-06, whose time is in the benchmark of the journal."""
    train(store, range(200))
    early, size = on_disk(tmp_path), store.size()
    train(store, range(200, 2000))
    assert store.size() - size < 1800 * BYTES_PER_STEP
    assert on_disk(tmp_path) - early < 1800 * BYTES_PER_STEP
    image = store.load("1")
    assert image is not None
    assert len(image.operations) == 2 * EVERY
    assert len(image.checkpoints) == 2
    assert (image.earlier_steps, image.last_place) == (1980, 4000)
    assert [step.step for step in store.history("1")] == list(range(2000))


def test_segments_that_hold_nothing_that_is_needed_are_deleted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "INLINE_BYTES", 100)
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 20_000)
    train(store, range(400))
    left = sorted((tmp_path / "segments").iterdir())
    assert sum(file.stat().st_size for file in left) < 3 * EVERY * 2 * 2000
    image = store.load("1")
    assert image is not None
    assert {len(part.content or b"") for part in image.parts} == {2, 2000}


def test_opening_reads_what_recovery_needs_and_adds_what_the_files_for_others_lack(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, range(200))
    exports.catch_up(tmp_path, store)
    metrics = tmp_path / exports.METRICS
    whole = metrics.read_bytes()
    asked: list[int] = []
    history = Store.history

    def noting(self: Store, run: str, since: int = 0) -> list[StepRecord]:
        asked.append(since)
        return history(self, run, since)

    monkeypatch.setattr(Store, "history", noting)
    exports.catch_up(tmp_path, store)
    metrics.write_bytes(b"".join(whole.splitlines(keepends=True)[:190]))
    exports.catch_up(tmp_path, store)
    assert asked == [200, 190]
    assert metrics.read_bytes() == whole


def test_what_a_dead_process_wrote_to_segments_without_a_row_is_swept_at_the_next_opening(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "INLINE_BYTES", 100)
    train(store, range(2))
    image = store.load("1")
    orphan = tmp_path / "segments" / "00000002.segment"
    orphan.write_bytes(b"half a body")
    store.close()
    reopened = Store(tmp_path / "journal.db")
    assert not orphan.exists()
    assert reopened.load("1") == image
    train(reopened, range(2, 3))  # into a file of its own, whose number was never used
    assert {path.name for path in (tmp_path / "segments").iterdir()} == {
        "00000001.segment",
        "00000003.segment",
    }
    reopened.close()


def test_a_folded_history_still_knows_which_id_comes_next(store: Store) -> None:
    train(store, range(2 * EVERY))
    newest = store.checkpoints("1")[-2:]
    store.write([msgspec.structs.replace(one, usable=0) for one in newest])
    image = store.load("1")
    assert image is not None
    assert (image.base_place, image.earlier_steps) == (2 * EVERY, EVERY)
    assert max(send.seq_id for send in image.sends) == 4 * EVERY


def test_large_bodies_in_memory_are_kept_as_they_are(in_memory: Store) -> None:
    body = bytes(2000)
    train(in_memory, range(1), body)
    image = in_memory.load("1")
    assert image is not None
    assert [part.content for part in image.parts] == [body, b"{}"]
    assert image.parts[0].content is image.results[0].body is body


def test_large_bodies_in_memory_go_with_what_needed_them(in_memory: Store) -> None:
    train(in_memory, range(200))
    early = in_memory.size()
    assert early > 2 * EVERY * 2000
    train(in_memory, range(200, 1000))
    assert in_memory.size() - early < 800 * BYTES_PER_STEP
    image = in_memory.load("1")
    assert image is not None
    assert {len(part.content or b"") for part in image.parts} == {2, 2000}


def test_a_write_in_memory_that_fails_leaves_no_body_behind(in_memory: Store) -> None:
    train(in_memory, range(1))
    image, size = in_memory.load("1"), in_memory.size()
    unreadable: Any = object()
    with pytest.raises(KeyError):
        in_memory.write([PartRecord(run="1", place=3, part=0, content=bytes(2000)), unreadable])
    assert (in_memory.load("1"), in_memory.size()) == (image, size)
    train(in_memory, range(1, 2))
    assert in_memory.load("1") != image
