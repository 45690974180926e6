"""What follows from a journal, on images written as short words.

An operation is a letter for its kind (f forward_backward, o optim_step, s save) and a sign for its state
(none done, ? placed, ! failed, ~ void, - dropped).
"""

import pytest

from tinker_actors.journal import replay
from tinker_actors.journal.records import (
    CheckpointRecord,
    Kind,
    ModelRecord,
    OperationRecord,
    PartRecord,
    RunRecord,
    SendRecord,
    State,
)
from tinker_actors.journal.store import RunImage

KINDS = {"f": Kind.FORWARD_BACKWARD, "o": Kind.OPTIM_STEP, "s": Kind.SAVE_WEIGHTS}
STATES = {"": State.DONE, "?": State.PLACED, "!": State.FAILED, "~": State.VOID, "-": State.DROPPED}


def image(words: str, *, ended: int = 0, checkpoints: tuple[int, ...] = (), kept_after: int = 0) -> RunImage:
    """A run of `words`; the first `ended` ended on the latest model; operations are kept after `kept_after`."""
    operations = [
        OperationRecord(
            run="1", place=place, kind=KINDS[word[0]], digest="d", ticket="t", state=STATES[word[1:]]
        )
        for place, word in enumerate(words.split(), 1)
        if place > kept_after
    ]
    parts = [PartRecord(run="1", place=one.place, part=0, content=b"") for one in operations]
    sends = [
        SendRecord(run="1", generation=1, place=p, part=0, seq_id=p, ended=1) for p in range(1, ended + 1)
    ]
    saved = [CheckpointRecord(run="1", place=p, step=0, path=f"tinker://m/weights/{p}") for p in checkpoints]
    run = RunRecord(run="1", config=b"")
    return RunImage(
        run=run,
        models=[],
        operations=operations,
        parts=parts,
        sends=sends,
        checkpoints=saved,
        earlier_steps=0,
        last_place=len(words.split()),
        base_place=kept_after,
    )


def model(base_place: int) -> ModelRecord:
    return ModelRecord(run="1", generation=1, session_id="s", model_seq_id=0, base_place=base_place)


@pytest.mark.parametrize(
    ("words", "ended", "base_place", "places"),
    [
        ("f o f? o?", 2, 0, [3, 4]),  # the same model: only what has no result
        ("f o f o", 4, 0, []),
        ("f o f o f?", 0, 2, [3, 4, 5]),  # a new model from a checkpoint after place 2
        ("f o f o", 0, 0, [1, 2, 3, 4]),  # a fresh model
        ("f s o s?", 0, 0, [1, 3, 4]),  # saves are not repeated, unless they have no result
        ("f! f~ o~ f- f o", 0, 0, [5, 6]),  # what was not taken is not repeated
    ],
)
def test_a_model_is_sent_what_it_lacks(words: str, ended: int, base_place: int, places: list[int]) -> None:
    found = replay.outstanding(image(words, ended=ended), model(base_place))
    assert [operation.place for operation in found] == places


@pytest.mark.parametrize(
    ("words", "done", "submitted"), [("", 0, 0), ("f o f o", 2, 2), ("f o f o?", 1, 2), ("f o f~ o~ f", 1, 1)]
)
def test_steps_are_counted_by_their_optim_steps(words: str, done: int, submitted: int) -> None:
    assert (replay.steps_done(image(words)), replay.steps_submitted(image(words))) == (done, submitted)


@pytest.mark.parametrize(
    ("checkpoints", "kept_after", "places"),
    [((), 0, [0]), ((2,), 0, [2, 0]), ((2, 4), 2, [4, 2]), ((2, 4), 4, [4]), ((), 1, [])],
)
def test_a_new_model_begins_where_all_that_follows_is_kept(
    checkpoints: tuple[int, ...], kept_after: int, places: list[int]
) -> None:
    run = image("f o f o f o", checkpoints=checkpoints, kept_after=kept_after)
    assert [point.place for point in replay.restore_points(run)] == places


def test_a_checkpoint_found_wrong_is_passed_over() -> None:
    run = image("f o f o", checkpoints=(2, 4))
    run.checkpoints[1] = CheckpointRecord(run="1", place=4, step=2, path="p", usable=0)
    assert [point.place for point in replay.restore_points(run)] == [2, 0]


@pytest.mark.parametrize(
    ("words", "places"), [("f o", []), ("f o f f", [3, 4]), ("f o f- f s?", [4, 5]), ("f~ o~ f", [3])]
)
def test_what_stands_behind_the_last_step_dangles(words: str, places: list[int]) -> None:
    assert [operation.place for operation in replay.dangling(image(words))] == places


@pytest.mark.parametrize(
    ("words", "place", "places"),
    [
        ("f o f f? o? f?", 4, [3, 4, 5]),
        ("f o f f?", 4, [3, 4]),
        ("f o f s? f? o?", 3, [3, 5, 6]),
        ("f? o? f o", 1, [1, 2]),
    ],
)
def test_a_step_is_its_gradients_and_its_update(words: str, place: int, places: list[int]) -> None:
    assert [operation.place for operation in replay.step_of(image(words).operations, place)] == places


def test_ids_go_on_after_the_last_one_used() -> None:
    assert (replay.next_seq_id([]), replay.next_seq_id(image("f o", ended=2).sends)) == (1, 3)
