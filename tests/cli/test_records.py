"""The commands that ask a service for its records: what they print, change and refuse."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result
from fake_hub import TOKEN, FakeHub
from harness import KEY, WAIT_S
from rest_service import ENTRIES, SAVED, RestService
from starlette.responses import JSONResponse

import tinker_actors as ta
from tinker_actors.cli.commands import commands

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestService]:
    with RestService(tmp_path_factory.mktemp("rest") / "data") as service:
        yield service


@pytest.fixture
def service(running: RestService) -> RestService:
    running.reset()
    return running


@pytest.fixture
def command(service: RestService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    variables = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY, "COLUMNS": "40"}

    def command(line: str, *more: str, answers: str = "") -> Result:
        return CliRunner(env=variables).invoke(commands, [*line.split(), *more], input=answers)

    return command


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# Checkpoints


def test_checkpoints_are_listed_with_how_many_there_are(command: Command, service: RestService) -> None:
    lines = command("checkpoint list --limit 2").stdout.splitlines()
    assert lines[0].strip() == f"checkpoints 2/{ENTRIES}"
    assert lines[1].split() == ["id", "type", "size", "public", "created", "expires", "path"]
    assert service.kept.run in lines[2]
    assert "Never" in lines[2]
    assert service.targets == ["GET checkpoints?limit=2&offset=0"]


def test_a_document_has_times_as_the_service_gave_them(command: Command, service: RestService) -> None:
    told = document(command(f"checkpoint list --run-id {service.kept.run} --limit 3 --offset 1 -f json"))
    assert (told["total"], told["shown"], told["run_id"]) == (ENTRIES, 3, service.kept.run)
    times = [datetime.fromisoformat(one["time"]) for one in told["checkpoints"]]
    assert times == sorted(times, reverse=True)
    assert all(time < SAVED for time in times)


def test_no_limit_lists_all(command: Command) -> None:
    assert len(document(command("checkpoint list --limit 0 -f json"))["checkpoints"]) == ENTRIES


def test_all_that_is_known_of_one_is_told(command: Command, service: RestService) -> None:
    facts = command(f"checkpoint info {service.kept.training}").stdout
    assert f"path: {service.kept.training}\ntype: training\n" in facts
    assert "expires: Never\n" in facts
    assert "base model: local/tiny\nLoRA rank: 16\n" in facts
    told = document(command(f"checkpoint info {service.kept.training} -f json"))
    assert told["weights"]["lora_rank"] == 16


def test_one_that_is_not_there_is_one_line(command: Command, service: RestService) -> None:
    result = command(f"checkpoint info tinker://{service.kept.run}/weights/nothing")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no checkpoint tinker://" in result.stderr


def test_one_is_published_and_taken_back(command: Command, service: RestService) -> None:
    path = service.kept.training
    assert document(command(f"checkpoint publish {path} -f json")) == {"path": path, "public": True}
    assert "public: yes\n" in command(f"checkpoint info {path}").stdout
    assert command(f"checkpoint unpublish {path}").stdout == f"unpublished: {path}\n"
    assert "public: no\n" in command(f"checkpoint info {path}").stdout


def test_one_lives_for_a_time_or_for_ever(command: Command, service: RestService) -> None:
    path = service.kept.training
    assert command(f"checkpoint set-ttl {path} --ttl 7200").stdout == f"{path}: for 7200 s\n"
    assert service.seen[-1].body == {"ttl_seconds": 7200}
    assert command(f"checkpoint set-ttl {path} --remove").stdout == f"{path}: for ever\n"
    assert service.seen[-1].body == {"ttl_seconds": None}


@pytest.mark.parametrize("options", ["", "--ttl 7200 --remove"])
def test_a_time_and_for_ever_exclude_each_other(command: Command, service: RestService, options: str) -> None:
    result = command(f"checkpoint set-ttl {service.kept.training} {options}")
    assert (result.exit_code, service.seen) == (2, [])


def test_those_named_are_deleted_after_one_question(command: Command, service: RestService) -> None:
    path = service.spared().spare
    result = command(f"checkpoint delete {path}", answers="y\n")
    assert (result.exit_code, result.stdout) == (0, "deleted: 1\n")
    assert "Delete 1 checkpoints? [y/N]" in result.stderr
    assert [target for target in service.targets if target.startswith("DELETE")] == service.targets


def test_nothing_is_deleted_where_that_is_declined(command: Command, service: RestService) -> None:
    result = command(f"checkpoint delete {service.kept.training}", answers="n\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert service.seen == []


def test_all_paths_are_checked_before_anything_is_deleted(command: Command, service: RestService) -> None:
    result = command(f"checkpoint delete --yes {service.kept.training} weights/a")
    assert (result.exit_code, service.seen) == (1, [])
    assert "checkpoint paths read" in result.stderr


def test_what_could_not_be_deleted_is_told_and_the_rest_is_deleted(
    command: Command, service: RestService
) -> None:
    path, gone = service.spared().spare, f"tinker://{service.kept.run}/weights/nothing"
    result = command(f"checkpoint delete --yes -f json {gone} {path}")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["deleted"], told["failed"]) == (1, [path], 1)
    assert told["failures"][0]["path"] == gone
    assert f"deleted {path}" in result.stderr


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("--type sampler", {"sampler"}),
        ("--after 2100-01-01", set()),
        ("--before 2100-01-01 --type external", {"external"}),
    ],
)
def test_those_that_fit_are_shown_before_they_are_deleted(
    command: Command, service: RestService, options: str, wanted: set[str]
) -> None:
    result = command(f"checkpoint delete --run-id {service.kept.run} {options}", answers="n\n")
    listed = [line for line in result.stderr.splitlines() if line.startswith("tinker://")]
    kinds = {"sampler_weights": "sampler", "external_weights": "external", "weights": "training"}
    assert {kinds[line.split("/")[3]] for line in listed} == wanted
    assert not any(target.startswith("DELETE") for target in service.targets)


def test_dates_part_what_was_saved_before_from_what_was_saved_since(
    command: Command, service: RestService
) -> None:
    saved = SAVED.isoformat().replace("+00:00", "Z")
    newest = command(f"checkpoint delete --run-id {service.kept.run} --after {saved}", answers="n\n").stderr
    older = command(f"checkpoint delete --run-id {service.kept.run} --before {saved}", answers="n\n").stderr
    assert (newest.count("tinker://"), older.count("tinker://")) == (1, ENTRIES - 1)


@pytest.mark.parametrize(
    "line",
    [
        "checkpoint delete",
        "checkpoint delete tinker://a/weights/b --type sampler",
        "checkpoint delete --before soon",
    ],
)
def test_what_is_to_be_deleted_must_be_clear(command: Command, service: RestService, line: str) -> None:
    result = command(line)
    assert (result.exit_code, service.seen) == (2, [])


def test_one_is_fetched_to_disk(command: Command, service: RestService, tmp_path: Path) -> None:
    told = document(command(f"checkpoint download {service.kept.sampler} -o {tmp_path} -f json"))
    assert (Path(told["destination"]) / "adapter_model.safetensors").is_file()
    again = command(f"checkpoint download {service.kept.sampler} -o {tmp_path}")
    assert (again.exit_code, "force=True" in again.stderr) == (1, True)
    assert command(f"checkpoint download {service.kept.sampler} -o {tmp_path} --force").exit_code == 0


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_one_is_put_on_the_hub(
    command: Command, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        line = (
            f"checkpoint push-hf {service.kept.sampler} --repo me/fox --allow-pattern *.json --no-model-card"
        )
        result = command(line)
        assert result.exit_code == 0, result.output
        assert "repository: me/fox\nrevision: main\npublic: no\n" in result.stdout
        assert hub.files("me/fox").keys() == {"adapter_config.json"}
        assert TOKEN not in result.output


def test_without_a_token_of_the_hub_it_is_told_where_it_was_looked_for(
    command: Command, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", os.devnull)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    result = command(f"checkpoint push-hf {service.kept.sampler}")
    assert (result.exit_code, "HF_TOKEN" in result.stderr) == (1, True)


def test_weights_of_a_new_adapter_and_of_training_state_are_saved(command: Command, tmp_path: Path) -> None:
    saved = []
    with RestService(tmp_path / "data", entries=0) as fresh:
        with ta.ServiceClient(base_url=fresh.url, api_key=KEY) as client:
            training = client.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
            state = training.save_state("state").result(WAIT_S).path
        for source in ("--base-model local/tiny --rank 4 --seed 1", f"--model-path {state}"):
            line = f"checkpoint save {source} --name kept -o saved.json --base-url {fresh.url}"
            result = command(line)
            assert result.exit_code == 0, result.output
            told = json.loads((tmp_path / "saved.json").read_text())
            assert result.stdout == f"{told['weights_path']}\n"
            assert told["weights_path"] == f"tinker://{told['model_id']}/sampler_weights/kept"
            assert told["base_model"] == "local/tiny"
            saved.append(told["weights_path"])
        with ta.RestClient(base_url=fresh.url, api_key=KEY) as rest:
            kept = [one.tinker_path for one in rest.iter_user_checkpoints()]
        assert {path for path in kept if training.model_id not in path} == set(saved)  # and no others
    assert len(set(saved)) == 2
    assert command("checkpoint save -o x").exit_code == 2


# Runs, sessions, models


def test_runs_are_listed_in_the_columns_asked_for(command: Command, service: RestService) -> None:
    lines = command("run list --columns id,status,checkpoint --limit 0").stdout.splitlines()
    assert lines[0].strip().startswith("training runs")
    assert lines[1].split() == ["id", "status", "checkpoint"]
    assert [service.kept.run, "Active", "step-1"] in [line.split() for line in lines[2:]]
    assert command("run list --columns id,size").exit_code == 2


def test_a_page_of_runs_is_asked_for_as_one(command: Command, service: RestService) -> None:
    told = document(command("run list --limit 2 --offset 1 --access-scope accessible -f json"))
    assert (told["shown"], len(told["training_runs"])) == (2, 2)
    assert service.targets == ["GET training_runs?limit=2&offset=1&access_scope=accessible"]


def test_a_run_that_the_service_gave_up_has_failed(command: Command, service: RestService) -> None:
    run = {
        "training_run_id": "r",
        "base_model": "m",
        "model_owner": "me",
        "is_lora": True,
        "lora_rank": 8,
        "corrupted": True,
        "last_request_time": datetime.now(UTC).isoformat(),
    }
    service.scripted.append(JSONResponse(run))
    facts = command("run info r").stdout
    assert "status: Failed\nupdated: just now\n" in facts
    assert "last checkpoint" not in facts


def test_all_that_is_known_of_a_run_is_told(command: Command, service: RestService) -> None:
    facts = command(f"run info {service.kept.run}").stdout
    assert f"last checkpoint: {service.kept.training}, saved " in facts
    assert "user metadata: {'recipe_name': 'pig-latin'}\n" in facts


def test_sessions_are_listed(command: Command, service: RestService) -> None:
    told = document(command("session list --limit 2 -f json"))
    assert len(told["sessions"]) == 2
    assert service.targets == ["GET sessions?limit=2&offset=0&access_scope=owned"]
    assert service.kept.session in command("session list --limit 99").stdout


def test_a_trace_is_fetched_or_its_place_told(command: Command, service: RestService, tmp_path: Path) -> None:
    name = service.kept.session
    assert command(f"session export-trace {name} --url-only").stdout.startswith("url: http://127.0.0.1:")
    told = document(command(f"session export-trace {name} -f json"))
    assert json.loads((tmp_path / told["destination"]).read_text())
    again = command(f"session export-trace {name}")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


def test_models_are_listed_by_a_part_of_their_name(command: Command) -> None:
    offered = document(command("model list tiny -f json"))["models"]
    assert [one["model_name"] for one in offered] == ["local/tiny"]
    assert "local/small" in command("model list").stdout


# The key, and what is installed


def test_a_key_that_does_not_say_whose_it_is(command: Command, service: RestService) -> None:
    result = command("whoami")
    assert (result.exit_code, KEY in result.output) == (1, False)
    assert "whoami reads the claims of a JWT" in result.stderr
    assert service.seen == []


def test_a_key_that_says_whose_it_is() -> None:
    claims = {"iss": "passport-x", "sub": "urn:me", "org_id": "urn:us", "email": "me@example.org"}
    payload = base64.urlsafe_b64encode(json.dumps({**claims, "exp": 4_000_000_000}).encode()).rstrip(b"=")
    key = f"eyJhbGciOiJub25lIn0.{payload.decode()}.signature"
    result = CliRunner(env={"TINKER_BASE_URL": "http://nowhere.invalid", "TINKER_API_KEY": key}).invoke(
        commands, ["whoami"]
    )
    assert result.stdout == "user: urn:me\norganization: tml:organization:urn:us\nemail: me@example.org\n"


def test_listing_the_commands_imports_nothing_heavy() -> None:
    program = "import sys, tinker_actors.cli.commands as c; c.commands.list_commands(None);"
    program += "print([n for n in ('numpy', 'httpx', 'rich', 'msgspec', 'tinker_actors.clients.service') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_version_is_told_alone_and_with_what_it_runs_on(command: Command) -> None:
    (told,) = command("version").stdout.splitlines()
    assert command("--version").stdout.split()[-1] == told.split()[-1]
    with_parts = document(command("version --deps --json"))
    assert with_parts["version"] == told.split()[-1]
    assert with_parts["numpy"].count(".") == 2


# Samples


@pytest.fixture
def greedy(command: Command) -> Command:
    def greedy(*more: str) -> Result:
        return command("sample --base-model local/tiny --max-tokens 3 --temperature 0", *more)

    return greedy


def test_text_is_sampled_with_how_likely_it_was(greedy: Command) -> None:
    told = greedy("--prompt", "hello", "-n", "2")
    assert told.exit_code == 0, told.output
    assert told.stdout.count("(length, -") == 2


def test_prompts_may_be_texts_or_token_ids_in_a_file(greedy: Command, tmp_path: Path) -> None:
    tokens = list(b"hello")
    answers = []
    for content in ("hello", json.dumps(tokens), json.dumps({"tokens": tokens})):
        (tmp_path / "prompt").write_text(content)
        answers.append(document(greedy("--prompt-file", "prompt", "--json"))["samples"])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0][0]["tokens"]) == len(answers[0][0]["logprobs"]) == 3


def test_samples_are_written_to_a_file(greedy: Command, tmp_path: Path) -> None:
    assert greedy("--prompt", "hello", "-o", str(tmp_path / "out")).stdout == ""
    assert "nats a token" in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "sample --prompt x",
        "sample --base-model a --model-path tinker://b/sampler_weights/c --prompt x",
        "sample --base-model a",
        "sample --base-model a --prompt x --prompt-file y",
    ],
)
def test_what_is_to_be_sampled_must_be_clear(command: Command, service: RestService, line: str) -> None:
    assert (command(line).exit_code, service.seen) == (2, [])


def test_bytes_that_are_no_text_are_no_prompt(greedy: Command, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe")
    result = greedy("--prompt-file", "prompt")
    assert (result.exit_code, "a prompt is a text" in result.stderr) == (1, True)


# Failures


def test_without_a_key_it_is_told_where_one_comes_from(
    service: RestService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner(env={"TINKER_BASE_URL": service.url}).invoke(commands, ["run", "list"])
    assert (result.exit_code, "TINKER_API_KEY" in result.stderr) == (1, True)


def test_a_refusal_of_the_service_is_one_line(command: Command, service: RestService) -> None:
    service.scripted.append(JSONResponse({"detail": "not yours"}, 403))
    result = command("run info r")
    assert (result.exit_code, result.stderr) == (1, "Error: the service answered 403: not yours\n")


def test_a_service_that_does_not_answer_is_given_up_in_time(command: Command) -> None:
    result = command("run list --base-url http://127.0.0.1:9 --timeout 0.2")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "0.2 s" in result.stderr
    assert command("run list --timeout 0").exit_code == 2


def test_the_embedded_server_of_a_program_is_no_service_to_ask(command: Command) -> None:
    result = command("run list --base-url local")
    assert (result.exit_code, "tinker-actors serve" in result.stderr) == (1, True)
