"""Files behind signed URLs: streamed to disk, gone on with where they broke off, checked by their length.

Such a URL is all the permission there is: no key of ours goes along. What is here blocks; it runs on threads of its own.
"""

import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpcore
import httpx
import msgspec

from tinker_actors.errors import APIConnectionError, APIStatusError, APITimeoutError, ValidationError

__all__ = ["Bounds", "Expired", "Fetcher", "safe_name", "unpack"]

PIECE_BYTES = 2**18
"""Read at a time; with larger pieces the operating system clears more memory than it copies."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 60.0
TRIES = 5
"""Of one file, in a row without a byte."""
PAUSE_S = 1.0
_PARTIAL, _NO_SUCH_PART = 206, 416
_REFUSED = frozenset({401, 403, 404, 410})
_PART = ".part"
_SEAL = ".etag"


class Expired(Exception):  # noqa: N818 - what happened to the URL, no error of anybody's
    """The URL is not good any more; another one has to be asked for."""


def safe_name(name: str) -> PurePosixPath:
    """A file's name below some folder, as a server gives it.

    Raises:
        ValidationError: it would lie elsewhere.
    """
    path = PurePosixPath(name)
    is_inside = name and not path.is_absolute() and ".." not in path.parts and "\\" not in name
    if not is_inside or "\0" in name or not path.name:
        raise ValidationError(f"a file name below the target was wanted, got {name!r}; nothing was written")
    return path


class Fetcher:
    """Fetches files into a folder; thread-safe.

    Args:
        proxy: URL of a proxy; None leaves that to the environment.
        direct: go round proxies that the environment names.
        note: called with the number of bytes that came, which is negative when a file begins anew.
        is_cancelled: asked between two chunks.
        sleep: waits between two tries.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        direct: bool = False,
        note: Callable[[int], object] = lambda _: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.Client(
            proxy=proxy,
            trust_env=not direct,
            timeout=timeout,
            follow_redirects=True,
            headers={"accept": "*/*", "accept-encoding": "identity"},  # it is written as it comes
        )
        self._note = note
        self._is_cancelled = is_cancelled
        self._sleep = sleep

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def fetch(self, url: str, target: Path) -> None:
        """Fetch `url` into `target`, or the rest of it; what is there already is not fetched again.

        Raises:
            Expired: the URL is refused (401, 403, 404, 410).
            APIStatusError: another answer that is no success.
            APIConnectionError: it broke off too often without a byte in between.
            InterruptedError: it was cancelled.
        """
        if target.exists():
            return
        part = target.with_name(target.name + _PART)
        part.parent.mkdir(parents=True, exist_ok=True)
        tries = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                self._fetch_rest(url, part, before)
            except (httpx.HTTPError, httpcore.NetworkError, httpcore.TimeoutException, _Short) as error:
                came = (part.stat().st_size if part.exists() else 0) > before
                tries = 1 if came else tries + 1
                if tries >= TRIES:
                    what = f"{target.name} broke off {tries} times in a row: {type(error).__name__}: {error}"
                    is_late = isinstance(error, httpx.TimeoutException | httpcore.TimeoutException)
                    kind = APITimeoutError if is_late else APIConnectionError
                    raise kind(what) from error
                self._sleep(PAUSE_S * tries)
            else:
                part.with_name(part.name + _SEAL).unlink(missing_ok=True)
                part.rename(target)
                return

    def _fetch_rest(self, url: str, part: Path, have: int) -> None:
        seal = part.with_name(part.name + _SEAL)
        headers = {"range": f"bytes={have}-"} if have else {}
        if have and seal.exists():
            headers["if-range"] = seal.read_text()  # another file by now comes as a whole
        with self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == _NO_SUCH_PART and have and _total(answer) == have:
                return  # all of it is here already
            self._check(answer)
            if answer.status_code != _PARTIAL and have:
                self._begin_anew(part, have)  # a server that sends no parts, or another file by now
                have = 0
            total = _total(answer)
            if not have and answer.headers.get("etag", "").startswith('"'):
                seal.write_text(answer.headers["etag"])
            self._write(answer, part)
        if total is not None and part.stat().st_size != total:
            raise _Short(f"{total} bytes were announced, {part.stat().st_size} came")

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in _REFUSED:
            raise Expired
        if status >= 500:  # noqa: PLR2004
            raise _Short(f"the server answered {status}")
        if status >= 300:  # noqa: PLR2004
            raise APIStatusError.of(status, answer.read().decode("utf-8", "replace")[:500])

    def _write(self, answer: httpx.Response, part: Path) -> None:
        with part.open("ab") as file:
            for piece in _pieces(answer):  # as it comes: what is held back would be lost when it breaks off
                if self._is_cancelled():
                    raise InterruptedError("the download was cancelled; what came is kept for the next one")
                file.write(piece)
                self._note(len(piece))

    def _begin_anew(self, part: Path, have: int) -> None:
        self._note(-have)
        part.unlink()


class _Short(Exception):  # noqa: N818 - the reason for another try
    pass


def _pieces(answer: httpx.Response) -> Iterator[bytes]:
    """The body as it comes.

    httpx reads 64 KiB at a time and copies them several times. Of a body whose end its length alone tells, what httpx
    has not read yet is taken from the connection itself, twice as fast. The connection is good for nothing else then.

    Raises:
        _Short: the connection ended too soon.
    """
    pieces = answer.iter_raw()
    left = _plain_length(answer)
    if left is None:
        yield from pieces
        return
    for piece in pieces:
        yield piece
        left -= len(piece)
        if left:  # the parser holds nothing back that it has read
            break
    connection = answer.extensions["network_stream"]
    while left:
        piece = connection.read(min(PIECE_BYTES, left), timeout=READ_TIMEOUT_S)
        if not piece:
            raise _Short(f"{left} bytes of those that were announced did not come")
        yield piece
        left -= len(piece)


def _plain_length(answer: httpx.Response) -> int | None:
    """The length of a body that travels as it is; None where it is cut up on the way, or its length is not known."""
    length = answer.headers.get("content-length", "")
    is_plain = answer.http_version == "HTTP/1.1" and "transfer-encoding" not in answer.headers
    return int(length) if is_plain and length.isdigit() else None


def _total(answer: httpx.Response) -> int | None:
    """How long the whole file is, as the server says."""
    span = answer.headers.get("content-range", "").rpartition("/")[2]
    if span.isdigit():
        return int(span)
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdigit() and answer.status_code != _PARTIAL else None


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive may hold."""

    most_bytes: int = 2**37
    """128 GiB unpacked."""
    most_files: int = 10_000


def unpack(archive: Path, folder: Path, bounds: Bounds | None = None) -> None:
    """Unpack a tar archive, compressed or not, into an empty `folder`; files and folders only.

    Raises:
        ValidationError: a name leads elsewhere, an entry is a link or a device, there is too much, or it is no
            archive; what was unpacked so far is the caller's to remove.
    """
    bounds = bounds or Bounds()
    left, count = bounds.most_bytes, 0
    try:
        with tarfile.open(archive, "r:*") as entries:
            for entry in entries:
                name, count = safe_name(entry.name.rstrip("/")), count + 1
                left -= max(0, entry.size)
                if left < 0 or count > bounds.most_files:
                    raise ValidationError(
                        f"an archive may hold {bounds.most_files} files of {bounds.most_bytes} bytes, got more"
                    )
                if entry.isdir():
                    (folder / name).mkdir(parents=True, exist_ok=True)
                elif entry.isreg():
                    _write(entries, entry, folder / name)
                else:
                    raise ValidationError(
                        f"an archive may hold files and folders, got a link or device {entry.name!r}"
                    )
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise ValidationError(f"a tar archive was wanted, got one that cannot be read: {error}") from error


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source: Any = entries.extractfile(entry)
    with target.open("xb") as file:
        while chunk := source.read(PIECE_BYTES):
            file.write(chunk)
