"""SIGKILL at any point, and a start on the same data: nothing is lost, nothing happens twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROTOBUF = "application/x-protobuf"
STEPS = 12
LAST = 3 * STEPS + 1


def operation(caller: Any, model_id: str, seq_id: int) -> Any:
    """Two forward_backwards and an optim_step by turns, then a save."""
    if seq_id == LAST:
        return caller.save(model_id, seq_id, "end")
    if seq_id % 3:
        tokens = np.random.default_rng(seq_id).integers(256, size=40).tolist()
        return caller.forward_backward(model_id, seq_id, tokens)
    return caller.optim_step(model_id, seq_id)


def send(caller: Any, model_id: str, first: int, last: int) -> list[str]:
    answers = [operation(caller, model_id, seq_id) for seq_id in range(first, last + 1)]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    return [answer.json()["request_id"] for answer in answers]


def results(caller: Any, request_ids: list[str]) -> list[bytes]:
    return [caller.poll(request_id, PROTOBUF).content for request_id in request_ids]


def checkpoint(process: Any, model_id: str, name: str = "end") -> bytes:
    file: Path = process.data / "checkpoints" / model_id / "weights" / name / "checkpoint.safetensors"
    return file.read_bytes()


@pytest.fixture(scope="module")
def whole(process: Any, open_caller: Callable[..., Any]) -> tuple[list[bytes], bytes]:
    """Results and checkpoint of a run that nothing happened to."""
    caller = open_caller(process)
    model_id = caller.model()
    found = results(caller, send(caller, model_id, 1, LAST))
    return found[:-1], checkpoint(process, model_id)


@pytest.mark.parametrize(
    "kill_after",  # so many results, and so many requests
    [
        (1, 2),
        (20, 36),
        (37, 37),
        *(pytest.param(point, marks=pytest.mark.slow) for point in [(0, 1), (8, 9), (17, 20), (36, 37)]),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    start: Callable[..., Any],
    open_caller: Callable[..., Any],
    whole: tuple[list[bytes], bytes],
    tmp_path: Path,
    kill_after: tuple[int, int],
) -> None:
    waited_for, sent = kill_after
    process = start(tmp_path / "s", "--snapshot-every", "5")
    caller = open_caller(process)
    model_id = caller.model()
    seen = results(caller, send(caller, model_id, 1, sent)[:waited_for])
    process.kill()
    process = start(tmp_path / "s", "--snapshot-every", "5")
    caller = open_caller(process)
    ids = send(caller, model_id, 1, LAST)
    again = results(caller, ids)
    assert seen == again[:waited_for]
    assert again[:-1] == whole[0]
    assert checkpoint(process, model_id) == whole[1]


def test_several_kills_in_one_run_change_nothing(
    start: Callable[..., Any],
    open_caller: Callable[..., Any],
    whole: tuple[list[bytes], bytes],
    tmp_path: Path,
) -> None:
    model_id = ""
    for sent in (4, 11, 23, 30, LAST):
        process = start(tmp_path / "s", "--snapshot-every", "4")
        caller = open_caller(process)
        model_id = model_id or caller.model()
        ids = send(caller, model_id, max(1, sent - 12), sent)
        results(caller, ids[: len(ids) // 2])
        if sent < LAST:
            process.kill()
    assert results(caller, ids)[:-1] == whole[0][LAST - 13 :]
    assert checkpoint(process, model_id) == whole[1]


def test_pending_samples_are_drawn_after_the_kill_as_they_would_have_been(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    sampler = caller.sampler(caller.session())
    documents = [
        caller.sample_document(sampler, seq_id, sampling_params={"max_tokens": 64}) for seq_id in range(8)
    ]
    ids = [caller.ask("asample", document)["request_id"] for document in documents]
    seen = results(caller, ids[:2])
    process.kill()
    process = start(tmp_path / "s")
    caller = open_caller(process)
    assert [caller.ask("asample", document)["request_id"] for document in documents] == ids
    drawn = results(caller, ids)
    assert drawn[:2] == seen
    process.kill()
    assert results(open_caller(start(tmp_path / "s")), ids) == drawn


def test_an_ephemeral_sampler_outlives_a_kill(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    model_id = caller.model()
    caller.forward_backward(model_id, 1)
    caller.optim_step(model_id, 2, 0.1)
    save = {"model_id": model_id, "seq_id": 3, "sampling_session_seq_id": 0}
    sampler = caller.do("save_weights_for_sampler", save)["sampling_session_id"]
    drawn = caller.do("asample", caller.sample_document(sampler, sampling_params={"seed": 3}))
    process.kill()
    caller = open_caller(start(tmp_path / "s"))
    assert caller.do("save_weights_for_sampler", save)["sampling_session_id"] == sampler
    assert caller.do("asample", caller.sample_document(sampler, 1, sampling_params={"seed": 3})) == drawn


def test_a_model_from_a_checkpoint_outlives_a_kill_and_the_checkpoints_change(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    model_id = caller.model()
    send(caller, model_id, 1, 3)
    path = caller.do("save_weights", {"model_id": model_id, "seq_id": 4, "path": "a"})["path"]
    load = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    loaded = caller.do("load_weights", load)["model_id"]
    before = checkpoint(process, model_id, "a")
    caller.optim_step(model_id, 5, 1.0)
    caller.poll(caller.save(model_id, 6, "a", overwrite=True).json()["request_id"])
    process.kill()
    process = start(tmp_path / "s")
    caller = open_caller(process)
    caller.poll(caller.save(loaded, 1, "b").json()["request_id"])
    assert checkpoint(process, loaded, "b") == before
    assert checkpoint(process, model_id, "a") != before


def test_an_unloaded_model_stays_gone_and_its_name_stays_taken(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    model_id = caller.model()
    caller.poll(caller.save(model_id, 1, "a").json()["request_id"])
    handle = caller.ask("unload_model", {"model_id": model_id})
    process.kill()
    caller = open_caller(start(tmp_path / "s"))
    assert caller.poll(handle["request_id"]).json()["model_id"] == model_id
    assert caller.ask("unload_model", {"model_id": model_id}) == handle
    assert caller.post("get_info", {"model_id": model_id}).status_code == 404


def test_a_refused_place_can_be_passed_over_after_a_kill(
    start: Callable[..., Any], open_caller: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    caller = open_caller(process)
    model_id = caller.model()
    assert caller.forward_backward(model_id, 1, [300]).status_code == 400
    process.kill()
    process = start(tmp_path / "s")
    ids = [open_caller(process).optim_step(model_id, seq_id).json()["request_id"] for seq_id in (3, 2)]
    process.kill()
    assert b"metrics" in results(open_caller(start(tmp_path / "s")), ids)[0]


def test_half_written_files_are_cleared_away(start: Callable[..., Any], tmp_path: Path) -> None:
    start(tmp_path / "s").kill()
    (tmp_path / "s" / "tmp" / "part").write_bytes(b"half")
    start(tmp_path / "s")
    assert list((tmp_path / "s" / "tmp").iterdir()) == []
