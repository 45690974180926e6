"""Faults on order, on a real server: each does exactly what it says, and says so in the log."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from control import Control
from model_directories import write_model


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, start_shared: Callable[..., Any]) -> Any:
    models = str(tmp_path_factory.getbasetemp())
    data = tmp_path_factory.mktemp("server") / "data"
    return start_shared(data, "--hold", "0.2", "--control", "--models", models)


@pytest.fixture
def caller(faulty: Any, open_caller: Any) -> Any:
    return open_caller(faulty)


@pytest.fixture
def control(faulty: Any) -> Iterator[Control]:
    control = Control(faulty.url.removesuffix("/api/v1"))
    yield control
    control.clear()


def step(caller: Any, model_id: str, seq_id: int) -> Any:
    return caller.poll(caller.optim_step(model_id, seq_id).json()["request_id"])


def kinds(control: Control, model_id: str) -> list[tuple[int | None, str]]:
    return [(entry.seq_id, entry.kind) for entry in control.executed(model_id)]


# In the place of the answer


def test_dropped_before_nothing_is_executed(caller: Any, control: Control) -> None:
    model_id = caller.model()
    (name,) = control.arm({"effect": "drop", "operation": "optim_step"})
    with pytest.raises(httpx.RemoteProtocolError):
        caller.optim_step(model_id, 1)
    assert kinds(control, model_id) == [(0, "create_model")]
    (fired,) = control.fired(name)
    assert (fired.operation, fired.owner, fired.seq_id, fired.target) == ("optim_step", model_id, 1, "")


def test_dropped_after_the_operation_is_executed_and_sending_it_again_repeats_nothing(
    caller: Any, control: Control
) -> None:
    model_id = caller.model()
    (name,) = control.arm({"effect": "drop", "when": "after", "operation": "optim_step"})
    with pytest.raises(httpx.RemoteProtocolError):
        caller.optim_step(model_id, 1)
    assert kinds(control, model_id) == [(0, "create_model"), (1, "optim_step")]
    assert control.fired(name)[0].target == f"{model_id}:1"
    assert step(caller, model_id, 1).status_code == 200
    assert kinds(control, model_id) == [(0, "create_model"), (1, "optim_step")]


def test_dropped_after_an_operation_that_cannot_be_executed_yet_says_so(
    caller: Any, control: Control
) -> None:
    model_id = caller.model()
    (name,) = control.arm({"effect": "drop", "when": "after", "patience_s": 0.1})
    with pytest.raises(httpx.RemoteProtocolError):
        caller.optim_step(model_id, 2)
    assert control.fired(name)[0].target == ""
    caller.optim_step(model_id, 1)
    assert caller.poll(f"{model_id}:2").status_code == 200


def test_a_reset_connection_is_reset(faulty: Any, control: Control) -> None:
    control.arm({"effect": "reset", "operation": "healthz"})
    with socket.create_connection(("127.0.0.1", faulty.listening["port"])) as connection:
        connection.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nhost: x\r\nx-api-key: tml-x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@pytest.mark.parametrize(("wait", "header"), [(None, None), (0.5, "0.5"), (3.0, "3")])
def test_an_error_status_is_answered_with_what_it_was_given(
    caller: Any, control: Control, wait: float | None, header: str | None
) -> None:
    control.arm({"effect": "status", "status": 429, "detail": "slow down", "retry_after_s": wait})
    response = caller.http.get("healthz")
    assert (response.status_code, response.json()) == (429, {"detail": "slow down"})
    assert response.headers.get("retry-after") == header
    assert int(response.headers["content-length"]) > 0
    assert caller.http.get("healthz").status_code == 200


def test_a_failure_may_be_answered_for_what_was_executed(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "status", "status": 503, "when": "after", "operation": "optim_step"})
    assert caller.optim_step(model_id, 1).status_code == 503
    assert kinds(control, model_id) == [(0, "create_model"), (1, "optim_step")]


def test_half_of_the_true_body_comes_and_then_the_end(faulty: Any, caller: Any, control: Control) -> None:
    whole = caller.http.get("get_server_capabilities").content
    control.arm({"effect": "half_body", "operation": "get_server_capabilities"})
    request = b"GET /api/v1/get_server_capabilities HTTP/1.1\r\nhost: x\r\nx-api-key: tml-x\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", faulty.listening["port"])) as connection:
        connection.sendall(request)
        while part := connection.recv(65_536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]


def test_who_hangs_waits_until_the_fault_is_cleared(caller: Any, control: Control) -> None:
    (name,) = control.arm({"effect": "hang", "operation": "healthz"})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(caller.http.get, "healthz")
        while not control.fired(name):
            assert not waiting.done()
        control.clear(name)
        assert isinstance(waiting.exception(timeout=30), httpx.RemoteProtocolError)


def test_a_client_that_gives_up_on_a_hang_ends_it(caller: Any, control: Control) -> None:
    control.arm({"effect": "hang", "operation": "healthz"})
    with pytest.raises(httpx.ReadTimeout):
        caller.http.get("healthz", timeout=0.2)
    assert caller.http.get("healthz").status_code == 200


def test_a_hang_does_not_keep_the_server_from_leaving(start: Any, open_caller: Any, tmp_path: Path) -> None:
    process = start(tmp_path / "s", "--control")
    caller, control = open_caller(process), Control(process.url.removesuffix("/api/v1"))
    (name,) = control.arm({"effect": "hang", "operation": "healthz"})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(caller.http.get, "healthz")
        while not control.fired(name):
            assert not waiting.done()
        process.stop()
        assert waiting.exception(timeout=30) is not None


# Beside the answer


def test_a_delay_keeps_the_answer_back_and_changes_nothing(caller: Any, control: Control) -> None:
    (name,) = control.arm({"effect": "delay", "seconds": 0.05, "operation": "healthz"})
    assert caller.http.get("healthz").json() == {"status": "ok"}
    assert len(control.fired(name)) == 1


def test_a_late_answer_is_the_true_one(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "delay", "when": "after", "seconds": 0.05, "operation": "optim_step"})
    assert caller.optim_step(model_id, 1).json()["request_id"] == f"{model_id}:1"


def test_several_faults_at_one_request_happen_in_their_order(caller: Any, control: Control) -> None:
    names = control.arm({"effect": "delay", "seconds": 0.01}, {"effect": "status"}, {"effect": "drop"})
    assert caller.http.get("healthz").status_code == 500
    assert [fired.fault for fired in control.fired() if fired.fault in names] == names[:2]


def test_polls_are_told_apart_by_what_they_wait_for(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "status", "operation": "retrieve_future", "of": "optim_step"})
    forward = caller.forward_backward(model_id, 1).json()["request_id"]
    assert caller.poll(forward).status_code == 200
    assert step(caller, model_id, 2).status_code == 500
    assert step(caller, model_id, 2).status_code == 200


def test_a_packed_request_is_known_by_what_it_names(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "status", "model_id": model_id, "seq_id": 1})
    body = zstandard.compress(json.dumps(caller.step_document(model_id, 1)).encode())
    headers = {"Content-Encoding": "zstd", "Content-Type": "application/json"}
    assert caller.http.post("optim_step", content=body, headers=headers).status_code == 500
    assert caller.http.post("optim_step", content=body, headers=headers).status_code == 200


# To what the service keeps


def test_an_expired_session_takes_its_models_with_it(caller: Any, control: Control) -> None:
    model_id = caller.model()
    session_id = model_id.partition(":")[0]
    (name,) = control.arm({"effect": "expire_session", "operation": "optim_step"})
    assert caller.optim_step(model_id, 1).status_code == 404
    assert caller.post("session_heartbeat", {"session_id": session_id}).status_code == 410
    assert control.fired(name)[0].target == session_id


def test_a_lost_model_is_gone_and_its_session_lives(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "lose_model", "operation": "optim_step", "when": "after"})
    assert step(caller, model_id, 1).status_code == 200
    assert caller.optim_step(model_id, 2).status_code == 404
    assert caller.post("session_heartbeat", {"session_id": model_id.partition(":")[0]}).status_code == 200


def saved(caller: Any, model_id: str, *, seq_id: int = 3) -> str:
    caller.forward_backward(model_id, seq_id - 2)
    caller.optim_step(model_id, seq_id - 1)
    return str(caller.poll(caller.save(model_id, seq_id, "state").json()["request_id"]).json()["path"])


def load(caller: Any, path: str) -> httpx.Response:
    document = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "optimizer": True}
    response: httpx.Response = caller.post("load_weights", document)
    return response


def test_a_checkpoint_is_lost_as_soon_as_it_is_written(caller: Any, control: Control) -> None:
    (name,) = control.arm({"effect": "lose_checkpoint", "operation": "save_weights", "when": "after"})
    path = saved(caller, caller.model())
    assert control.fired(name)[0].target == path
    assert load(caller, path).status_code == 404


def test_a_named_checkpoint_is_lost_at_any_request(faulty: Any, caller: Any, control: Control) -> None:
    path = saved(caller, caller.model())
    control.arm({"effect": "lose_checkpoint", "operation": "healthz", "path": path})
    caller.http.get("healthz")
    assert load(caller, path).status_code == 404
    assert not (faulty.data / "checkpoints" / path.removeprefix("tinker://")).exists()


def test_a_spoiled_checkpoint_cannot_be_loaded(caller: Any, control: Control) -> None:
    path = saved(caller, caller.model())
    control.arm({"effect": "spoil_checkpoint", "operation": "load_weights"})
    response = load(caller, path)
    assert 400 <= response.status_code < 500
    assert "cannot be read" in response.json()["detail"]


@pytest.mark.parametrize("base_model", ["local/tiny", "a directory"])
def test_a_checkpoint_with_a_cold_optimizer_trains_on_otherwise(
    caller: Any, control: Control, tmp_path: Path, base_model: str
) -> None:
    if base_model == "a directory":
        write_model(tmp_path, vocab_size=260)
        base_model = str(tmp_path)
    path = saved(caller, caller.model(base_model=base_model))
    losses: list[list[float]] = []
    for fault in ([], [{"effect": "cool_optimizer", "operation": "load_weights"}]):
        control.arm(*fault)
        model_id = caller.poll(load(caller, path).json()["request_id"]).json()["model_id"]
        losses.append([])
        for seq_id in (1, 3):
            caller.forward_backward(model_id, seq_id)
            losses[-1].append(caller.poll(f"{model_id}:{seq_id}").json()["metrics"]["loss:sum"])
            step(caller, model_id, seq_id + 1)
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_an_expired_result_was_executed(caller: Any, control: Control) -> None:
    model_id = caller.model()
    (name,) = control.arm({"effect": "expire_result", "operation": "optim_step", "when": "after"})
    assert step(caller, model_id, 1).status_code == 410
    assert kinds(control, model_id) == [(0, "create_model"), (1, "optim_step")]
    assert control.fired(name)[0].target == f"{model_id}:1"
    assert step(caller, model_id, 2).status_code == 200


def test_a_result_expires_before_the_poll_for_it_is_answered(caller: Any, control: Control) -> None:
    model_id = caller.model()
    control.arm({"effect": "expire_result", "operation": "retrieve_future"})
    assert step(caller, model_id, 1).status_code == 410


@pytest.mark.parametrize("effect", ["expire_session", "lose_model", "lose_checkpoint", "expire_result"])
def test_what_is_not_there_cannot_be_damaged(caller: Any, control: Control, effect: str) -> None:
    (name,) = control.arm({"effect": effect, "operation": "optim_step"})
    assert caller.optim_step("nobody:train:0", 1).status_code == 404
    assert control.fired(name)[0].target == ""


# The control endpoint, and files


def test_faults_are_listed_with_their_counts(caller: Any, control: Control) -> None:
    (name,) = control.arm({"effect": "delay", "seconds": 0.0, "operation": "healthz", "nth": 2})
    for _ in range(3):
        caller.http.get("healthz")
    (state,) = control.states()
    assert state["fault"] == {
        "effect": "delay",
        "name": name,
        "operation": "healthz",
        "nth": 2,
        "seconds": 0.0,
    }
    assert (state["matched"], state["fired"], state["is_spent"]) == (3, 1, True)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 422),
        (b'{"faults": [{"effect": "explode"}]}', "application/json", 422),
        (b'{"faults": []}', "text/plain", 415),
    ],
)
def test_what_is_no_plan_is_refused(faulty: Any, body: bytes, kind: str, status: int) -> None:
    url = faulty.url.replace("/api/v1", "/control/faults")
    headers = {"x-api-key": "tml-x", "content-type": kind}
    assert httpx.post(url, content=body, headers=headers).status_code == status


def test_a_fault_that_is_not_set_cannot_be_cleared(faulty: Any) -> None:
    url = faulty.url.replace("/api/v1", "/control/faults/none")
    assert httpx.delete(url, headers={"x-api-key": "tml-x"}).status_code == 404


def test_the_control_endpoint_wants_a_key(faulty: Any) -> None:
    assert httpx.get(faulty.url.replace("/api/v1", "/control/faults")).status_code == 401


def test_a_server_started_without_it_has_no_control_endpoint(process: Any) -> None:
    url = process.url.replace("/api/v1", "/control/faults")
    assert httpx.get(url, headers={"x-api-key": "tml-x"}).status_code == 404


def test_a_plan_in_a_file_is_armed_at_the_start(start: Any, open_caller: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[faults]]\neffect = "status"\nstatus = 503\noperation = "healthz"\nnth = 2\n')
    process = start(tmp_path / "s", "--faults", str(plan))
    caller = open_caller(process)
    assert [caller.http.get("healthz").status_code for _ in range(3)] == [200, 503, 200]
    assert json.loads(process.errors)["event"] == "fault_fired"


def test_a_server_with_a_broken_plan_does_not_start(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"faults": [{"effect": "explode"}]}')
    assert "explode" in refused(tmp_path / "s", "--faults", str(tmp_path / "plan.json"))
