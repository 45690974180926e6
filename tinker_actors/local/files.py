"""Files that are there completely or not at all, also after a power cut."""

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["put_directory", "put_directory_file", "put_file", "remove", "take_away"]


def put_file(target: Path, content: bytes, scratch: Path) -> None:
    """Write `content` to `target`, replacing what was there in one step.

    Args:
        target: its directory exists.
        content: the whole file.
        scratch: a directory of the same file system.
    """
    part = scratch / uuid.uuid4().hex
    try:
        _write(part, content)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def put_directory_file(directory: Path, name: str, content: bytes, scratch: Path) -> None:
    """Make `directory` with one file in it, or replace that file if the directory is there."""
    if directory.is_dir():
        put_file(directory / name, content, scratch)
    else:
        put_directory(directory, {name: content}, scratch)


def put_directory(directory: Path, files: Mapping[str, bytes | Path], scratch: Path) -> None:
    """Make `directory` with `files` in it, in place of what is there.

    Args:
        directory: its parents are made if need be.
        files: contents by name; of a path, another name of the same file.
        scratch: a directory of the same file system.
    """
    _make_directories(directory.parent)
    part = scratch / uuid.uuid4().hex
    try:
        part.mkdir(mode=0o700)
        for name, content in files.items():
            if isinstance(content, bytes):
                _write(part / name, content)
            else:
                (part / name).hardlink_to(content)
        _sync_directory(part)
        take_away(directory, scratch)
        part.rename(directory)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync_directory(directory.parent)


def take_away(path: Path, scratch: Path) -> None:
    """Remove a file or a directory, if there, in one step for all who look."""
    aside = scratch / uuid.uuid4().hex
    with suppress(FileNotFoundError):
        path.rename(aside)
        _sync_directory(path.parent)
        remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it, if there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_directories(directory: Path) -> None:
    """Make a private directory and its parents, if need be."""
    if not directory.is_dir():
        _make_directories(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(directory.parent)


def _write(path: Path, content: bytes) -> None:
    path.touch(0o600, exist_ok=False)
    with path.open("r+b") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
