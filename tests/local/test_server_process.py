"""The server as a process: how it starts, refuses to start, and leaves."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.refusals import StartError


def test_nothing_heavy_is_imported_before_the_thread_limits_are_set() -> None:
    program = "import tinker_actors.local.__main__, sys; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_it_leaves_when_its_owner_does(start: Any, tmp_path: Path) -> None:
    assert start(tmp_path / "s").close_input() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(start: Any, tmp_path: Path, number: int) -> None:
    process = start(tmp_path / "s")
    assert process.signal(number) == 0
    assert process.errors == ""


def test_a_held_poll_does_not_keep_it_from_leaving(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s", "--hold", "600")
    caller = open_caller(process)
    request_id = caller.optim_step(caller.model(), 2).json()["request_id"]
    with socket.create_connection(("127.0.0.1", process.listening["port"])) as connection:
        body = json.dumps({"request_id": request_id}).encode()
        head = f"POST /api/v1/retrieve_future HTTP/1.1\r\nhost: x\r\nx-api-key: tml-x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        caller.session()
        assert process.signal(signal.SIGTERM) == 0
        assert b" 408 " in connection.recv(4096)


def test_its_directory_is_private(start: Any, tmp_path: Path) -> None:
    start(tmp_path / "s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


# Refusing to start: one line on stderr, exit code 2, and nothing that keeps a later start from working


def one_line(errors: str) -> str:
    (line,) = errors.splitlines()
    return line


def test_a_second_server_on_the_same_data_is_refused(start: Any, refused: Any, tmp_path: Path) -> None:
    start(tmp_path / "s")
    assert "another server uses" in one_line(refused(tmp_path / "s", "--lock-patience", "0"))


def test_a_taken_port_is_refused_and_nothing_is_written(refused: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        errors = refused(tmp_path / "s", "--port", str(taken.getsockname()[1]))
    assert "cannot listen on 127.0.0.1 port" in one_line(errors)
    written = [path for path in (tmp_path / "s").rglob("*") if path.is_file() and path.stat().st_size]
    assert written == []
    assert not (tmp_path / "s" / "server.db").exists()


def test_an_address_of_another_machine_is_refused(refused: Any, tmp_path: Path) -> None:
    errors = refused(tmp_path / "s", "--host", "192.0.2.1", "--api-key", "tml-x")
    assert "cannot listen on 192.0.2.1 port" in one_line(errors)


@pytest.mark.parametrize(
    "option", ["--port=65536", "--threads=0", "--hold=-1", "--lock-patience=nan", "--snapshot-every=x"]
)
def test_options_out_of_range_are_refused(refused: Any, tmp_path: Path, option: str) -> None:
    assert option.partition("=")[0] in refused(tmp_path / "s", option).splitlines()[-1]
    assert not (tmp_path / "s").exists()


def test_a_data_path_that_is_a_file_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    assert "cannot use the data directory" in one_line(refused(tmp_path / "s"))


def test_a_directory_that_cannot_be_made_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = tmp_path / "file" / "s"
    assert f"cannot use the data directory {data}: Not a directory" in one_line(refused(data))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_refused(refused: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in one_line(refused(tmp_path / "s"))


def test_a_file_system_that_takes_no_files_is_refused(refused: Any) -> None:
    data = Path("/proc/self/s")  # root may not write here either; where there is no /proc, not below /
    assert f"cannot use the data directory {data}" in one_line(refused(data))


def test_data_of_another_format_are_refused_and_left_alone(start: Any, refused: Any, tmp_path: Path) -> None:
    start(tmp_path / "s").stop()
    database = tmp_path / "s" / "server.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = database.read_bytes()
    assert "format version 99" in one_line(refused(tmp_path / "s"))
    assert database.read_bytes() == before


def test_what_is_no_database_is_refused_and_left_alone(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "server.db").write_bytes(b"something else" * 500)
    assert "cannot use the store" in one_line(refused(tmp_path / "s"))
    assert (tmp_path / "s" / "server.db").read_bytes() == b"something else" * 500


def test_a_damaged_database_is_refused(start: Any, refused: Any, tmp_path: Path) -> None:
    start(tmp_path / "s").stop()
    with (tmp_path / "s" / "server.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 36_864)
    assert "malformed" in one_line(refused(tmp_path / "s"))


@pytest.mark.parametrize(
    "most_bytes",
    [0, 36_864, *(pytest.param(most, marks=pytest.mark.slow) for most in (1, 4096, 8192, 16_384, 32_768))],
)
def test_a_disk_that_is_full_at_the_start_is_named_and_does_no_harm(
    start: Any, refused: Any, open_caller: Any, tmp_path: Path, most_bytes: int
) -> None:
    errors = refused(tmp_path / "s", most_bytes=most_bytes)
    assert f"cannot use the store {tmp_path / 's' / 'server.db'}" in one_line(errors)
    assert open_caller(start(tmp_path / "s")).model()


def test_a_disk_that_is_full_does_not_harm_what_is_there(
    start: Any, refused: Any, open_caller: Any, tmp_path: Path
) -> None:
    process = start(tmp_path / "s")
    model_id = open_caller(process).model()
    process.kill()
    one_line(refused(tmp_path / "s", most_bytes=4096))
    assert open_caller(start(tmp_path / "s")).ask("get_info", {"model_id": model_id})


def test_too_little_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinker_actors.local.data_dir.ROOM_BYTES", 2**80)
    data = DataDirectory(tmp_path / "s")
    with pytest.raises(StartError, match="no space left for"):
        data.open(lock_patience_s=0)
    data.close()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["lock"]


# Numerics


def test_other_numerics_under_a_live_model_are_named_once(
    start: Any, open_caller: Any, tmp_path: Path
) -> None:
    process = start(tmp_path / "s", "--threads", "1")
    open_caller(process).model()
    process.stop()
    for told in (1, 0):
        process = start(tmp_path / "s", "--threads", "2")
        process.stop()
        lines = process.errors.splitlines()
        assert len(lines) == told
    process = start(tmp_path / "s", "--threads", "1")
    process.stop()
    (line,) = process.errors.splitlines()
    report = json.loads(line)
    assert report["event"] == "numerics_changed"
    assert "2 BLAS threads" in report["stored"][0]
    assert "1 BLAS threads" in report["current"]


def test_a_deterministic_server_refuses_other_numerics_until_they_are_accepted(
    start: Any, open_caller: Any, refused: Any, tmp_path: Path
) -> None:
    process = start(tmp_path / "s", "--deterministic")
    open_caller(process).model()
    process.stop()
    error = refused(tmp_path / "s", "--deterministic", "--threads", "2")
    assert "1 BLAS threads" in error
    assert "2 BLAS threads" in error
    assert f"serve --data {tmp_path / 's'}" in error
    start(tmp_path / "s", "--threads", "2").stop()
    start(tmp_path / "s", "--deterministic", "--threads", "2").stop()


def test_without_live_models_numerics_may_change(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s", "--deterministic")
    caller = open_caller(process)
    caller.do("unload_model", {"model_id": caller.model()})
    process.stop()
    start(tmp_path / "s", "--deterministic", "--threads", "2").stop()
