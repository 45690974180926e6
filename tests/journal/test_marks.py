"""Marks of what is being handled: they outlive the process, and are no records."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinker_actors.errors import JournalError
from tinker_actors.journal.marks import Marks

Open = Callable[[], Marks]


@pytest.fixture
def open_marks(tmp_path: Path) -> Iterator[Open]:
    """Opens the same file, also while others have it open: as a process that was killed left it."""
    opened: list[Marks] = []

    def open_one() -> Marks:
        opened.append(Marks(tmp_path / "journal.marks"))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_marked_is_known_to_the_next_process(open_marks: Open) -> None:
    open_marks().put("run", 7, 1)
    assert open_marks().take("run") == {(7, 1)}


def test_what_is_marked_no_more_is_forgotten(open_marks: Open) -> None:
    marks = open_marks()
    for part in range(3):
        marks.put("run", 7, part)
    marks.remove("run", 7, 1)
    assert (marks.is_set("run", 7, 0), marks.is_set("run", 7, 1)) == (True, False)
    assert open_marks().take("run") == {(7, 0), (7, 2)}


def test_what_is_taken_is_taken_once(open_marks: Open) -> None:
    open_marks().put("run", 7, 0)
    assert open_marks().take("run")
    assert open_marks().take("run") == set()


def test_runs_do_not_see_the_marks_of_others(open_marks: Open) -> None:
    marks = open_marks()
    marks.put("one", 1, 0)
    marks.put("other", 2, 0)
    marks.remove("other", 1, 0)
    assert (marks.take("other"), marks.take("one")) == ({(2, 0)}, {(1, 0)})


def test_the_file_grows_with_what_is_marked_at_a_time_only(open_marks: Open, tmp_path: Path) -> None:
    marks = open_marks()
    for place in range(100):
        marks.put("run", place, 0)
        marks.put("run", place, 0)
        marks.remove("run", place, 0)
        marks.remove("run", place, 0)
    small = (tmp_path / "journal.marks").stat().st_size
    open_marks().put("run", 1, 0)
    assert (tmp_path / "journal.marks").stat().st_size == small
    assert small < 100


def test_a_mark_that_was_written_in_part_is_none(open_marks: Open, tmp_path: Path) -> None:
    open_marks().put("run", 7, 0)
    path = tmp_path / "journal.marks"
    os.truncate(path, path.stat().st_size - 1)
    marks = open_marks()
    assert marks.take("run") == set()
    marks.put("run", 8, 0)
    assert open_marks().take("run") == {(8, 0)}


def test_what_cannot_be_marked_is_an_error_and_is_not_marked(
    open_marks: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = open_marks()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match=r"journal\.marks cannot be written: No space left"):
            marks.put("run", 7, 0)
    assert not marks.is_set("run", 7, 0)
    marks.put("run", 7, 0)
    assert open_marks().take("run") == {(7, 0)}


def test_a_mark_that_cannot_be_taken_away_is_so_for_this_process_alone(
    open_marks: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = open_marks()
    marks.put("run", 7, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        marks.remove("run", 7, 0)
    assert not marks.is_set("run", 7, 0)
    assert open_marks().take("run") == {(7, 0)}


def test_marks_in_memory_are_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", full)
    marks = Marks(None)
    marks.put("run", 7, 0)
    assert marks.take("run") == {(7, 0)}


def test_a_forked_child_lets_go_although_nobody_there_ends_what_another_thread_began(
    open_marks: Open,
) -> None:
    marks = open_marks()
    marks.put("run", 7, 0)
    child = threading.Thread(target=marks.abandon, daemon=True)
    with marks._lock:  # by a thread that is in the middle of a mark when the process is forked
        child.start()
        child.join(10)
        assert not child.is_alive()
    assert open_marks().take("run") == {(7, 0)}


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.marks").mkdir()
    with pytest.raises(JournalError, match=r"journal\.marks cannot be opened"):
        Marks(tmp_path / "journal.marks")
