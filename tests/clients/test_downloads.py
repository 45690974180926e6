"""Checkpoints on disk: whole or not at all, gone on with where they broke off, and nothing written elsewhere."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest
from harness import ADAM, BATCHES, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.download import Download, Sources
from tinker_actors.errors import APIConnectionError, APIStatusError, APITimeoutError, ValidationError
from tinker_actors.types import CheckpointPath
from tinker_actors.wire import download as fetching
from tinker_actors.wire.download import Bounds, Expired, Fetcher, safe_name, unpack

ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
BODY = bytes(range(256)) * 20_000
EXPORT = CheckpointPath.parse("tinker://run/external_weights/export")


class Files:
    """A server of files, whose behaviour a test sets; what it was asked is kept."""

    def __init__(self, protocol: str = "HTTP/1.1") -> None:
        self.body = BODY
        self.break_after: list[int] = []
        """How many bytes each of the next answers has."""
        self.statuses: list[int] = []
        """Of the next answers."""
        self.serves_parts = True
        self.cuts_up = False
        """Whether bodies come in chunks, without their length."""
        self.stalls_after: int | None = None
        """The file's byte at which nothing more comes, and the connection stays."""
        self.etag = '"1"'
        self._goes_on = Event()
        self.asked: list[tuple[str, str | None]] = []
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = protocol

            def do_GET(self) -> None:
                files.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        span = request.headers.get("range")
        self.asked.append((request.path, span))
        status = self.statuses.pop(0) if self.statuses else 200
        start = 0
        is_same = request.headers.get("if-range") in (None, self.etag)
        if status == 200 and span is not None and self.serves_parts and is_same:
            start, status = int(span.removeprefix("bytes=").rstrip("-")), 206
        body = self.body[start:] if status < 300 else b"no"
        is_packed = status == 200 and "gzip" in request.headers.get("accept-encoding", "")
        if is_packed:
            body = gzip.compress(body)
        if status == 206 and start >= len(self.body):
            status, body = 416, b""
        request.send_response(status)
        if self.cuts_up:
            request.send_header("transfer-encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            request.send_header("content-length", str(len(body)))
        request.send_header("etag", self.etag)
        if is_packed:
            request.send_header("content-encoding", "gzip")
        if status in (206, 416):
            request.send_header("content-range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        request.end_headers()
        most = self.break_after.pop(0) if self.break_after and status < 300 else len(body)
        if self.stalls_after is not None:
            request.wfile.write(body[: max(0, self.stalls_after - start)])
            self._goes_on.wait(WAIT_S)
            return
        request.wfile.write(body[:most])
        request.close_connection = True

    def close(self) -> None:
        self._goes_on.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def files(request: pytest.FixtureRequest) -> Iterator[Files]:
    files = Files(getattr(request, "param", "HTTP/1.1"))
    yield files
    files.close()


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    fetcher = Fetcher(sleep=lambda _: None)
    yield fetcher
    fetcher.close()


# One file


@pytest.mark.parametrize("files", ["HTTP/1.0", "HTTP/1.1"], indirect=True)
def test_file_comes_as_it_is(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_file_of_any_size_comes_as_it_is(files: Files, fetcher: Fetcher, tmp_path: Path, size: int) -> None:
    files.body = BODY[:size]
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY[:size]


def test_file_that_is_cut_up_on_its_way_comes_as_it_is(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    files.cuts_up = True
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_server_that_stops_sending_is_left(
    monkeypatch: pytest.MonkeyPatch, files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    files.stalls_after = 1_000_000
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "READ_TIMEOUT_S", 0.05)
        impatient = Fetcher(sleep=lambda _: None)
        with closing(impatient), pytest.raises(APITimeoutError, match="5 times in a row: ReadTimeout"):
            impatient.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a.part").stat().st_size == 1_000_000
    files.stalls_after = None
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("files", ["HTTP/1.0", "HTTP/1.1"], indirect=True)
def test_file_that_breaks_off_is_gone_on_with(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    files.break_after = [1_000_000, 2_000_000]
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert [span for _, span in files.asked] == [None, "bytes=1000000-", "bytes=3000000-"]


def test_file_that_is_another_one_by_now_is_fetched_anew(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    files.break_after = [1_000_000]
    files.statuses = [200, 404]
    with pytest.raises(Expired):
        fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    files.body, files.etag = BODY[::-1], '"2"'
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY[::-1]


def test_server_that_sends_no_parts_sends_all_of_it_again(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    files.serves_parts, files.break_after = False, [1_000_000]
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_file_of_which_all_is_there_but_its_name_needs_no_byte(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    (tmp_path / "a.part").write_bytes(BODY)
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_file_that_never_comes_is_given_up(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    files.statuses = [503] * 20
    with pytest.raises(APIConnectionError, match=r"a broke off 5 times in a row: .*503"):
        fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_refusal_that_is_no_expiry_is_told(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    files.statuses = [400]
    with pytest.raises(APIStatusError):
        fetcher.fetch(f"{files.url}/a", tmp_path / "a")


def test_no_key_of_ours_goes_along(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    seen: list[str] = []
    answer = files.answer

    def note(request: BaseHTTPRequestHandler) -> None:
        seen.extend(name.lower() for name in request.headers)
        answer(request)

    files.answer = note  # type: ignore[method-assign]
    fetcher.fetch(f"{files.url}/a", tmp_path / "a")
    assert "x-api-key" not in seen
    assert "authorization" not in seen


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "a\0b", "..", ".", "a/.."]
)
def test_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="below the target"):
        safe_name(name)


# Archives


class Kind(NamedTuple):
    """What an entry is, if no file."""

    type: bytes


def archive(path: Path, *entries: tuple[str, Any], kind: str = "w:gz") -> Path:
    with tarfile.open(path, kind) as tar:  # type: ignore[call-overload]  # modes are strings
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if not isinstance(content, Kind):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content.type, "/etc/passwd"
                tar.addfile(entry)
    return path


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz"])
def test_archive_is_unpacked(tmp_path: Path, kind: str) -> None:
    entries = ("sub", Kind(tarfile.DIRTYPE)), ("sub/a", b"1"), ("b", b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    unpack(archive(tmp_path / "x", *entries, kind=kind), folder)
    assert (folder / "sub/a").read_bytes() + (folder / "b").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../a", b"1"),
        ("/a", b"1"),
        ("a/../../b", b"1"),
        ("link", Kind(tarfile.SYMTYPE)),
        ("hard", Kind(tarfile.LNKTYPE)),
        ("device", Kind(tarfile.CHRTYPE)),
        ("pipe", Kind(tarfile.FIFOTYPE)),
    ],
)
def test_hostile_archive_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    folder = tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(ValidationError):
        unpack(archive(tmp_path / "x", (name, content)), folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("bounds", [Bounds(most_bytes=100), Bounds(most_files=2)])
def test_archive_that_holds_too_much_is_refused(tmp_path: Path, bounds: Bounds) -> None:
    path = archive(tmp_path / "x", ("a", b"1" * 50), ("b", b"1" * 50), ("c", b"1"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValidationError, match="got more"):
        unpack(path, tmp_path / "folder", bounds)


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValidationError, match="a tar archive was wanted"):
        unpack(tmp_path / "x", tmp_path / "folder")


# A folder


def refuse(_path: str) -> Any:
    raise APIStatusError.of(404, "no such route")


def download(
    target: Path, files: Files, fetcher: Fetcher, *names: str, force: bool = False, **more: Any
) -> Download:
    urls = {name: f"{files.url}/{name}" for name in names}
    sources = Sources(files=lambda _: urls, archive=lambda _: f"{files.url}/archive", export=refuse)
    return Download(
        **{"path": EXPORT, "parallel": 2, **more},
        target=target,
        force=force,
        sources=sources,
        fetcher=fetcher,
    )


def test_folder_has_all_files_and_nothing_else(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    target = download(tmp_path / "out", files, fetcher, "a", "sub/b").run()
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "a",
        "sub/b",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_that_breaks_off_is_not_there_and_goes_on_the_next_time(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    files.statuses = [200] + [503] * 5
    with pytest.raises(APIConnectionError):
        download(tmp_path / "out", files, fetcher, "a", "b", parallel=1).run()
    assert not (tmp_path / "out").exists()
    files.statuses.clear()
    before = len(files.asked)
    download(tmp_path / "out", files, fetcher, "a", "b", parallel=1).run()
    assert [path for path, _ in files.asked[before:]] == ["/b"]


def test_url_that_runs_out_is_signed_again(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    files.statuses = [403, 200]
    download(tmp_path / "out", files, fetcher, "a").run()
    files.statuses = [403] * 20
    with pytest.raises(APIConnectionError, match="signed URLs of a"):
        download(tmp_path / "more", files, fetcher, "a").run()


def test_folder_that_is_there_is_replaced_only_by_a_complete_one(
    files: Files, fetcher: Fetcher, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("1")
    with pytest.raises(ValidationError, match="is there already; pass force=True"):
        download(target, files, fetcher, "a").run()
    files.statuses = [400]
    with pytest.raises(APIStatusError):
        download(target, files, fetcher, "a", force=True).run()
    assert (target / "mine").read_text() == "1"
    download(target, files, fetcher, "a", force=True).run()
    assert [path.name for path in target.iterdir()] == ["a"]


def test_server_that_names_files_elsewhere_is_refused(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="below the target"):
        download(tmp_path / "out", files, fetcher, "a", "../../x").run()
    assert files.asked == []


def test_hostile_archive_leaves_nothing_behind(files: Files, fetcher: Fetcher, tmp_path: Path) -> None:
    files.body = archive(tmp_path / "x", ("a", b"1"), ("../b", b"1")).read_bytes()
    (tmp_path / "x").unlink()
    path = CheckpointPath.parse("tinker://run/weights/state")
    with pytest.raises(ValidationError):
        download(tmp_path / "out", files, fetcher, path=path).run()
    assert list(tmp_path.iterdir()) == []


# The whole way


def trained(service: ta.ServiceClient) -> ta.TrainingClient:
    training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
    training.forward_backward(BATCHES[0], "cross_entropy")
    training.optim_step(ADAM).result(WAIT_S)
    return training


SAVES: dict[str, Callable[[ta.TrainingClient], Any]] = {
    "training state": lambda training: training.save_state("one"),
    "sampler weights": lambda training: training.save_weights_for_sampler("one"),
    "export": lambda training: training.save_weights_external("one"),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_each_kind_of_checkpoint_is_fetched(
    server: Server, tmp_path: Path, save: Callable[[ta.TrainingClient], Any]
) -> None:
    came: list[int] = []
    with client(server, None) as service:
        path = save(trained(service)).result(WAIT_S).path
        rest = service.create_rest_client()
        folder = rest.download_checkpoint(path, tmp_path, progress=came.append).result(WAIT_S)
    assert folder.parent == tmp_path
    assert {file.name for file in folder.iterdir()} >= ADAPTER
    assert came[-1] >= (folder / "adapter_model.safetensors").stat().st_size * 0.5


def test_training_state_is_exported_where_there_are_no_archives(server: Server, tmp_path: Path) -> None:
    with client(server, None) as service:
        path = trained(service).save_state("one").result(WAIT_S).path
        rest = service.create_rest_client()
        server.control.arm(
            {
                "effect": "status",
                "status": 404,
                "operation": "training_runs/*/checkpoints/*/archive",
                "count": "always",
            }
        )
        try:
            folder = rest.download_checkpoint(path, tmp_path).result(WAIT_S)
        finally:
            server.control.clear()
        assert {file.name for file in folder.iterdir()} >= ADAPTER
        kept = [one.tinker_path for one in rest.iter_user_checkpoints()]
    assert not [one for one in kept if "external_weights/download-" in one]


def test_checkpoint_that_is_not_there_is_said_so(server: Server, tmp_path: Path) -> None:
    with client(server, None) as service:
        rest = service.create_rest_client()
        with pytest.raises(ta.TinkerActorsError):
            rest.download_checkpoint("tinker://nobody/external_weights/x", tmp_path).result(WAIT_S)
        with pytest.raises(ValidationError, match="parallel_files"):
            rest.download_checkpoint("tinker://a/weights/x", tmp_path, parallel_files=0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tinker_path", None),
        ("tinker_path", "weights/a"),
        ("output_dir", 7),
        ("output_dir", b"folder"),
        ("output_dir", "a\0b"),
        ("force", "yes"),
        ("progress", 3),
        ("parallel_files", 1.5),
    ],
)
def test_wrong_argument_is_refused_before_anything_begins(server: Server, argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {"tinker_path": "tinker://a/weights/x", argument: value}
    with client(server, None) as service, pytest.raises(ValidationError):
        service.create_rest_client().download_checkpoint(**arguments)
