"""A Hugging Face hub on loopback, in memory: model repositories, branches, pull requests and large files.

`python tests/support/fake_hub.py` serves one until Ctrl-C, and prints the variables that point at it.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

__all__ = ["TOKEN", "FakeHub", "Repository"]

TOKEN = "hf_" + "secret" * 4
USER = "somebody"
LARGE = re.compile(r".*\.(safetensors|bin)$")
"""What is no part of a commit, but uploaded on its own."""

Files = dict[str, bytes]


class Repository:
    """A model's, with the files at the tip of each branch."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.branches: dict[str, Files] = {"main": {}}
        self.pulls: list[Files] = []
        """What each pull request adds."""
        self.messages: list[str] = []
        """Of all commits."""


class _Answer(NamedTuple):
    status: int = 200
    document: Any = None
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


_TOLD = {"error": "as told", "name": USER, "errors": [], "warnings": []}
"""Of a failure; the answer about a token, too, when its status is 200."""
_Route = Callable[..., _Answer]


class FakeHub:
    """The hub, for a `with` block."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        """Method and path of each request."""
        self.tokens: set[str | None] = set()
        """Which came along, of requests that are answered by the hub itself."""
        self.failures: dict[str, int] = {}
        """Pattern of "METHOD path" -> the status to answer with; 0 hangs up."""
        self.failed: Callable[[], object] = lambda: None
        """Called before each of those."""
        self._large: dict[str, bytes] = {}
        self._routes: list[tuple[re.Pattern[str], _Route]] = [
            (re.compile(pattern), route)
            for pattern, route in (
                (r"GET /api/whoami-v2", self._whoami),
                (r"POST /api/repos/create", self._create),
                (r"POST /api/validate-yaml", self._validate),
                (r"GET /api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
                (r"POST /api/models/([^/]+/[^/]+)/branch/([^/]+)", self._branch),
                (r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
                (r"POST /api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
                (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
                (r"PUT /large/(\w+)", self._put),
                (r"POST /verify", self._verify),
                (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            )
        ]
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                hub._serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo_id: str, revision: str = "main") -> Files:
        """What lies at the tip of a branch."""
        return self.repositories[repo_id].branches[revision]

    # Requests ------------------------------------------------------------------------------------

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        place = f"{request.command} {parts.path}"
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        self.asked.append(place)
        status = next((told for pattern, told in self.failures.items() if re.fullmatch(pattern, place)), None)
        request.close_connection = True
        if status is not None:
            self.failed()
        if status == 0:
            return
        answer = _Answer(status, _TOLD) if status else self._answer(request, place, parts, body)
        content = answer.body if answer.document is None else json.dumps(answer.document).encode()
        request.send_response(answer.status)
        for key, value in {**answer.headers, "content-length": str(len(content))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def _answer(self, request: BaseHTTPRequestHandler, place: str, parts: Any, body: bytes) -> _Answer:
        if not parts.path.startswith("/large/"):  # a signed URL is all the permission there is
            given = request.headers.get("authorization")
            self.tokens.add(given)
            if given != f"Bearer {TOKEN}":
                return _Answer(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, route in self._routes:
            if found := pattern.fullmatch(place):
                groups = [None if group is None else unquote(group) for group in found.groups()]
                return route(*groups, query=parts.query, body=body)
        return _Answer(404, {"error": f"no route {place}"})

    # Repositories --------------------------------------------------------------------------------

    def _whoami(self, **_: Any) -> _Answer:
        return _Answer(document={"type": "user", "name": USER, "orgs": []})

    def _create(self, *, body: bytes, **_: Any) -> _Answer:
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        is_new = name not in self.repositories
        private = asked.get("private", asked.get("visibility") == "private")
        self.repositories.setdefault(name, Repository(private=private))
        return _Answer(200 if is_new else 409, {"url": f"{self.url}/{name}"})

    def _info(self, repo_id: str, revision: str | None, **_: Any) -> _Answer:
        if repo_id not in self.repositories:
            return _Answer(404, {"error": "Repository not found"}, headers={"X-Error-Code": "RepoNotFound"})
        repository = self.repositories[repo_id]
        if revision is not None and revision not in repository.branches:
            return _Answer(404, {"error": "no such revision"}, headers={"X-Error-Code": "RevisionNotFound"})
        return _Answer(document={"id": repo_id, "private": repository.private, "sha": "a" * 40})

    def _branch(self, repo_id: str, branch: str, **_: Any) -> _Answer:
        branches = self.repositories[repo_id].branches
        if branch in branches:
            return _Answer(409, {"error": "Reference already exists"})
        branches[branch] = dict(branches["main"])
        return _Answer(document={})

    def _resolve(self, repo_id: str, revision: str, name: str, **_: Any) -> _Answer:
        files = self.repositories[repo_id].branches.get(revision)
        if files is None or name not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            return _Answer(404, headers={"X-Error-Code": code, "X-Repo-Commit": "a" * 40})
        etag = hashlib.sha256(files[name]).hexdigest()
        return _Answer(body=files[name], headers={"ETag": f'"{etag}"', "X-Repo-Commit": "a" * 40})

    # Commits -------------------------------------------------------------------------------------

    def _validate(self, *, body: bytes, **_: Any) -> _Answer:
        if not json.loads(body)["content"].startswith("---\n"):
            return _Answer(400, {"errors": [{"message": "no metadata"}], "warnings": []})
        return _Answer(document={"errors": [], "warnings": []})

    def _preupload(self, _repo_id: str, _revision: str, *, body: bytes, **_: Any) -> _Answer:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if LARGE.match(file["path"]) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return _Answer(document={"files": modes})

    def _batch(self, _repo_id: str, *, body: bytes, **_: Any) -> _Answer:
        objects = []
        for wanted in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.url}/large/{wanted['oid']}?signature=signed"},
                "verify": {"href": f"{self.url}/verify"},
            }
            objects.append({**wanted, **({} if wanted["oid"] in self._large else {"actions": actions})})
        return _Answer(document={"transfer": "basic", "objects": objects})

    def _put(self, oid: str, *, body: bytes, **_: Any) -> _Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return _Answer(400, {"error": "another checksum"})
        self._large[oid] = body
        return _Answer()

    def _verify(self, *, body: bytes, **_: Any) -> _Answer:
        told = json.loads(body)
        is_whole = len(self._large.get(told["oid"], b"")) == told["size"]
        return _Answer(200 if is_whole else 404, {})

    def _commit(self, repo_id: str, revision: str, *, query: str, body: bytes) -> _Answer:
        repository, is_pull = self.repositories[repo_id], "create_pr=1" in query
        files: Files = {}
        if is_pull:
            repository.pulls.append(files)
        else:
            files = repository.branches[revision]
        for line in map(json.loads, body.splitlines()):
            match line:
                case {"key": "header", "value": value}:
                    repository.messages.append(value["summary"])
                case {"key": "file", "value": value}:
                    files[value["path"]] = base64.b64decode(value["content"])
                case {"key": "lfsFile", "value": value}:
                    files[value["path"]] = self._large[value["oid"]]
        document = {"commitUrl": f"{self.url}/{repo_id}/commit/{'a' * 40}", "commitOid": "a" * 40}
        pull = {"pullRequestUrl": f"{self.url}/{repo_id}/discussions/{len(repository.pulls)}"}
        return _Answer(document={**document, **(pull if is_pull else {})})


if __name__ == "__main__":
    with FakeHub() as served:
        sys.stdout.write(f"export HF_ENDPOINT={served.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write(f"{sorted(served.repositories)}\n")
