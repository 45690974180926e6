"""The order and the ids of what one model is sent."""

import pytest

from tinker_actors.actors.outbox import Outbox, Pending
from tinker_actors.journal.records import Kind, ModelRecord, OperationRecord
from tinker_actors.wire.calls import Answer

MODEL = ModelRecord(run="1", generation=1, session_id="s", model_seq_id=0, base_place=0, model_id="s:train:0")
ANSWER = Answer(200, {}, b"")


def outbox(*parts: int, parallel: bool = False, kind: Kind = Kind.FORWARD_BACKWARD) -> Outbox:
    """An outbox with one operation per entry, of so many requests."""
    box = Outbox(MODEL, 1, parallel=parallel)
    for place, count in enumerate(parts, 1):
        record = OperationRecord(run="1", place=place, kind=kind, digest="d")
        sends = box.number(place, count)
        box.put(Pending(record, [b"x"] * count, [], sends))
    return box


def ids(box: Outbox) -> list[list[int]]:
    return [[send.seq_id for send in box[place].sends] for place in box.places()]


def test_ids_are_consecutive_over_operations_and_their_requests() -> None:
    assert ids(outbox(2, 1, 3)) == [[1, 2], [3], [4, 5, 6]]


def test_the_next_request_is_posted_once_the_one_before_was_accepted() -> None:
    box = outbox(2, 1)
    assert (box.post(), box.post()) == ((1, 0), None)
    box.accepted((1, 0))
    assert box.post() == (1, 1)


@pytest.mark.parametrize(
    ("posted", "left", "gave_up"),
    [
        (1, [[1], [2, 3]], [1, 0]),  # refused at its first request: its id goes to the next
        (2, [[2], [3, 4]], [1]),  # its first was accepted and used an id up
    ],
)
def test_a_refused_request_uses_up_no_id(posted: int, left: list[list[int]], gave_up: list[int]) -> None:
    box = outbox(2, 1, 2)
    for number in range(posted):
        if number:
            box.accepted((1, number - 1))
        box.post()
    box.refused((1, posted - 1))
    written = box.remove([1])
    assert ids(box) == left
    assert [send.seq_id for send in written if send.place != 1] == [
        seq_id for sends in left for seq_id in sends
    ]
    assert [(send.place, send.part, send.seq_id) for send in written if send.place == 1] == [
        (1, part, 0) for part in gave_up
    ]
    assert box.number(9, 1)[0].seq_id == left[-1][-1] + 1


def test_an_id_that_a_refused_request_used_up_after_all_is_passed_over() -> None:
    box = outbox(1, 1, 2)
    box.post()
    box.accepted((1, 0))
    box.post()
    box.refused((2, 0))
    box.remove([2])
    part = box.post()
    assert part is not None
    assert box.has_the_id_of_a_refused_one(part)
    written = box.skip_id(part)
    assert ids(box) == [[1], [3, 4]]
    assert [send.seq_id for send in written] == [3, 4]
    assert box.number(9, 1)[0].seq_id == 5
    assert box.post() == part
    assert not box.has_the_id_of_a_refused_one(part)


def test_an_id_of_its_own_is_no_refused_ones() -> None:
    box = outbox(1, 1)
    assert box.post() == (1, 0)
    assert not box.has_the_id_of_a_refused_one((1, 0))
    assert not box.has_the_id_of_a_refused_one((2, 0))


def test_operations_removed_before_they_were_posted_free_their_ids() -> None:
    box = outbox(1, 1, 1)
    box.post()
    box.accepted((1, 0))
    box.remove([2])
    assert ids(box) == [[1], [2]]


def test_what_ended_frees_no_id() -> None:
    box = outbox(1, 1)
    box.post()
    box.accepted((1, 0))
    assert box.remove([1]) == []
    assert ids(box) == [[2]]


def post_all(box: Outbox) -> list[tuple[int, int]]:
    """What the service accepts from here on, in order."""
    posted = []
    while (part := box.post()) is not None:
        posted.append(part)
        box.accepted(part)
    return posted


def test_requests_of_unknown_outcome_are_posted_again_in_order_with_their_old_ids() -> None:
    box = outbox(1, 1, 1, 1)
    for place in (1, 2):
        box.post()
        box.accepted((place, 0))
    box.post()
    for place in (1, 2, 3):  # the transport was restarted
        box.post_again((place, 0))
    assert post_all(box) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert ids(box) == [[1], [2], [3], [4]]


def test_a_request_that_waits_to_be_posted_again_may_have_used_its_id() -> None:
    box = outbox(1, 1, 1)
    box.post()
    box.accepted((1, 0))
    box.post_again((1, 0))
    assert not box.is_untouched(1)
    assert box.remove([1]) == []
    assert ids(box) == [[2], [3]]


def test_results_count_only_in_order() -> None:
    box = outbox(1, 1)
    box[2].answers[0] = ANSWER
    assert list(box.finished()) == []
    box[1].answers[0] = ANSWER
    assert [pending.record.place for pending in box.finished()] == [1, 2]


def test_an_operation_is_untouched_until_one_of_its_requests_was_posted() -> None:
    box = outbox(2, 1)
    assert box.is_untouched(1)
    box.post()
    assert not box.is_untouched(1)
    assert box.is_untouched(2)


# In parallel -------------------------------------------------------------------------------------


def posted_together(box: Outbox) -> list[tuple[int, int]]:
    """What may be posted before anything more is accepted."""
    return list(iter(box.post, None))


def test_all_but_the_first_go_out_together_and_the_first_when_they_are_there() -> None:
    box = outbox(3, 1, parallel=True)
    assert posted_together(box) == [(1, 1), (1, 2)]
    box.accepted((1, 2))
    assert posted_together(box) == []
    box.accepted((1, 1))
    assert posted_together(box) == [(1, 0)]
    box.accepted((1, 0))
    assert posted_together(box) == [(2, 0)]


def test_an_operation_waits_for_the_one_before_it() -> None:
    box = outbox(1, 2, parallel=True)
    assert posted_together(box) == [(1, 0)]
    box.accepted((1, 0))
    assert posted_together(box) == [(2, 1)]


def test_what_changes_nothing_goes_out_in_order() -> None:
    box = outbox(3, parallel=True, kind=Kind.FORWARD)
    assert posted_together(box) == [(1, 0)]


def test_what_is_refused_gives_up_its_id_and_what_may_be_there_does_not() -> None:
    box = outbox(4, parallel=True)
    posted_together(box)
    box.accepted((1, 3))
    box.refused((1, 2))
    assert box.is_posting(1)
    box.accepted((1, 1))
    assert not box.is_posting(1)
    assert not box.is_untouched(1)
    assert sorted((send.part, send.seq_id) for send in box.remove([1])) == [(0, 0), (2, 0)]


def test_where_all_are_refused_the_service_has_nothing() -> None:
    box = outbox(3, 1, parallel=True)
    for part in posted_together(box):
        box.refused(part)
    assert box.is_untouched(1)
    box.remove([1])
    assert ids(box) == [[1]]


def test_requests_of_unknown_outcome_go_out_again_before_the_first() -> None:
    box = outbox(3, parallel=True)
    posted_together(box)
    for part in (1, 2):
        box.post_again((1, part))
    assert posted_together(box) == [(1, 1), (1, 2)]
    assert ids(box) == [[1, 2, 3]]


def test_behind_an_id_in_doubt_they_go_out_in_order() -> None:
    box = outbox(1, 3, parallel=True)
    posted_together(box)
    box.refused((1, 0))
    box.remove([1])
    assert posted_together(box) == [(2, 0)]
    assert box.skip_id((2, 0))
    assert ids(box) == [[2, 3, 4]]
    assert posted_together(box) == [(2, 1), (2, 2)]
