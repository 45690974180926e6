"""The tokenizers of this process: where they come from, and that each is loaded once."""

import contextlib
import threading
from collections import defaultdict
from pathlib import Path

from tinker_actors.errors import APIConnectionError, MissingExtraError, ValidationError
from tinker_actors.tokenization.byte_level import byte_tokenizer
from tinker_actors.tokenization.chat_files import CHAT_TEMPLATE, MORE_TEMPLATES
from tinker_actors.tokenization.directory import OPTIONAL_FILES, TOKENIZER_FILES, directory_tokenizer
from tinker_actors.tokenization.names import BYTE_LEVEL, check_is_repository, is_local, key_of
from tinker_actors.tokenization.tokenizer import Tokenizer

__all__ = ["get_tokenizer", "tokenizer_at_hand"]

_Key = tuple[str, str | None]
"""Id and revision."""


class _Loaded:
    """The tokenizers of this process: each is loaded once, whoever asks at the same time; failures are not kept."""

    def __init__(self) -> None:
        self._tokenizers: dict[_Key, Tokenizer] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def find(self, key: _Key) -> Tokenizer | None:
        """The one that was loaded, if it was."""
        return self._tokenizers.get(key)

    def get(self, key: _Key) -> Tokenizer:
        """The one that was loaded, or is loaded now."""
        with self._lock:
            lock = self._locks[key]
        with lock:
            found = self._tokenizers.get(key)
            if found is None:
                found = self._tokenizers[key] = _load(*key)
            return found


_loaded = _Loaded()


def get_tokenizer(
    model_name: str, tokenizer_id: str | None = None, *, revision: str | None = None
) -> Tokenizer:
    """The tokenizer of `model_name`; equal ids and revisions give the same object.

    Names that are no local ones are repositories on the Hugging Face hub, whose `tokenizer.json` is downloaded, or
    taken from the hub's cache on this machine. `HF_ENDPOINT`, `HF_TOKEN` and the hub's other variables apply. Where
    there is none, as of Kimi K2, a `tiktoken.model` is read (extra `tiktoken`). No code of a repository is run.

    Args:
        model_name: `local/tiny`, `local/small`, the absolute path of a directory in Hugging Face format, or a
            model's name, `org/name`.
        tokenizer_id: what the service says the tokenizer is, if it does; goes before the name.
        revision: branch, tag or commit on the hub.

    Raises:
        ValidationError: no tokenizer is known for that name, or its files cannot be read.
        APIConnectionError: the hub cannot be reached, and its cache has no such files.
        MissingExtraError: the files are read by a library that is not installed.
    """
    return _loaded.get(key_of(model_name, tokenizer_id, revision))


def tokenizer_at_hand(model_name: str, tokenizer_id: str | None = None) -> Tokenizer | None:
    """The tokenizer of `model_name`, if that takes no download."""
    key = key_of(model_name, tokenizer_id, None)
    if not is_local(key[0]):
        return _loaded.find(key)
    try:
        return _loaded.get(key)
    except (ValidationError, MissingExtraError):
        return None


def _load(name: str, revision: str | None) -> Tokenizer:
    if name in BYTE_LEVEL:
        return byte_tokenizer()
    if Path(name).is_absolute():
        return directory_tokenizer(Path(name))
    check_is_repository(name)
    return directory_tokenizer(_downloaded(name, revision))


def _downloaded(name: str, revision: str | None) -> Path:
    """The directory with the tokenizer's files of a repository on the hub."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    place = f"the tokenizer of {name}" if revision is None else f"the tokenizer of {name} at {revision}"
    try:
        directory = Path(_first(name, revision)).parent
        commit = directory.name  # the hub's cache has a directory for each; all files are those of one
        for more in OPTIONAL_FILES:
            with contextlib.suppress(errors.EntryNotFoundError):
                hub.hf_hub_download(name, more, revision=commit)
        if (directory / CHAT_TEMPLATE).is_file():
            for more in _more_templates(name, commit):
                hub.hf_hub_download(name, more, revision=commit)
    except errors.LocalEntryNotFoundError as error:
        raise APIConnectionError(
            f"{place} was wanted, and the Hugging Face hub cannot be reached; give the absolute path of a"
            f" directory with its tokenizer.json, or fill the hub's cache: {error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValidationError(
            f"{place} was wanted, and its repository has no {' and no '.join(TOKENIZER_FILES)}; give the absolute"
            " path of a directory with one"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise ValidationError(
            f"{place} was wanted, which the Hugging Face hub does not give out; a gated repository wants"
            f" HF_TOKEN: {error}"
        ) from error
    return directory


def _more_templates(name: str, revision: str) -> list[str]:
    """The files with further chat templates; none where the hub cannot be asked, and what it has is what is here."""
    import httpx
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        found = [entry.path for entry in hub.HfApi().list_repo_tree(name, MORE_TEMPLATES, revision=revision)]
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError):
        return []
    return [path for path in found if path.endswith(".jinja")]


def _first(name: str, revision: str | None) -> str:
    """The file with the vocabulary; the error of the last one looked for where there is none."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    *others, last = TOKENIZER_FILES
    for file in others:
        with contextlib.suppress(errors.EntryNotFoundError):
            return str(hub.hf_hub_download(name, file, revision=revision))
    return str(hub.hf_hub_download(name, last, revision=revision))
