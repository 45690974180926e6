"""Fault plans: what they may say, and which requests the faults of one fire at."""

from pathlib import Path
from typing import Any

import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.local.faults.plan import Fault, FaultPlan, read_plan
from tinker_actors.local.faults.sight import document_of, see
from tinker_actors.local.faults.switches import Seen, Switches
from tinker_actors.wire.protobuf import encode_training_content, with_ids

MODEL = "s1:train:0"
STEP = Seen(operation="optim_step", owner=MODEL, model_id=MODEL, session_id=MODEL.partition(":")[0], seq_id=3)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def armed(clock: Clock, *faults: dict[str, Any], seed: int = 0) -> Switches:
    switches = Switches(clock)
    switches.arm(read_plan({"faults": list(faults), "seed": seed}))
    return switches


def fires(switches: Switches, times: int, seen: Seen = STEP) -> list[int]:
    """At which of so many equal requests something fires, counted from 1."""
    return [number for number in range(1, times + 1) if switches.fire(seen)]


# What a plan may say


def test_a_plan_reads_the_same_in_toml_and_json(tmp_path: Path) -> None:
    toml, json = tmp_path / "plan.toml", tmp_path / "plan.json"
    toml.write_text('seed = 3\n[[faults]]\neffect = "drop"\nwhen = "after"\ncount = "always"\n')
    json.write_text('{"seed": 3, "faults": [{"effect": "drop", "when": "after", "count": "always"}]}')
    assert read_plan(toml) == read_plan(json)
    assert read_plan(toml) == FaultPlan(faults=[Fault(effect="drop", when="after", count="always")], seed=3)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({}, "effect"),
        ({"effect": "explode"}, "effect"),
        ({"effect": "drop", "whom": "me"}, "whom"),
        ({"effect": "drop", "nth": 0}, "nth"),
        ({"effect": "drop", "count": "never"}, "count"),
        ({"effect": "drop", "probability": 0.0}, "probability"),
        ({"effect": "status", "status": 200}, "status"),
        ({"effect": "delay", "seconds": -1.0}, "seconds"),
        ({"effect": "half_body", "when": "before"}, "after"),
        ({"effect": "drop", "from_s": 2.0, "until_s": 1.0}, "until_s"),
        ({"effect": "drop", "of": "optim_step"}, "retrieve_future"),
    ],
)
def test_what_is_no_fault_is_refused_by_name(fault: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        read_plan({"faults": [fault]})


@pytest.mark.parametrize("content", ["", "[", "faults = 1", "[[faults]]\neffect = 7"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.toml").write_text(content)
    with pytest.raises(ValidationError, match="must be a fault plan"):
        read_plan(tmp_path / "plan.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="must be a fault plan"):
        read_plan(tmp_path / "none.toml")


def test_a_name_that_is_taken_is_refused_and_nothing_is_set(clock: Clock) -> None:
    switches = armed(clock, {"effect": "drop", "name": "mine"})
    with pytest.raises(ValidationError, match="mine"):
        switches.arm(read_plan({"faults": [{"effect": "hang"}, {"effect": "drop", "name": "mine"}]}))
    assert [state.fault.name for state in switches.states()] == ["mine"]


def test_a_plan_with_one_name_for_two_faults_is_refused() -> None:
    with pytest.raises(ValidationError, match="mine"):
        read_plan({"faults": [{"effect": "drop", "name": "mine"}, {"effect": "hang", "name": "mine"}]})


# When a fault fires


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1]),
        ({"nth": 3}, [3]),
        ({"nth": 2, "count": 3}, [2, 3, 4]),
        ({"nth": 4, "count": "always"}, [4, 5, 6]),
    ],
)
def test_a_fault_fires_at_the_nth_match_and_so_often(
    clock: Clock, settings: dict[str, Any], expected: list[int]
) -> None:
    assert fires(armed(clock, {"effect": "drop", **settings}), 6) == expected


@pytest.mark.parametrize(
    ("settings", "matches"),
    [
        ({"operation": "optim_step"}, True),
        ({"operation": "optim_*"}, True),
        ({"operation": "optim"}, False),
        ({"model_id": MODEL}, True),
        ({"model_id": "*:train:0"}, True),
        ({"model_id": "s1:train:1"}, False),
        ({"session_id": "s1"}, True),
        ({"session_id": "s2"}, False),
        ({"seq_id": 3}, True),
        ({"seq_id": 4}, False),
        ({"operation": "retrieve_future", "of": "optim_step"}, False),
    ],
)
def test_a_fault_fires_at_what_matches_all_it_names(
    clock: Clock, settings: dict[str, Any], matches: bool
) -> None:
    switches = armed(clock, {"effect": "drop", **settings})
    assert (switches.fire(STEP) != []) is matches
    assert switches.states()[0].matched == matches


def test_a_fault_that_names_a_model_leaves_requests_without_one_alone(clock: Clock) -> None:
    switches = armed(clock, {"effect": "drop", "model_id": "*"})
    assert switches.fire(Seen(operation="create_session")) == []


def test_a_window_opens_and_closes_from_when_the_fault_was_set(clock: Clock) -> None:
    switches = armed(clock, {"effect": "drop", "count": "always", "from_s": 1.0, "until_s": 2.0})
    seen = []
    for clock.now in (100.0, 101.0, 101.9, 102.0):
        seen.append(len(switches.fire(STEP)))
    assert seen == [0, 1, 1, 0]
    assert switches.states()[0].is_spent


def test_chances_are_drawn_by_the_seed(clock: Clock) -> None:
    fault = {"effect": "drop", "name": "a", "probability": 0.3, "count": "always"}
    first, again = fires(armed(clock, fault, seed=1), 1000), fires(armed(clock, fault, seed=1), 1000)
    assert first == again
    assert first != fires(armed(clock, fault, seed=2), 1000)
    assert first != fires(armed(clock, {**fault, "name": "b"}, seed=1), 1000)
    assert 240 < len(first) < 360


def test_behind_a_fault_that_ends_the_exchange_the_others_do_not_see_the_request(clock: Clock) -> None:
    switches = armed(clock, {"effect": "delay"}, {"effect": "drop"}, {"effect": "status"})
    assert [firing.fault.effect for firing in switches.fire(STEP)] == ["delay", "drop"]
    assert [firing.fault.effect for firing in switches.fire(STEP)] == ["status"]


def test_a_cleared_fault_fires_no_more(clock: Clock) -> None:
    switches = armed(clock, {"effect": "hang", "name": "a"}, {"effect": "hang", "name": "b"})
    cleared = switches.cleared("a")
    assert not cleared.done()
    assert switches.clear("a") == ["a"]
    assert cleared.done()
    assert [firing.fault.name for firing in switches.fire(STEP)] == ["b"]


# What faults see of a request


@pytest.mark.parametrize(
    ("operation", "document", "expected"),
    [
        ("create_session", {}, ("", None, None, None)),
        ("session_heartbeat", {"session_id": "s1"}, ("s1", "s1", None, None)),
        ("create_model", {"session_id": "s1", "model_seq_id": 2}, ("s1", "s1", None, 2)),
        ("optim_step", {"model_id": MODEL, "seq_id": 3}, (MODEL, "s1", MODEL, 3)),
        ("asample", {"sampling_session_id": "s1:sample:4", "seq_id": 5}, ("s1:sample:4", "s1", None, 5)),
        ("retrieve_future", {"request_id": f"{MODEL}:7"}, (MODEL, "s1", MODEL, 7)),
        ("retrieve_future", {"request_id": "unknown"}, ("", None, None, None)),
        (f"training_runs/{MODEL}/checkpoints", {}, (MODEL, "s1", MODEL, None)),
        ("sessions/s1/finish", {}, ("s1", "s1", None, None)),
        ("optim_step", {"model_id": 7, "seq_id": "x"}, ("", None, None, None)),
    ],
)
def test_a_request_is_known_by_what_it_names(operation: str, document: Any, expected: Any) -> None:
    seen = see(operation, document)
    assert (seen.owner, seen.session_id, seen.model_id, seen.seq_id) == expected


def test_the_ids_of_protobuf_are_seen_too() -> None:
    body = with_ids(encode_training_content([], "cross_entropy"), MODEL, 9)
    assert document_of("application/x-protobuf", body) == {"model_id": MODEL, "seq_id": 9}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_cannot_be_read_names_nothing(body: bytes) -> None:
    assert document_of("application/json", body) == {}
    assert document_of("application/x-protobuf", b"\xff\xff" + body) == {}
