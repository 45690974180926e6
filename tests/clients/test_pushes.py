"""Adapters put on the Hugging Face hub: in one commit or not at all, in nobody's way, and without a word of the token."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import msgspec
import pytest
from fake_hub import TOKEN, FakeHub, Repository
from harness import ADAM, BATCHES, WAIT_S, Server, client
from huggingface_hub.utils._validators import validate_repo_id

import tinker_actors as ta
from tinker_actors.actors.adapters import foreign_paths, hub_name
from tinker_actors.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    ValidationError,
)
from tinker_actors.types import CheckpointPath, PushedAdapter

# The library warns of how it uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
COMMIT = "POST /api/models/.*/commit/.*"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", os.devnull)
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def service(server: Server) -> Iterator[ta.ServiceClient]:
    with client(server, None) as service:
        yield service


@pytest.fixture
def path(service: ta.ServiceClient) -> str:
    training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
    training.forward_backward(BATCHES[0], "cross_entropy")
    training.optim_step(ADAM)
    return str(training.save_weights_for_sampler("final").result(WAIT_S).path)


@pytest.fixture
def push(service: ta.ServiceClient, hub: FakeHub, path: str) -> Any:
    rest = service.create_rest_client()

    def push(repo_id: str | None = "me/fox", **more: Any) -> PushedAdapter:
        arguments = {"hf_token": TOKEN, "endpoint": hub.url, **more}
        return rest.push_checkpoint_adapter(path, repo_id, **arguments).result(WAIT_S)

    return push


def test_an_adapter_is_one_commit_of_a_private_repository(push: Any, hub: FakeHub, path: str) -> None:
    pushed = push()
    files = hub.files("me/fox")
    assert (pushed.repo_id, pushed.revision, pushed.public) == ("me/fox", "main", False)
    assert pushed.commit_url.startswith(f"{hub.url}/me/fox/commit/")
    assert pushed.pull_request_url is None
    assert files.keys() == FILES
    assert hub.repositories["me/fox"].private
    assert hub.repositories["me/fox"].messages == [f"Add the adapter of {path}"]
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_what_lies_on_the_hub_is_what_the_service_keeps(
    push: Any, hub: FakeHub, service: ta.ServiceClient, path: str, tmp_path: Path
) -> None:
    push()
    folder = service.create_rest_client().download_checkpoint(path, tmp_path).result(WAIT_S)
    name = "adapter_model.safetensors"
    assert hub.files("me/fox")[name] == (folder / name).read_bytes()


def test_a_card_says_where_the_adapter_comes_from(push: Any, hub: FakeHub, path: str) -> None:
    push()
    card = hub.files("me/fox")["README.md"].decode()
    head = huggingface_hub.ModelCard(card).data
    assert (head.get("base_model"), head.get("library_name")) == ("local/tiny", "peft")
    assert head.get("tinker_path") == path
    assert "- LoRA rank: 4\n- Trained parts: attention, MLP, unembedding\n" in card
    config = msgspec.json.decode(hub.files("me/fox")["adapter_config.json"])
    assert config["base_model_name_or_path"] == "local/tiny"


def test_without_a_name_the_repository_is_the_runs_and_the_branch_the_checkpoints(
    push: Any, hub: FakeHub, path: str
) -> None:
    pushed = push(None)
    run = hub_name(CheckpointPath.parse(path).training_run_id)
    assert (pushed.repo_id, pushed.revision) == (f"somebody/tinker-tiny-{run}", "final")
    assert hub.files(pushed.repo_id) == {}
    assert hub.files(pushed.repo_id, "final").keys() == FILES


def test_a_repository_that_is_there_is_added_to(push: Any, hub: FakeHub) -> None:
    hub.repositories["me/fox"] = Repository(private=True)
    hub.files("me/fox")["notes.md"] = b"mine"
    push(commit_message="Second try")
    push(revision="next")
    assert hub.files("me/fox").keys() == FILES | {"notes.md"}
    assert hub.files("me/fox", "next").keys() == FILES | {"notes.md"}
    assert hub.repositories["me/fox"].messages[0] == "Second try"


def test_a_pull_request_changes_no_branch(push: Any, hub: FakeHub) -> None:
    hub.repositories["me/fox"] = Repository(private=False)
    pushed = push(create_pr=True, public=True)
    assert pushed.pull_request_url == f"{hub.url}/me/fox/discussions/1"
    assert hub.files("me/fox") == {}
    assert hub.repositories["me/fox"].pulls[0].keys() == FILES


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ({"allow_patterns": ["*.json"]}, {"adapter_config.json"}),
        ({"ignore_patterns": ["README*"]}, FILES - {"README.md"}),
        ({"allow_patterns": ["adapter_*"], "ignore_patterns": ["*.json"]}, {"adapter_model.safetensors"}),
        ({"add_model_card": False}, FILES - {"README.md"}),
    ],
)
def test_patterns_choose_the_files(push: Any, hub: FakeHub, patterns: Any, wanted: set[str]) -> None:
    push(**patterns)
    assert hub.files("me/fox").keys() == wanted


def test_patterns_that_leave_nothing_are_refused_before_anything_is_created(push: Any, hub: FakeHub) -> None:
    with pytest.raises(ValidationError, match=r"leave no file .* adapter_model\.safetensors"):
        push(allow_patterns=["*.txt"])
    assert hub.repositories == {}


def test_the_adapter_of_another_run_is_not_overwritten_unless_that_is_meant(push: Any, hub: FakeHub) -> None:
    hub.repositories["me/fox"] = Repository(private=True)
    hub.files("me/fox")["README.md"] = b"---\ntinker_path: tinker://other/sampler_weights/a\n---\n"
    with pytest.raises(
        ValidationError, match=r"another run, tinker://other/sampler_weights/a; .* force=True"
    ):
        push()
    assert hub.repositories["me/fox"].messages == []
    push(force=True)
    assert b"tinker://other" not in hub.files("me/fox")["README.md"]


def test_a_later_checkpoint_of_the_run_takes_the_earlier_ones_place(push: Any, hub: FakeHub) -> None:
    push()
    push(commit_message="Again")
    assert hub.repositories["me/fox"].messages[-1] == "Again"


def test_what_is_private_is_not_put_where_everybody_can_read_it(push: Any, hub: FakeHub) -> None:
    hub.repositories["me/fox"] = Repository(private=False)
    with pytest.raises(ValidationError, match=r"everybody can read me/fox; .*public=True"):
        push()
    assert hub.files("me/fox") == {}
    assert push(public=True).public


# Failures


@pytest.mark.parametrize(
    ("failing", "status", "kind"),
    [
        ("GET /api/whoami-v2", 401, AuthenticationError),
        ("POST /api/repos/create", 403, PermissionDeniedError),
        ("POST .*/preupload/.*", 404, NotFoundError),
        ("POST .*/objects/batch", 403, PermissionDeniedError),
        ("PUT /large/.*", 403, PermissionDeniedError),
        ("PUT /large/.*", 0, APIConnectionError),
        ("POST /verify", 404, NotFoundError),
        ("POST /api/validate-yaml", 400, BadRequestError),
        (COMMIT, 409, ConflictError),
        (COMMIT, 503, APIStatusError),
        (COMMIT, 0, APIConnectionError),
    ],
)
def test_a_refusal_is_a_typed_error_and_nothing_is_committed(
    push: Any, hub: FakeHub, failing: str, status: int, kind: type[Exception]
) -> None:
    hub.failures[failing] = status
    with pytest.raises(kind, match="the Hugging Face hub was asked") as caught:
        push()
    assert all(not one.messages for one in hub.repositories.values())
    assert TOKEN not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert "signature" not in str(caught.value)
    assert type(pickle.loads(pickle.dumps(caught.value))) is kind or kind is APIStatusError  # noqa: S301 - our own
    hub.failures.clear()
    assert push().repo_id == "me/fox"


def test_an_upload_that_breaks_off_once_is_repeated(push: Any, hub: FakeHub) -> None:
    hub.failures["PUT /large/.*"] = 500
    hub.failed = hub.failures.clear
    push()
    assert sum(one.startswith("PUT /large/") for one in hub.asked) == 2
    assert hub.files("me/fox").keys() == FILES


def test_an_upload_by_the_hubs_own_protocol_that_is_refused_is_a_typed_error(
    push: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(ta.TinkerActorsError, match="the Hugging Face hub was asked to take 3 files"):
        push()
    assert not any("/large/" in one for one in hub.asked)
    assert hub.files("me/fox") == {}


def test_a_token_that_is_no_good_is_told_before_anything_is_fetched(push: Any, hub: FakeHub) -> None:
    with pytest.raises(AuthenticationError, match="answered 401"):
        push(hf_token="hf_wrong")  # noqa: S106 - that is the point
    assert hub.asked == ["GET /api/whoami-v2"]


def test_the_token_of_the_hubs_tools_is_taken(
    push: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"hf_token, HF_TOKEN, HUGGING_FACE_HUB_TOKEN"):
        push(hf_token=None)
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(hf_token=None).repo_id == "me/fox"


def test_offline_is_said_so(push: Any, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(APIConnectionError, match="HF_HUB_OFFLINE forbids that"):
        push()
    assert hub.asked == []


def test_a_hub_that_is_not_there_is_a_connection_error(push: Any) -> None:
    with pytest.raises(APIConnectionError, match="who the token belongs to"):
        push(endpoint="http://127.0.0.1:1")


def test_a_name_that_no_repository_can_have_is_told(push: Any, hub: FakeHub) -> None:
    with pytest.raises(ValidationError, match="a/b/c"):
        push("a/b/c")
    assert hub.repositories == {}


def test_a_checkpoint_that_is_not_there_is_the_services_error(
    service: ta.ServiceClient, hub: FakeHub
) -> None:
    rest = service.create_rest_client()
    with pytest.raises(NotFoundError, match="the service answered 404"):
        rest.push_checkpoint_adapter(
            "tinker://nobody/sampler_weights/x", "me/fox", hf_token=TOKEN, endpoint=hub.url
        ).result(WAIT_S)
    assert hub.repositories == {}


def test_a_push_that_is_cancelled_adds_nothing(service: ta.ServiceClient, hub: FakeHub, path: str) -> None:
    came, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        came.set()
        go_on.wait(WAIT_S)

    hub.failed = hold
    hub.failures["GET /api/whoami-v2"] = 200
    future = service.create_rest_client().push_checkpoint_adapter(
        path, "me/fox", hf_token=TOKEN, endpoint=hub.url
    )
    future.add_done_callback(lambda _: over.set())
    assert came.wait(WAIT_S)
    assert future.cancel()
    go_on.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "adapter-push"]
    thread.join(WAIT_S)
    assert over.is_set()
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tinker_path", "weights/a"),
        ("repo_id", ""),
        ("revision", 3),
        ("public", "yes"),
        ("commit_message", ""),
        ("allow_patterns", "*.json"),
        ("ignore_patterns", [3]),
        ("add_model_card", None),
        ("hf_token", 7),
        ("endpoint", ""),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_begins(
    service: ta.ServiceClient, argument: str, value: Any
) -> None:
    arguments: dict[str, Any] = {"tinker_path": "tinker://a/sampler_weights/x", argument: value}
    with pytest.raises(ValidationError):
        service.create_rest_client().push_checkpoint_adapter(**arguments)


def test_a_pull_request_is_for_the_main_branch(service: ta.ServiceClient) -> None:
    rest = service.create_rest_client()
    with pytest.raises(ValidationError, match="leave one of them out"):
        rest.push_checkpoint_adapter("tinker://a/sampler_weights/x", create_pr=True, revision="next")


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tinker-tiny-abc:train:0", "tinker-tiny-abc-train-0"),
        ("a--b..c", "a-b.c"),
        ("-.x.git", "x"),
        ("ä/ö", "adapter"),
        ("x" * 200, "x" * 96),
    ],
)
def test_names_are_such_as_the_hub_takes(text: str, name: str) -> None:
    assert hub_name(text) == name
    validate_repo_id(name)


def test_only_the_paths_of_other_runs_are_foreign() -> None:
    path = CheckpointPath.parse("tinker://mine/weights/b")
    assert foreign_paths("from `tinker://mine/weights/a`", path) == []
    assert foreign_paths("from `tinker://mine2/weights/a`.", path) == ["tinker://mine2/weights/a"]
    assert foreign_paths("no path", path) == []
