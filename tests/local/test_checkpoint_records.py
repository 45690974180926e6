"""Checkpoints that are kept: listed, published, given a lifetime, copied, deleted; over real sockets."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from embedded import NOON, Embedded, WallClock

import tinker_actors as ta

WAIT_S = 60
HOUR = 3600


def saved(caller: Any, *names: str, kind: str = "save_weights", **more: Any) -> list[str]:
    """Paths of checkpoints of a new model, saved in this order."""
    model_id = caller.model()
    return [
        caller.do(kind, {"model_id": model_id, "seq_id": seq_id, "path": name, **more})["path"]
        for seq_id, name in enumerate(names, 1)
    ]


def directory(embedded: Embedded, path: str) -> Path:
    return embedded.data / "checkpoints" / path.removeprefix("tinker://")


def load(caller: Any, path: str) -> int:
    document = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    return int(caller.post("load_weights", document).status_code)


# Lists


def test_a_checkpoint_is_listed_with_what_was_given_and_found(
    embedded: Embedded, talker: Any, rest: ta.RestClient
) -> None:
    (path,) = saved(talker, "a", ttl_seconds=HOUR, user_metadata={"best": "yes"})
    (checkpoint,) = rest.list_user_checkpoints().result(WAIT_S).checkpoints
    assert (checkpoint.tinker_path, checkpoint.checkpoint_id) == (path, "weights/a")
    assert (checkpoint.checkpoint_type, checkpoint.public) == ("training", False)
    assert checkpoint.user_metadata == {"best": "yes"}
    assert checkpoint.size_bytes == (directory(embedded, path) / "checkpoint.safetensors").stat().st_size
    assert checkpoint.time == datetime.fromtimestamp(NOON, UTC)
    assert checkpoint.expires_at == datetime.fromtimestamp(NOON + HOUR, UTC)


def test_pages_hold_each_checkpoint_once_the_newest_first(
    talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    paths = []
    for name in "abcde":
        clock.now += 1
        paths += saved(talker, name)
    assert [checkpoint.tinker_path for checkpoint in rest.iter_user_checkpoints(2)] == paths[::-1]
    page = rest.list_user_checkpoints(2, 4).result(WAIT_S)
    assert page.cursor is not None
    assert (page.cursor.offset, page.cursor.limit, page.cursor.total_count) == (4, 2, 5)
    assert len(page.checkpoints) == 1


def test_checkpoints_of_a_run_are_its_own_also_for_old_clients(talker: Any) -> None:
    path, other = saved(talker, "a")[0], saved(talker, "a")[0]
    run = path.split("/")[2]
    for place in ("training_runs", "models"):
        listed = talker.http.get(f"{place}/{run}/checkpoints").json()["checkpoints"]
        assert [checkpoint["tinker_path"] for checkpoint in listed] == [path]
    assert other != path
    assert talker.http.get("training_runs/nobody/checkpoints").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=-1", "offset=-1", "offset=1e3", "limit=", f"offset={10**30}"],
)
@pytest.mark.parametrize("path", ["checkpoints", "training_runs", "sessions"])
def test_pages_that_are_none_are_refused(caller: Any, path: str, query: str) -> None:
    response = caller.http.get(f"{path}?{query}")
    assert response.status_code == 422
    assert query.partition("=")[0] in response.json()["detail"]


@pytest.mark.parametrize("path", ["training_runs", "sessions", "training_runs/x", "sessions/x"])
def test_scopes_that_are_none_are_refused(caller: Any, path: str) -> None:
    assert caller.http.get(f"{path}?access_scope=mine").status_code == 422


def test_what_a_checkpoint_is_of_can_be_looked_up(talker: Any, rest: ta.RestClient) -> None:
    (path,) = saved(talker, "a")
    (sampler,) = saved(talker, "a", kind="save_weights_for_sampler")
    for one in (path, sampler):
        info = rest.get_weights_info_by_tinker_path(one).result(WAIT_S)
        assert (info.base_model, info.is_lora, info.lora_rank) == ("local/tiny", True, 4)
        assert (info.train_attn, info.train_mlp, info.train_unembed) == (True, True, True)
    with pytest.raises(ta.NotFoundError):
        rest.get_weights_info_by_tinker_path(path + "x").result(WAIT_S)


# Lifetimes


def test_a_checkpoint_whose_time_has_come_is_gone_at_once_and_its_files_soon(
    embedded: Embedded, talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    (path,) = saved(talker, "a", ttl_seconds=HOUR)
    clock.now += HOUR - 1
    embedded.service.sweep()
    assert load(talker, path) == 200
    clock.now += 1
    assert rest.list_user_checkpoints().result(WAIT_S).checkpoints == []
    assert load(talker, path) == 404
    with pytest.raises(ta.NotFoundError):
        rest.set_checkpoint_ttl_from_tinker_path(path, None).result(WAIT_S)
    assert directory(embedded, path).exists()
    embedded.service.sweep()
    assert not directory(embedded, path).exists()


def test_a_lifetime_counts_from_when_it_is_set_and_can_be_taken_back(
    embedded: Embedded, talker: Any, rest: ta.RestClient, clock: WallClock
) -> None:
    path, other = saved(talker, "a", "b", ttl_seconds=HOUR)
    clock.now += HOUR / 2
    rest.set_checkpoint_ttl_from_tinker_path(path, HOUR).result(WAIT_S)
    rest.set_checkpoint_ttl_from_tinker_path(other, None).result(WAIT_S)
    clock.now += HOUR / 2 + 1
    embedded.service.sweep()
    expiries = {one.tinker_path: one.expires_at for one in rest.iter_user_checkpoints()}
    assert expiries == {path: datetime.fromtimestamp(NOON + 1.5 * HOUR, UTC), other: None}


@pytest.mark.parametrize("ttl_seconds", [0, -1, 3599, 10 * 366 * 86_400 + 1, 2**70])
def test_lifetimes_out_of_bounds_are_refused(caller: Any, ttl_seconds: int) -> None:
    model_id = caller.model()
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 1, "path": "a"})["path"]
    place = f"training_runs/{path.split('/')[2]}/checkpoints/weights/a/ttl"
    assert caller.http.put(place, json={"ttl_seconds": ttl_seconds}).status_code == 422
    assert caller.save(model_id, 2, "b", ttl_seconds=ttl_seconds).status_code in (400, 422)
    assert caller.save(model_id, 2, "b", ttl_seconds=HOUR).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"ttl_seconds": "3600"}, {"ttl_seconds": True}, {"ttl_seconds": 3600.5}]
)
def test_lifetimes_that_are_none_are_refused(caller: Any, body: dict[str, Any]) -> None:
    run = saved(caller, "a")[0].split("/")[2]
    assert caller.http.put(f"training_runs/{run}/checkpoints/weights/a/ttl", json=body).status_code == 422


def test_the_server_itself_looks_for_what_has_expired(
    tmp_path: Path, clock: WallClock, monkeypatch: pytest.MonkeyPatch, open_url: Any
) -> None:
    monkeypatch.setattr("tinker_actors.local.service.SWEEP_S", 0.05)
    with Embedded(tmp_path / "s", clock) as embedded:
        (path,) = saved(open_url(embedded.url), "a", ttl_seconds=HOUR)
        clock.now += HOUR
        while directory(embedded, path).exists():
            embedded.service._stopping.wait(0.01)


# Publishing


def test_a_checkpoint_is_published_once_and_taken_back_once(talker: Any, rest: ta.RestClient) -> None:
    (path,) = saved(talker, "a")
    for change, public in (
        (rest.publish_checkpoint_from_tinker_path, True),
        (rest.unpublish_checkpoint_from_tinker_path, False),
    ):
        change(path).result(WAIT_S)
        assert rest.list_user_checkpoints().result(WAIT_S).checkpoints[0].public is public
        with pytest.raises(ta.ConflictError, match="already"):
            change(path).result(WAIT_S)
        with pytest.raises(ta.NotFoundError):
            change(path + "x").result(WAIT_S)


# Deleting


def test_a_deleted_checkpoint_is_gone_with_its_files_and_its_name_is_free(
    embedded: Embedded, talker: Any, rest: ta.RestClient
) -> None:
    (path,) = saved(talker, "a")
    rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)
    assert not directory(embedded, path).exists()
    assert rest.list_checkpoints(path.split("/")[2]).result(WAIT_S).checkpoints == []
    assert load(talker, path) == 404
    with pytest.raises(ta.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)
    again = {"model_id": path.split("/")[2], "seq_id": 2, "path": "a"}
    assert talker.do("save_weights", again)["path"] == path
    assert load(talker, path) == 200


def test_a_checkpoint_that_is_being_overwritten_is_not_deleted(talker: Any, rest: ta.RestClient) -> None:
    (path,) = saved(talker, "a")
    run = path.split("/")[2]
    other = talker.do("save_weights_for_sampler", {"model_id": run, "seq_id": 2, "path": "a"})["path"]
    talker.save(run, 4, "a", overwrite=True)  # waits for the operation before it
    with pytest.raises(ta.APIStatusError, match="being saved") as refusal:
        rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)
    assert refusal.value.status == 425
    rest.delete_checkpoint_from_tinker_path(other).result(WAIT_S)
    talker.poll(talker.optim_step(run, 3).json()["request_id"])
    talker.poll(f"{run}:4")
    rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("training_runs/{run}/checkpoints/a", 400),
        ("training_runs/{run}/checkpoints/other/a", 400),
        ("training_runs/{run}/checkpoints/weights/b", 404),
        ("training_runs/nobody/checkpoints/weights/a", 404),
        ("training_runs/{run}/checkpoints/weights/..%2Fa", 404),
        ("training_runs/%2E%2E/checkpoints/weights/a", 404),
        ("training_runs/{run}/checkpoints/weights/%00", 404),
    ],
)
def test_what_is_no_checkpoint_is_not_deleted(caller: Any, place: str, status: int) -> None:
    (path,) = saved(caller, "a")
    run = path.split("/")[2]
    assert caller.http.delete(place.format(run=run)).status_code == status
    assert [
        one["tinker_path"] for one in caller.http.get(f"models/{run}/checkpoints").json()["checkpoints"]
    ] == [path]


def test_colons_may_be_escaped_or_not(caller: Any) -> None:
    (path,) = saved(caller, "a")
    run = path.split("/")[2].replace(":", "%3A")
    assert caller.http.get(f"training_runs/{run}").json()["training_run_id"] == path.split("/")[2]
    assert caller.http.delete(f"training_runs/{run}/checkpoints/weights/a").status_code == 204


def test_sampling_from_weights_that_were_deleted_fails_and_new_ones_of_that_name_are_new(talker: Any) -> None:
    model_id = talker.model()
    save = {"model_id": model_id, "path": "a"}
    path = talker.do("save_weights_for_sampler", {**save, "seq_id": 1})["path"]
    session_id = talker.session()
    first = talker.sampler(session_id, model_path=path)
    greedy = {"sampling_params": {"temperature": 0.0, "max_tokens": 16}}
    before = talker.do("asample", talker.sample_document(first, 0, **greedy))["sequences"]
    talker.http.delete(f"training_runs/{model_id}/checkpoints/sampler_weights/a")
    failed = talker.do("asample", talker.sample_document(first, 1, **greedy))
    assert failed["category"] == "user"
    assert "is gone" in failed["error"]
    talker.forward_backward(model_id, 2)
    talker.optim_step(model_id, 3, learning_rate=0.3)
    talker.do("save_weights_for_sampler", {**save, "seq_id": 4})
    after = talker.do("asample", talker.sample_document(first, 2, **greedy))["sequences"]
    assert after[0]["logprobs"] != before[0]["logprobs"]


# Copies


def copy(caller: Any, document: dict[str, Any], key: str) -> Any:
    return caller.http.post("copy_weights", json=document, headers={"X-Idempotency-Key": key})


def test_a_copy_can_be_loaded_and_not_trained_and_outlives_its_source(
    embedded: Embedded, talker: Any, rest: ta.RestClient
) -> None:
    (path,) = saved(talker, "a", user_metadata={"best": "yes"}, ttl_seconds=HOUR)
    copied = rest.copy_weights(path, "elsewhere").result(WAIT_S)
    first, second = (directory(embedded, one) / "checkpoint.safetensors" for one in (path, copied))
    assert first.samefile(second)
    rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)
    assert load(talker, copied) == 200
    run = rest.get_training_run_by_tinker_path(copied).result(WAIT_S)
    assert run.last_checkpoint is not None
    assert (run.last_checkpoint.user_metadata, run.last_checkpoint.expires_at) == ({"best": "yes"}, None)
    assert [one.training_run_id for one in rest.iter_training_runs(project_id="elsewhere")] == [
        run.training_run_id
    ]
    assert talker.optim_step(run.training_run_id, 1).status_code == 404


def test_one_key_makes_one_copy(talker: Any) -> None:
    (path,) = saved(talker, "a", kind="save_weights_for_sampler")
    document = {"source_path": path, "destination_project_id": "p", "ttl_seconds": HOUR}
    first, again, other = (copy(talker, document, key).json()["tinker_path"] for key in ("k", "k", "l"))
    assert first == again != other
    assert "/sampler_weights/a" in first
    assert copy(talker, {**document, "destination_project_id": "q"}, "k").status_code == 409


def test_a_copy_into_a_session_is_one_of_its_models(talker: Any, rest: ta.RestClient) -> None:
    (path,) = saved(talker, "a")
    session_id = talker.session()
    document = {"source_path": path, "session_id": session_id, "model_seq_id": 7}
    copied = copy(talker, document, "k").json()["tinker_path"]
    assert copied == f"tinker://{session_id}:train:7/weights/a"
    assert rest.get_session(session_id).result(WAIT_S).training_run_ids == [f"{session_id}:train:7"]
    assert copy(talker, document, "l").status_code == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"destination_project_id": None}, 422),
        ({"session_id": "s"}, 422),
        ({"destination_project_id": None, "session_id": "nobody", "model_seq_id": 0}, 404),
        ({"source_path": "tinker://nobody/weights/a"}, 404),
        ({"source_path": "tinker://nobody/external_weights/a"}, 400),
        ({"source_path": "/etc/passwd"}, 400),
        ({"ttl_seconds": 5}, 422),
    ],
)
def test_copies_that_cannot_be_are_refused(caller: Any, change: dict[str, Any], status: int) -> None:
    (path,) = saved(caller, "a")
    document = {"source_path": path, "destination_project_id": "p", **change}
    given = {name: value for name, value in document.items() if value is not None}
    assert copy(caller, given, str(change)).status_code == status


# Across restarts


def test_a_restart_finds_records_and_files_that_belong_together(
    tmp_path: Path, clock: WallClock, open_url: Any
) -> None:
    with Embedded(tmp_path / "s", clock) as embedded:
        paths = saved(open_url(embedded.url), "a", "b")
        kept, lost = (directory(embedded, path) for path in paths)
    (lost / "checkpoint.safetensors").unlink()
    (kept.parent / "orphan").mkdir()
    (kept.parent / "orphan" / "checkpoint.safetensors").write_bytes(b"half a save")
    with Embedded(tmp_path / "s", clock) as embedded:
        listed = open_url(embedded.url).http.get("checkpoints").json()["checkpoints"]
    assert [one["tinker_path"] for one in listed] == paths[:1]
    assert [one.name for one in kept.parent.iterdir()] == ["a"]
