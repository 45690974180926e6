"""The step log: what was executed, once each and in order, and every heartbeat."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.local import step_log
from tinker_actors.local.step_log import Beat, Executed


def executed(data: Path, owner: str) -> list[Executed]:
    return [entry for entry in step_log.read(data, owner=owner) if isinstance(entry, Executed)]


def train(caller: Any, model_id: str, steps: int = 2) -> None:
    for step in range(steps):
        caller.forward_backward(model_id, 2 * step + 1)
        caller.poll(caller.optim_step(model_id, 2 * step + 2).json()["request_id"])


def test_each_operation_stands_once_in_the_order_of_its_model(process: Any, caller: Any) -> None:
    model_id = caller.model()
    train(caller, model_id)
    log = executed(process.data, model_id)
    assert [(entry.seq_id, entry.kind) for entry in log] == [
        (0, "create_model"),
        (1, "forward_backward"),
        (2, "optim_step"),
        (3, "forward_backward"),
        (4, "optim_step"),
    ]
    assert [entry.id for entry in log] == sorted(entry.id for entry in log)


def test_what_arrives_first_or_twice_is_executed_in_order_and_once(process: Any, caller: Any) -> None:
    model_id = caller.model()
    for seq_id in (3, 2, 2, 1, 1, 3):
        caller.optim_step(model_id, seq_id)
    caller.poll(f"{model_id}:3")
    assert [entry.seq_id for entry in executed(process.data, model_id)] == [0, 1, 2, 3]


def test_the_same_work_has_the_same_digests_whoever_does_it(process: Any, caller: Any) -> None:
    models = [caller.model(), caller.model()]
    for model_id in models:
        train(caller, model_id)
    mine, theirs = (
        [(entry.content, entry.result) for entry in executed(process.data, model_id)[1:]]
        for model_id in models
    )
    assert mine == theirs
    assert len({content for content, _ in mine}) == 2
    assert mine[0][1] != mine[2][1]


def test_protobuf_and_json_of_one_batch_differ_only_in_how_they_are_written(
    process: Any, caller: Any
) -> None:
    model_id = caller.model()
    caller.forward_backward(model_id, 1)
    caller.do("forward_backward", caller.training_document(model_id, 2, caller.TEXT))
    first, second = executed(process.data, model_id)[1:]
    assert first.result == second.result


def test_what_failed_or_was_passed_over_says_so(process: Any, caller: Any) -> None:
    model_id = caller.model()
    assert caller.post("optim_step", {"model_id": model_id, "seq_id": 1}).status_code == 400
    caller.poll(caller.optim_step(model_id, 2).json()["request_id"])
    log = executed(process.data, model_id)[1:]
    assert [(entry.kind, entry.form) for entry in log] == [("refused", "error"), ("optim_step", "json")]


def test_heartbeats_are_kept_with_their_times(process: Any, caller: Any) -> None:
    session_id = caller.session()
    for _ in range(3):
        caller.ask("session_heartbeat", {"session_id": session_id})
    beats = step_log.read(process.data, owner=session_id)
    assert all(isinstance(entry, Beat) for entry in beats)
    assert len(beats) == 3
    assert [entry.at for entry in beats] == sorted(entry.at for entry in beats)


def test_a_heartbeat_of_no_session_is_not_kept(process: Any, caller: Any) -> None:
    assert caller.post("session_heartbeat", {"session_id": "nobody"}).status_code == 404
    assert step_log.read(process.data, owner="nobody") == []


def test_a_killed_server_has_logged_all_it_answered(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    model_id = caller.model()
    train(caller, model_id)
    process.kill()
    assert [entry.seq_id for entry in executed(tmp_path / "s", model_id)] == [0, 1, 2, 3, 4]
    again = open_caller(start(tmp_path / "s"))
    again.poll(again.optim_step(model_id, 5).json()["request_id"])
    assert [entry.seq_id for entry in executed(tmp_path / "s", model_id)] == [0, 1, 2, 3, 4, 5]


def test_samples_and_beats_do_not_push_training_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "KEPT", {"executed": 3, "beat": 5})
    monkeypatch.setattr(step_log, "BETWEEN_PRUNING", 1)
    db = sqlite3.connect(":memory:")
    db.create_function("now", 0, lambda: 0.0)
    db.executescript(step_log.SCHEMA)
    for number in range(20):
        if number < 4:
            step_log.add(db, _executed(number))
        step_log.beat(db, "session")
    entries = step_log.entries(db)
    db.close()
    assert [entry.seq_id for entry in entries if isinstance(entry, Executed)] == [1, 2, 3]
    assert len([entry for entry in entries if isinstance(entry, Beat)]) == 5


def _executed(seq_id: int) -> Executed:
    return Executed(
        request_id=f"m:{seq_id}",
        kind="optim_step",
        owner="m",
        seq_id=seq_id,
        form="json",
        content="",
        result="",
        at=0.0,
    )
