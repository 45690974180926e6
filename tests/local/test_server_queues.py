"""Whose turn it is, as a pure rule."""

from tinker_actors.local.queues import FairQueue, Shares
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


def test_sessions_take_turns_and_so_do_the_models_of_each() -> None:
    queue = FairQueue()
    for model in ("a:train:0", "a:train:1", "b:train:0"):
        queue.open_model(model, 0)
        for seq_id in (1, 2):
            queue.put(operation(model, seq_id))
    assert drained(queue) == [
        "a:train:0:1",
        "b:train:0:1",
        "a:train:1:1",
        "b:train:0:2",
        "a:train:0:2",
        "a:train:1:2",
    ]


def test_a_thousand_samples_of_one_session_hold_up_no_other_one() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.put(sample(f"a:sample:{number % 3}", number))
    queue.put(sample("b:sample:0", 7))
    taken = [queue.take_sample(lambda _: True) for _ in range(3)]
    assert [ticket and ticket.request_id for ticket in taken] == [
        "a:sample:0:0",
        "b:sample:0:7",
        "a:sample:1:1",
    ]
    assert (queue.samples_waiting, queue.samples_of("a"), queue.samples_of("b")) == (998, 998, 0)


def test_a_session_that_may_not_is_passed_over() -> None:
    queue = FairQueue()
    for session in "ab":
        queue.put(sample(f"{session}:sample:0", 1))
    first = queue.take_sample(lambda session: session != "a")
    assert first is not None
    assert first.request_id == "b:sample:0:1"
    assert queue.take_sample(lambda session: session != "a") is None


def test_a_sample_is_taken_out_before_its_turn_once() -> None:
    queue = FairQueue()
    for seq_id in (1, 2):
        queue.put(sample("a:sample:0", seq_id))
    assert queue.waits("a:sample:0", "a:sample:0:1")
    assert queue.remove_sample("a:sample:0", "a:sample:0:1") == sample("a:sample:0", 1)
    assert queue.remove_sample("a:sample:0", "a:sample:0:1") is None
    assert not queue.waits("a:sample:0", "a:sample:0:1")
    assert queue.samples_waiting == 1


def test_kinds_of_work_that_are_ready_get_equal_time() -> None:
    shares = Shares("long", "short")
    chosen = []
    for _ in range(12):
        kind = shares.next(["long", "short"])
        assert kind is not None
        chosen.append(kind)
        shares.charge(kind, 5.0 if kind == "long" else 1.0)
    assert chosen == ["long", *["short"] * 5] * 2


def test_who_has_no_work_saves_nothing_up() -> None:
    shares = Shares("long", "short")
    for _ in range(10):
        assert shares.next(["long"]) == "long"
        shares.charge("long", 5.0)
    assert shares.next([]) is None
    chosen = []
    for _ in range(4):
        kind = shares.next(["long", "short"])
        assert kind is not None
        chosen.append(kind)
        shares.charge(kind, 5.0)
    assert chosen.count("long") == 2


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
