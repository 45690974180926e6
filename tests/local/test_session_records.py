"""Sessions and runs as REST lists them: what lives in them, how they end, how they are found."""

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import NOON, Embedded, WallClock
from safetensors import safe_open
from safetensors.numpy import save

import tinker_actors as ta

WAIT_S = 60

pytestmark = pytest.mark.filterwarnings("ignore:search_sessions is experimental:FutureWarning")


def session(caller: Any, **more: Any) -> str:
    document = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0", **more}
    return str(caller.ask("create_session", document)["session_id"])


def finish(caller: Any, session_id: str, reason: str, detail: str | None = None) -> None:
    document = {"reason": {"type": reason}, "detail": detail}
    assert caller.post(f"sessions/{session_id}/finish", document).status_code == 200


# Sessions


def test_a_session_tells_what_lives_in_it(talker: Any, rest: ta.RestClient) -> None:
    session_id = session(talker, display_name="Nightly run", user_metadata={"team": "a", "n": 3})
    models = [talker.model(session_id, number=number) for number in (0, 1)]
    sampler = talker.sampler(session_id)
    found = rest.get_session(session_id).result(WAIT_S)
    assert (found.training_run_ids, found.sampler_ids) == (models, [sampler])
    assert (found.display_name, found.user_metadata) == ("Nightly run", {"team": "a", "n": "3"})
    other = rest.get_session(session(talker), "accessible").result(WAIT_S)
    assert (other.training_run_ids, other.sampler_ids, other.user_metadata) == ([], [], None)
    with pytest.raises(ta.NotFoundError):
        rest.get_session("nobody").result(WAIT_S)


def test_pages_of_sessions_hold_each_once_the_newest_first(
    talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    made = []
    for _ in range(5):
        clock.now += 1
        made.append(session(talker))
    assert list(rest.iter_sessions(2)) == made[::-1]


def test_a_session_without_heartbeats_ends_if_that_is_wanted(
    tmp_path: Path, clock: WallClock, open_url: Any
) -> None:
    with Embedded(tmp_path / "s", clock, session_timeout_s=60.0) as embedded:
        caller = open_url(embedded.url)
        silent, alive = session(caller), session(caller)
        model_id = caller.model(silent)
        clock.now += 40
        assert caller.post("session_heartbeat", {"session_id": alive}).status_code == 200
        clock.now += 21
        embedded.service.sweep()
        assert caller.post("session_heartbeat", {"session_id": alive}).status_code == 200
        assert caller.post("session_heartbeat", {"session_id": silent}).status_code == 410
        assert caller.post("get_info", {"model_id": model_id}).status_code == 404
        finish(caller, silent, "success")  # the first end counts
        with ta.RestClient(base_url=embedded.url, api_key="tml-x") as rest:
            (summary,) = (
                rest.search_sessions(ta.SessionSearchRequest(session_id=silent)).result(WAIT_S).sessions
            )
    assert summary.status == {"type": "cancelled", "detail": "no heartbeat for 60 s"}


def test_unnamed_weights_go_with_their_session_and_named_ones_stay(embedded: Embedded, talker: Any) -> None:
    def sampler_of(session_id: str) -> str:
        save = {"model_id": talker.model(session_id), "seq_id": 1, "sampling_session_seq_id": 0}
        return str(talker.do("save_weights_for_sampler", save)["sampling_session_id"])

    ended, alive = session(talker), session(talker)
    lost, kept = sampler_of(ended), sampler_of(alive)
    saved = talker.save(f"{ended}:train:0", 2, "named").json()["request_id"]
    path = talker.poll(saved).json()["path"]
    files = embedded.data / "samplers"
    finish(talker, ended, "success")
    assert talker.do("asample", talker.sample_document(lost))["sequences"]  # until somebody looks
    embedded.service.sweep()
    assert [file.stem for file in files.iterdir()] == [kept]
    refused = talker.post("asample", talker.sample_document(lost, seq_id=1))
    assert (refused.status_code, "its session is finished" in refused.json()["detail"]) == (404, True)
    assert talker.do("asample", talker.sample_document(kept))["sequences"]
    load = {"session_id": alive, "model_seq_id": 1, "path": path, "optimizer": False}
    assert talker.do("load_weights", load)["path"] == path


def test_unnamed_weights_are_kept_for_samples_that_wait(embedded: Embedded, talker: Any) -> None:
    session_id = session(talker)
    save = {"model_id": talker.model(session_id), "seq_id": 1, "sampling_session_seq_id": 0}
    sampler = talker.do("save_weights_for_sampler", save)["sampling_session_id"]
    params = {"max_tokens": 1000, "stop": []}
    first, last = (
        talker.ask(
            "asample", talker.sample_document(sampler, seq_id=number, num_samples=40, sampling_params=params)
        )["request_id"]
        for number in range(2)
    )
    finish(talker, session_id, "success")
    embedded.service.sweep()
    assert [file.stem for file in (embedded.data / "samplers").iterdir()] == [sampler]
    for request_id in (first, last):
        talker.ask("cancel_future", {"request_id": request_id})
        assert talker.poll(request_id).json()["error"] == "the request was cancelled"
    embedded.service.sweep()
    assert not list((embedded.data / "samplers").iterdir())


def test_silence_while_there_was_no_server_does_not_count(
    tmp_path: Path, clock: WallClock, open_url: Any
) -> None:
    with Embedded(tmp_path / "s", clock, session_timeout_s=60.0) as embedded:
        session_id = session(open_url(embedded.url))
    clock.now += 3600
    with Embedded(tmp_path / "s", clock, session_timeout_s=60.0) as embedded:
        embedded.service.sweep()
        caller = open_url(embedded.url)
        assert caller.post("session_heartbeat", {"session_id": session_id}).status_code == 200


def test_sessions_live_for_ever_unless_told_otherwise(
    embedded: Embedded, talker: Any, clock: WallClock
) -> None:
    session_id = session(talker)
    clock.now += 10**8
    embedded.service.sweep()
    assert talker.post("session_heartbeat", {"session_id": session_id}).status_code == 200


def test_a_session_moves_into_a_project_with_its_models(talker: Any, rest: ta.RestClient) -> None:
    first, second = session(talker, project_id="p"), session(talker)
    runs = [talker.model(one) for one in (first, second)]
    assert [run.training_run_id for run in rest.iter_training_runs(project_id="p")] == runs[:1]
    rest.assign_session_project(second, "p").result(WAIT_S)
    assert {run.training_run_id for run in rest.iter_training_runs(project_id="p")} == set(runs)
    with pytest.raises(ta.NotFoundError):
        rest.assign_session_project("nobody", "p").result(WAIT_S)
    for wrong in ({}, {"project_id": ""}, {"project_id": 7}):
        assert talker.http.put(f"sessions/{first}/project", json=wrong).status_code == 422


# Search


def found(rest: ta.RestClient, **wanted: Any) -> list[str]:
    page = rest.search_sessions(ta.SessionSearchRequest(**wanted)).result(WAIT_S)
    return [summary.session_id for summary in page.sessions]


def test_sessions_are_found_by_what_they_are_called_and_carry(talker: Any, rest: ta.RestClient) -> None:
    named = session(talker, display_name="Nightly RUN of May", project_id="p")
    marked = session(talker, user_metadata={"team": "a", "kind": "b"})
    assert found(rest, display_name="run night") == [named]
    assert found(rest, display_name="run day") == []
    assert set(found(rest, display_name="nightly", session_id=marked)) == {named, marked}
    assert found(rest, user_metadata={"team": "a"}) == [marked]
    assert found(rest, user_metadata={"team": "a", "kind": "c"}) == []
    assert found(rest, project_ids=["p", "q"]) == [named]
    assert found(rest, session_id="nobody") == []


def test_sessions_are_found_by_how_they_stand(talker: Any, rest: ta.RestClient, clock: WallClock) -> None:
    done, failed, silent = (session(talker) for _ in range(3))
    clock.now += 1000
    active = session(talker)
    finish(talker, done, "success", "all good")
    finish(talker, failed, "errored")
    query = ta.SessionStatusQuery
    assert found(rest, statuses=[query(type="active")]) == [active]
    assert set(found(rest, statuses=[query(type="client_finished")])) == {done, failed}
    assert found(rest, statuses=[query(type="client_finished", reasons=["success"])]) == [done]
    assert set(found(rest, statuses=[query(type="active"), query(type="client_finished")])) == {
        active,
        done,
        failed,
    }
    assert found(rest, statuses=[query(type="failed")]) == []
    everything = rest.search_sessions(ta.SessionSearchRequest()).result(WAIT_S).sessions
    statuses = {summary.session_id: summary.status for summary in everything}
    assert statuses[silent] is None
    assert statuses[done] == {"type": "client_finished", "reason": {"type": "success"}, "detail": "all good"}


def test_sessions_are_found_by_their_owner(talker: Any, rest: ta.RestClient) -> None:
    session_id = session(talker)
    owner = ta.SessionSearchOwner
    assert found(rest, owner=owner(type="accessible")) == [session_id]
    assert found(rest, owner=owner(type="user", owner_urns=["local", "me"])) == [session_id]
    assert found(rest, owner=owner(type="user", owner_urns=["me"])) == []


@pytest.mark.parametrize("apart_s", [1, 0])
def test_pages_of_a_search_follow_one_another(
    talker: Any, rest: ta.RestClient, clock: WallClock, apart_s: int
) -> None:
    made = []
    for _ in range(5):
        clock.now += apart_s
        made.append(session(talker))
    pages, cursor = [], None
    for _ in itertools.count():
        page = rest.search_sessions(ta.SessionSearchRequest(limit=2, cursor=cursor)).result(WAIT_S)
        pages.append([summary.session_id for summary in page.sessions])
        cursor = page.next_cursor
        if cursor is None:
            break
        talker.ask("create_session", {"sdk_version": "0.38.0"})  # what is new belongs to no later page
    if apart_s:
        assert pages == [made[4:2:-1], made[2:0:-1], made[:1]]
    else:
        assert set(made) <= set(itertools.chain(*pages))


def test_a_summary_counts_checkpoints(talker: Any, rest: ta.RestClient) -> None:
    session_id = session(talker, project_id="p")
    model_id = talker.model(session_id)
    for seq_id in (1, 2):
        talker.do("save_weights", {"model_id": model_id, "seq_id": seq_id, "path": str(seq_id)})
    (summary,) = rest.search_sessions(ta.SessionSearchRequest()).result(WAIT_S).sessions
    sizes = [one.size_bytes or 0 for one in rest.iter_user_checkpoints()]
    assert (summary.checkpoints_count, summary.checkpoint_storage_bytes) == (2, sum(sizes))
    assert (summary.owner, summary.project_id) == ("local", "p")
    assert summary.created_at == datetime.fromtimestamp(NOON, UTC)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": 201},
        {"owner": {"type": "user"}},
        {"owner": {"type": "own", "owner_urns": ["a"]}},
        {"owner": {"type": "user", "owner_urns": []}},
        {"owner": {"type": "nobody"}},
        {"statuses": [{"type": "asleep"}]},
        {"cursor": {"last_created_at": "yesterday", "last_session_id": "x"}},
        {"cursor": {"last_session_id": "x"}},
        {"user_metadata": {"a": 1}},
    ],
)
def test_searches_that_are_none_are_refused(caller: Any, wrong: dict[str, Any]) -> None:
    assert caller.post("sessions/search", wrong).status_code == 422


# Training runs and samplers


def test_a_run_tells_what_it_is_and_its_newest_checkpoints(
    talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    document = {
        "session_id": talker.session(),
        "model_seq_id": 0,
        "base_model": "local/tiny",
        "lora_config": {"rank": 4},
        "user_metadata": {"recipe": "x"},
    }
    model_id = talker.do("create_model", document)["model_id"]
    for seq_id, name in ((1, "a"), (2, "b")):
        clock.now += 60
        talker.do("save_weights", {"model_id": model_id, "seq_id": seq_id, "path": name})
    sampler = {"model_id": model_id, "seq_id": 3, "path": "s"}
    talker.do("save_weights_for_sampler", sampler)
    run = rest.get_training_run(model_id).result(WAIT_S)
    assert (run.base_model, run.is_lora, run.lora_rank, run.corrupted) == ("local/tiny", True, 4, False)
    assert run.last_request_time == datetime.fromtimestamp(NOON + 120, UTC)
    assert run.last_checkpoint is not None
    assert run.last_sampler_checkpoint is not None
    assert (run.last_checkpoint.name, run.last_sampler_checkpoint.name) == ("b", "s")
    assert (run.user_metadata, run.model_owner) == ({"recipe": "x"}, "local")


def test_pages_of_runs_hold_each_once_and_an_unloaded_one_stays(
    talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    runs = []
    for _ in range(3):
        clock.now += 1
        runs.append(talker.model())
    talker.do("unload_model", {"model_id": runs[0]})
    assert [run.training_run_id for run in rest.iter_training_runs(2)] == runs[::-1]
    with pytest.raises(ta.NotFoundError):
        rest.get_training_run("nobody").result(WAIT_S)


def test_a_model_that_could_not_be_made_is_no_run(
    embedded: Embedded, talker: Any, rest: ta.RestClient
) -> None:
    model_id = talker.model()
    path = talker.do("save_weights", {"model_id": model_id, "seq_id": 1, "path": "a"})["path"]
    file = embedded.data / "checkpoints" / path.removeprefix("tinker://") / "checkpoint.safetensors"
    with safe_open(file, framework="numpy") as opened:
        facts = opened.metadata()
    file.write_bytes(save({"something": np.zeros(1)}, metadata=facts))
    document = {"session_id": talker.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    assert "error" in talker.do("load_weights", document)
    assert [run.training_run_id for run in rest.iter_training_runs()] == [model_id]


@pytest.mark.parametrize("colon", [":", "%3A"])
def test_a_sampler_tells_its_weights_however_its_id_is_written(caller: Any, colon: str) -> None:
    model_id = caller.model()
    save = {"model_id": model_id, "seq_id": 1, "path": "a"}
    path = caller.do("save_weights_for_sampler", save)["path"]
    sampler = caller.sampler(caller.session(), model_path=path)
    assert caller.http.get(f"samplers/{sampler.replace(':', colon)}").json() == {
        "sampler_id": sampler,
        "base_model": "local/tiny",
        "model_path": path,
    }


# Telemetry


def test_telemetry_is_accepted_and_kept_nowhere(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    event = {"event": "GENERIC_EVENT", "event_data": {"headers": {"X-API-Key": "tml-leaked"}}}
    document = {"events": [event], "platform": "Linux", "sdk_version": "0.38.0", "session_id": "s"}
    assert caller.ask("telemetry", document) == {"status": "accepted"}
    caller.session()
    process.stop()
    kept = b"".join(file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file())
    assert b"leaked" not in kept
    assert "leaked" not in process.errors
