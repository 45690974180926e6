"""Whose turn it is, as a pure rule."""

from tinker_actors.local.queues import FairQueue
from tinker_actors.local.specs import Kind, Ticket


def operation(model: str, seq_id: int | None) -> Ticket:
    kind: Kind = "optim_step" if seq_id is not None else "unload_model"
    return Ticket(request_id=f"{model}:{seq_id}", kind=kind, queue=model, seq_id=seq_id)


def sample(sampler: str, seq_id: int) -> Ticket:
    return Ticket(request_id=f"{sampler}:{seq_id}", kind="sample", queue=sampler, seq_id=seq_id)


def drained(queue: FairQueue) -> list[str]:
    taken = []
    while (ticket := queue.take()) is not None:
        taken.append(ticket.request_id)
    return taken


def test_a_model_waits_for_the_operation_that_follows_the_executed_one() -> None:
    queue = FairQueue()
    queue.open_model("m", 3)
    queue.put(operation("m", 6))
    queue.put(operation("m", 5))
    assert queue.take() is None
    queue.put(operation("m", 4))
    assert drained(queue) == ["m:4", "m:5", "m:6"]


def test_lines_take_turns() -> None:
    queue = FairQueue()
    queue.open_model("m", 0)
    for seq_id in (1, 2, 3):
        queue.put(operation("m", seq_id))
    for seq_id in (7, 5, 9):
        queue.put(sample("s", seq_id))
    assert drained(queue) == ["m:1", "s:7", "m:2", "s:5", "m:3", "s:9"]


def test_unloading_goes_ahead_and_hands_over_what_still_waits() -> None:
    queue = FairQueue()
    queue.open_model("m", 0)
    for seq_id in (3, 1):
        queue.put(operation("m", seq_id))
    queue.put(operation("m", None))
    first = queue.take()
    assert first is not None
    assert first.kind == "unload_model"
    assert [ticket.seq_id for ticket in queue.close_model("m")] == [1, 3]
    assert queue.take() is None
