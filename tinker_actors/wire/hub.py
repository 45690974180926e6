"""The Hugging Face hub: a folder becomes one commit of a model's repository, by the hub's own library.

What is here blocks; it runs on threads of its own. Errors of the library become ours here, without the signed URLs that
they show.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ConfigError,
    TinkerActorsError,
    ValidationError,
)

__all__ = ["MAIN", "Commit", "Hub", "chosen", "token_at_hand"]

MAIN = "main"
README = "README.md"


class Commit(msgspec.Struct, frozen=True):
    """What was added to a repository."""

    url: str
    pull_request_url: str | None


def token_at_hand(given: str | None) -> str:
    """The hub's token: `given`, or the one that the hub's tools use.

    Raises:
        ConfigError: there is none.
    """
    import huggingface_hub

    token = given or huggingface_hub.get_token()
    if not token:
        raise ConfigError(
            "the Hugging Face hub wants a token, and there is none: looked at hf_token, HF_TOKEN,"
            " HUGGING_FACE_HUB_TOKEN and the file that `hf auth login` writes"
        )
    return token


def chosen(names: Sequence[str], allow: Sequence[str] | None, ignore: Sequence[str] | None) -> list[str]:
    """Which of these files are wanted, by the hub's patterns: `*` stands for any characters, slashes too."""
    from huggingface_hub.utils._paths import filter_repo_objects

    # An empty list would allow everything.
    allowed = list(allow) if allow else None
    return list(filter_repo_objects(names, allow_patterns=allowed, ignore_patterns=list(ignore or ())))


class Hub:
    """The hub, as the owner of a token.

    Args:
        token: of the hub.
        endpoint: URL of the hub; None leaves that to `HF_ENDPOINT`.
    """

    def __init__(self, token: str, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(endpoint=endpoint, token=token)

    def whoami(self) -> str:
        """Whose token it is.

        Raises:
            AuthenticationError: the hub does not know it.
        """
        with _asking("who the token belongs to"):
            return str(self._api.whoami()["name"])

    def repository(self, repo_id: str, *, public: bool) -> str:
        """The full name of the repository, which is made unless it is there.

        Raises:
            ValidationError: it is there and everybody can read it, which was not wanted.
        """
        with _asking(f"to create {repo_id}"):
            full = self._api.create_repo(repo_id, private=not public, exist_ok=True).repo_id
        with _asking(f"about {full}"):
            is_public = not self._api.repo_info(full).private
        if is_public and not public:
            raise ValidationError(
                f"a private repository was wanted, and everybody can read {full}; nothing was sent; pass public=True"
                " if that is meant"
            )
        return full

    def branch(self, repo_id: str, name: str) -> None:
        """Have a branch, made from the main one unless it is there."""
        with _asking(f"for the branch {name} of {repo_id}"):
            self._api.create_branch(repo_id, branch=name, exist_ok=True)

    def readme(self, repo_id: str, revision: str, scratch: Path) -> str | None:
        """The text of the repository's README, fetched into `scratch`; None when it has none."""
        from huggingface_hub import errors

        with _asking(f"for the README of {repo_id}"):
            try:
                file = self._api.hf_hub_download(repo_id, README, revision=revision, local_dir=scratch)
            except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
                if isinstance(error, errors.LocalEntryNotFoundError):
                    raise  # the hub was not asked
                return None
        return Path(file).read_text(encoding="utf-8", errors="replace")

    def commit(
        self,
        folder: Path,
        names: Sequence[str],
        repo_id: str,
        revision: str,
        message: str,
        *,
        create_pr: bool,
    ) -> Commit:
        """Add files of `folder` in one commit, or offer them in a pull request; large ones are uploaded before it."""
        from huggingface_hub import CommitOperationAdd

        added = [CommitOperationAdd(name, folder / name) for name in names]
        with _asking(f"to take {len(added)} files into {repo_id}"):
            told: Any = self._api.create_commit(
                repo_id, added, commit_message=message, revision=revision, create_pr=create_pr
            )
        return Commit(str(told.commit_url), told.pr_url)


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except TinkerActorsError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the disk's
        raise _ours(what, error) from None


def _ours(what: str, error: Exception) -> TinkerActorsError:
    """What an error of the library's, or of a transport below it, is here. Those change with its versions."""
    from huggingface_hub import errors

    asked = f"the Hugging Face hub was asked {what}"
    refusal = next((one for one in _causes(error) if isinstance(one, errors.HfHubHTTPError)), None)
    if refusal is not None and refusal.response is not None:
        told = refusal.server_message or ("" if refusal is error else str(error))
        words = " ".join(told.split()) or "without a word"
        return APIStatusError.of(
            refusal.response.status_code,
            words,
            hint="check the token's rights and the names",
            who=f"{asked}, and",
        )
    names = " of ".join(type(one).__name__ for one in _causes(error))
    if isinstance(error, errors.OfflineModeIsEnabled):
        return APIConnectionError(f"{asked}, and HF_HUB_OFFLINE forbids that")
    if isinstance(error, errors.HFValidationError):
        return ValidationError(f"{asked}: {error}")
    if isinstance(error, (ValueError, LookupError, TypeError)):
        return APIResponseValidationError(f"{asked}, and its answer cannot be used: {names}: {error}")
    if any("Timeout" in type(one).__name__ for one in _causes(error)):
        return APITimeoutError(f"{asked}, and no answer came in time: {names}")
    return APIConnectionError(f"{asked}, and it broke off: {names}")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came of, the last first."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__
    return found
