"""How long samples are kept, and how they are told in the order in which they ended."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinker_actors.local import completions, ledger
from tinker_actors.local.completions import CLONE_IDS, Completion
from tinker_actors.local.ledger import Request
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.specs import Result, failure
from tinker_actors.local.store import Store

SAMPLER = "a:sample:0"
DONE = Result(form="sample", body=b"done")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The store's database, with one sampler."""
    Store(tmp_path / "server.db").close()
    with sqlite3.connect(tmp_path / "server.db", isolation_level=None) as connection:
        connection.execute(
            "INSERT INTO samplers VALUES (?, 'a', x'', 'local/tiny', NULL, NULL, 1, 0)", (SAMPLER,)
        )
        yield connection
    connection.close()


def accept(db: sqlite3.Connection, seq_id: int) -> Request:
    request = Request(
        request_id=f"{SAMPLER}:{seq_id}", kind="sample", queue=SAMPLER, seq_id=seq_id, digest=b"", body=b"x"
    )
    ledger.accept(db, request)
    return request


def end(db: sqlite3.Connection, *seq_ids: int, result: Result = DONE) -> None:
    for seq_id in seq_ids:
        ledger.finish(db, accept(db, seq_id).ticket, result)


def statuses(db: sqlite3.Connection, *seq_ids: int) -> list[int]:
    found = []
    for seq_id in seq_ids:
        try:
            ledger.look_up(db, f"{SAMPLER}:{seq_id}")
            found.append(200)
        except RefusedError as refusal:
            found.append(refusal.status)
    return found


def test_a_result_is_kept_until_it_was_fetched_twice(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "KEPT", 1)
    end(db, 0, 1, 2, 3)
    for seq_id, fetches in enumerate((0, 1, 2, 2)):
        for _ in range(fetches):
            completions.fetched(db, f"{SAMPLER}:{seq_id}")
    completions.prune(db)
    assert statuses(db, 0, 1, 2, 3) == [200, 200, 410, 200]


def test_a_client_that_has_a_result_lets_go_of_it(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "KEPT", 1)
    end(db, 0, 1, 2)
    completions.forget(db, SAMPLER, [f"{SAMPLER}:1", "unknown"])
    completions.forget(db, "another", [f"{SAMPLER}:0"])
    completions.prune(db)
    assert statuses(db, 0, 1, 2) == [200, 410, 200]


def test_results_that_nobody_fetches_are_bounded(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "KEPT", 2)
    monkeypatch.setattr(completions, "BYTES_KEPT", 3 * len(DONE.body))
    end(db, *range(6))
    completions.prune(db)
    assert statuses(db, *range(6)) == [410, 410, 410, 200, 200, 200]


def test_of_ancient_samples_it_is_known_that_they_were(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "ROWS_KEPT", 3)
    end(db, *range(4), 4 * CLONE_IDS)
    accept(db, 5 * CLONE_IDS)
    completions.prune(db)
    assert statuses(db, 0, 3, 4, 4 * CLONE_IDS) == [410, 200, 404, 200]
    assert ledger.pending(db) == [accept(db, 5 * CLONE_IDS).ticket]


def test_samples_are_told_in_the_order_in_which_they_ended(db: sqlite3.Connection) -> None:
    end(db, 2, 0)
    end(db, 1, result=failure("no", "user"))
    accept(db, 3)
    told, cursor = completions.after(db, SAMPLER, 0, 0)
    assert told == [
        Completion(state="finished", request_id=f"{SAMPLER}:2", response_payload_uncompressed_size=4),
        Completion(state="finished", request_id=f"{SAMPLER}:0", response_payload_uncompressed_size=4),
        Completion(state="failed", request_id=f"{SAMPLER}:1"),
    ]
    assert completions.after(db, SAMPLER, 0, cursor) == ([], cursor)
    end(db, 4)
    assert [one.request_id for one in completions.after(db, SAMPLER, 0, cursor)[0]] == [f"{SAMPLER}:4"]


def test_each_clone_is_told_its_own_samples(db: sqlite3.Connection) -> None:
    end(db, 0, CLONE_IDS, 2 * CLONE_IDS + 5, CLONE_IDS - 1)
    told = [[one.request_id for one in completions.after(db, SAMPLER, clone, 0)[0]] for clone in range(3)]
    assert told == [
        [f"{SAMPLER}:0", f"{SAMPLER}:{CLONE_IDS - 1}"],
        [f"{SAMPLER}:{CLONE_IDS}"],
        [f"{SAMPLER}:{2 * CLONE_IDS + 5}"],
    ]


def test_many_completions_come_in_parts(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MOST_AT_ONCE", 2)
    end(db, 0, 1, 2)
    first, cursor = completions.after(db, SAMPLER, 0, 0)
    rest, _ = completions.after(db, SAMPLER, 0, cursor)
    assert (len(first), len(rest)) == (2, 1)


def test_clones_are_numbered_from_one(db: sqlite3.Connection) -> None:
    assert [completions.join(db, SAMPLER) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("ask", [completions.join, lambda db, sampler: completions.after(db, sampler, 0, 0)])
def test_an_unknown_sampling_session_is_named(db: sqlite3.Connection, ask: object) -> None:
    with pytest.raises(RefusedError, match="there is no sampling session b:sample:0") as refusal:
        ask(db, "b:sample:0")  # type: ignore[operator]
    assert refusal.value.status == 404
