"""The store's commits and the ledger's rules, on a database of their own."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.local import ledger, records
from tinker_actors.local.ledger import Request
from tinker_actors.local.refusals import RefusedError, StartError, StorageError
from tinker_actors.local.specs import Kind, ModelSpec, Result
from tinker_actors.local.store import Store

SPEC = ModelSpec(base_model="local/tiny", rank=4, seed=1, train_attn=True, train_mlp=True, train_unembed=True)
DONE = Result(form="json", body=b"{}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "server.db")
    yield store
    store.close()


@pytest.fixture
def model(store: Store) -> str:
    """A model whose creation was executed."""
    session = store.ask(lambda db: records.add_session(db, b"{}"))
    made = request(f"{session}:train:0", 0)
    store.ask(lambda db: records.add_model(db, session, made, SPEC, "here"))
    store.ask(lambda db: ledger.finish(db, made.ticket, DONE))
    return made.queue


def request(model: str, seq_id: int, body: bytes = b"x") -> Request:
    kind: Kind = "optim_step" if seq_id else "create_model"
    return Request(
        request_id=f"{model}:{seq_id}", kind=kind, queue=model, seq_id=seq_id, digest=body, body=body
    )


def execute(store: Store, model: str, *seq_ids: int) -> None:
    for seq_id in seq_ids:
        made = request(model, seq_id)
        store.ask(partial(ledger.accept_operation, request=made))
        store.ask(partial(ledger.finish, ticket=made.ticket, result=DONE))


def test_a_job_that_raises_leaves_the_others_of_its_commit_alone(store: Store) -> None:
    def failing(db: sqlite3.Connection) -> None:
        records.add_session(db, b"lost")
        raise KeyError("mine")

    jobs: list[Future[Any]] = [store.submit(lambda db: records.add_session(db, b"kept")) for _ in range(5)]
    lost = store.submit(failing)
    jobs += [lost, store.submit(lambda db: records.add_session(db, b"kept"))]
    wait(jobs)
    assert isinstance(lost.exception(), KeyError)
    assert store.ask(lambda db: db.execute("SELECT count(*) FROM sessions").fetchone()) == (6,)


def test_a_full_disk_fails_what_writes_and_nothing_else(store: Store) -> None:
    pages = store.ask(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    store.ask(lambda db: db.execute(f"PRAGMA max_page_count={pages + 1}").fetchone())
    big = store.submit(lambda db: records.add_session(db, b"x" * 100_000))
    reading = store.submit(lambda db: db.execute("SELECT count(*) FROM sessions").fetchone())
    assert isinstance(big.exception(), StorageError)
    assert reading.result() == (0,)
    store.ask(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchone())
    assert store.ask(lambda db: records.add_session(db, b"x" * 100_000))


def test_another_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "server.db").close()
    with sqlite3.connect(tmp_path / "server.db") as connection:
        connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(StartError, match="format version 7"):
        Store(tmp_path / "server.db")


def test_an_operation_counts_as_executed_only_after_the_one_before(store: Store, model: str) -> None:
    for seq_id in (1, 2):
        store.ask(partial(ledger.accept_operation, request=request(model, seq_id)))
    with pytest.raises(StorageError):
        store.ask(lambda db: ledger.finish(db, request(model, 2).ticket, DONE))
    execute(store, model, 1, 2)
    assert store.ask(lambda db: records.model(db, model)).executed == 2


@pytest.mark.parametrize("seq_id", [1, 2])
def test_a_place_that_was_passed_is_refused(store: Store, model: str, seq_id: int) -> None:
    execute(store, model, 1, 2)
    with pytest.raises(RefusedError) as refusal:
        store.ask(lambda db: ledger.accept_operation(db, request(model, seq_id, b"other")))
    assert refusal.value.status == 409


def test_what_is_replayed_is_what_changed_the_model_after_the_snapshot(store: Store, model: str) -> None:
    execute(store, model, 1, 2, 3, 4)
    replayed = store.ask(lambda db: ledger.replay_after(db, model, 1, 3))
    assert [ticket.seq_id for ticket in replayed] == [2, 3]


def test_a_snapshot_frees_the_bodies_before_it(store: Store, model: str) -> None:
    execute(store, model, 1, 2, 3)
    store.ask(lambda db: ledger.prune_model(db, model, 2))
    bodies = [store.ask(partial(ledger.body_of, request_id=f"{model}:{n}"))[1] for n in (1, 2, 3)]
    assert bodies == [None, None, b"x"]


def test_old_results_are_gone_and_still_known_to_have_been(
    store: Store, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RESULTS_KEPT", 2)
    monkeypatch.setattr(ledger, "ROWS_KEPT", 4)
    execute(store, model, *range(1, 8))
    store.ask(lambda db: ledger.prune_model(db, model, 7))
    for seq_id in range(1, 6):
        with pytest.raises(RefusedError) as refusal:
            store.ask(partial(ledger.look_up, request_id=f"{model}:{seq_id}"))
        assert refusal.value.status == 410
    assert store.ask(lambda db: ledger.look_up(db, f"{model}:6")).result == DONE
    assert store.ask(lambda db: ledger.look_up(db, f"{model}:0")).result == DONE
    again = store.ask(lambda db: ledger.accept_operation(db, request(model, 4)))
    assert again.ticket is None


def test_the_newest_results_are_kept_whatever_their_size(
    store: Store, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RESULT_BYTES_KEPT", 3)
    monkeypatch.setattr(ledger, "RESULTS_SAFE", 2)
    execute(store, model, *range(1, 6))
    store.ask(lambda db: ledger.prune_model(db, model, 5))
    rows = store.ask(
        lambda db: db.execute("SELECT seq_id FROM requests WHERE form = 'expired' ORDER BY seq_id").fetchall()
    )
    assert [seq_id for (seq_id,) in rows] == [1, 2, 3]
