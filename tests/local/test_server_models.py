"""Base models over the wire: those without files, and directories."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_directories import LLAMA, write_json, write_model
from safetensors.numpy import save_file

from tinker_actors.local.service import Service


def create(caller: Any, base_model: str) -> Any:
    document = {"session_id": caller.session(), "model_seq_id": 0, "base_model": base_model}
    return caller.post("create_model", {**document, "lora_config": {"rank": 2, "seed": 1}})


def test_capabilities_name_the_models_without_files(caller: Any) -> None:
    models = caller.http.get("get_server_capabilities").json()["supported_models"]
    assert {model["model_name"]: model["max_context_length"] for model in models} == {
        "local/small": 2048,
        "local/tiny": 1024,
    }


def test_a_directory_is_trained_and_sampled_from(caller: Any, tmp_path: Path) -> None:
    write_model(tmp_path, model_type="qwen3", head_dim=8)
    model_id = create(caller, str(tmp_path)).json()["model_id"]
    info = caller.ask("get_info", {"model_id": model_id})["model_data"]
    assert (info["arch"], info["tokenizer_id"]) == ("qwen3", str(tmp_path))
    inputs = {
        "target_tokens": {"data": [4, 5, 6], "dtype": "int64"},
        "weights": {"data": [1.0] * 3, "dtype": "float32"},
    }
    chunk = {"type": "encoded_text", "tokens": [3, 4, 5]}
    data = [{"model_input": {"chunks": [chunk]}, "loss_fn_inputs": inputs}]
    content = {"data": data, "loss_fn": "cross_entropy"}
    losses = []
    for seq_id in (1, 3):
        request = {"model_id": model_id, "seq_id": seq_id, "forward_backward_input": content}
        losses.append(caller.do("forward_backward", request)["metrics"]["loss:sum"])
        caller.do("optim_step", caller.step_document(model_id, seq_id + 1))
    assert losses[1] < losses[0]
    sampler = caller.sampler(model_id.partition(":train:")[0], base_model=str(tmp_path))
    prompt = {"chunks": [chunk]}
    sample = caller.do("asample", caller.sample_document(sampler, prompt=prompt))
    assert sample["sequences"][0]["tokens"]


@pytest.mark.parametrize(
    "path", ["/", "/etc/passwd", "/etc/../etc", "../..", "local/none", "x\x00", "/x\x00"]
)
def test_what_is_no_model_is_refused(caller: Any, path: str) -> None:
    response = create(caller, path)
    assert response.status_code == 400
    assert "base_model must be" in response.json()["detail"] or "must hold" in response.json()["detail"]


def test_a_directory_that_was_not_permitted_is_as_one_that_is_not_there(
    start: Any, open_caller: Any, tmp_path: Path
) -> None:
    for place in ("one", "other/deep", "secret"):
        write_model(tmp_path / place)
    (tmp_path / "one" / "link").symlink_to(tmp_path / "secret")
    process = start(tmp_path / "s", "--models", str(tmp_path / "one"), "--models", str(tmp_path / "other"))
    write_model(tmp_path / "s" / "own")
    caller = open_caller(process)

    def answer(place: str) -> tuple[int, str]:
        name = str(tmp_path / place)
        response = create(caller, name)
        return response.status_code, response.json().get("detail", "").replace(name, "")

    assert [answer(place)[0] for place in ("one", "other/deep", "s/own")] == [200, 200, 200]
    refused = answer("secret")
    assert (refused[0], "permit more with --models" in refused[1]) == (400, True)
    for place in ("nowhere", "one/../secret", "one/link", "one-more"):
        assert answer(place) == refused
    sampling = {
        "session_id": caller.session(),
        "sampling_session_seq_id": 0,
        "base_model": str(tmp_path / "secret"),
    }
    assert caller.post("create_sampling_session", sampling).status_code == 400


@pytest.mark.parametrize(
    ("path", "number"),
    [("create_model", "model_seq_id"), ("create_sampling_session", "sampling_session_seq_id")],
)
def test_others_are_answered_while_the_files_of_a_model_are_read(
    talker: Any, monkeypatch: pytest.MonkeyPatch, path: str, number: str
) -> None:
    reading, others_answered = threading.Event(), threading.Event()
    check = Service.check_base

    def slow(service: Service, name: str) -> None:
        reading.set()
        assert others_answered.wait(10)
        check(service, name)

    session_id = talker.session()
    monkeypatch.setattr(Service, "check_base", slow)
    document = {"session_id": session_id, number: 0, "base_model": "local/tiny", "lora_config": {"rank": 1}}
    with ThreadPoolExecutor(1) as threads:
        created = threads.submit(talker.post, path, document)
        assert reading.wait(10)
        assert talker.http.get("healthz").status_code == 200
        others_answered.set()
        assert created.result(30).status_code == 200


def test_a_directory_of_models_that_is_none_is_refused_at_the_start(refused: Any, tmp_path: Path) -> None:
    assert "--models" in refused(tmp_path / "s", "--models", str(tmp_path / "none"))


def test_a_model_of_another_architecture_is_refused(caller: Any, tmp_path: Path) -> None:
    write_model(tmp_path)
    write_json(tmp_path / "config.json", {**LLAMA, "model_type": "mixtral"})
    response = create(caller, str(tmp_path))
    assert response.status_code == 400
    assert response.json()["detail"].endswith('model_type must be "llama" or "qwen3", got "mixtral"')


def test_other_files_under_a_model_are_named_after_a_restart(
    start: Any, open_caller: Any, tmp_path: Path
) -> None:
    base = tmp_path / "model"
    arrays = write_model(base)
    process = start(tmp_path / "s", "--models", str(base))
    model_id = create(open_caller(process), str(base)).json()["model_id"]
    process.stop()
    arrays["model.norm.weight"][0] += 1.0
    save_file(arrays, base / "model.safetensors")
    caller = open_caller(start(tmp_path / "s"))
    failed = caller.do("optim_step", caller.step_document(model_id, 1))
    assert "must be those that the model was made with, and have changed since" in failed["error"]
    write_model(base)
    assert "metrics" in caller.do("optim_step", caller.step_document(model_id, 2))
