"""The embedded server's process, as its actor sees it."""

import os
import signal
from pathlib import Path

import pytest
from harness import WAIT_S, Events, step

import tinker_actors as ta
from tinker_actors.events import LocalServerEnded, LocalServerStarted
from tinker_actors.supervision.testing import crash, expect


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_is_killed_is_started_again_on_its_data(run_dir: Path) -> None:
    with ta.ServiceClient(base_url="local", run_dir=str(run_dir)) as service:
        events = Events(service)
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        pid = service.server_pid
        assert pid is not None
        with expect(service._runtime.tree, LocalServerStarted, timeout_s=WAIT_S):
            os.kill(pid, signal.SIGKILL)
            step(training, 1)
        assert service.server_pid not in (None, pid)
        node = service.tree().find("service/local-server")
        assert node is not None
        assert node.restarts == 0
    assert [(event.pid, event.exit_code) for event in events.of(LocalServerEnded)] == [(pid, -signal.SIGKILL)]


def test_when_its_actor_crashes_the_process_goes_with_it_and_another_one_comes(run_dir: Path) -> None:
    with ta.ServiceClient(base_url="local", run_dir=str(run_dir)) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        pid = service.server_pid
        assert pid is not None
        with expect(service._runtime.tree, LocalServerStarted, timeout_s=WAIT_S):
            crash(service.address("service/local-server"))
        assert not is_alive(pid)
        step(training, 0)


def test_closing_ends_the_process_and_removes_data_that_nobody_asked_to_keep() -> None:
    with ta.ServiceClient(base_url="local") as service:
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        pid, directory = service.server_pid, service._runtime.published.server_directory
        assert pid is not None
        assert directory is not None
        assert directory.exists()
    assert not is_alive(pid)
    assert not directory.exists()


def test_a_server_that_cannot_start_ends_the_client_with_its_own_words(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    (run_dir / "journal.lock").touch()
    (run_dir / "server").mkdir()
    (run_dir / "server" / "server.db").write_bytes(b"something else" * 100)
    with (
        ta.ServiceClient(base_url="local", run_dir=str(run_dir)) as service,
        pytest.raises(ta.RuntimeStoppedError, match="embedded server cannot start") as caught,
    ):
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
    assert "server.db" in str(caught.value) or "database" in str(caught.value)
