"""Tokenizers from the Hugging Face hub, against its endpoints on loopback."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from model_directories import write_model, write_rank_tokenizer

from tinker_actors.clients.vocabulary import Vocabulary
from tinker_actors.errors import APIConnectionError, ValidationError
from tinker_actors.tokenization import Tokenizer, get_tokenizer, loading, tokenizer_at_hand, tokenizer_id_of

COMMIT = "a" * 40


class Hub:
    """Gives out the files of one directory as any repository of `org`."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                if "/tree/" in self.path:
                    self._list()
                else:
                    self._answer(with_body=True)

            def _list(self) -> None:
                repository, _, rest = self.path.removeprefix("/api/models/").partition("/tree/")
                revision, _, folder = rest.partition("?")[0].partition("/")
                hub.asked.append(f"LIST {repository}@{revision} {folder}")
                files = sorted((directory / folder).glob("*"))
                entries = [
                    {"type": "file", "oid": "0", "size": file.stat().st_size, "path": f"{folder}/{file.name}"}
                    for file in files
                ]
                body = json.dumps(entries if files else {"error": "none"}).encode()
                self.send_response(200 if files else 404)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/json")
                if not files:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                self.wfile.write(body)

            def _answer(self, *, with_body: bool) -> None:
                repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                hub.asked.append(f"{self.command} {repository}@{revision} {name}")
                file = directory / name
                is_there = not repository.endswith("/none") and file.is_file() and name != "model.safetensors"
                body = file.read_bytes() if is_there else b""
                self.send_response(200 if is_there else 404)
                code = "RepoNotFound" if repository.endswith("/none") else "EntryNotFound"
                headers = (
                    {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'} if is_there else {"X-Error-Code": code}
                )
                for key, value in {
                    **headers,
                    "X-Repo-Commit": COMMIT,
                    "Content-Length": str(len(body)),
                }.items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    write_model(tmp_path / "files")
    hub = Hub(tmp_path / "files")
    monkeypatch.setattr(loading, "_loaded", loading._Loaded())
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    here = partial(huggingface_hub.hf_hub_download, endpoint=hub.url, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", here)
    yield hub
    hub.close()


def test_a_name_is_a_repository_on_the_hub(hub: Hub) -> None:
    tokenizer = get_tokenizer("org/model")
    assert tokenizer.encode("the fox </s>") == [3, 6, 1]
    assert (tokenizer.vocab_size, get_tokenizer("org/model") is tokenizer) == (40, True)
    assert "GET org/model@main tokenizer.json" in hub.asked
    assert not any("safetensors" in one for one in hub.asked)


def test_revisions_are_tokenizers_of_their_own(hub: Hub) -> None:
    assert get_tokenizer("org/model", revision="v2") is not get_tokenizer("org/model")
    assert any("org/model@v2 " in one for one in hub.asked)


def test_the_tokenizer_of_llama_3_is_asked_for_where_it_is_open(hub: Hub) -> None:
    get_tokenizer("meta-llama/Llama-3.1-8B-Instruct")
    repository = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
    assert {one.split()[1].partition("@")[0] for one in hub.asked} == {repository}


def test_all_files_are_those_of_one_commit(hub: Hub) -> None:
    """A branch may move while they are downloaded."""
    get_tokenizer("org/model", revision="v2")
    revisions = [one.split()[1].partition("@")[2] for one in hub.asked]
    vocabulary = sum(one.endswith(" tokenizer.json") for one in hub.asked)
    assert revisions == ["v2"] * vocabulary + [COMMIT] * (len(revisions) - vocabulary)


@pytest.mark.parametrize(
    ("model", "revision"),
    [
        ("moonshotai/Kimi-K2-Thinking", "612681931a8c906ddb349f8ad0f582cb552189cd"),
        ("moonshotai/Kimi-K2.5-Text-Only", "4d01dfe0332d63057c186e0b262165819efb6611"),
        ("moonshotai/Kimi-K3", "f831ab66814297da540d832a5235f8e904f29d06"),
    ],
)
def test_revisions_that_the_official_sdk_pins_are_asked_for(hub: Hub, model: str, revision: str) -> None:
    get_tokenizer(model)
    assert hub.asked[0].split()[1].partition("@")[2] == revision


def test_a_revision_asked_for_goes_before_a_pinned_one(hub: Hub) -> None:
    get_tokenizer("moonshotai/Kimi-K3", revision="v2")
    assert hub.asked[0].split()[1].partition("@")[2] == "v2"


def test_a_repository_of_ranks_is_read_without_its_code(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "files" / "tokenizer.json").unlink()
    (tmp_path / "files" / "tokenization_kimi.py").write_text("raise SystemExit")
    first = write_rank_tokenizer(tmp_path / "files", chat_template="{{ eos_token }}the")
    tokenizer = get_tokenizer("moonshotai/Kimi-K2-Instruct")
    assert tokenizer.apply_chat_template([{"role": "user"}]) == [first + 1, 257]
    assert not any(one.endswith(".py") for one in hub.asked)


def test_ranks_that_were_downloaded_once_need_no_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files" / "tokenizer.json").unlink()
    write_rank_tokenizer(tmp_path / "files")
    get_tokenizer("moonshotai/Kimi-K2-Instruct")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "_loaded", loading._Loaded())
    assert get_tokenizer("moonshotai/Kimi-K2-Instruct").encode("the") == [257]
    assert hub.asked


def test_a_chat_template_in_a_file_of_its_own_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "files" / "chat_template.jinja").write_text("the {{ messages[0].role }}")
    assert get_tokenizer("org/model").apply_chat_template([{"role": "fox"}]) == [3, 6]
    assert f"GET org/model@{COMMIT} chat_template.jinja" in hub.asked
    assert f"LIST org/model@{COMMIT} additional_chat_templates" in hub.asked


def test_templates_of_other_names_are_downloaded_where_there_is_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files" / "chat_template.jinja").write_text("the")
    (tmp_path / "files" / "additional_chat_templates").mkdir()
    (tmp_path / "files" / "additional_chat_templates" / "tool_use.jinja").write_text("fox")
    (tmp_path / "files" / "additional_chat_templates" / "README.md").write_text("quick")
    assert get_tokenizer("org/model", revision="v2").chat_templates == {"default": "the", "tool_use": "fox"}
    assert not any(one.endswith("README.md") for one in hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "_loaded", loading._Loaded())
    assert set(get_tokenizer("org/model", revision="v2").chat_templates) == {"default", "tool_use"}


def test_a_repository_without_a_template_is_not_asked_for_others(hub: Hub) -> None:
    get_tokenizer("org/model")
    assert not any(one.startswith("LIST") for one in hub.asked)


def test_a_repository_without_a_vocabulary_is_told_so(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "files" / "tokenizer.json").unlink()
    with pytest.raises(
        ValidationError, match=r"its repository has no tokenizer\.json and no tiktoken\.model"
    ):
        get_tokenizer("org/model")
    assert hub.asked


@pytest.mark.usefixtures("hub")
def test_what_was_downloaded_once_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    get_tokenizer("org/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "_loaded", loading._Loaded())
    assert get_tokenizer("org/model").encode("the") == [3]


def test_many_threads_load_it_once(hub: Hub) -> None:
    found: list[Tokenizer] = []
    threads = [threading.Thread(target=lambda: found.append(get_tokenizer("org/model"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1
    assert len(found) == 20
    assert sum(one.startswith("GET") and one.endswith(" tokenizer.json") for one in hub.asked) == 1


def test_a_repository_that_is_not_there_is_an_error_that_is_not_remembered(hub: Hub) -> None:
    for _ in range(2):
        with pytest.raises(ValidationError, match=r"tokenizer of org/none .*HF_TOKEN"):
            get_tokenizer("org/none")
    assert len(hub.asked) >= 2


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_reached_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(APIConnectionError, match="absolute path"):
        get_tokenizer("org/model")


def test_checking_tokens_downloads_nothing(hub: Hub) -> None:
    assert (tokenizer_at_hand("org/model"), Vocabulary("org/model").size, hub.asked) == (None, None, [])
    get_tokenizer("org/model")
    assert Vocabulary("org/model").size == 40


@pytest.mark.parametrize(
    ("model", "given", "wanted"),
    [
        ("org/model", None, "org/model"),
        ("org/model:rev", None, "org/model"),
        ("org/model/variant", None, "org/model"),
        ("meta-llama/Llama-3.2-1B", None, "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"),
        ("meta-llama/Llama-3.2-1B", "org/other:rev", "org/other"),
        ("local/tiny", None, "local/tiny"),
        ("/a/b/c", None, "/a/b/c"),
        ("org/model", "local/tiny", "local/tiny"),
        ("moonshotai/Kimi-K2.5-Text-Only", None, "moonshotai/Kimi-K2.5"),
        ("org/model", "moonshotai/Kimi-K2.5-Text-Only", "moonshotai/Kimi-K2.5"),
    ],
)
def test_a_tokenizer_is_found_by_the_services_word_or_by_the_models_name(
    model: str, given: str | None, wanted: str
) -> None:
    assert tokenizer_id_of(model, given) == wanted
