"""The official SDK and its command line look up and change what the embedded server keeps."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server

Command = Callable[..., Any]


@pytest.fixture
def rest(tinker: Any, server: Server) -> Any:
    return tinker.RestClient(base_url=server.url, api_key=KEY)


@pytest.fixture
def saved(training: Any, step: Callable[..., float]) -> str:
    """The path of a training checkpoint after one step."""
    step(training)
    return str(training.save_state("state").result(WAIT_S).path)


@pytest.fixture
def command(tinker: Any, server: Server, tmp_path: Path) -> Command:
    """What the SDK's command prints, as JSON if it is asked to: `command(*arguments)`."""
    del tinker  # only that it is there

    def run(*arguments: str) -> Any:
        settings = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": KEY, "HOME": str(tmp_path)}
        finished = subprocess.run(
            [Path(sys.executable).parent / "tinker", "--format", "json", *arguments],
            env={**os.environ, **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return (
            json.loads(finished.stdout)
            if finished.stdout.lstrip().startswith(("{", "["))
            else finished.stdout
        )

    return run


def test_a_run_and_its_checkpoints_are_listed(rest: Any, training: Any, saved: str) -> None:
    run_id = training.get_info().model_id
    runs = rest.list_training_runs(limit=100).result(WAIT_S).training_runs
    (run,) = [run for run in runs if run.training_run_id == run_id]
    assert (run.base_model, run.is_lora, run.lora_rank, run.corrupted) == ("local/tiny", True, 8, False)
    assert run.last_checkpoint.tinker_path == saved
    (checkpoint,) = rest.list_checkpoints(run_id).result(WAIT_S).checkpoints
    assert (checkpoint.checkpoint_id, checkpoint.checkpoint_type) == ("weights/state", "training")
    everything = rest.list_user_checkpoints(limit=100).result(WAIT_S).checkpoints
    assert saved in [checkpoint.tinker_path for checkpoint in everything]


def test_pages_are_walked_to_the_end(rest: Any, service: Any) -> None:
    made = {
        service.create_lora_training_client("local/tiny", rank=1).result(WAIT_S).get_info().model_id
        for _ in range(3)
    }
    found: list[str] = []
    while True:
        page = rest.list_training_runs(limit=2, offset=len(found)).result(WAIT_S)
        found += [run.training_run_id for run in page.training_runs]
        if len(found) >= page.cursor.total_count:
            break
    assert made <= set(found)
    assert len(found) == len(set(found))


def test_sessions_and_samplers_are_found(rest: Any, training: Any) -> None:
    sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
    session_id = training.get_info().model_id.partition(":")[0]
    assert session_id in rest.list_sessions(limit=100).result(WAIT_S).sessions
    session = rest.get_session(session_id).result(WAIT_S)
    assert session.training_run_ids == [training.get_info().model_id]
    (sampler_id,) = session.sampler_ids
    assert rest.get_sampler(sampler_id).result(WAIT_S).base_model == sampler.get_base_model()


def test_a_run_that_a_fault_corrupted_is_shown_so(
    server: Server, rest: Any, training: Any, step: Callable[..., float]
) -> None:
    server.control.arm({"effect": "corrupt_run", "operation": "optim_step"})
    step(training)
    assert rest.get_training_run(training.get_info().model_id).result(WAIT_S).corrupted


def test_a_checkpoint_is_published_kept_for_a_while_and_deleted(rest: Any, training: Any, saved: str) -> None:
    run_id = training.get_info().model_id

    def only() -> Any:
        return rest.list_checkpoints(run_id).result(WAIT_S).checkpoints[0]

    rest.publish_checkpoint_from_tinker_path(saved).result(WAIT_S)
    assert only().public
    rest.unpublish_checkpoint_from_tinker_path(saved).result(WAIT_S)
    rest.set_checkpoint_ttl_from_tinker_path(saved, 3600).result(WAIT_S)
    assert (only().public, only().expires_at is not None) == (False, True)
    rest.delete_checkpoint_from_tinker_path(saved).result(WAIT_S)
    assert rest.list_checkpoints(run_id).result(WAIT_S).checkpoints == []


def test_the_shape_of_saved_weights_is_told(rest: Any, saved: str) -> None:
    info = rest.get_weights_info_by_tinker_path(saved).result(WAIT_S)
    assert (info.base_model, info.is_lora, info.lora_rank) == ("local/tiny", True, 8)


def test_a_checkpoint_is_downloaded_by_the_command_line(
    server: Server, command: Command, saved: str, tmp_path: Path
) -> None:
    command("checkpoint", "download", saved, "--output", str(tmp_path / "out"))
    files = {path.name: path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files.keys()
    config = json.loads(files["adapter_config.json"].read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    exported = [path for path in (server.data / "checkpoints").rglob("external_weights/*") if path.is_dir()]
    assert exported == []  # the command deletes what it exported for the download


def test_what_is_kept_is_listed_and_deleted_by_the_command_line(command: Command, saved: str) -> None:
    run_id = saved.split("/")[2]
    assert saved in json.dumps(command("checkpoint", "list", "--run-id", run_id))
    command("checkpoint", "delete", "--yes", saved)
    assert saved not in json.dumps(command("checkpoint", "list", "--run-id", run_id))
