"""The server as a process: how it starts, refuses to start, and leaves."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


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


def test_a_second_server_on_the_same_data_is_refused(start: Any, refused: Any, tmp_path: Path) -> None:
    start(tmp_path / "s")
    code, errors = refused(tmp_path / "s", "--lock-patience", "0")
    assert (code, errors.count("\n")) == (2, 1)
    assert "another server uses" in errors


def test_a_taken_port_is_refused_and_nothing_is_written(refused: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, errors = refused(tmp_path / "s", "--port", str(taken.getsockname()[1]))
    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot listen on 127.0.0.1 port" in errors
    assert not (tmp_path / "s" / "server.db").exists()


def test_a_data_path_that_is_a_file_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    code, errors = refused(tmp_path / "s")
    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot use the data directory" in errors


def test_data_of_another_format_are_refused_and_left_alone(start: Any, refused: Any, tmp_path: Path) -> None:
    start(tmp_path / "s").stop()
    database = tmp_path / "s" / "server.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = database.read_bytes()
    code, errors = refused(tmp_path / "s")
    assert (code, errors.count("\n")) == (2, 1)
    assert "format version 99" in errors
    assert database.read_bytes() == before


def test_what_is_no_database_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "server.db").write_bytes(b"something else" * 500)
    code, errors = refused(tmp_path / "s")
    assert (code, errors.count("\n")) == (2, 1)


def test_other_numerics_under_a_live_model_are_named(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s", "--threads", "1")
    open_caller(process).model()
    process.stop()
    process = start(tmp_path / "s", "--threads", "2")
    process.stop()
    (line,) = process.errors.splitlines()
    report = json.loads(line)
    assert report["event"] == "numerics_changed"
    assert "1 BLAS threads" in report["stored"][0]
    assert "2 BLAS threads" in report["current"]
